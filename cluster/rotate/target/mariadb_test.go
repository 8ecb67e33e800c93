package target_test

import (
	"fmt"
	"testing"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
)

func TestMariaDB(t *testing.T) {
	t.Parallel()
	db := servertest.StartMariaDB(t)
	// The least that an administrator needs.
	db.Exec(t, `SET SESSION sql_log_off = 1`, `INSTALL SONAME 'auth_ed25519'`,
		`CREATE USER rotator IDENTIFIED BY 'rotator-password'`,
		`GRANT CREATE USER ON *.* TO rotator`, `GRANT SELECT ON mysql.global_priv TO rotator`)
	subject := func(config map[string]string, username string) targettest.Subject {
		return targettest.Subject{
			Kind: "mariadb", Target: target.NewMariaDB(), Config: config,
			Admin: value("rotator", "rotator-password"), First: value(username, "first-password"),
			Login: func(v target.Value) error {
				return db.Login(string(v["username"].Reveal()), string(v["password"].Reveal()))
			},
			Server:  targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Overlap: true, External: true,
		}
	}
	account := func(t *testing.T, name, how string) {
		db.Exec(t, `SET SESSION sql_log_off = 1`, fmt.Sprintf("CREATE USER `%s`@'%%' IDENTIFIED %s", name, how))
	}
	t.Run("dual", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			name := fresh()
			account(t, name, "BY 'first-password'")
			return subject(db.Config(), name)
		})
	})
	t.Run("alternating", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			a, b := fmt.Sprintf("train_%d", accounts.Add(1)), fmt.Sprintf("train_%d", accounts.Add(1))
			account(t, a, "BY 'first-password'")
			account(t, b, "BY 'second-password'")
			s := subject(with(db.Config(), "mode", "alternating", "accounts", a+","+b), a)
			s.Stride = 4
			return s
		})
	})
	t.Run("ed25519", func(t *testing.T) {
		targettest.Target(t, func(t *testing.T) targettest.Subject {
			a, b := fmt.Sprintf("train_%d", accounts.Add(1)), fmt.Sprintf("train_%d", accounts.Add(1))
			account(t, a, "VIA ed25519 USING PASSWORD('first-password')")
			account(t, b, "VIA ed25519 USING PASSWORD('second-password')")
			s := subject(with(db.Config(), "mode", "alternating", "accounts", a+","+b, "plugin", "ed25519"), a)
			s.Stride = 8
			return s
		})
	})
}
