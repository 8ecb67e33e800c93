package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/supervise"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// MaxConfig bounds a configuration file, in bytes.
const MaxConfig = 1 << 20

// Config of an agent. It holds no secret in the clear.
type Config struct {
	Execution string            `yaml:"execution"` // names the agent in the audit log; default "agent"
	Pipeline  bool              `yaml:"pipeline"`  // all variables of the pipeline that this identity runs
	Variables map[string]string `yaml:"variables"` // name → reference or sealed value
	Files     []FileConfig      `yaml:"files"`
	Command   *CommandConfig    `yaml:"command"`
	Socket    *SocketConfig     `yaml:"socket"`
	Cache     *CacheConfig      `yaml:"cache"`
}

// FileConfig is one file that is kept up to date.
type FileConfig struct {
	Path         string        `yaml:"path"`
	Template     string        `yaml:"template"`
	TemplateFile string        `yaml:"template_file"` // instead of template
	Mode         string        `yaml:"mode"`          // octal; default 0400
	Owner        string        `yaml:"owner"`         // name or number; default: the agent's
	Group        string        `yaml:"group"`
	Reload       *ReloadConfig `yaml:"reload"`

	mode     os.FileMode
	uid, gid int // -1: the agent's
	template *Template
}

// ReloadConfig is what happens when the file has changed.
type ReloadConfig struct {
	Signal  string   `yaml:"signal"` // to the process in PIDFile
	PIDFile string   `yaml:"pid_file"`
	Command []string `yaml:"command"` // or this is run, without a shell
	Timeout Duration `yaml:"timeout"` // of the command; default 30s

	signal syscall.Signal
}

// CommandConfig is a command that runs with the values as variables.
type CommandConfig struct {
	Argv       []string `yaml:"argv"`
	Variables  []string `yaml:"variables"` // default: all
	OnChange   string   `yaml:"on_change"` // none, restart, signal:NAME, exec:COMMAND; default none
	Splay      Duration `yaml:"splay"`     // default 10s
	StopSignal string   `yaml:"stop_signal"`
	KillAfter  Duration `yaml:"kill_after"` // default 30s

	reaction supervise.Reaction
	stop     syscall.Signal
}

// SocketConfig is a Unix socket that gives values to local users.
type SocketConfig struct {
	Path  string        `yaml:"path"`
	Allow []AllowConfig `yaml:"allow"`
}

// AllowConfig lets the processes of one user have some values.
type AllowConfig struct {
	User      string   `yaml:"user"` // name or number
	Variables []string `yaml:"variables"`

	uid uint32
}

// CacheConfig keeps values on disk for a start while the cluster is away.
type CacheConfig struct {
	File    string   `yaml:"file"`
	KeyFile string   `yaml:"key_file"` // made where it is missing
	MaxAge  Duration `yaml:"max_age"`  // at most what the pipeline allows; default: that
}

// Duration is written as in "90s" or "1h".
type Duration time.Duration

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (d *Duration) UnmarshalYAML(read func(any) error) error {
	var text string
	if err := read(&text); err != nil {
		return err
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: write it as 90s, 15m or 1h", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) or(otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return time.Duration(d)
}

// ParseConfig reads and checks a configuration. Unknown keys are refused with their line and column. Paths that are
// not absolute are taken from dir.
func ParseConfig(data []byte, dir string) (*Config, error) {
	c := &Config{Execution: "agent"}
	// The text around a mistake is not shown: it may be a secret that does not belong there.
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if len(c.Files) == 0 && c.Command == nil && c.Socket == nil {
		return nil, errors.New("there is nothing to keep up to date: name files, a command or a socket")
	}
	for key, text := range c.Variables {
		if _, err := values.ParseWant(key, text); err != nil {
			return nil, fmt.Errorf("variables: %s: %w", key, err)
		}
		if _, err := name.Variable(key); err != nil {
			return nil, fmt.Errorf("variables: %w", err)
		}
	}
	abs := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	for i := range c.Files {
		f := &c.Files[i]
		abs(&f.Path)
		abs(&f.TemplateFile)
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("files: %s: %w", f.Path, err)
		}
		if slices.ContainsFunc(c.Files[:i], func(other FileConfig) bool { return other.Path == f.Path }) {
			return nil, fmt.Errorf("files: %s is there twice", f.Path)
		}
	}
	if c.Command != nil {
		if err := c.Command.check(); err != nil {
			return nil, fmt.Errorf("command: %w", err)
		}
	}
	if c.Socket != nil {
		abs(&c.Socket.Path)
		if err := c.Socket.check(); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	if c.Cache != nil {
		abs(&c.Cache.File)
		abs(&c.Cache.KeyFile)
		if err := c.Cache.check(); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	return c, c.checkNames()
}

func (f *FileConfig) check() error {
	if f.Path == "" {
		return errors.New("path is missing")
	}
	if (f.Template == "") == (f.TemplateFile == "") {
		return errors.New("give it one of template and template_file")
	}
	text := f.Template
	if f.TemplateFile != "" {
		b, err := os.ReadFile(f.TemplateFile)
		if err != nil {
			return err
		}
		text = string(b)
	}
	var err error
	if f.template, err = ParseTemplate(filepath.Base(f.Path), text); err != nil {
		return err
	}
	if f.Mode == "" {
		f.Mode = "0400"
	}
	mode, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil || mode&^0o777 != 0 {
		return fmt.Errorf("mode %s is no mode of a file, such as \"0440\"", f.Mode)
	}
	f.mode = os.FileMode(mode)
	if f.uid, err = lookUser(f.Owner); err != nil {
		return err
	}
	if f.gid, err = lookGroup(f.Group); err != nil {
		return err
	}
	if f.Reload != nil {
		return f.Reload.check()
	}
	return nil
}

func (r *ReloadConfig) check() error {
	switch {
	case len(r.Command) > 0 && r.Signal == "" && r.PIDFile == "":
		return nil
	case len(r.Command) == 0 && r.Signal != "" && r.PIDFile != "":
		var err error
		r.signal, err = supervise.ParseSignal(r.Signal)
		return err
	}
	return errors.New("reload is a command, or a signal and a pid_file")
}

func (c *CommandConfig) check() error {
	if len(c.Argv) == 0 {
		return errors.New("argv is missing")
	}
	if c.OnChange == "" {
		c.OnChange = "none"
	}
	if c.StopSignal == "" {
		c.StopSignal = "TERM"
	}
	var err error
	if c.reaction, err = supervise.ParseReaction(c.OnChange); err != nil {
		return fmt.Errorf("on_change: %w", err)
	}
	if c.stop, err = supervise.ParseSignal(c.StopSignal); err != nil {
		return fmt.Errorf("stop_signal: %w", err)
	}
	return nil
}

func (s *SocketConfig) check() error {
	if s.Path == "" || len(s.Allow) == 0 {
		return errors.New("path and allow are needed: who may have what")
	}
	for i := range s.Allow {
		a := &s.Allow[i]
		uid, err := lookUser(a.User)
		if err != nil {
			return err
		}
		if uid < 0 || len(a.Variables) == 0 {
			return errors.New("each entry of allow names a user and variables")
		}
		a.uid = uint32(uid)
	}
	return nil
}

func (c *CacheConfig) check() error {
	switch {
	case c.File == "" || c.KeyFile == "":
		return errors.New("file and key_file are needed")
	case filepath.Dir(c.File) == filepath.Dir(c.KeyFile):
		return errors.New("the key lies beside what it locks: put key_file elsewhere, best in memory (/run) or on another device")
	}
	return nil
}

// checkNames refuses variables that nothing defines, as far as it can be known here: not those of a pipeline.
func (c *Config) checkNames() error {
	if c.Pipeline {
		return nil
	}
	unknown := func(where, variable string) error {
		if _, ok := c.Variables[variable]; ok {
			return nil
		}
		return fmt.Errorf("%s uses the variable %s, which is not among variables (and pipeline is not set)", where, variable)
	}
	for _, f := range c.Files {
		for _, v := range f.template.Variables {
			if err := unknown("files: "+f.Path, v); err != nil {
				return err
			}
		}
	}
	if c.Command != nil {
		for _, v := range c.Command.Variables {
			if err := unknown("command", v); err != nil {
				return err
			}
		}
	}
	if c.Socket != nil {
		for _, a := range c.Socket.Allow {
			for _, v := range a.Variables {
				if err := unknown("socket", v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Job is what is asked of the cluster. References of templates are variables named after themselves, which nothing
// but templates can name.
func (c *Config) Job() (values.Job, error) {
	job := values.Job{Execution: c.Execution, Pipeline: c.Pipeline}
	add := func(variable, text string) error {
		if slices.ContainsFunc(job.Wants, func(w values.Want) bool { return w.Name == variable }) {
			return nil
		}
		want, err := values.ParseWant(variable, text)
		job.Wants = append(job.Wants, want)
		return err
	}
	for _, key := range sortedKeys(c.Variables) {
		if err := add(key, c.Variables[key]); err != nil {
			return job, err
		}
	}
	for _, f := range c.Files {
		for _, ref := range f.template.References {
			if err := add(ref, ref); err != nil {
				return job, err
			}
		}
	}
	return job, nil
}
