// Package servertest starts real PostgreSQL, MariaDB and Redis servers for tests: from Debian's packages, each on a
// free loopback port in a directory of its own, with TLS from a throw-away authority, and gone when the test ends.
//
//	db := servertest.StartPostgres(t)
//	db.Exec(t, `CREATE ROLE train LOGIN PASSWORD 'old'`)
//	config := db.Config()                                // host, port, database, tls, ca: what a target is given
//	db.Stop(t); db.Start(t)                              // the same data on the same port again
//	strings.Contains(db.Log(t), password)                // every statement is in the log
//
// A test whose server is not installed skips and names the package; with CI set in the environment it fails,
// because a check that did not run has not passed.
//
// How a server ends: it is the child of a shell that reads commands from a pipe whose other end only the test's
// process holds. At end of file, so also after a panic, a time-out or SIGKILL, the shell stops the server and
// removes its directory. The shell has a process group of its own: an interrupt at the terminal does not reach it
// before the test has ended.
//
// Servers start from a template that is made once per test binary and copied: a start takes some 0.1 s for Redis
// and PostgreSQL and 0.5 s for MariaDB.
package servertest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Patience bounds every wait. It is generous: machines that run many tests at once are slow.
const Patience = 60 * time.Second

// Host is where all servers listen. Their certificates name it, and Name.
const (
	Host = "127.0.0.1"
	Name = "localhost"
)

// missing is a server that this machine does not have.
type missing struct{ pkg string }

func (m missing) Error() string {
	return m.pkg + " is not installed (Debian: apt-get install " + m.pkg + ")"
}

// need skips the test when a server is missing, and fails it on any other error.
func need(t testing.TB, err error) {
	t.Helper()
	m, absent := errors.AsType[missing](err)
	switch {
	case err == nil:
	case absent && os.Getenv("CI") == "":
		t.Skip(m.Error())
	default:
		t.Fatal(err)
	}
}

// program finds a program in PATH or by patterns, of which the last match in order is the newest version.
func program(pkg, name string, patterns ...string) (string, error) {
	for _, p := range patterns {
		if found, err := filepath.Glob(filepath.Join(p, name)); err == nil && len(found) > 0 {
			slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) })
			return found[len(found)-1], nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", missing{pkg}
}

// account is whom a server runs as: whoever runs the test, or, because PostgreSQL and MariaDB refuse root, the
// account that came with the server's package.
type account struct{ uid, gid int }

func accountFor(name string) (account, error) {
	if os.Getuid() != 0 {
		return account{os.Getuid(), os.Getgid()}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return account{}, err
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, err
	}
	gid, err := strconv.Atoi(u.Gid)
	return account{uid, gid}, err
}

// attr makes a child run as the account, in a process group of its own.
func (a account) attr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// dir makes a directory that the account owns and can reach: $TMPDIR may be closed to others than root, and the
// path of a Unix socket has at most 107 bytes.
func (a account) dir(name string) (string, error) {
	parent := os.TempDir()
	if os.Getuid() == 0 || len(parent) > 40 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "hizo-"+name+"-")
	if err != nil {
		return "", err
	}
	return dir, a.own(dir)
}

func (a account) own(path string) error {
	if os.Getuid() != 0 {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// write makes a file of mode 0600 that the account owns.
func (a account) write(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return a.own(path)
}

// run runs a program to its end as the account.
func (a account) run(path string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = a.attr()
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(path), err, out)
	}
	return nil
}

// freePort is a port that nobody used a moment ago. Somebody may take it before the server does, so whoever
// starts a server tries again with another one.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", Host+":0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
