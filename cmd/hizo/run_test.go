package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/cmd/hizo/internal/mask"
	"github.com/hizo/hizo/cmd/hizo/internal/values"
	"github.com/hizo/hizo/crypto/secret"
)

func TestEnvironment(t *testing.T) {
	set := func(value string) *values.Set {
		return &values.Set{Values: []values.Value{{Name: "PW", Bytes: secret.New([]byte(value))}, {Name: "PIPE", Bytes: secret.New([]byte("p"))}}}
	}
	job := &runJob{
		vars:      []variable{{name: "PW", want: &values.Want{Name: "PW"}}, {name: "PLAIN", plain: ""}},
		inherited: []string{"A=1", "PW=old", "HIZO_TOKEN=t", "HIZO_TOKEN_FILE=f", "HIZO_SECRET_ID=s", "HIZO_ADDRS=x", "PLAIN=old", "PIPE=old"},
	}
	cmd, err := job.Command(set("a=b\nc"))
	if want := []string{"A=1", "HIZO_ADDRS=x", "PLAIN=", "PW=a=b\nc", "PIPE=p"}; err != nil || len(cmd.Files) != 0 || !slices.Equal(cmd.Env, want) {
		t.Errorf("got %q, %v, want %q", cmd.Env, err, want)
	}
	job.pristine = true
	cmd, err = job.Command(set("a=b\nc"))
	if want := []string{"PLAIN=", "PW=a=b\nc", "PIPE=p"}; err != nil || !slices.Equal(cmd.Env, want) {
		t.Errorf("pristine: got %q, %v, want %q", cmd.Env, err, want)
	}
	for what, value := range map[string]string{"NUL": "hunter2\x00", "too large": strings.Repeat("hunter2", maxVariable/7+1)} {
		_, err := job.Command(set(value))
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "--secret-file") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// What was hidden once stays hidden: the command may print what it had before.
func TestMasksGrow(t *testing.T) {
	m := &maskings{note: t.Logf}
	through := func(p *mask.Patterns, text string) string {
		var out strings.Builder
		w := p.Masker(&out)
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return out.String()
	}
	set := func(value string) *values.Set {
		return &values.Set{Values: []values.Value{{Name: "PW", Bytes: secret.New([]byte(value))}}}
	}
	first := m.with(set("hunter-one"))
	second := m.with(set("hunter-two"))
	if got := through(second, "hunter-one hunter-two"); got != "**** ****" {
		t.Errorf("got %q", got)
	}
	if got := through(first, "hunter-one hunter-two"); got != "**** hunter-two" {
		t.Errorf("the first patterns were changed: %q", got)
	}
	if m.with(set("hunter-one")) != second {
		t.Error("patterns were made again for nothing")
	}
}

func TestVariablesWinInOrder(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := runCmd{
		EnvFile: []string{file("a", "X=1\nY=1\nZ=hizo://ml/db#f\n"), file("b", "Y=2\n")},
		Env:     []string{"X=hizo://ml/db#g@2"}, SecretFile: []string{"F=hizo://ml/db#h"}, SecretFD: []string{"D=hizo://ml/db#i"},
	}
	vars, err := c.variables(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range vars {
		text := v.name + "=" + v.plain
		if v.want != nil {
			text += v.want.Ref.String()
		}
		text += []string{"", " file", " descriptor"}[v.as]
		got = append(got, text)
	}
	want := []string{"Z=hizo://ml/db#f", "Y=2", "X=hizo://ml/db#g@2", "F=hizo://ml/db#h file", "D=hizo://ml/db#i descriptor"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"PATH": true, "HOME": true, "LD_PRELOAD": true, "LC_ALL": true, "DYLD_INSERT_LIBRARIES": true, "HIZO_TOKEN": true,
		"PATHS": false, "MY_PATH": false, "LDAP": false, "LANG": false,
	} {
		for _, allow := range []bool{false, true} {
			c := runCmd{Env: []string{name + "=hizo://ml/db#f"}, AllowReserved: allow}
			if _, err := c.variables(nil); (err == nil) != (allow || !want) {
				t.Errorf("%s, allowed %v: %v", name, allow, err)
			}
		}
	}
}
