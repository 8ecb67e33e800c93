package target_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
)

func TestPostgresUsers(t *testing.T) {
	t.Parallel()
	db := servertest.StartPostgres(t)
	db.Exec(t, append(quietly, `CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'maker-password'`,
		`CREATE SCHEMA iris`, `CREATE TABLE iris.measurements AS SELECT 42 AS sepal`, `GRANT ALL ON SCHEMA iris TO maker WITH GRANT OPTION`,
		`GRANT SELECT ON iris.measurements TO maker WITH GRANT OPTION`)...)
	ask := func(name, password, query string) error {
		ctx, cancel := context.WithTimeout(context.Background(), servertest.Patience)
		defer cancel()
		c, err := pgx.Connect(ctx, db.URL(name, password, "postgres"))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close(ctx) }() // asked and answered
		_, err = c.Exec(ctx, query)
		return err
	}
	maker := func(t *testing.T) targettest.Maker {
		return targettest.Maker{
			Kind: "postgresql", Users: target.NewPostgresUsers(), Admin: value("maker", "maker-password"),
			Config: with(db.Config(), "creation", `GRANT USAGE, CREATE ON SCHEMA iris TO {{name}}; GRANT SELECT ON iris.measurements TO {{name}}`),
			Server: targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Login:  db.Login,
			Use: func(name, password string) error {
				return ask(name, password, `SELECT sepal FROM iris.measurements`)
			},
			Known: func(t testing.TB, name string) bool {
				return len(db.Query(t, `SELECT rolname::text FROM pg_roles WHERE rolname = $1`, name)) > 0
			},
			Hold: func(t testing.TB, name, password string) func() error {
				c, err := pgx.Connect(t.Context(), db.URL(name, password, "postgres"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close(context.Background()) }) // most are dead by then
				return func() error { return c.Ping(t.Context()) }
			},
			Bounded: true, Renews: true, Stride: 3,
		}
	}
	targettest.Users(t, maker)

	t.Run("what a user owns stays", func(t *testing.T) {
		m := maker(t)
		u := target.User{Name: "hizo_owner", Password: value("", "a-password-of-its-own")["password"], Expires: inAnHour(), Config: m.Config, Admin: m.Admin}
		if err := m.Users.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if err := ask(u.Name, "a-password-of-its-own", `CREATE TABLE iris.results AS SELECT 'kept' AS what`); err != nil {
			t.Fatal(err)
		}
		if err := m.Users.Drop(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if got := db.Query(t, `SELECT what || ' by ' || tableowner FROM iris.results, pg_tables WHERE tablename = 'results'`); len(got) != 1 || got[0] != "kept by maker" {
			t.Fatalf("%q", got)
		}
	})
	t.Run("objects in another database", func(t *testing.T) {
		db.Exec(t, `CREATE DATABASE elsewhere`, `GRANT CONNECT, CREATE ON DATABASE elsewhere TO PUBLIC`)
		m := maker(t)
		u := target.User{Name: "hizo_wanderer", Password: value("", "a-password-of-its-own")["password"], Expires: inAnHour(), Config: m.Config, Admin: m.Admin}
		if err := m.Users.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		c, err := pgx.Connect(t.Context(), db.URL(u.Name, "a-password-of-its-own", "elsewhere"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), `CREATE SCHEMA mine`); err != nil {
			t.Fatal(err)
		}
		if err := m.Users.Drop(t.Context(), u); err == nil || !strings.Contains(err.Error(), "option databases") {
			t.Fatalf("drop of a role that owns objects elsewhere: %v", err)
		}
		if c.Ping(t.Context()) == nil || db.Login(u.Name, "a-password-of-its-own") == nil {
			t.Fatal("a drop that could not finish has not closed the door")
		}
		u.Config = with(u.Config, "databases", "postgres,elsewhere")
		if err := m.Users.Drop(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		if m.Known(t, u.Name) {
			t.Fatal("still there")
		}
	})
	t.Run("a creation that fails leaves nothing", func(t *testing.T) {
		m := maker(t)
		u := target.User{Name: "hizo_half", Password: value("", "a-password-of-its-own")["password"], Expires: inAnHour(), Admin: m.Admin,
			Config: with(db.Config(), "creation", `GRANT USAGE ON SCHEMA iris TO {{name}}; GRANT SELECT ON iris.nothing TO {{name}}`)}
		if err := m.Users.Create(t.Context(), u); err == nil || !strings.Contains(err.Error(), "option creation (SQLSTATE 42P01)") {
			t.Fatalf("%v", err)
		}
		if m.Known(t, u.Name) {
			t.Fatal("half a user")
		}
	})
}

func TestMariaDBUsers(t *testing.T) {
	t.Parallel()
	db := servertest.StartMariaDB(t)
	db.Exec(t, `SET SESSION sql_log_off = 1`, `CREATE DATABASE iris`, `CREATE TABLE iris.measurements AS SELECT 42 AS sepal`,
		`CREATE USER maker IDENTIFIED BY 'maker-password'`, `GRANT CREATE USER, CONNECTION ADMIN ON *.* TO maker`,
		`GRANT SELECT ON mysql.global_priv TO maker`, `GRANT SELECT ON iris.* TO maker WITH GRANT OPTION`)
	targettest.Users(t, func(t *testing.T) targettest.Maker {
		return targettest.Maker{
			Kind: "mariadb", Users: target.NewMariaDBUsers(), Admin: value("maker", "maker-password"),
			Config: with(db.Config(), "creation", `GRANT SELECT ON iris.* TO {{name}}; ALTER USER {{name}} WITH MAX_USER_CONNECTIONS 5`),
			Server: targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Login:  db.Login,
			Use: func(name, password string) error {
				return db.Try(name, password, func(ctx context.Context, c *sql.DB) error {
					_, err := c.ExecContext(ctx, `SELECT sepal FROM iris.measurements`)
					return err
				})
			},
			Known: func(t testing.TB, name string) bool {
				return len(db.Query(t, `SELECT User FROM mysql.global_priv WHERE User = ?`, name)) > 0
			},
			Hold: func(t testing.TB, name, password string) func() error {
				return db.Hold(t, name, password)
			},
			Renews: true,
		}
	})
}

func TestRedisUsers(t *testing.T) {
	t.Parallel()
	db := servertest.StartRedis(t)
	db.Do(t, "ACL", "SETUSER", "maker", "on", ">maker-password",
		"+acl|getuser", "+acl|setuser", "+acl|deluser", "+acl|save", "+client|list", "+client|kill", "+client|setname")
	db.Do(t, "ACL", "SAVE")
	targettest.Users(t, func(t *testing.T) targettest.Maker {
		return targettest.Maker{
			Kind: "redis", Users: target.NewRedisUsers(), Admin: value("maker", "maker-password"),
			Config: with(db.Config(), "rules", "~iris:* ~{{name}}:* +@read +@connection"),
			Server: targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Login:  db.Login,
			Use:    func(name, password string) error { return db.Try(name, password, "GET", name+":x") },
			Known: func(t testing.TB, name string) bool {
				return db.Do(t, "ACL", "GETUSER", name) != nil
			},
			Hold: func(t testing.TB, name, password string) func() error {
				return db.Hold(t, name, password)
			},
			Renews: true,
		}
	})
}
