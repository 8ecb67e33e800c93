package target

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/hizo/hizo/crypto/secret"
)

// postgres rotates the password of a PostgreSQL role.
//
//	mode=single        one role; its old password ends when the new one is set
//	mode=alternating   two roles in turn, the same in everything else; the old one's password ends when it is retired
//
// An administrator changes the password, or the role its own where no admin secret is named. What an attempt does to a
// role is one transaction, alone under a lock of ours, and decided by the salt of the role's password, which names the
// attempt that set it (scram.go). So a crash leaves all of it or nothing, the same call again finds it done, and one
// that comes late from a leader that had been stopped finds a younger attempt there and is refused.
type postgres struct{}

// NewPostgres makes the target of kind "postgresql".
func NewPostgres() Target { return postgres{} }

type pgConfig struct {
	pgServer
	fields
	username   string   // where the secret has none yet
	roles      []string // of mode=alternating
	length     int
	disconnect bool
}

func parsePostgres(config map[string]string) (pgConfig, error) {
	o := read(config)
	c := pgConfig{
		pgServer: o.postgres(), fields: o.fields(), username: o.text("username", ""), roles: o.list("roles"),
		length: o.length(), disconnect: o.choice("disconnect", "no", "yes") == "yes",
	}
	switch o.choice("mode", "single", "alternating") {
	case "single":
		if c.roles != nil || c.disconnect {
			o.fail("options roles and disconnect are for mode=alternating")
		}
	case "alternating":
		if len(c.roles) != 2 || c.roles[0] == c.roles[1] || c.roles[0] == "" || c.roles[1] == "" {
			o.fail("mode=alternating takes two roles: roles=train_a,train_b")
		}
		if c.username != "" {
			o.fail("option username is for mode=single")
		}
	}
	return c, o.done()
}

func (postgres) Check(config map[string]string) error {
	_, err := parsePostgres(config)
	return err
}

// pgCall is one call.
type pgCall struct {
	pgConfig
	step
	a        Attempt
	old, new login
}

func pgBegin(a Attempt, stage string) (*pgCall, error) {
	s := step{"postgresql", stage}
	c, err := parsePostgres(a.Config)
	if err != nil {
		return nil, s.permanent("%v", err)
	}
	return &pgCall{c, s, a, c.fields.of(a.Old), c.fields.of(a.New)}, nil
}

func (postgres) Stage(_ context.Context, a Attempt) (Value, error) {
	c, err := pgBegin(a, "stage")
	if err != nil {
		return nil, err
	}
	username, err := c.turn(c.step, c.roles, c.username, c.old.username)
	if err != nil {
		return nil, err
	}
	return c.next(a.Old, username, c.length), nil
}

func (postgres) Apply(ctx context.Context, a Attempt) error {
	c, err := pgBegin(a, "apply")
	if err != nil {
		return err
	}
	s, err := c.alone(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return c.change(ctx, s, c.new.username, func(id [saltIDLen]byte, m mark) (secret.Bytes, mark, error) {
		switch by := bytes.Compare(id[:], a.ID[:saltIDLen]); {
		case m == markNone, by < 0:
			return c.new.password, markApplied, nil
		case by > 0:
			return secret.Bytes{}, markNone, c.permanent("a later attempt has set the password of %s", c.new.username)
		case m == markApplied:
			return secret.Bytes{}, markNone, nil
		default:
			return secret.Bytes{}, markNone, c.permanent("this attempt has been given up")
		}
	})
}

func (postgres) Verify(ctx context.Context, a Attempt) error {
	c, err := pgBegin(a, "verify")
	if err != nil {
		return err
	}
	// Not under the attempt's name: it changes nothing, and the administrator could not end it.
	s, err := pgConnect(ctx, c.step, c.pgServer, c.new, "hizo verify")
	if err != nil {
		return final(err)
	}
	s.close()
	return nil
}

// Retire gives the old role a password that nobody knows. With one role there is nothing to do.
func (postgres) Retire(ctx context.Context, a Attempt) error {
	c, err := pgBegin(a, "retire")
	if err != nil {
		return err
	}
	if c.old.username == "" || c.old.username == c.new.username {
		return nil
	}
	s, err := c.alone(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	err = c.change(ctx, s, c.old.username, func(id [saltIDLen]byte, m mark) (secret.Bytes, mark, error) {
		if m != markNone && bytes.Compare(id[:], a.ID[:saltIDLen]) >= 0 {
			return secret.Bytes{}, markNone, nil // done, or the role's turn has come again
		}
		return password(DefaultLength), markRetired, nil
	})
	if err != nil || !c.disconnect {
		return err
	}
	return s.terminate(ctx, `usename = $1`, c.old.username)
}

// Fence ends the attempt's sessions and takes back what it did: with one role the old password is set again, with two
// the new one is given one that nobody knows. The salt then keeps late calls of the attempt from doing it once more, so
// it is set as well where the attempt had changed nothing yet.
func (postgres) Fence(ctx context.Context, a Attempt) error {
	c, err := pgBegin(a, "fence")
	if err != nil {
		return err
	}
	s, err := c.session(ctx, "hizo fence "+hex.EncodeToString(a.ID[:]))
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.terminate(ctx, `application_name = $1`, c.name()); err != nil || !c.new.given() {
		return err
	}
	return c.change(ctx, s, c.new.username, func(id [saltIDLen]byte, m mark) (secret.Bytes, mark, error) {
		by := bytes.Compare(id[:], a.ID[:saltIDLen])
		switch {
		case m != markNone && (by > 0 || by == 0 && m == markUndone):
			return secret.Bytes{}, markNone, nil
		case c.old.username != c.new.username && c.roles == nil: // there is no old password
			return secret.Bytes{}, markNone, nil
		case c.old.username != c.new.username:
			return password(DefaultLength), markUndone, nil
		case m == markApplied && by == 0:
			return c.old.password, markUndone, nil
		}
		old, err := pgConnect(ctx, c.step, c.pgServer, c.old, "hizo fence")
		if refused(err) {
			return secret.Bytes{}, markNone, nil // somebody has changed it, who should have the last word
		} else if err != nil {
			return secret.Bytes{}, markNone, err
		}
		old.close()
		return c.old.password, markUndone, nil
	})
}

// name is what the server shows of this attempt's sessions.
func (c *pgCall) name() string { return "hizo/" + hex.EncodeToString(c.a.ID[:]) }

// session logs in as whoever may change the password: the administrator, or the role with the password that it has now.
func (c *pgCall) session(ctx context.Context, name string) (*pgSession, error) {
	if admin := adminOf(c.a.Admin); admin.given() {
		return pgConnect(ctx, c.step, c.pgServer, admin, name)
	}
	if len(c.a.Admin) > 0 {
		return nil, c.permanent("the secret named by option admin needs the fields username and password")
	}
	if c.roles != nil {
		return nil, c.permanent("mode=alternating needs an administrator: set option admin")
	}
	logins := slices.DeleteFunc([]login{c.old, c.new}, func(l login) bool { return !l.given() })
	if len(logins) == 0 {
		return nil, c.permanent("nobody may change the password: write the present one into the secret, or set option admin")
	}
	var s *pgSession
	var err error
	for _, l := range logins {
		if s, err = pgConnect(ctx, c.step, c.pgServer, l, name); !refused(err) {
			break
		}
	}
	return s, err
}

// alone logs in and ends the attempt's other sessions: those of a leader that was stopped, who may hold the lock.
func (c *pgCall) alone(ctx context.Context) (*pgSession, error) {
	s, err := c.session(ctx, c.name())
	if err != nil {
		return nil, err
	}
	if err := s.terminate(ctx, `application_name = $1`, c.name()); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// change sets a role's password as decide says when it has seen who set the present one. An empty one changes nothing.
func (c *pgCall) change(ctx context.Context, s *pgSession, role string, decide func([saltIDLen]byte, mark) (secret.Bytes, mark, error)) error {
	if role == "" {
		return c.permanent("the secret has no field %s", c.fields.username)
	}
	return s.locked(ctx, role, func(tx pgx.Tx) error {
		id, m, err := c.pgServer.salt(ctx, role)
		if err != nil {
			return err
		}
		next, m, err := decide(id, m)
		if err != nil || next.Len() == 0 {
			return err
		}
		v, err := verifier(next, markedSalt(c.a.ID, m))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `ALTER ROLE `+pgName(role)+` `+pgPassword(v), pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// terminate ends other sessions and waits until they are gone.
func (p *pgSession) terminate(ctx context.Context, which string, arg string) error {
	for {
		var left int
		err := p.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND `+which, arg).Scan(&left)
		if err != nil {
			return pgError(ctx, p.step, p.server.address, err, arg)
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return p.network(ctx, p.server.address, err)
		}
	}
}
