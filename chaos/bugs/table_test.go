package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An edit that fits nowhere breaks nothing, and the build that it belongs to would "pass" for the wrong reason.
func TestEditsFit(t *testing.T) {
	names := map[string]bool{}
	for _, b := range table {
		if names[b.name] {
			t.Errorf("%s: listed twice", b.name)
		}
		names[b.name] = true
		if _, err := regexp.Compile(b.says); err != nil || b.says == "" || b.promise == "" {
			t.Errorf("%s: says %q (%v), promise %q", b.name, b.says, err, b.promise)
		}
		if (len(b.test) == 0) == (b.faults == "") {
			t.Errorf("%s: needs either a test or faults", b.name)
		}
		if _, err := b.overlay(options{root: filepath.Join("..", "..")}, t.TempDir()); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "BUGS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is not in BUGS.md", name)
		}
	}
}
