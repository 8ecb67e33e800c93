package probe

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the process that hits points, when a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv(Env) != "" {
		for range 3 {
			Hit("log/stored")
			Hit("apply/after-batch")
		}
		os.Exit(7)
	}
	os.Exit(m.Run())
}

// visit runs a process that comes to two points three times each.
func visit(t *testing.T, page string) syscall.WaitStatus {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{Env + "=" + page}
	err := cmd.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatalf("the process: %v", err)
	}
	return exit.Sys().(syscall.WaitStatus)
}

func TestKillAtAPoint(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page")
	c, err := Open(page)
	if err != nil {
		t.Fatal(err)
	}
	if status := visit(t, page); status.ExitStatus() != 7 || c.Fired() != 0 || c.Hits("log/stored") != 3 {
		t.Errorf("unarmed: status %v, %d kills, %d hits", status, c.Fired(), c.Hits("log/stored"))
	}
	c.Arm("apply/after-batch", 1)
	if status := visit(t, page); status.Signal() != syscall.SIGKILL || c.Fired() != 1 || c.Hits("apply/after-batch") != 5 {
		t.Errorf("armed for the second time: status %v, %d kills, %d hits in all", status, c.Fired(), c.Hits("apply/after-batch"))
	}
	if status := visit(t, page); status.ExitStatus() != 7 || c.Fired() != 1 {
		t.Errorf("a point kills once: status %v, %d kills", status, c.Fired())
	}
	c.Arm("log/stored", 0)
	c.Disarm()
	if status := visit(t, page); status.ExitStatus() != 7 {
		t.Errorf("disarmed: status %v", status)
	}
}

func TestUnarmedProcess(t *testing.T) {
	Hit("log/stored") // no page: it returns
	if d := time.Since(Now()); d < 0 || d > time.Minute {
		t.Errorf("the clock is %v off", d)
	}
}
