package servertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keeper is the shell around a server. $1 is the directory, $2 the signal that stops the server, the rest the
// command. It answers each command with a line, and ends at end of file.
const keeper = `
dir=$1 signal=$2; shift 2
pid=
stop() { if [ -n "$pid" ]; then kill -s "$signal" "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; pid=; fi; }
while read -r word; do
  case $word in
    start) "$@" >>"$dir/log" 2>&1 </dev/null & pid=$!; echo "$pid" ;;
    alive) if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then echo yes; else echo no; fi ;;
    stop) stop; echo stopped ;;
  esac
done
stop
rm -rf -- "$dir"
`

// process is a server under its keeper.
type process struct {
	dir    string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// keep starts a keeper for a directory, and a command in it when there is one. The command does not run yet.
func (a account) keep(dir, signal string, command ...string) (*process, error) {
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeper, "keeper", dir, signal}, command...)...)
	cmd.SysProcAttr = a.attr()
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{dir: dir, cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}, nil
}

// say sends one command to the keeper and returns its answer.
func (p *process) say(word string) (string, error) {
	if _, err := io.WriteString(p.stdin, word+"\n"); err != nil {
		return "", err
	}
	line, err := p.stdout.ReadString('\n')
	return strings.TrimSpace(line), err
}

// errEnded says that a server ended before it was ready, perhaps because its port was taken meanwhile: whoever
// answers there is another.
var errEnded = errors.New("the server has ended")

// start starts the server and waits until ready returns nil.
func (p *process) start(ready func() error) error {
	if _, err := p.say("start"); err != nil {
		return err
	}
	deadline := time.Now().Add(Patience)
	for {
		err := ready()
		alive, sayErr := p.say("alive")
		switch {
		case sayErr != nil:
			return sayErr
		case alive != "yes":
			return fmt.Errorf("%w: %v\n%s", errEnded, err, p.tail())
		case err == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the server does not come up: %w\n%s", err, p.tail())
		}
		time.Sleep(10 * time.Millisecond) // between two looks at another process
	}
}

func (p *process) stop() error {
	_, err := p.say("stop")
	return err
}

// close ends the server and waits until its directory is gone.
func (p *process) close() error {
	if err := p.stdin.Close(); err != nil {
		return err
	}
	return p.cmd.Wait()
}

func (p *process) log() (string, error) {
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(b), err
}

// tail is the end of the log, for messages.
func (p *process) tail() string {
	text, err := p.log()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// server is what all three kinds have: an address, a log, and a way to be down for a while.
type server struct {
	Port    int
	CA      string // PEM of the authority that signed the server's certificate
	process *process
	ready   func() error
	logs    []string // files beside the standard one
}

// attempts is how often a start is tried, each time with another port.
const attempts = 5

// Stop stops the server; its data and its port stay.
func (s *server) Stop(t testing.TB) {
	t.Helper()
	if err := s.process.stop(); err != nil {
		t.Fatal(err)
	}
}

// Start starts a stopped server again.
func (s *server) Start(t testing.TB) {
	t.Helper()
	if err := s.process.start(s.ready); err != nil {
		t.Fatal(err)
	}
}

// Log returns everything that the server has logged.
func (s *server) Log(t testing.TB) string {
	t.Helper()
	text, err := s.process.log()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range s.logs {
		b, err := os.ReadFile(filepath.Join(s.process.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		text += string(b)
	}
	return text
}

// closeAfter ends the server with the test.
func (s *server) closeAfter(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.process.close(); err != nil {
			t.Errorf("the server's keeper: %v", err)
		}
		if _, err := os.Stat(s.process.dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", s.process.dir, err)
		}
	})
}
