package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/disk"
	"github.com/hizo/hizo/chaos/probe"
)

// Node is one `hizod server` process, or where one was.
type Node struct {
	Number int    // from 1
	Name   string // n1 …
	Dir    string // config.yaml, data, hsm, log

	hizod string
	env   []string

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{}
	stopped bool // by SIGSTOP
	// ended counts how often the process ended by itself, which nobody asked for; excused and killed the same while a
	// fault allowed it, by its own decision and by SIGKILL.
	ended   int
	excused int
	killed  int
	may     int  // faults that allow it to end by its own decision
	die     int  // faults that kill it from within
	asked   bool // an end was asked for
	// Control is the page of a build with probes, else nil.
	Control *probe.Control
	// Disk is under the data directory where the lab has such disks, else nil.
	Disk *disk.Disk
}

// ClientAddr is where clients reach the node.
func (n *Node) ClientAddr() string {
	return net.JoinHostPort(Addr(n.Number), strconv.Itoa(ClientPort))
}

// Data is where the node's data directory lies for those who look at it once the process has ended.
func (n *Node) Data() string {
	if n.Disk != nil {
		return n.Path("disk")
	}
	return n.Path("data")
}

// Changed has the node see what was changed in Data while its process was not there.
func (n *Node) Changed() error {
	if n.Disk == nil {
		return nil
	}
	return n.Disk.Forget()
}

// Path below the node's directory.
func (n *Node) Path(elem ...string) string { return filepath.Join(append([]string{n.Dir}, elem...)...) }

// Start starts the process unless it runs. extra is added to its environment (failpoints).
func (n *Node) Start(extra ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.runs() {
		return nil
	}
	log, err := os.OpenFile(n.Path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// ip replaces itself by the program, so the process is hizod's own.
	cmd := exec.Command("ip", "netns", "exec", namespace(n.Number), n.hizod, "server", "--config", n.Path("config.yaml"))
	cmd.Env = append(append([]string{"PATH=" + os.Getenv("PATH")}, n.env...), extra...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	done := make(chan struct{})
	n.cmd, n.done, n.stopped, n.asked = cmd, done, false, false
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		n.mu.Lock()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		shot := status.Signaled() && status.Signal() == syscall.SIGKILL
		switch {
		case n.cmd != cmd || n.asked:
		case shot && n.die > 0:
			n.killed++
		case !shot && n.may > 0:
			n.excused++
		default:
			n.ended++
		}
		n.mu.Unlock()
		close(done)
	}()
	return nil
}

func (n *Node) runs() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Running says whether the process is there, stopped or not.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runs()
}

// Ended says how often the process ended without being asked to.
func (n *Node) Ended() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}

// MayEnd notes that a fault allows the process to end by its own decision from now on, or no longer.
func (n *Node) MayEnd(may bool) { n.allow(&n.may, may) }

// MayDie notes that a fault has the process kill itself (SIGKILL) from now on, or no longer.
func (n *Node) MayDie(may bool) { n.allow(&n.die, may) }

func (n *Node) allow(faults *int, may bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if may {
		*faults++
	} else {
		*faults--
	}
}

// MustRun takes back whatever MayEnd has allowed.
func (n *Node) MustRun() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.may = 0
}

// Excused says how often the process ended by its own decision while it was allowed to.
func (n *Node) Excused() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.excused
}

// Killed says how often the process died of SIGKILL from within while it was allowed to.
func (n *Node) Killed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.killed
}

// Stopped says whether the process is there and the kernel has stopped it (proc(5), state T).
func (n *Node) Stopped() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.runs() {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	return err == nil && bytes.Contains(stat, []byte(") T "))
}

// End sends SIGKILL or SIGTERM and waits for the end of the process.
func (n *Node) End(sig syscall.Signal) error {
	n.mu.Lock()
	if !n.runs() {
		n.mu.Unlock()
		return nil
	}
	n.asked = true
	cmd, done := n.cmd, n.done
	if n.stopped {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		n.stopped = false
	}
	err := cmd.Process.Signal(sig)
	n.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
		return nil
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s did not end on %v within 15 s", n.Name, sig)
	}
}

// Pause stops the process where it stands (SIGSTOP), or lets it go on.
func (n *Node) Pause(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.runs() || n.stopped == on {
		return nil
	}
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	if err := n.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	n.stopped = on
	return nil
}

// LogText is all that the node has printed.
func (n *Node) LogText() []byte {
	data, err := os.ReadFile(n.Path("log"))
	if err != nil {
		return []byte(err.Error())
	}
	return data
}
