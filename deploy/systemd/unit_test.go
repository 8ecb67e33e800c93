// Package systemd holds no product code: it tests the unit that the Debian package installs.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block returns the text of the first here-document of the README that is written to the named file.
func block(t *testing.T, readme, file string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readme, "cat > "+file+" <<'END'\n")
	text, _, end := strings.Cut(rest, "END\n")
	if !ok || !end {
		t.Fatalf("README.md no longer writes %s", file)
	}
	return text
}

// TestSecurity holds the scores that README.md promises. A change of the unit that makes them worse, or better, fails.
func TestSecurity(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed (Debian: apt-get install systemd)")
		}
		t.Skip("systemd-analyze is not installed: the unit's exposure is not measured")
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	promised := regexp.MustCompile(`says \*\*([0-9.]+)\*\*, and with the drop-in .network\.conf. of step 3 \*\*([0-9.]+)\*\*`).FindStringSubmatch(readme)
	if promised == nil {
		t.Fatal("README.md does not say the two scores")
	}
	unit, err := os.ReadFile("hizod.service")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("hizod.service", string(unit))
	score := func() string {
		t.Helper()
		cmd := exec.Command("systemd-analyze", "--no-pager", "security", "--offline=true", filepath.Join(dir, "hizod.service"))
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		found := regexp.MustCompile(`Overall exposure level for hizod\.service: ([0-9.]+)`).FindSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("systemd-analyze: %v\n%s", err, out)
		}
		return string(found[1])
	}
	if got := score(); got != promised[1] {
		t.Errorf("the unit's exposure is %s; README.md says %s", got, promised[1])
	}
	write("hizod.service.d/network.conf", block(t, readme, "/etc/systemd/system/hizod.service.d/network.conf"))
	if got := score(); got != promised[2] {
		t.Errorf("with the README's network.conf the exposure is %s; README.md says %s", got, promised[2])
	}
}

// TestVerify: systemd knows every setting of the unit. What it does not know it would ignore with a warning only.
func TestVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed (Debian: apt-get install systemd)")
		}
		t.Skip("systemd-analyze is not installed: the unit is not verified")
	}
	unit, err := os.ReadFile("hizod.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hizod.service")
	// The program is not installed where this runs.
	text := strings.ReplaceAll(string(unit), "/usr/bin/hizod", "/bin/true")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
