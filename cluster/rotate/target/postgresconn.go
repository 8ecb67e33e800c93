package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What a session may take at the server, so that one that was stopped in the middle holds its locks for a bounded time.
// A leader that hangs loses its session, and with it what it had not committed.
const pgLimits = `SET LOCAL statement_timeout = '10s'; SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '10s'`

// pgMaxMessage bounds what a server can make us hold.
const pgMaxMessage = 1 << 20

// pgServer is where a PostgreSQL server is.
type pgServer struct {
	address
	database string
}

func (o *options) postgres() pgServer {
	return pgServer{o.address(5432), o.text("database", "postgres")}
}

// pgSession is one connection of one call.
type pgSession struct {
	*pgx.Conn
	server pgServer
	step
}

// pgConnect logs in. name is what the server shows of the session in pg_stat_activity.
func pgConnect(ctx context.Context, s step, server pgServer, l login, name string) (*pgSession, error) {
	c, err := pgx.ParseConfig("host=localhost user=none dbname=none sslmode=disable connect_timeout=10")
	if err != nil {
		return nil, s.passing(nil, "the environment of this node changes how PostgreSQL is reached; unset the variables PG*")
	}
	c.Host, c.Port, c.Database, c.TLSConfig = server.host, uint16(server.port), server.database, server.tls
	c.User, c.Password = l.username, string(l.password.Reveal())
	c.Fallbacks = nil
	c.RuntimeParams = map[string]string{"application_name": name}
	c.MaxProtocolMessageBodyLen = pgMaxMessage
	c.RequireAuth = "scram-sha-256"                      // no server is told a password, and none lets in whoever comes
	c.DefaultQueryExecMode = pgx.QueryExecModeExec       // no prepared statements: a pooler may stand between
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {} // text of the server
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, pgError(ctx, s, server.address, err, l.username)
	}
	return &pgSession{Conn: conn, server: server, step: s}, nil
}

// close hangs up. What the session did has been answered by then.
func (p *pgSession) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.Close(ctx) // the server ends the session with the connection
}

// locked runs f in a transaction that no other one of ours about this role can run beside.
func (p *pgSession) locked(ctx context.Context, role string, f func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, p.Conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, pgLimits, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('hizo/' || $1, 0))`, role); err != nil {
			return err
		}
		return f(tx)
	})
	return pgError(ctx, p.step, p.server.address, err, role)
}

// salt reads what the role's password says about its origin.
func (s pgServer) salt(ctx context.Context, role string) (id [saltIDLen]byte, m mark, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address.String())
	if err != nil {
		return id, markNone, err
	}
	defer func() { _ = conn.Close() }() // nothing was written that matters
	salt, err := saltOf(ctx, conn, s.tls, role, s.database)
	if errors.Is(err, errNotScram) {
		return id, markNone, nil // an MD5 password, or one that the server does not keep
	}
	id, m = readSalt(salt)
	return id, m, err
}

// pgError is what went wrong, in words of our own. role is whom it is about.
func pgError(ctx context.Context, s step, a address, err error, role string) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*Error](err); ours {
		return err
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return s.network(ctx, a, err)
	}
	switch code := refused.Code; code {
	case "28P01", "28000":
		return s.passing(errRefused, "%s refuses the login of %s (SQLSTATE %s)", a, role, code)
	case "42501":
		return s.permanent("the administrator may not do this to %s (SQLSTATE %s): it needs CREATEROLE and, since PostgreSQL 16, ADMIN OPTION on the role", role, code)
	case "42704":
		return s.permanent("there is no role %s at %s (SQLSTATE %s)", role, a, code)
	case "3D000":
		return s.permanent("there is no such database at %s (SQLSTATE %s): set option database", a, code)
	case "25006":
		return s.passing(nil, "%s is a read-only standby (SQLSTATE %s): set option host to the primary", a, code)
	case "2BP01":
		return s.passing(nil, "objects still depend on %s (SQLSTATE %s): name their databases in option databases, or write option revocation", role, code)
	case "55P03", "57014":
		return s.passing(nil, "%s takes too long (SQLSTATE %s): another session holds a lock", a, code)
	case "53300":
		return s.passing(nil, "%s has no connection left (SQLSTATE %s)", a, code)
	case "57P01", "57P02", "57P03", "25P03":
		return s.passing(nil, "%s ended the session (SQLSTATE %s)", a, code)
	default:
		return s.passing(nil, "%s answers with SQLSTATE %s", a, code)
	}
}

// scramText is all that may stand in a verifier; there is nothing to quote in it.
var scramText = regexp.MustCompile(`^SCRAM-SHA-256\$4096:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$`)

// pgPassword is the clause that sets a password.
func pgPassword(v string) string {
	if !scramText.MatchString(v) {
		panic("target: not a SCRAM verifier") // a bug: it would be logged, and taken for a password
	}
	return fmt.Sprintf("PASSWORD '%s'", v)
}

// sqlState is what the server answered, "" if it did not.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && len(e.Code) == 5 {
		return e.Code
	}
	return ""
}

func pgName(name string) string { return pgx.Identifier{name}.Sanitize() }
