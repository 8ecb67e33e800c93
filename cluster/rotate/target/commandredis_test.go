package target_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
	"github.com/hizo/hizo/crypto/secret"
)

// asProgram is the argument by which this test's own binary is a program for the target "command".
const asProgram = "rotate-redis"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asProgram {
		os.Exit(rotateRedis(os.Stdin))
	}
	os.Exit(m.Run())
}

// rotateRedis is what an administrator would write: it reads the object that docs/targets.md describes, and changes a
// user of Redis.
func rotateRedis(r io.Reader) int {
	var in struct {
		Stage   string
		Attempt uuid.UUID
		Params  map[string]string
		Admin   map[string][]byte
		Old     map[string][]byte
		New     map[string][]byte
	}
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return 1
	}
	named := func(fields map[string][]byte) target.Value {
		if fields == nil {
			return nil
		}
		return value(in.Params["username"], string(fields["password"]))
	}
	a := target.Attempt{
		ID: in.Attempt, Config: maps.Clone(in.Params), Admin: target.Value{}, Old: named(in.Old), New: named(in.New),
	}
	delete(a.Config, "username")
	for name, b := range in.Admin {
		a.Admin[name] = secret.Copy(b)
	}
	redis := target.NewRedis()
	calls := map[string]func(context.Context, target.Attempt) error{
		"apply": redis.Apply, "verify": redis.Verify, "retire": redis.Retire, "fence": redis.Fence,
	}
	switch err := calls[in.Stage](context.Background(), a); {
	case err == nil:
		return 0
	case errors.Is(err, target.ErrPermanent):
		return 65
	}
	return 1
}

// A program with a real server behind it keeps what every target has to keep: nothing that the program needs for it is
// lost on the way to its standard input, and nothing of its answer on the way back.
func TestCommandRedis(t *testing.T) {
	t.Parallel()
	db := servertest.StartRedis(t)
	db.Do(t, "ACL", "SETUSER", "rotator", "on", ">rotator-password",
		"+acl|getuser", "+acl|setuser", "+acl|deluser", "+acl|save", "+client|list", "+client|kill", "+client|setname")
	p := newProgram(t, "", func(c *target.Command) {
		c.Path, c.Args = ownBinary(t, filepath.Dir(c.Path)), []string{asProgram}
	})
	targettest.Target(t, func(t *testing.T) targettest.Subject {
		name := fmt.Sprintf("command%d", accounts.Add(1))
		db.Do(t, "ACL", "SETUSER", name, "on", ">first-password", "~iris:*", "+@read")
		db.Do(t, "ACL", "SAVE")
		config := map[string]string{"command": "mint", "field": "password", "param_username": name}
		for k, v := range db.Config() {
			config["param_"+k] = v
		}
		return targettest.Subject{
			Kind: "command", Target: p.Target, Config: config,
			Admin: value("rotator", "rotator-password"),
			First: target.Value{"password": secret.Copy([]byte("first-password"))},
			Login: func(v target.Value) error { return db.Login(name, string(v["password"].Reveal())) },
			Through: func(config map[string]string, port int) map[string]string {
				through := maps.Clone(config)
				through["param_port"] = fmt.Sprint(port)
				return through
			},
			Server:  targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Overlap: true, External: true, Stride: 3, // each call starts a process
		}
	})
}

// ownBinary copies this test to a folder that the program's user can enter.
func ownBinary(t *testing.T, dir string) string {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(dir, "rotate")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
