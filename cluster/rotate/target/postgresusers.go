package target

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
)

// postgresUsers makes PostgreSQL roles for leases.
//
// A role is made in one transaction together with what option creation does, so it is there with all its rights or not
// at all. VALID UNTIL is the server's own bound: past it nobody new logs in, whether the cluster is there or not.
//
// Its end begins with NOLOGIN, so a drop that stops in the middle has closed the door. Then its sessions end, what it
// owns goes to the administrator (or to option owner) and what it was granted is taken back, in every database that the
// options name; option revocation does something else instead.
type postgresUsers struct{}

// NewPostgresUsers makes the users of kind "postgresql".
func NewPostgresUsers() Users { return postgresUsers{} }

type pgUserConfig struct {
	pgServer
	databases  []string // that its objects may be in, beside the one that is connected to
	owner      string   // of what is left
	creation   string
	revocation string
}

func parsePostgresUsers(config map[string]string) (pgUserConfig, error) {
	o := read(config)
	c := pgUserConfig{
		pgServer: o.postgres(), databases: o.list("databases"), owner: o.text("owner", ""),
		creation: o.template("creation"), revocation: o.template("revocation"),
	}
	if c.owner != "" && c.revocation != "" {
		o.fail("options owner and revocation exclude each other")
	}
	return c, o.done()
}

func (postgresUsers) Check(config map[string]string) error {
	_, err := parsePostgresUsers(config)
	return err
}

type pgUserCall struct {
	userCall
	pgUserConfig
}

func pgUserBegin(ctx context.Context, u User, stage string) (*pgUserCall, *pgSession, error) {
	call, err := userBegin("postgresql", stage, u)
	if err != nil {
		return nil, nil, err
	}
	config, err := parsePostgresUsers(u.Config)
	if err != nil {
		return nil, nil, call.permanent("%v", err)
	}
	c := &pgUserCall{call, config}
	s, err := pgConnect(ctx, c.step, c.pgServer, c.admin, c.session())
	if err != nil {
		return nil, nil, err
	}
	// Those of a leader that was stopped, and that may hold the lock.
	if err := s.terminate(ctx, `application_name = $1`, c.session()); err != nil {
		s.close()
		return nil, nil, err
	}
	return c, s, nil
}

func (postgresUsers) Create(ctx context.Context, u User) error {
	c, s, err := pgUserBegin(ctx, u, "create")
	if err != nil {
		return err
	}
	defer s.close()
	salt := make([]byte, 16)
	rand.Read(salt)
	v, err := verifier(u.Password, salt)
	if err != nil {
		return c.permanent("the password does not make a SCRAM verifier")
	}
	return s.locked(ctx, u.Name, func(tx pgx.Tx) error {
		made, open, err := pgRole(ctx, tx, u.Name)
		if err != nil {
			return err
		}
		verb := `CREATE ROLE `
		if made {
			verb = `ALTER ROLE `
		}
		if err := pgExec(ctx, tx, verb+pgName(u.Name)+` LOGIN `+pgPassword(v)+` VALID UNTIL `+pgTime(u)); err != nil || open || c.creation == "" {
			return err // a role that is open has had its statements
		}
		return c.statements(pgExec(ctx, tx, c.fill(c.creation)), "creation")
	})
}

func (postgresUsers) Renew(ctx context.Context, u User) error {
	_, s, err := pgUserBegin(ctx, u, "renew")
	if err != nil {
		return err
	}
	defer s.close()
	return s.locked(ctx, u.Name, func(tx pgx.Tx) error {
		return pgExec(ctx, tx, `ALTER ROLE `+pgName(u.Name)+` VALID UNTIL `+pgTime(u))
	})
}

func (postgresUsers) Drop(ctx context.Context, u User) error {
	c, s, err := pgUserBegin(ctx, u, "drop")
	if err != nil {
		return err
	}
	defer s.close()
	name := pgName(u.Name)
	var made bool
	err = s.locked(ctx, u.Name, func(tx pgx.Tx) error {
		if made, _, err = pgRole(ctx, tx, u.Name); err != nil || !made {
			return err
		}
		// Membership is what lets an administrator who is no superuser end sessions and reassign.
		return pgExec(ctx, tx, `ALTER ROLE `+name+` NOLOGIN; GRANT `+name+` TO CURRENT_USER`)
	})
	if err != nil || !made {
		return err
	}
	if err := s.terminate(ctx, `usename = $1`, u.Name); err != nil {
		return err
	}
	for _, database := range c.databases {
		if database == c.database {
			continue
		}
		server := c.pgServer
		server.database = database
		if err := c.dispossess(ctx, server); err != nil {
			return err
		}
	}
	return s.locked(ctx, u.Name, func(tx pgx.Tx) error {
		if made, _, err := pgRole(ctx, tx, u.Name); err != nil || !made {
			return err
		}
		if err := c.revoke(ctx, tx); err != nil {
			return err
		}
		return pgExec(ctx, tx, `DROP ROLE `+name)
	})
}

// dispossess takes what the role has in another database.
func (c *pgUserCall) dispossess(ctx context.Context, server pgServer) error {
	s, err := pgConnect(ctx, c.step, server, c.admin, c.session())
	if err != nil {
		return err
	}
	defer s.close()
	return s.locked(ctx, c.u.Name, func(tx pgx.Tx) error { return c.revoke(ctx, tx) })
}

func (c *pgUserCall) revoke(ctx context.Context, tx pgx.Tx) error {
	if c.revocation != "" {
		return c.statements(pgExec(ctx, tx, c.fill(c.revocation)), "revocation")
	}
	name, owner := pgName(c.u.Name), `CURRENT_USER`
	if c.owner != "" {
		owner = pgName(c.owner)
	}
	// Once the objects are somebody else's, what DROP OWNED finds are rights.
	return pgExec(ctx, tx, `REASSIGN OWNED BY `+name+` TO `+owner+`; DROP OWNED BY `+name)
}

func (c *pgUserCall) fill(text string) string { return fill(text, pgName(c.u.Name), pgTime(c.u)) }

// statements turns the refusal of an option's statements into an error about that option.
func (c *pgUserCall) statements(err error, option string) error {
	classes := []string{"42", "3D", "3F", "22", "0L", "0P"} // syntax and access, names, data, grants, roles
	if e := sqlState(err); e != "" && slices.Contains(classes, e[:2]) {
		return c.permanent("the server refuses a statement of option %s (SQLSTATE %s)", option, e)
	}
	return err
}

// pgRole says whether there is a role, and whether it may log in.
func pgRole(ctx context.Context, tx pgx.Tx, name string) (made, open bool, err error) {
	err = tx.QueryRow(ctx, `SELECT rolcanlogin FROM pg_roles WHERE rolname = $1`, name).Scan(&open)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	return err == nil, open, err
}

// pgExec runs statements without parameters; several are separated by semicolons.
func pgExec(ctx context.Context, tx pgx.Tx, statements string) error {
	_, err := tx.Exec(ctx, statements, pgx.QueryExecModeSimpleProtocol)
	return err
}

func pgTime(u User) string { return timestamp(u.Expires)[:20] + `+00'` }
