package target

import (
	"context"
	"encoding/json"
	"strconv"
	"time"
)

// mariadbUsers makes MariaDB accounts for leases.
//
// MariaDB commits each of these statements by itself, so a crash may leave an account without all its rights: Create
// begins again then, and what option creation says must bear that, as GRANT does. The server's own bound is in whole
// days (PASSWORD EXPIRE INTERVAL): shorter leases end by the cluster alone.
//
// The end begins with ACCOUNT LOCK, so a drop that stops in the middle has closed the door. Tables stay where they are:
// they belong to databases, not to accounts.
type mariadbUsers struct{}

// NewMariaDBUsers makes the users of kind "mariadb".
func NewMariaDBUsers() Users { return mariadbUsers{} }

type myUserConfig struct {
	address
	userHost   string
	plugin     string
	creation   string
	revocation string
}

func parseMariaDBUsers(config map[string]string) (myUserConfig, error) {
	o := read(config)
	c := myUserConfig{
		address: o.address(3306), userHost: o.text("user_host", "%"), plugin: o.choice("plugin", myNative, myEd25519),
		creation: o.template("creation"), revocation: o.template("revocation"),
	}
	return c, o.done()
}

func (mariadbUsers) Check(config map[string]string) error {
	_, err := parseMariaDBUsers(config)
	return err
}

type myUserCall struct {
	userCall
	myUserConfig
	account myAccount
}

func myUserBegin(ctx context.Context, u User, stage string) (*myUserCall, *mySession, error) {
	call, err := userBegin("mariadb", stage, u)
	if err != nil {
		return nil, nil, err
	}
	config, err := parseMariaDBUsers(u.Config)
	if err != nil {
		return nil, nil, call.permanent("%v", err)
	}
	c := &myUserCall{call, config, myAccount{u.Name, config.userHost}}
	s, err := myConnect(ctx, c.step, c.address, c.admin, c.session(), true)
	if err != nil {
		return nil, nil, err
	}
	if err = s.supported(ctx); err == nil {
		err = s.lock(ctx, c.account) // ends the session of a leader that was stopped
	}
	if err != nil {
		s.close()
		return nil, nil, err
	}
	return c, s, nil
}

func (mariadbUsers) Create(ctx context.Context, u User) error {
	c, s, err := myUserBegin(ctx, u, "create")
	if err != nil {
		return err
	}
	defer s.close()
	account := c.account.quoted()
	for _, statement := range []string{
		"CREATE USER IF NOT EXISTS " + account + " IDENTIFIED VIA mysql_native_password USING 'invalid'",
		c.fill(c.creation),
		"ALTER USER " + account + " IDENTIFIED VIA " + myHash(c.plugin, u.Password).clause() + " " + expire(time.Now(), u.Expires) + " ACCOUNT UNLOCK",
	} {
		if statement == "" {
			continue
		}
		if err := s.exec(ctx, c.account.String(), statement); err != nil {
			return err
		}
	}
	return nil
}

func (mariadbUsers) Renew(ctx context.Context, u User) error {
	c, s, err := myUserBegin(ctx, u, "renew")
	if err != nil {
		return err
	}
	defer s.close()
	text, err := s.priv(ctx, c.account)
	if err != nil {
		return err
	}
	var priv struct {
		Changed int64 `json:"password_last_changed"`
	}
	if err := json.Unmarshal(text, &priv); err != nil {
		return c.permanent("mysql.global_priv of %s holds what this program does not know", c.account)
	}
	return s.exec(ctx, c.account.String(), "ALTER USER "+c.account.quoted()+" "+expire(time.Unix(priv.Changed, 0), u.Expires))
}

func (mariadbUsers) Drop(ctx context.Context, u User) error {
	c, s, err := myUserBegin(ctx, u, "drop")
	if err != nil {
		return err
	}
	defer s.close()
	account := c.account.quoted()
	if err := s.exec(ctx, c.account.String(), "ALTER USER IF EXISTS "+account+" ACCOUNT LOCK"); err != nil {
		return err
	}
	for {
		result, err := s.ExecContext(ctx, "KILL HARD USER "+myName(u.Name))
		if err != nil {
			return myError(ctx, c.step, c.address, err, c.account.String())
		}
		if killed, err := result.RowsAffected(); err != nil || killed == 0 {
			break
		}
		if err := pause(ctx); err != nil {
			return c.network(ctx, c.address, err)
		}
	}
	if c.revocation != "" {
		if err := s.exec(ctx, c.account.String(), c.fill(c.revocation)); err != nil {
			return err
		}
	}
	return s.exec(ctx, c.account.String(), "DROP USER IF EXISTS "+account)
}

func (c *myUserCall) fill(text string) string {
	return fill(text, c.account.quoted(), timestamp(c.u.Expires))
}

// expire bounds a password's life from when it was set, in the whole days that the server knows.
func expire(set, end time.Time) string {
	const day = 24 * time.Hour
	days := max(1, (end.Sub(set)+day-1)/day)
	return "PASSWORD EXPIRE INTERVAL " + strconv.Itoa(int(days)) + " DAY"
}
