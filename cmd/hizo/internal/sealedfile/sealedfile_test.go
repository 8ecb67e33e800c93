package sealedfile_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/cmd/hizo/internal/sealedfile"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
)

// sealOf makes sealed values with names to tell them by.
func sealOf(t testing.TB, names ...string) map[string]string {
	t.Helper()
	key, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, n := range names {
		s, err := seal.New(key.Public(), seal.Place{Vault: "ml", Pipeline: "train", Variable: n}, time.Now().Add(time.Hour).Unix(), secret.New([]byte(n)))
		if err != nil {
			t.Fatal(err)
		}
		out[n] = s.Text()
	}
	return out
}

// fill puts sealed values in the place of <A>, <B> and <C>.
func fill(text string, seals map[string]string) string {
	for n, s := range seals {
		text = strings.ReplaceAll(text, "<"+n+">", s)
	}
	return text
}

// Only the sealed values change: everything else stays as it is, to the byte.
func TestReplaceKeepsEverythingElse(t *testing.T) {
	old, fresh := sealOf(t, "A", "B", "C"), sealOf(t, "A", "B", "C")
	for what, c := range map[string]struct {
		format sealedfile.Format
		text   string
		found  string // names with lines
	}{
		"dotenv": {sealedfile.Dotenv, `# the database
A=<A>   # sealed for ml/train
PLAIN=value
export B="<B>"

  C = '<C>'
# a comment keeps what it says: A=<A!>
`, "A@2 B@4 C@6"},
		"dotenv with CRLF and without an end": {sealedfile.Dotenv, "A=<A>\r\n# x\r\nB=<B>", "A@1 B@3"},
		"yaml": {sealedfile.YAML, `# pipeline
env:            # variables
    A: <A>      # sealed
    PLAIN: "x"
    B: "<B>"    # quoted
list: [1,   2]
other: {C: '<C>', d: e}
`, "A@3 B@5 C@7"},
		"yaml of Kubernetes, in two documents": {sealedfile.YAML, `spec:
  containers:
  - env:
    - name: A
      value: <A>
    - value: <B>
      name: B
---
- name: C
  value: >-
    <C>
`, "A@5 B@6 C@11"},
		"yaml of Compose": {sealedfile.YAML, `environment:
  - A=<A>
  - "B=<B>"
x-anchor: &a
  C: &c <C>
y: *a
`, "A@2 B@3 C@5"},
		"json": {sealedfile.JSON, `{
	"z": [1, 2.50, null],  "A" : "<A>",
	"env": [ {"name":"B", "value":"<B>"}, "C=<C>" ]
}
`, "A@2 B@3 C@3"},
		"one text twice on a line": {sealedfile.JSON, `[{"A":"<A>"},{"A":"<A>"}]`, "A@1 A@1"},
	} {
		text := fill(c.text, old)
		values, err := sealedfile.Find(c.format, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var found, texts []string
		for _, v := range values {
			found = append(found, fmt.Sprintf("%s@%d", v.Name, v.Line))
			texts = append(texts, fresh[v.Name])
		}
		if got := strings.Join(found, " "); got != c.found {
			t.Errorf("%s: found %s, want %s", what, got, c.found)
			continue
		}
		want := fill(c.text, fresh)
		if got := string(sealedfile.Replace([]byte(text), values, texts)); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	a := sealOf(t, "A")["A"]
	for what, c := range map[string]struct {
		format sealedfile.Format
		text   string
		line   int
		says   string
	}{
		"cut off":          {sealedfile.Dotenv, "X=1\nA=" + a[:len(a)-9], 2, "not a sealed value"},
		"escaped":          {sealedfile.JSON, "{\n\"A\": \"h\\u0069" + a[2:] + "\"}", 2, "escapes"},
		"no name":          {sealedfile.YAML, "- " + a, 1, "no name"},
		"not a variable":   {sealedfile.YAML, "a-b: " + a, 1, "no name"},
		"not JSON":         {sealedfile.JSON, "{\"A\": " + a, 1, "no JSON"},
		"unfinished JSON":  {sealedfile.JSON, "{\"A\": \"" + a + "\"", 1, "no JSON"},
		"not YAML":         {sealedfile.YAML, "a: [", 1, "no YAML"},
		"not dotenv":       {sealedfile.Dotenv, "x", 1, "NAME=VALUE"},
		"over two lines":   {sealedfile.YAML, "A: >-\n  " + a[:40] + "\n  " + a[40:], 2, "not a sealed value"},
		"larger than that": {sealedfile.JSON, strings.Repeat(" ", sealedfile.MaxFile+1), 1, "larger"},
	} {
		_, err := sealedfile.Find(c.format, []byte(c.text))
		e, ok := errors.AsType[*sealedfile.Error](err)
		if !ok || e.Line != c.line || !strings.Contains(e.Reason, c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := sealedfile.Find("toml", nil); !errors.Is(err, sealedfile.ErrFormat) {
		t.Errorf("an unknown format: %v", err)
	}
}

func TestFormatOf(t *testing.T) {
	for path, want := range map[string]sealedfile.Format{
		"a/.env": "dotenv", ".env.production": "dotenv", "x.env": "dotenv", "b.YAML": "yaml", "c.yml": "yaml", "d.json": "json", "e.toml": "", "f": "",
	} {
		if got, err := sealedfile.FormatOf(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
}

// Whatever the file: no panic, and putting back what was found changes nothing.
func FuzzFind(f *testing.F) {
	seals := sealOf(f, "A", "B")
	for _, text := range []string{"A=<A>", "export A='<A>'", "a:\n- name: A\n  value: <A>\n", `{"A":"<A>","b":["B=<B>"]}`, "A: &x <A>\nB: *x", "? A\n: <A>"} {
		f.Add("dotenv", fill(text, seals))
		f.Add("yaml", fill(text, seals))
		f.Add("json", fill(text, seals))
	}
	f.Fuzz(func(t *testing.T, format, text string) {
		values, err := sealedfile.Find(sealedfile.Format(format), []byte(text))
		if err != nil {
			return
		}
		var texts []string
		for _, v := range values {
			texts = append(texts, v.Sealed.Text())
		}
		if got := string(sealedfile.Replace([]byte(text), values, texts)); got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}
