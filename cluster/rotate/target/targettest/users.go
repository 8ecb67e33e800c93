package targettest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/secret"
)

// Maker makes users for leases.
type Maker struct {
	Kind   string
	Users  target.Users
	Config map[string]string
	Admin  target.Value
	Server Server

	Login func(name, password string) error // tries to log in
	Use   func(name, password string) error // does what the configuration gives the users a right to
	Known func(testing.TB, string) bool     // does the server know the user?
	// Hold opens a session that stays, and returns how to see whether it still works.
	Hold func(t testing.TB, name, password string) func() error

	Bounded bool // the server refuses a user whose time is over by itself
	Renews  bool // Renew changes something, so it fails for a user that is not there
	Stride  int  // as Subject.Stride
}

// Users runs the suite.
func Users(t *testing.T, start func(*testing.T) Maker) {
	for _, test := range []struct {
		name string
		f    func(*testing.T, *making)
	}{
		{"makes and drops", makes},
		{"drops what is in use", dropsUsed},
		{"time over", timeOver},
		{"renews", renews},
		{"refuses", refuses},
		{"answers lost in create", lostInCreate},
		{"answers lost in drop", lostInDrop},
		{"a frozen maker is overtaken", overtaken},
		{"wrong administrator, users", wrongUsersAdmin},
		{"server down, users", usersDown},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &making{Maker: start(t)}
			m.value(m.Admin)
			test.f(t, m)
			m.check(t, m.Server.Log)
		})
	}
}

// making is a maker with the calls that are made to it.
type making struct {
	Maker
	watch
}

// user is one that there was not before.
func (m *making) user() target.User {
	u := target.User{
		Name: "hizo_" + uuid.NewString(), Password: secret.Copy([]byte("password-" + uuid.NewString())),
		Expires: time.Now().Add(time.Hour), Config: m.Config, Admin: m.Admin,
	}
	m.value(target.Value{"password": u.Password})
	return u
}

// act is one of the calls about a user.
type act struct {
	name string
	call func(target.Users, context.Context, target.User) error
}

var (
	create = act{"create", target.Users.Create}
	renew  = act{"renew", target.Users.Renew}
	drop   = act{"drop", target.Users.Drop}
)

func (m *making) try(t *testing.T, a act, u target.User) error {
	t.Helper()
	return m.seen(within(t, patience, func(ctx context.Context) error { return a.call(m.Users, ctx, u) }))
}

func (m *making) do(t *testing.T, u target.User, acts ...act) {
	t.Helper()
	for _, a := range acts {
		if err := m.try(t, a, u); err != nil {
			t.Fatalf("%s: %v", a.name, err)
		}
	}
}

func (m *making) works(t *testing.T, what string, u target.User) {
	t.Helper()
	if err := m.Use(u.Name, string(u.Password.Reveal())); err != nil {
		t.Fatalf("%s: the user is of no use: %v", what, err)
	}
}

func (m *making) closed(t *testing.T, what string, u target.User) {
	t.Helper()
	if m.Login(u.Name, string(u.Password.Reveal())) == nil {
		t.Fatalf("%s: the user logs in", what)
	}
}

func (m *making) gone(t *testing.T, what string, u target.User) {
	t.Helper()
	m.closed(t, what, u)
	if m.Known(t, u.Name) {
		t.Fatalf("%s: the server still knows the user", what)
	}
}

func makes(t *testing.T, m *making) {
	if err := m.Users.Check(m.Config); err != nil {
		t.Fatal(err)
	}
	u := m.user()
	m.do(t, u, drop) // nobody there yet
	m.gone(t, "before", u)
	m.do(t, u, create, create)
	m.works(t, "made twice", u)
	again := u
	again.Password = m.user().Password
	m.do(t, again, create)
	m.works(t, "with another password", again)
	m.closed(t, "the former password", u)
	other := m.user()
	m.do(t, other, create)
	m.do(t, again, drop, drop)
	m.gone(t, "dropped twice", again)
	m.works(t, "the other user", other)
	m.do(t, u, create)
	m.works(t, "made again", u)
	m.do(t, u, drop)
	m.do(t, other, drop)
	m.gone(t, "dropped at last", u)
}

func dropsUsed(t *testing.T, m *making) {
	u := m.user()
	m.do(t, u, create)
	var sessions []func() error
	for range 3 {
		sessions = append(sessions, m.Hold(t, u.Name, string(u.Password.Reveal())))
	}
	for i, works := range sessions {
		if err := works(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	m.do(t, u, drop)
	m.gone(t, "dropped", u)
	for i, works := range sessions {
		if works() == nil {
			t.Fatalf("session %d outlived its user", i)
		}
	}
}

func timeOver(t *testing.T, m *making) {
	if !m.Bounded {
		t.Skip("this server knows no such bound")
	}
	u := m.user()
	u.Expires = time.Now().Add(-time.Minute)
	m.do(t, u, create)
	m.closed(t, "past its time", u)
	m.do(t, u, drop)
	m.gone(t, "dropped", u)
}

func renews(t *testing.T, m *making) {
	u := m.user()
	if err := m.try(t, renew, u); m.Renews && !errors.Is(err, target.ErrPermanent) {
		t.Fatalf("renew of a user that is not there: %v", err)
	}
	if m.Known(t, u.Name) {
		t.Fatal("renew has made a user")
	}
	if m.Bounded {
		u.Expires = time.Now().Add(-time.Minute)
	}
	m.do(t, u, create)
	u.Expires = time.Now().Add(time.Hour)
	m.do(t, u, renew, renew)
	m.works(t, "renewed", u)
	m.do(t, u, drop)
	m.gone(t, "dropped", u)
}

func refuses(t *testing.T, m *making) {
	for _, name := range []string{"", `x"y`, "x y", "x`y", "x'; DROP ROLE postgres; --", "über", string(make([]byte, 64))} {
		u := m.user()
		u.Name = name
		for _, a := range []act{create, renew, drop} {
			if err := m.try(t, a, u); !errors.Is(err, target.ErrPermanent) {
				t.Errorf("%s of a user %q: %v", a.name, name, err)
			}
		}
	}
	for _, option := range []string{"creation", "revocation", "rules"} {
		if m.Config[option] == "" {
			continue
		}
		for _, text := range []string{"{{password}}", "{{}}", "{{ name }}", "{{name", "name}}", "'{{name}}'", `"{{name}}"`} {
			config := map[string]string{}
			for k, v := range m.Config {
				config[k] = v
			}
			config[option] += " " + text
			if m.Users.Check(config) == nil {
				t.Errorf("option %s may hold %s", option, text)
			}
		}
	}
	config := map[string]string{"no_such_option": "1"}
	for k, v := range m.Config {
		config[k] = v
	}
	if m.Users.Check(config) == nil {
		t.Error("an unknown option is accepted")
	}
}

func lostInCreate(t *testing.T, m *making) {
	m.losing(t, create, nil, func(u target.User) {
		m.works(t, "made after all", u)
		m.do(t, u, drop)
		m.gone(t, "dropped", u)
	})
}

func lostInDrop(t *testing.T, m *making) {
	m.losing(t, drop, []act{create}, func(u target.User) { m.gone(t, "dropped after all", u) })
}

func (m *making) losing(t *testing.T, a act, before []act, after func(target.User)) {
	t.Helper()
	proxy := servertest.StartProxy(t, m.Server.Port)
	for n := 0; n < answers; n = next(m.Stride, n) {
		u := m.user()
		m.do(t, u, before...)
		through := u
		through.Config = proxy.Config(u.Config)
		proxy.Cut(n)
		moment := proxy.Met()
		err := m.try(t, a, through)
		met := happened(moment)
		proxy.Thaw()
		if err != nil {
			described(t, err, m.Kind)
			if !met || errors.Is(err, target.ErrPermanent) {
				t.Fatalf("answer %d lost: %v", n, err)
			}
		}
		m.do(t, u, a)
		after(u)
		if !met {
			return
		}
	}
	t.Fatalf("still not through after %d answers", answers)
}

// overtaken freezes a maker at every answer in turn, or what it asks for, and drops the user meanwhile.
func overtaken(t *testing.T, m *making) {
	m.overtake(t, (*servertest.Proxy).Freeze)
	m.overtake(t, (*servertest.Proxy).FreezeRequest)
}

func (m *making) overtake(t *testing.T, freeze func(*servertest.Proxy, int)) {
	t.Helper()
	proxy := servertest.StartProxy(t, m.Server.Port)
	for n := 0; n < answers; n = next(m.Stride, n) {
		u := m.user()
		through := u
		through.Config = proxy.Config(u.Config)
		freeze(proxy, n)
		moment := proxy.Met()
		err := m.seen(until(t, moment, func(ctx context.Context) error { return m.Users.Create(ctx, through) }))
		met := happened(moment)
		if err != nil { // nil: the last answer of all is the server's farewell, which nobody waits for
			described(t, err, m.Kind)
			if !met {
				t.Fatal(err)
			}
		}
		m.do(t, u, drop)
		m.gone(t, fmt.Sprintf("frozen at answer %d, dropped", n), u)
		proxy.Thaw()
		m.gone(t, fmt.Sprintf("frozen at answer %d, awake again", n), u)
		if !met {
			return
		}
	}
	t.Fatalf("still not through after %d answers", answers)
}

func wrongUsersAdmin(t *testing.T, m *making) {
	u := m.user()
	wrong := u
	wrong.Admin = target.Value{"username": u.Admin["username"], "password": secret.Copy([]byte("wrong-administrator-password"))}
	m.value(wrong.Admin)
	for _, a := range []act{create, drop} {
		if err := m.try(t, a, wrong); err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("%s with a wrong administrator: %v", a.name, err)
		} else {
			described(t, err, m.Kind)
		}
	}
	m.gone(t, "never made", u)
	wrong.Admin = nil
	if err := m.try(t, create, wrong); !errors.Is(err, target.ErrPermanent) {
		t.Fatalf("create without an administrator: %v", err)
	}
}

func usersDown(t *testing.T, m *making) {
	u := m.user()
	m.do(t, u, create)
	m.Server.Stop(t)
	var errs []error
	for _, a := range []act{create, renew, drop} {
		errs = append(errs, m.try(t, a, u))
	}
	m.Server.Start(t)
	for _, err := range errs {
		if err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("without a server: %v", err)
		}
		described(t, err, m.Kind)
	}
	m.works(t, "after the server's restart", u)
	m.do(t, u, drop)
	m.gone(t, "dropped", u)
}
