package target

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// options reads a configuration and collects what is wrong with it. Options that nothing asked for are wrong too:
// a misspelt one would be ignored otherwise.
type options struct {
	config map[string]string
	known  []string
	errs   []error
}

func read(config map[string]string) *options {
	return &options{config: config, known: []string{OptionAdmin}}
}

// OptionAdmin names the secret that the engine hands over as Attempt.Admin: VAULT/PATH. Targets do not read it.
const OptionAdmin = "admin"

func (o *options) text(name, byDefault string) string {
	o.known = append(o.known, name)
	if v := o.config[name]; v != "" {
		return v
	}
	return byDefault
}

func (o *options) number(name string, byDefault, low, high int) int {
	text := o.text(name, strconv.Itoa(byDefault))
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		o.fail("option %s: %q is not a number from %d to %d", name, text, low, high)
	}
	return n
}

func (o *options) choice(name string, choices ...string) string {
	text := o.text(name, choices[0])
	if !slices.Contains(choices, text) {
		o.fail("option %s: %q is none of %s", name, text, strings.Join(choices, ", "))
	}
	return text
}

func (o *options) list(name string) []string {
	text := o.text(name, "")
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func (o *options) fail(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

// done returns what was wrong.
func (o *options) done() error {
	var unknown []string
	for name := range o.config {
		if !slices.Contains(o.known, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		slices.Sort(o.known)
		o.fail("unknown option %s; known are %s", strings.Join(unknown, ", "), strings.Join(o.known, ", "))
	}
	if len(o.errs) == 0 {
		return nil
	}
	var all []string
	for _, err := range o.errs {
		all = append(all, err.Error())
	}
	return errors.New(strings.Join(all, "; "))
}

// address is where a server is and how it proves itself.
type address struct {
	host string
	port int
	tls  *tls.Config // nil: none
}

func (a address) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// address reads host, port, tls, ca and server_name.
func (o *options) address(port int) address {
	a := address{host: o.text("host", ""), port: o.number("port", port, 1, 65535)}
	if a.host == "" {
		o.fail("option host is missing")
	}
	ca, name := o.text("ca", ""), o.text("server_name", a.host)
	switch o.choice("tls", "verify-full", "require", "disable") {
	case "verify-full":
		a.tls = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
		if ca != "" {
			a.tls.RootCAs = x509.NewCertPool()
			if !a.tls.RootCAs.AppendCertsFromPEM([]byte(ca)) {
				o.fail("option ca holds no PEM certificate")
			}
		}
	case "require":
		// Encrypted, but to whoever answers: for servers whose certificate nobody can check.
		a.tls = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	case "disable":
		if ca != "" {
			o.fail("option ca is of no use with tls=disable")
		}
	}
	return a
}

// fields are the names of the fields that hold a name and a password.
type fields struct{ username, password string }

func (o *options) fields() fields {
	f := fields{o.text("username_field", "username"), o.text("password_field", "password")}
	if f.username == f.password {
		o.fail("options username_field and password_field name the same field")
	}
	return f
}
