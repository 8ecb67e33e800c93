package servertest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"io"
	"log"
	"strconv"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is a MariaDB server, with and without TLS, with the general log on: it writes down every statement.
type MariaDB struct {
	server
	User, Password string // who may do everything
}

var mariadbTemplate = sync.OnceValues(func() (*template, error) {
	daemon, err := program("mariadb-server", "mariadbd", "/usr/sbin", "/usr/libexec")
	if err != nil {
		return nil, err
	}
	install, err := program("mariadb-server", "mariadb-install-db", "/usr/bin")
	if err != nil {
		return nil, err
	}
	a, err := accountFor("mysql")
	if err != nil {
		return nil, err
	}
	return newTemplate("mariadb", a, func(t *template) error {
		t.bin, t.password = daemon, rand.Text()
		// Read at each start, so it must come to the same every time. The accounts without a password go.
		first := "CREATE OR REPLACE USER 'admin'@'%' IDENTIFIED BY '" + t.password + "';\n" +
			"GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n" +
			"DROP USER IF EXISTS root@localhost, root@'127.0.0.1', root@'::1', ''@localhost;\n"
		if err := a.write(in(t.dir, "first.sql"), []byte(first)); err != nil {
			return err
		}
		return a.run(install, "--no-defaults", "--datadir="+in(t.dir, "data"), "--tmpdir="+t.dir,
			"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=4M")
	})
})

// StartMariaDB starts a server for one test.
func StartMariaDB(t testing.TB) *MariaDB {
	t.Helper()
	tpl, err := mariadbTemplate()
	need(t, err)
	s := &MariaDB{User: "admin", Password: tpl.password}
	inner, err := tpl.launch("mariadb", "TERM", func(dir string, port int) []string {
		return []string{
			tpl.bin, "--no-defaults", "--datadir=" + in(dir, "data"), "--socket=" + in(dir, "socket"),
			"--tmpdir=" + dir, "--pid-file=" + in(dir, "pid"), "--bind-address=" + Host, "--port=" + strconv.Itoa(port),
			"--init-file=" + in(dir, "first.sql"), "--skip-name-resolve",
			"--general-log=1", "--general-log-file=" + in(dir, "general.log"),
			"--ssl-cert=" + in(dir, "server.crt"), "--ssl-key=" + in(dir, "server.key"),
			"--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0",
			"--innodb-doublewrite=0", "--innodb-use-native-aio=0", "--max-connections=50", "--thread-cache-size=0",
			"--aria-pagecache-buffer-size=8M", "--key-buffer-size=1M", "--performance-schema=0",
		}
	}, func(port int) error {
		return s.with(port, func(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) })
	})
	need(t, err)
	s.server = *inner
	s.logs = []string{"general.log"}
	s.closeAfter(t)
	return s
}

// Config is what a target needs to reach the server, over TLS.
func (s *MariaDB) Config() map[string]string {
	return map[string]string{"host": Host, "port": strconv.Itoa(s.Port), "tls": "verify-full", "ca": s.CA}
}

// Exec runs statements as the administrator.
func (s *MariaDB) Exec(t testing.TB, statements ...string) {
	t.Helper()
	err := s.with(s.Port, func(ctx context.Context, db *sql.DB) error {
		for _, statement := range statements {
			if _, err := db.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Query returns the first column of a query, as text, asked by the administrator.
func (s *MariaDB) Query(t testing.TB, query string, args ...any) []string {
	t.Helper()
	var all []string
	err := s.with(s.Port, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }() // Err has told
		for rows.Next() {
			var one string
			if err := rows.Scan(&one); err != nil {
				return err
			}
			all = append(all, one)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Login says whether a user gets in: nil, or the server's refusal.
func (s *MariaDB) Login(user, password string) error {
	return s.Try(user, password, func(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) })
}

// Try runs f as a user.
func (s *MariaDB) Try(user, password string, f func(context.Context, *sql.DB) error) error {
	db, err := s.open(s.Port, user, password)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	err = f(ctx, db)
	for tries := 0; errors.Is(err, mysql.ErrMalformPkt) && tries < 3; tries++ {
		err = f(ctx, db) // the driver misreads one question in 256 of ed25519's
	}
	return errors.Join(err, db.Close())
}

// Hold opens a session that stays, and returns how to see whether it still works.
func (s *MariaDB) Hold(t testing.TB, user, password string) func() error {
	t.Helper()
	db, err := s.open(s.Port, user, password)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), db.Close() }) // the server may have closed it before
	return func() error { return conn.PingContext(t.Context()) }
}

func (s *MariaDB) with(port int, f func(context.Context, *sql.DB) error) error {
	db, err := s.open(port, s.User, s.Password)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return errors.Join(f(ctx, db), db.Close())
}

func (s *MariaDB) open(port int, user, password string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd = "tcp", Host+":"+strconv.Itoa(port), user, password
	c.Logger = log.New(io.Discard, "", 0)
	if s.CA != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(s.CA))
		c.TLS = &tls.Config{RootCAs: pool, ServerName: Name}
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1) // SET SESSION holds for the statements after it
	return db, nil
}
