// Package overlay makes builds of Hizo's programs whose source differs in a few places from what is delivered (`go build
// -overlay`): builds with probes, and builds that are broken on purpose. The product's own source holds none of it.
package overlay

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Edit replaces the one place of a file, named from the root of the source, that reads like Old. It names its place by
// the text there, so a change of the product that moves it is an error and not an edit that does nothing any more.
type Edit struct{ File, Old, New string }

// Write puts the edited files into dir, and beside them what `go build -overlay` wants; it returns that file's path.
func Write(root, dir string, edits []Edit) (string, error) {
	texts := map[string]string{}
	for _, e := range edits {
		path, err := filepath.Abs(filepath.Join(root, e.File))
		if err != nil {
			return "", err
		}
		text, edited := texts[path]
		if !edited {
			data, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("%s: %d places read like the edit's, not one: bring the edit up to date; it begins with %q", e.File, n, first(e.Old))
		}
		texts[path] = strings.Replace(text, e.Old, e.New, 1)
	}
	replace := map[string]string{}
	for path, text := range texts {
		// Not named .go: dir may be below the source, where `go build ./...` would find a package in it.
		edited := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "_")+".edited")
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = edited
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, data, 0o600)
}

func first(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// Build builds a package with an overlay that Write has written.
func Build(ctx context.Context, root, overlay, pkg, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-overlay", overlay, "-o", out, pkg)
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, said)
	}
	return nil
}
