package target

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Command is a program of the node's own allow-list. Whoever sets a rotation chooses among names; path, arguments and
// user are the configuration's of each node.
type Command struct {
	Path    string        // absolute; a file that nobody but its owner may write
	Args    []string      // after the path
	User    string        // who it runs as; needed where hizod runs as root
	Timeout time.Duration // default 20 s
	// SameUser lets it run as hizod's own user where hizod is not root: it can read what hizod can then, the PIN file
	// included.
	SameUser bool
}

// command rotates by running a program of the allow-list once for each stage but the first: the value is made as for the
// target "generated". The program reads one JSON object from standard input (cmdInput), with values in base64; nothing of
// it is in its arguments or environment. It answers by its exit code: 0 is done, 65 (EX_DATAERR) that trying again does
// not help, or that the value is refused, any other that it did not work this time. What it prints is thrown away, because
// it may hold a value.
//
// It runs in a process group of its own with an empty environment, no descriptors but its three, without supplementary
// groups, and is killed with all that it has started when its time is up.
type command struct{ allowed map[string]Command }

// ErrCommand marks entries of the allow-list that cannot be used.
var ErrCommand = errors.New("rotation command")

// NewCommand makes the target of kind "command".
func NewCommand(allowed map[string]Command) (Target, error) {
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		c := allowed[name]
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("%w %s: %s", ErrCommand, name, fmt.Sprintf(format, args...))
		}
		switch {
		case name == "" || strings.ContainsAny(name, " /="):
			return nil, wrong("its name must be one word")
		case !filepath.IsAbs(c.Path):
			return nil, wrong("path: %q is not absolute", c.Path)
		case c.Timeout < 0 || c.Timeout > 10*time.Minute:
			return nil, wrong("timeout: at most 10 minutes")
		case os.Geteuid() == 0 && (c.User == "" || c.SameUser):
			return nil, wrong("user: missing; hizod runs as root and the command must not")
		case os.Geteuid() != 0 && c.User != "":
			return nil, wrong("user: only root can run it as another user; leave user out and set same_user, knowing that it can read what hizod can")
		case os.Geteuid() != 0 && !c.SameUser:
			return nil, wrong("same_user: hizod is not root, so the command would run as its own user and could read the PIN file: set it if that is wanted")
		}
		if c.User != "" {
			if _, err := cmdCredential(c.User); err != nil {
				return nil, wrong("user: %v", err)
			}
		}
	}
	return &command{maps.Clone(allowed)}, nil
}

// cmdCredential finds a user that is not root.
func cmdCredential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if uid == 0 || gid == 0 {
		return nil, fmt.Errorf("%s is root", name)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}, nil
}

func cmdError(stage string, err error, format string, args ...any) error {
	return &Error{Kind: "command", Stage: stage, Message: fmt.Sprintf(format, args...), Err: err}
}

// cmdParam is what options for the program itself begin with.
const cmdParam = "param_"

func (c *command) read(config map[string]string) (Command, genOptions, error) {
	others := []string{"command", OptionAdmin}
	for name := range config {
		if strings.HasPrefix(name, cmdParam) {
			others = append(others, name)
		}
	}
	o, err := genRead(config, others...)
	if err != nil {
		return Command{}, o, err
	}
	run, ok := c.allowed[config["command"]]
	if !ok {
		return run, o, cmdError("check", ErrPermanent, "command: %q is not on the list of this node: its configuration names the commands that may run (rotation.commands)", config["command"])
	}
	return run, o, nil
}

// Check reads the options, and looks at the program.
func (c *command) Check(config map[string]string) error {
	run, _, err := c.read(config)
	if err != nil {
		return err
	}
	return run.look("check")
}

// look checks that the program is what the node's administrator put there.
func (c *Command) look(stage string) error {
	info, err := os.Stat(c.Path)
	switch {
	case err != nil:
		return cmdError(stage, nil, "%s is not there", c.Path)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return cmdError(stage, nil, "%s is not a program", c.Path)
	case info.Mode()&0o022 != 0:
		return cmdError(stage, nil, "%s can be written by others than its owner: chmod go-w", c.Path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return cmdError(stage, nil, "%s belongs neither to root nor to hizod's user", c.Path)
	}
	return nil
}

// Stage makes the value; the program is not run.
func (c *command) Stage(_ context.Context, a Attempt) (Value, error) {
	_, o, err := c.read(a.Config)
	if err != nil {
		return nil, err
	}
	return o.value(a.Old)
}

func (c *command) Apply(ctx context.Context, a Attempt) error  { return c.run(ctx, "apply", a) }
func (c *command) Verify(ctx context.Context, a Attempt) error { return c.run(ctx, "verify", a) }
func (c *command) Retire(ctx context.Context, a Attempt) error { return c.run(ctx, "retire", a) }
func (c *command) Fence(ctx context.Context, a Attempt) error  { return c.run(ctx, "fence", a) }

// cmdInput is what the program reads.
type cmdInput struct {
	Version int               `json:"version"`
	Stage   string            `json:"stage"`
	Attempt string            `json:"attempt"`
	Vault   string            `json:"vault"`
	Path    string            `json:"path"`
	Params  map[string]string `json:"params"`
	Admin   map[string][]byte `json:"admin"`
	Old     map[string][]byte `json:"old"`
	New     map[string][]byte `json:"new"`
}

func cmdFields(v Value) map[string][]byte {
	if v == nil {
		return nil
	}
	out := make(map[string][]byte, len(v))
	for name, b := range v {
		out[name] = b.Reveal()
	}
	return out
}

// cmdRefused is the exit code that says: not this value, however often.
const cmdRefused = 65

func (c *command) run(ctx context.Context, stage string, a Attempt) error {
	run, _, err := c.read(a.Config)
	if err != nil {
		return err
	}
	if err := run.look(stage); err != nil {
		return err
	}
	in := cmdInput{
		Version: 1, Stage: stage, Attempt: uuid.UUID(a.ID).String(), Vault: a.Vault, Path: a.Path, Params: map[string]string{},
		Admin: cmdFields(a.Admin), Old: cmdFields(a.Old), New: cmdFields(a.New),
	}
	for name, value := range a.Config {
		if param, ok := strings.CutPrefix(name, cmdParam); ok {
			in.Params[param] = value
		}
	}
	stdin, err := json.Marshal(in)
	if err != nil {
		return err
	}
	defer clear(stdin)
	timeout := cmp.Or(run.Timeout, 20*time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd, err := run.command(ctx, stdin)
	if err != nil {
		return cmdError(stage, nil, "it can't be run: check the user in the node's configuration")
	}
	err = cmd.Run()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return cmdError(stage, ctx.Err(), "it had not ended within %v and was killed", timeout)
	case exited && exit.ExitCode() == cmdRefused:
		return cmdError(stage, ErrPermanent, "it ended with code %d: refused", cmdRefused)
	case exited && exit.ExitCode() >= 0:
		return cmdError(stage, nil, "it ended with code %d", exit.ExitCode())
	case exited:
		return cmdError(stage, nil, "it was ended by a signal")
	}
	return cmdError(stage, nil, "it could not be started: check that %s can be run by its user", run.Path)
}

// command prepares the process.
func (c *Command) command(ctx context.Context, stdin []byte) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.User != "" {
		credential, err := cmdCredential(c.User)
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.Credential = credential
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for a child of its own that has left the group and holds standard input
	return cmd, cmdCloseOnExec()
}
