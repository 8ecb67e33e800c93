package target_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
	"github.com/hizo/hizo/crypto/secret"
)

func value(username, password string) target.Value {
	return target.Value{"username": secret.Copy([]byte(username)), "password": secret.Copy([]byte(password))}
}

func with(config map[string]string, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		config[pairs[i]] = pairs[i+1]
	}
	return config
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

// quietly keeps what a test's preparations say out of PostgreSQL's log.
var quietly = []string{`SET log_statement = 'none'`, `SET log_min_duration_statement = -1`}

var accounts atomic.Int64

// fresh is a name that no other test uses, and that needs quoting.
func fresh() string { return fmt.Sprintf(`train "%d'\`, accounts.Add(1)) }

func TestPostgres(t *testing.T) {
	t.Parallel()
	db := servertest.StartPostgres(t)
	// The least that an administrator needs.
	db.Exec(t, append(quietly, `CREATE ROLE rotator LOGIN CREATEROLE PASSWORD 'rotator-password'`)...)
	admin := value("rotator", "rotator-password")
	subject := func(config map[string]string, username string, admin target.Value) targettest.Subject {
		return targettest.Subject{
			Kind: "postgresql", Target: target.NewPostgres(), Config: config, Admin: admin, First: value(username, "first-password"),
			Login: func(v target.Value) error {
				return db.Login(string(v["username"].Reveal()), string(v["password"].Reveal()))
			},
			Server:   targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			External: true,
		}
	}
	role := func(t *testing.T, name, password string) {
		db.Exec(t, append(quietly, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, pgQuote(name), password))...)
	}
	t.Run("single", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			name := fresh()
			role(t, name, "first-password")
			s := subject(db.Config(), name, admin)
			s.Stride = 3
			return s
		})
	})
	t.Run("own password", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			name := fresh()
			role(t, name, "first-password")
			s := subject(db.Config(), name, nil)
			s.Stride = 12
			return s
		})
	})
	t.Run("alternating", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			a, b := fmt.Sprintf("train_%d", accounts.Add(1)), fmt.Sprintf("train_%d", accounts.Add(1))
			role(t, a, "first-password")
			role(t, b, "second-password")
			s := subject(with(db.Config(), "mode", "alternating", "roles", a+","+b), a, admin)
			s.Overlap, s.Stride = true, 9
			return s
		})
	})
}

func pgQuote(name string) string {
	out := `"`
	for _, r := range name {
		if r == '"' {
			out += `"`
		}
		out += string(r)
	}
	return out + `"`
}
