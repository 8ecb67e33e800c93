package servertest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server. It takes SCRAM-SHA-256 passwords only, with and without TLS, and logs every
// statement and every connection.
type Postgres struct {
	server
	User, Password string // the superuser
}

var postgresTemplate = sync.OnceValues(func() (*template, error) {
	initdb, err := program("postgresql", "initdb", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	a, err := accountFor("postgres")
	if err != nil {
		return nil, err
	}
	return newTemplate("postgresql", a, func(t *template) error {
		t.bin, t.password = filepath.Dir(initdb), rand.Text()
		if err := a.write(in(t.dir, "password"), []byte(t.password)); err != nil {
			return err
		}
		if err := a.run(initdb, "--pgdata", in(t.dir, "data"), "--no-sync", "--no-instructions", "--username", "postgres",
			"--auth", "scram-sha-256", "--pwfile", in(t.dir, "password"), "--encoding", "UTF8", "--locale", "C"); err != nil {
			return err
		}
		return os.Remove(in(t.dir, "password"))
	})
})

// StartPostgres starts a server for one test.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	tpl, err := postgresTemplate()
	need(t, err)
	s := &Postgres{User: "postgres", Password: tpl.password}
	inner, err := tpl.launch("postgresql", "INT", func(dir string, port int) []string {
		return []string{
			in(tpl.bin, "postgres"), "-D", in(dir, "data"), "-p", strconv.Itoa(port),
			"-c", "listen_addresses=" + Host, "-c", "unix_socket_directories=" + dir,
			"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off",
			"-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "max_connections=50",
			"-c", "ssl=on", "-c", "ssl_cert_file=" + in(dir, "server.crt"), "-c", "ssl_key_file=" + in(dir, "server.key"),
			"-c", "log_statement=all", "-c", "log_connections=on", "-c", "log_min_duration_statement=0",
			"-c", "log_parameter_max_length=-1", "-c", "log_parameter_max_length_on_error=-1",
			"-c", "log_line_prefix=%t [%p] %u@%d %a ",
		}
	}, func(port int) error {
		return s.with(port, "postgres", func(context.Context, *pgx.Conn) error { return nil })
	})
	need(t, err)
	s.server = *inner
	s.closeAfter(t)
	return s
}

// Config is what a target needs to reach the server, over TLS.
func (s *Postgres) Config() map[string]string {
	return map[string]string{"host": Host, "port": strconv.Itoa(s.Port), "database": "postgres", "tls": "verify-full", "ca": s.CA}
}

// URL is a connection string for a user; TLS is taken, the certificate not checked.
func (s *Postgres) URL(user, password, database string) string {
	return postgresURL(s.Port, user, password, database)
}

func postgresURL(port int, user, password, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Host: Host + ":" + strconv.Itoa(port),
		Path: "/" + database, RawQuery: "sslmode=require&connect_timeout=5",
	}
	return u.String()
}

// Exec runs statements as the superuser.
func (s *Postgres) Exec(t testing.TB, statements ...string) {
	t.Helper()
	err := s.with(s.Port, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := c.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Query returns the first column of a query, as text, asked by the superuser.
func (s *Postgres) Query(t testing.TB, sql string, args ...any) []string {
	t.Helper()
	var all []string
	err := s.with(s.Port, "postgres", func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Login says whether a user gets in: nil, or the server's refusal.
func (s *Postgres) Login(user, password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL(user, password, "postgres"))
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

func (s *Postgres) with(port int, database string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := pgx.Connect(ctx, postgresURL(port, s.User, s.Password, database))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }() // what counts has been answered
	return f(ctx, c)
}
