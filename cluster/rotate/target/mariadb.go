package target

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
)

// mariadb rotates the password of a MariaDB account.
//
//	mode=dual          one account, which holds the old and the new password until the old one is retired
//	mode=alternating   two accounts in turn, for what stands between and knows one password per account (a proxy)
//
// MariaDB has had accounts with several ways in since 10.4 (IDENTIFIED VIA … OR …); MySQL's RETAIN CURRENT PASSWORD it
// has not. Apply adds the new password to what is there, Retire takes the old one away, Fence the new one: operations
// that may come twice or late without undoing one another. Apply also wants the old one to be valid, so a call that
// comes after another rotation brings no password back. A session that changes an account holds a lock of ours on it,
// and whoever comes next ends that session.
//
// The order of the ways in matters to clients. The server tries the first with what a client sent unasked, and asks
// anew for each further one; go-sql-driver, PyMySQL and older C libraries answer such a question once. So the new
// password comes first and the old one second, both of the kind that clients send unasked; ed25519, which is always
// asked for, is for two accounts.
type mariadb struct{}

// NewMariaDB makes the target of kind "mariadb".
func NewMariaDB() Target { return mariadb{} }

type myConfig struct {
	address
	fields
	username string
	userHost string
	accounts []string // of mode=alternating
	plugin   string
	length   int
}

func parseMariaDB(config map[string]string) (myConfig, error) {
	o := read(config)
	c := myConfig{
		address: o.address(3306), fields: o.fields(), username: o.text("username", ""), userHost: o.text("user_host", "%"),
		accounts: o.list("accounts"), plugin: o.choice("plugin", myNative, myEd25519), length: o.length(),
	}
	switch o.choice("mode", "dual", "alternating") {
	case "dual":
		if c.accounts != nil || c.plugin == myEd25519 {
			o.fail("option accounts and plugin=ed25519 are for mode=alternating")
		}
	case "alternating":
		if len(c.accounts) != 2 || c.accounts[0] == c.accounts[1] || c.accounts[0] == "" || c.accounts[1] == "" {
			o.fail("mode=alternating takes two accounts: accounts=train_a,train_b")
		}
		if c.username != "" {
			o.fail("option username is for mode=dual")
		}
	}
	return c, o.done()
}

func (mariadb) Check(config map[string]string) error {
	_, err := parseMariaDB(config)
	return err
}

// myCall is one call.
type myCall struct {
	myConfig
	step
	a        Attempt
	old, new login
}

func myBegin(a Attempt, stage string) (*myCall, error) {
	s := step{"mariadb", stage}
	c, err := parseMariaDB(a.Config)
	if err != nil {
		return nil, s.permanent("%v", err)
	}
	return &myCall{c, s, a, c.fields.of(a.Old), c.fields.of(a.New)}, nil
}

func (mariadb) Stage(_ context.Context, a Attempt) (Value, error) {
	c, err := myBegin(a, "stage")
	if err != nil {
		return nil, err
	}
	username, err := c.turn(c.step, c.accounts, c.username, c.old.username)
	if err != nil {
		return nil, err
	}
	return c.next(a.Old, username, c.length), nil
}

func (mariadb) Apply(ctx context.Context, a Attempt) error {
	return myChange(ctx, a, "apply", func(c *myCall, s *mySession) error {
		rules, err := s.rules(ctx, c.account(c.new))
		if err != nil || admits(rules, c.new) {
			return err
		}
		if c.old.given() {
			was, err := s.rules(ctx, c.account(c.old))
			if err != nil {
				return err
			}
			if !admits(was, c.old) {
				return c.permanent("the current value of the secret is not the password of %s: write the one that is", c.account(c.old))
			}
		}
		next := []myRule{myHash(c.plugin, c.new.password)}
		for _, r := range rules {
			if r.passes(c.old) {
				next = append(next, r)
			}
		}
		next = append(next, slices.DeleteFunc(rules, func(r myRule) bool { return r.passes(c.old) })...)
		return s.set(ctx, c.account(c.new), next)
	})
}

func (mariadb) Verify(ctx context.Context, a Attempt) error {
	c, err := myBegin(a, "verify")
	if err != nil {
		return err
	}
	s, err := myConnect(ctx, c.step, c.address, c.new, "hizo verify", false)
	if err != nil {
		return final(err)
	}
	s.close()
	return nil
}

// Retire takes the old password away, and with two accounts every other one of the new account as well.
func (mariadb) Retire(ctx context.Context, a Attempt) error {
	return myChange(ctx, a, "retire", func(c *myCall, s *mySession) error {
		rules, err := s.rules(ctx, c.account(c.new))
		if err != nil {
			return err
		}
		if !admits(rules, c.new) {
			return c.permanent("the new value is not the password of %s, so the old one stays", c.account(c.new))
		}
		if c.old.username == c.new.username {
			return c.without(ctx, s, c.account(c.old), rules, func(r myRule) bool { return r.passes(c.old) })
		}
		err = c.without(ctx, s, c.account(c.new), rules, func(r myRule) bool { return r.isPassword() && !r.passes(c.new) })
		if err != nil || c.old.username == "" {
			return err
		}
		if rules, err = s.rules(ctx, c.account(c.old)); err != nil {
			return err
		}
		return c.without(ctx, s, c.account(c.old), rules, func(r myRule) bool { return r.passes(c.old) })
	})
}

// Fence ends the attempt's session and takes the new password away, unless that would lock everybody out.
func (mariadb) Fence(ctx context.Context, a Attempt) error {
	return myChange(ctx, a, "fence", func(c *myCall, s *mySession) error {
		rules, err := s.rules(ctx, c.account(c.new))
		if err != nil {
			return err
		}
		if c.account(c.old) == c.account(c.new) && !admits(rules, c.old) {
			return nil
		}
		return c.without(ctx, s, c.account(c.new), rules, func(r myRule) bool { return r.passes(c.new) })
	})
}

// myChange logs in as the administrator and runs f as the only session of ours that changes the accounts.
func myChange(ctx context.Context, a Attempt, stage string, f func(*myCall, *mySession) error) error {
	c, err := myBegin(a, stage)
	if err != nil {
		return err
	}
	admin := adminOf(a.Admin)
	if !admin.given() {
		return c.permanent("MariaDB lets no account add a password to itself: set option admin to a secret with the fields username and password")
	}
	s, err := myConnect(ctx, c.step, c.address, admin, "hizo/"+hex.EncodeToString(a.ID[:]), false)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.supported(ctx); err != nil {
		return err
	}
	if c.new.username == "" {
		return nil // only Fence is called without a new value, and its session was the attempt's only one
	}
	locks := []myAccount{c.account(c.new)}
	if c.old.username != "" && c.old.username != c.new.username {
		locks = append(locks, c.account(c.old))
	}
	slices.SortFunc(locks, func(a, b myAccount) int { return strings.Compare(a.user, b.user) })
	for _, account := range locks {
		if err := s.lock(ctx, account); err != nil {
			return err
		}
	}
	return f(c, s)
}

func (c *myCall) account(l login) myAccount { return myAccount{l.username, c.userHost} }

// without takes rules away, if there are any to take.
func (c *myCall) without(ctx context.Context, s *mySession, a myAccount, rules []myRule, which func(myRule) bool) error {
	if !slices.ContainsFunc(rules, which) {
		return nil
	}
	return s.set(ctx, a, slices.DeleteFunc(slices.Clone(rules), which))
}

// admits says whether a password opens an account.
func admits(rules []myRule, l login) bool {
	return l.given() && slices.ContainsFunc(rules, func(r myRule) bool { return r.passes(l) })
}
