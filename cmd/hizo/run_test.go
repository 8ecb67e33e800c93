package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

func reference(t *testing.T, text string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEnvironment(t *testing.T) {
	ref := reference(t, "hizo://ml/db#password")
	values := map[name.Reference]secret.Bytes{ref: secret.New([]byte("a=b\nc"))}
	vars := []variable{{name: "PW", ref: &ref}, {name: "PLAIN", plain: ""}}
	inherited := []string{"A=1", "PW=old", "HIZO_TOKEN=t", "HIZO_TOKEN_FILE=f", "HIZO_SECRET_ID=s", "HIZO_ADDRS=x", "PLAIN=old"}
	env, files, err := environment(false, inherited, vars, values)
	if want := []string{"A=1", "HIZO_ADDRS=x", "PW=a=b\nc", "PLAIN="}; err != nil || len(files) != 0 || !slices.Equal(env, want) {
		t.Errorf("got %q, %v, want %q", env, err, want)
	}
	env, _, err = environment(true, inherited, vars, values)
	if want := []string{"PW=a=b\nc", "PLAIN="}; err != nil || !slices.Equal(env, want) {
		t.Errorf("pristine: got %q, %v, want %q", env, err, want)
	}
	for what, value := range map[string]string{"NUL": "hunter2\x00", "too large": strings.Repeat("hunter2", maxVariable/7+1)} {
		_, _, err := environment(false, nil, vars, map[name.Reference]secret.Bytes{ref: secret.New([]byte(value))})
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "--secret-file") {
			t.Errorf("%s: got %v", what, err)
		}
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
		Env:     []string{"X=hizo://ml/db#g@2"}, SecretFile: []string{"F=hizo://ml/db#h"},
	}
	vars, err := c.variables()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range vars {
		text := v.name + "=" + v.plain
		if v.ref != nil {
			text += v.ref.String()
		}
		if v.file {
			text += " file"
		}
		got = append(got, text)
	}
	want := []string{"Z=hizo://ml/db#f", "Y=2", "X=hizo://ml/db#g@2", "F=hizo://ml/db#h file"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"PATH": true, "HOME": true, "LD_PRELOAD": true, "LD_": true, "LC_ALL": true, "DYLD_INSERT_LIBRARIES": true,
		"PATHS": false, "MY_PATH": false, "LDAP": false, "LANG": false,
	} {
		if reserved(name) != want {
			t.Errorf("reserved(%s) is %v", name, !want)
		}
	}
}

// A server, or somebody in its place, can't pass off one value as another's.
func TestOpenRefusesMisplacedValues(t *testing.T) {
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cluster := strings.Repeat("ab", 16)
	seal := func(path string, version uint32, value string) *hizov1.InjectResponse_Value {
		sealed, err := inject.SealValue(key.Public(), inject.Target{
			Cluster: cluster, Principal: "workload/train", Vault: "ml", Path: path, Field: "f", Version: version,
		}, secret.New([]byte(value)))
		if err != nil {
			t.Fatal(err)
		}
		return &hizov1.InjectResponse_Value{Version: version, Sealed: sealed}
	}
	refs := []name.Reference{reference(t, "hizo://ml/a#f"), reference(t, "hizo://ml/b#f@2")}
	answer := func(values ...*hizov1.InjectResponse_Value) *hizov1.InjectResponse {
		return &hizov1.InjectResponse{ClusterId: cluster, Principal: "workload/train", Values: values}
	}
	values, err := open(key, refs, answer(seal("a", 7, "one"), seal("b", 2, "two")))
	if err != nil || string(values[refs[0]].Reveal()) != "one" || string(values[refs[1]].Reveal()) != "two" {
		t.Fatalf("open: %v", err)
	}
	for what, bad := range map[string]*hizov1.InjectResponse{
		"swapped":                  answer(seal("b", 2, "two"), seal("a", 7, "one")),
		"one too few":              answer(seal("a", 7, "one")),
		"another version":          answer(seal("a", 7, "one"), seal("b", 1, "old")),
		"another version claimed":  answer(seal("a", 7, "one"), &hizov1.InjectResponse_Value{Version: 2, Sealed: seal("b", 1, "old").GetSealed()}),
		"sealed to another caller": {ClusterId: cluster, Principal: "workload/other", Values: answer(seal("a", 7, "one"), seal("b", 2, "two")).GetValues()},
	} {
		if _, err := open(key, refs, bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
