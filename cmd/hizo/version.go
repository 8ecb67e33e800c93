package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// release is set by the linker for releases.
var release string

// version of this program: the release, else the module's version or revision as Go recorded it.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, changed := "", ""
	for _, set := range info.Settings {
		switch {
		case set.Key == "vcs.revision":
			revision = set.Value[:min(12, len(set.Value))]
		case set.Key == "vcs.modified" && set.Value == "true":
			changed = "+changes"
		}
	}
	if revision == "" {
		return "devel"
	}
	return revision + changed
}

type versionCmd struct{}

func (versionCmd) Run(s *session) error {
	v := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
		System  string `json:"system"`
	}{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if s.g.Format == "table" {
		_, err := fmt.Fprintf(s.stdout, "hizo %s (%s, %s)\n", v.Version, v.Go, v.System)
		return err
	}
	return s.showValue(v, table{})
}
