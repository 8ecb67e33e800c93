package servertest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/rotate/servertest"
)

// running is what the three kinds have in common.
type running interface {
	Login(user, password string) error
	Log(testing.TB) string
	Stop(testing.TB)
	Start(testing.TB)
}

func TestServers(t *testing.T) {
	kinds := []struct {
		name  string
		start func(testing.TB) running
		user  func(running) // makes the user train with the password p
		log   string        // what that leaves in the server's log
	}{
		{"postgresql", func(t testing.TB) running { return servertest.StartPostgres(t) },
			func(r running) { r.(*servertest.Postgres).Exec(t, `CREATE ROLE train LOGIN PASSWORD 'p'`) }, `PASSWORD 'p'`},
		{"mariadb", func(t testing.TB) running { return servertest.StartMariaDB(t) },
			func(r running) { r.(*servertest.MariaDB).Exec(t, `CREATE USER train IDENTIFIED BY 'p'`) }, `CREATE USER train`},
		{"redis", func(t testing.TB) running { return servertest.StartRedis(t) },
			func(r running) {
				r.(*servertest.Redis).Do(t, "ACL", "SETUSER", "train", "on", ">p", "+@all")
				r.(*servertest.Redis).Do(t, "ACL", "SAVE")
			}, "ready"},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			r := k.start(t)
			k.user(r)
			if err := r.Login("train", "p"); err != nil {
				t.Fatalf("log in: %v", err)
			}
			if err := r.Login("train", "q"); err == nil {
				t.Fatal("a wrong password opens the server")
			}
			if !strings.Contains(strings.ToLower(r.Log(t)), strings.ToLower(k.log)) {
				t.Errorf("the log does not hold %q", k.log)
			}
			r.Stop(t)
			if err := r.Login("train", "p"); err == nil {
				t.Fatal("a stopped server answers")
			}
			r.Start(t)
			if err := r.Login("train", "p"); err != nil {
				t.Fatalf("log in after a restart: %v", err)
			}
		})
	}
}

// victim marks the process that is about to be killed.
const victim = "HIZO_SERVERTEST_VICTIM"

// TestVictim is the process that TestServersDieWithTheTest kills.
func TestVictim(t *testing.T) {
	if os.Getenv(victim) == "" {
		t.Skip("only as a child of TestServersDieWithTheTest")
	}
	s := servertest.StartRedis(t)
	fmt.Printf("\n%s\n%s\n%d\nup\n", s.Dir(), servertest.RedisTemplateDir(), s.Port)
	select {}
}

func TestServersDieWithTheTest(t *testing.T) {
	servertest.StartRedis(t) // skips where there is none
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victim+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	port := ""
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "up"; {
		if strings.HasPrefix(lines.Text(), "/") {
			dirs = append(dirs, lines.Text())
		}
		port = lines.Text()
	}
	if len(dirs) != 2 {
		t.Fatalf("the child started no server: %q", dirs)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.Now().Add(servertest.Patience)
	for _, dir := range dirs {
		for {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is still there", dir)
			}
			time.Sleep(10 * time.Millisecond) // between two looks at another process
		}
	}
	// The directory goes last: the server has ended by then.
	if c, err := net.Dial("tcp", net.JoinHostPort(servertest.Host, port)); err == nil {
		_ = c.Close() // it should not be there
		t.Fatal("the server still listens")
	}
}
