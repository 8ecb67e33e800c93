package dotenv_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hizo/hizo/cmd/hizo/internal/dotenv"
)

func TestParse(t *testing.T) {
	const file = "\ufeff# comment\r\n" +
		"PLAIN=some value  # comment\n" +
		"\n" +
		"  export EXPORTED = x\n" +
		"EMPTY=\n" +
		"COMMENT=# nothing\n" +
		"REF=hizo://ml/db/main#password@3 # pinned\n" +
		"HASH=a#b\n" +
		"SINGLE='$x \\n \"y\"'   # c\n" +
		"DOUBLE=\"a\\nb\\t\\\"c\\\" \\$d \\q\"\n" +
		"MULTI='one\n two # no comment\nthree'\n" +
		"AFTER=1\n" +
		"export=2\n" +
		"LAST=end"
	want := []dotenv.Variable{
		{Name: "PLAIN", Value: "some value", Line: 2},
		{Name: "EXPORTED", Value: "x", Line: 4},
		{Name: "EMPTY", Value: "", Line: 5},
		{Name: "COMMENT", Value: "", Line: 6},
		{Name: "REF", Value: "hizo://ml/db/main#password@3", Line: 7},
		{Name: "HASH", Value: "a#b", Line: 8},
		{Name: "SINGLE", Value: `$x \n "y"`, Line: 9},
		{Name: "DOUBLE", Value: "a\nb\t\"c\" $d \\q", Line: 10},
		{Name: "MULTI", Value: "one\n two # no comment\nthree", Line: 11},
		{Name: "AFTER", Value: "1", Line: 14},
		{Name: "export", Value: "2", Line: 15},
		{Name: "LAST", Value: "end", Line: 16},
	}
	got, err := dotenv.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestParseErrorsNameTheLineAndNotTheText(t *testing.T) {
	for _, c := range []struct {
		name, file string
		line       int
	}{
		{"no equals sign", "A=1\nhunter2\n", 2},
		{"bad name", "\nhunter2 x=1", 2},
		{"digit first", "2hunter2=1", 1},
		{"open single quote", "A='hunter2\n\nB=1", 1},
		{"open double quote", "A=1\nB=\"hunter2\\\"", 2},
		{"text behind quote", "A='x'hunter2", 1},
		{"twice", "A=hunter2\nB=1\nA=hunter2", 3},
		{"NUL", "A=hunter2\x00", 1},
		{"no UTF-8", "A=hunter2\xff", 1},
		{"too large", "A=" + strings.Repeat("hunter2", dotenv.MaxFile/7+1), 1},
	} {
		_, err := dotenv.Parse(c.file)
		e, ok := errors.AsType[*dotenv.Error](err)
		if !ok || e.Line != c.line {
			t.Errorf("%s: got %v, want line %d", c.name, err, c.line)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats the file: %v", c.name, err)
		}
	}
}

// Whatever is accepted can be put into an environment, and survives being written in single quotes.
func FuzzParse(f *testing.F) {
	f.Add("A=1\nexport B='x\ny' # c\nC=\"\\n\"")
	f.Add("A=hizo://v/p#f")
	f.Add("=\n'\"")
	f.Fuzz(func(t *testing.T, file string) {
		vars, err := dotenv.Parse(file)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, v := range vars {
			if !dotenv.ValidName(v.Name) || strings.ContainsRune(v.Value, 0) || !utf8.ValidString(v.Value) {
				t.Fatalf("accepted %+v", v)
			}
			if strings.Contains(v.Value, "'") {
				return
			}
			again.WriteString(v.Name + "='" + v.Value + "'\n")
		}
		back, err := dotenv.Parse(again.String())
		if err != nil || len(back) != len(vars) {
			t.Fatalf("written again: %v", err)
		}
		for i := range vars {
			if strings.Contains(vars[i].Value, "\r\n") { // line ends of the file are normalised
				continue
			}
			if back[i].Name != vars[i].Name || back[i].Value != vars[i].Value {
				t.Errorf("%+v became %+v", vars[i], back[i])
			}
		}
	})
}
