package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hizo/hizo/chaos/lab"
)

// damage are the faults of what lies on a disk, and of what it is locked with.
func damage() []Fault {
	list := []Fault{{Name: "hsm-gone", Needs: Tokens, Set: hsmGone}}
	for _, part := range []string{"log", "state", "snapshot"} {
		list = append(list, Fault{Name: "flipped-" + part, Set: func(_ context.Context, s *Scene) (Lift, error) { return flipped(s, part) }})
	}
	return list
}

// flipped flips bits of what a node keeps, while it is down. It may refuse to start, with a sentence; it may run on, where
// the bits do not matter or it has the same elsewhere; it may not serve what was never written, which is the checkers'
// concern. In the end it is replaced, as its message demands.
func flipped(s *Scene, part string) (Lift, error) {
	n := s.any()
	if !s.C.Wreck(n, "bits flipped") {
		return nil, nil
	}
	if err := n.End(syscall.SIGKILL); err != nil {
		return nil, err
	}
	files, err := filesOf(n, part)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		bits, err := s.flip(file)
		if err != nil {
			return nil, err
		}
		s.Log("%s: %d bits of %s", n.Name, bits, strings.TrimPrefix(file, n.Data()))
		s.Took(bits, "bits flipped")
	}
	if err := n.Changed(); err != nil {
		return nil, err
	}
	n.MayEnd(true)
	from, ended := len(n.LogText()), n.Excused()
	return func(ctx context.Context) error {
		if !n.Running() && n.Excused() > ended {
			s.Also(1, "the node refused")
			s.saysWhy(n, from)
		} else if len(files) > 0 {
			s.Also(1, "the node ran on")
		}
		return nil
	}, n.Start()
}

// filesOf a part that are worth flipping bits of: one, or of the state all.
func filesOf(n *lab.Node, part string) ([]string, error) {
	patterns := map[string][]string{
		"log":      {"raft.db"},
		"state":    {"state/*/*.sst", "state/*/MANIFEST-*"},
		"snapshot": {"snapshots/*/meta", "snapshots/*/db/*"},
	}[part]
	var files []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(n.Data(), pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return files, nil
}

// flip flips one bit of a file, or one in each of its pages.
func (s *Scene) flip(file string) (bits int, err error) {
	data, err := os.ReadFile(file)
	if err != nil || len(data) == 0 {
		return 0, err
	}
	if s.Rand.IntN(2) == 0 {
		at := s.Rand.IntN(len(data))
		data[at] ^= 1 << s.Rand.IntN(8)
		bits = 1
	} else {
		for page := 0; page < len(data); page += 4096 {
			data[page+s.Rand.IntN(min(4096, len(data)-page))] ^= 1 << s.Rand.IntN(8)
			bits++
		}
	}
	st, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	// A new file in its place: table files are hard links that state and snapshots share.
	tmp := file + ".flipped"
	return bits, errors.Join(os.WriteFile(tmp, data, st.Mode()), os.Rename(tmp, file))
}

// hsmGone takes a node's token away, and gives it back. A node that runs stays, and another leads; one that starts
// meanwhile says that its HSM does not answer.
func hsmGone(ctx context.Context, s *Scene) (Lift, error) {
	n := s.victim(ctx)
	here, away := n.Path("hsm", "tokens"), n.Path("hsm", "tokens.away")
	if err := os.Rename(here, away); err != nil {
		return nil, fmt.Errorf("take the token away: %w", err)
	}
	n.MayEnd(true)
	from, ended := len(n.LogText()), n.Excused()
	return func(ctx context.Context) error {
		// A TLS handshake needs the node's key.
		if _, err := s.C.Status(ctx, n); err != nil {
			s.Took(1, "handshakes failed")
		}
		if err := os.Rename(away, here); err != nil {
			return err
		}
		if n.Excused() == ended {
			s.Also(1, "the node stayed up")
		}
		return s.over(n, from, ended)
	}, nil
}
