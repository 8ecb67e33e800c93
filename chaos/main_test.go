package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin holds the programs under test. They are built once, without the race detector: nodes under it are too slow
// for their own timeouts on two cores, and what is tested here is what users run.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hizo-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := 1
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// build uses the flags of the Makefile, so that packages come from the build cache.
func build() error {
	for program, cgo := range map[string]string{"hizod": "1", "hizo": "0"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, program), "github.com/hizo/hizo/cmd/"+program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
	}
	return nil
}
