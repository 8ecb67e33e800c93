package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hizo/hizo/chaos/overlay"
	"github.com/hizo/hizo/chaos/probe"
)

// An edit that fits nowhere, or a point that no edit puts in, would make a fault that never happens.
func TestEditsFit(t *testing.T) {
	if _, err := overlay.Write(filepath.Join("..", ".."), t.TempDir(), edits); err != nil {
		t.Error(err)
	}
	var all strings.Builder
	for _, e := range edits {
		all.WriteString(e.New)
	}
	for _, point := range probe.Points {
		if strings.HasPrefix(point, "rotation/") {
			continue // these come through the engine's own hook
		}
		if !strings.Contains(all.String(), hit(point)) {
			t.Errorf("no edit puts %s in", point)
		}
	}
}
