package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
)

type watchCmd struct {
	Under  string   `arg:"" optional:"" name:"vault[/prefix]" help:"Everything there. Without it and without --secret: the pipeline that the token's workload runs."`
	Secret []string `short:"s" placeholder:"VAULT/PATH" help:"This secret alone; may be repeated."`
	Cursor string   `type:"path" placeholder:"FILE" help:"Go on where the file says, and keep it up to date."`
	Limit  int      `short:"n" placeholder:"N" help:"End after so many changes."`
}

func (c *watchCmd) Run(s *session) error {
	cfg := client.WatchConfig{Secrets: c.Secret, Pipeline: c.Under == "" && len(c.Secret) == 0}
	for _, secret := range c.Secret {
		if _, err := name.ParseResource(secret); err != nil {
			return err
		}
	}
	if c.Under != "" {
		vault, _, _ := strings.Cut(c.Under, "/")
		if _, err := name.Vault(vault); err != nil {
			return err
		}
		cfg.Prefixes = []string{c.Under}
	}
	if c.Cursor != "" {
		b, err := os.ReadFile(c.Cursor)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		cfg.Cursor = strings.TrimSpace(string(b))
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	cfg.Retry = func(err error) { s.note("the watch broke and goes on at another node: %v", err) }
	p := changePrinter{s: s}
	shown := 0
	for change, err := range cl.Watch(s.ctx, cfg) {
		if s.ctx.Err() != nil {
			return nil // Ctrl-C ends watching, as meant
		}
		if err != nil {
			return err
		}
		if change.Kind != client.ChangeHeartbeat {
			if err := p.print(change); err != nil {
				return err
			}
		}
		if c.Cursor != "" { // after the change was shown: what is lost with this process is told again
			if err := replaceFile(c.Cursor, change.Cursor+"\n"); err != nil {
				return err
			}
		}
		switch change.Kind {
		case client.ChangeHeartbeat, client.ChangeStart, client.ChangeReset:
			continue
		}
		if shown++; shown == c.Limit {
			return nil
		}
	}
	return nil
}

// replaceFile writes beside the file and renames.
func replaceFile(path, content string) error {
	tmp, err := os.CreateTemp(dirOf(path), ".hizo-cursor-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	_, err = tmp.WriteString(content)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// changeLine is a change as JSON and YAML have it.
type changeLine struct {
	Kind       string            `json:"kind"`
	Vault      string            `json:"vault,omitempty"`
	Path       string            `json:"path,omitempty"`
	Version    uint32            `json:"version,omitempty"`
	TimeUnixMs int64             `json:"time_unix_ms,omitempty"`
	Current    map[string]uint32 `json:"current,omitempty"`
	Cursor     string            `json:"cursor"`
}

// changePrinter prints changes as they come.
type changePrinter struct {
	s     *session
	begun bool
}

func (p *changePrinter) print(c client.Change) error {
	if p.s.g.Format != "table" {
		line := changeLine{
			Kind: string(c.Kind), Vault: c.Vault, Path: c.Path, Version: c.Version, Current: c.Current, Cursor: c.Cursor,
		}
		if !c.Time.IsZero() {
			line.TimeUnixMs = c.Time.UnixMilli()
		}
		b, err := marshalJSON(line)
		if err != nil {
			return err
		}
		if p.s.g.Format == "yaml" {
			if b, err = encode("yaml", b); err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.s.stdout, "---\n%s", b)
			return err
		}
		_, err = fmt.Fprintf(p.s.stdout, "%s\n", escapeJSON(b))
		return err
	}
	const format = "%-24s  %-16s  %s"
	line := func(cells ...any) string { return strings.TrimRight(fmt.Sprintf(format, cells...), " ") + "\n" }
	out := ""
	if !p.begun {
		p.begun = true
		out = line("TIME", "CHANGE", "WHAT")
	}
	switch c.Kind {
	case client.ChangeReset:
		p.s.note("start over: what happened since the cursor is no longer known")
		fallthrough
	case client.ChangeStart:
		for _, secret := range slices.Sorted(maps.Keys(c.Current)) {
			out += line("now", "current", printable(versioned(secret, c.Current[secret])))
		}
	default:
		out += line(clockMilli(c.Time.UnixMilli()), string(c.Kind), printable(versioned(c.Vault+"/"+c.Path, c.Version)))
	}
	_, err := fmt.Fprint(p.s.stdout, out)
	return err
}

func versioned(secret string, version uint32) string {
	if version == 0 {
		return secret
	}
	return fmt.Sprintf("%s@%d", secret, version)
}

type consumersCmd struct {
	Under string `arg:"" optional:"" name:"vault[/path]" help:"Which secret, or with a slash at the end which secrets (default: all vaults)."`
	Old   bool   `help:"Only those that hold a retirement up: live, with an older version than the current one."`
}

func (c *consumersCmd) Run(s *session) error {
	vault, path, inside := strings.Cut(c.Under, "/")
	vaults := []string{vault}
	if c.Under != "" {
		if _, err := name.Vault(vault); err != nil {
			return err
		}
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	if c.Under == "" {
		l, err := cl.Vaults().ListVaults(s.ctx, &hizov1.ListVaultsRequest{})
		if err != nil {
			return err
		}
		vaults = nil
		for _, v := range l.GetVaults() {
			vaults = append(vaults, v.GetName())
		}
	}
	found := &hizov1.ListConsumersResponse{}
	for _, vault := range vaults {
		request := &hizov1.ListConsumersRequest{
			Vault: vault, Path: path, Prefix: !inside || path == "" || strings.HasSuffix(path, "/"),
		}
		for {
			page, err := cl.Watches().ListConsumers(s.ctx, request)
			if err != nil {
				return err
			}
			for _, k := range page.GetConsumers() {
				if !c.Old || consumerState(k) == "old" {
					found.Consumers = append(found.Consumers, k)
				}
			}
			if request.After = page.GetNext(); request.After == "" {
				break
			}
		}
	}
	t := table{head: []string{"SECRET", "VERSION", "CURRENT", "STATE", "PRINCIPAL", "CONSUMER", "SINCE", "SEEN"}}
	for _, k := range found.GetConsumers() {
		version := "-"
		if k.GetVersion() != 0 {
			version = fmt.Sprint(k.GetVersion())
		}
		t.add(k.GetVault()+"/"+k.GetPath(), version, fmt.Sprint(k.GetCurrent()), consumerState(k), k.GetPrincipal(), k.GetId(),
			clock(k.GetSinceUnixMs()/1000), clock(k.GetSeenUnixMs()/1000))
	}
	return s.show(found, t)
}

// consumerState is what a consumer means for the retirement of older versions: only "old" holds it up.
func consumerState(k *hizov1.ListConsumersResponse_Consumer) string {
	switch {
	case k.GetStale():
		return "stale"
	case k.GetVersion() == 0:
		return "waiting"
	case k.GetVersion() < k.GetCurrent():
		return "old"
	}
	return "current"
}
