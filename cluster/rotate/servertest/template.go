package servertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// template is a directory that servers start from a copy of. It lives as long as the test binary: the keeper that
// removes it holds nothing but its pipe.
type template struct {
	account
	dir      string
	ca       string
	password string // of the administrator
	bin      string // folder of the server's programs, or the server itself
	keeper   *process
}

// newTemplate makes a directory with a certificate in it, and fills it.
func newTemplate(name string, a account, fill func(*template) error) (*template, error) {
	dir, err := a.dir(name + "-template")
	if err != nil {
		return nil, err
	}
	keeper, err := a.keep(dir, "KILL")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	t := &template{account: a, dir: dir, keeper: keeper}
	if t.ca, err = a.certificate(dir); err == nil {
		err = fill(t)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a %s server: %w", name, err), keeper.close())
	}
	return t, nil
}

// copy makes a directory for one server.
func (t *template) copy(name string) (string, error) {
	dir, err := t.account.dir(name)
	if err != nil {
		return "", err
	}
	if err := t.run("/bin/cp", "-a", "--reflink=auto", t.dir+"/.", dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// launch starts a server in a copy of the template, on one free port after the other until it got one.
func (t *template) launch(name, signal string, command func(dir string, port int) []string, ready func(port int) error) (*server, error) {
	var last error
	for range attempts {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		dir, err := t.copy(name)
		if err != nil {
			return nil, err
		}
		p, err := t.keep(dir, signal, command(dir, port)...)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s := &server{Port: port, CA: t.ca, process: p, ready: func() error { return ready(port) }}
		if last = p.start(s.ready); last == nil {
			return s, nil
		}
		if err := p.close(); err != nil || !errors.Is(last, errEnded) {
			return nil, errors.Join(last, err)
		}
	}
	return nil, fmt.Errorf("%s: %w", name, last)
}

// in joins a path below a directory.
func in(dir, name string) string { return filepath.Join(dir, name) }
