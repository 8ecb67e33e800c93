package name

import (
	"errors"
	"strings"
	"testing"
)

type check func(string) (string, error)

func TestLabels(t *testing.T) {
	labels := map[string]check{"vault": Vault, "user": User, "workload": Workload, "node": Node, "policy": Policy}
	good := []string{"a", "0", "ml", "train-1", "a.b", "a_b", "x-y-z", strings.Repeat("v", 64)}
	bad := map[string]string{
		"empty":            "",
		"upper case":       "Ml",
		"upper case later": "mL",
		"too long":         strings.Repeat("v", 65),
		"dots":             "a..b",
		"dot":              ".",
		"dot dot":          "..",
		"leading dot":      ".a",
		"trailing dot":     "a.",
		"leading dash":     "-a",
		"trailing dash":    "a-",
		"space":            "a b",
		"trailing space":   "a ",
		"leading space":    " a",
		"slash":            "a/b",
		"leading slash":    "/a",
		"backslash":        `a\b`,
		"newline":          "a\n",
		"zero byte":        "a\x00b",
		"delete":           "a\x7f",
		"percent":          "a%2fb",
		"hash":             "a#b",
		"star":             "*",
		"brace":            "{{user}}",
		"umlaut":           "müller",
		"cyrillic a":       "\u0430lice",
		"full width":       "\uff41lice",
		"zero width":       "al\u200bice",
		"bidi":             "al\u202eice",
		"dotless i":        "al\u0131ce",
		"kelvin sign":      "\u212aelvin",
		"bad UTF-8":        "a\xff",
	}
	for what, check := range labels {
		for _, s := range good {
			if got, err := check(s); err != nil || got != s {
				t.Errorf("%s %q: %q, %v; want it accepted unchanged", what, s, got, err)
			}
		}
		for why, s := range bad {
			got, err := check(s)
			if !errors.Is(err, ErrNotCanonical) || got != "" {
				t.Errorf("%s with %s, %q: %q, %v; want a refusal", what, why, s, got, err)
			}
		}
		_, err := check("a@b.example")
		if accepted := err == nil; accepted != (what == "user") {
			t.Errorf("%s with '@': accepted is %v", what, accepted)
		}
	}
}

func TestPath(t *testing.T) {
	good := []string{
		"a", "db/password", "Prod/DB", ".env", "a/.env/b", "v1.2", "a+b=c:d,e", "0/1/2",
		strings.Repeat("a", MaxPath),
		strings.Repeat("a/", MaxSegments-1) + "a",
		"m\u00fcller/schl\u00fcssel",            // Latin with umlauts, precomposed
		"\u79d8\u8535/\u9375",                   // Han
		"\u30d1\u30b9\u30ef\u30fc\u30c9",        // Katakana, with the long-vowel mark
		"\u043a\u043b\u044e\u0447/\u0431\u0434", // Cyrillic alone
		"\u0915\u0940",                          // Devanagari with a spacing mark
	}
	for _, s := range good {
		if got, err := Path(s); err != nil || got != s {
			t.Errorf("%+q: %+q, %v; want it accepted unchanged", s, got, err)
		}
	}
	bad := map[string]string{
		"empty":               "",
		"slash alone":         "/",
		"leading slash":       "/a",
		"trailing slash":      "a/",
		"double slash":        "a//b",
		"dot":                 "a/./b",
		"dot dot":             "a/../b",
		"dot dot alone":       "..",
		"leading dot dot":     "../a",
		"trailing dot dot":    "a/..",
		"three dots":          "a/.../b",
		"too long":            strings.Repeat("a", MaxPath+1),
		"too many segments":   strings.Repeat("a/", MaxSegments) + "a",
		"newline":             "a\nb",
		"zero byte":           "a\x00b",
		"tab":                 "a\tb",
		"delete":              "a\x7fb",
		"C1 control":          "a\u0085b",
		"space":               "a b",
		"trailing space":      "a ",
		"space before slash":  "a /b",
		"no-break space":      "a\u00a0b",
		"ideographic space":   "\u79d8\u3000\u8535",
		"line separator":      "a\u2028b",
		"zero-width space":    "a\u200bb",
		"zero-width joiner":   "a\u200db",
		"soft hyphen":         "a\u00adb",
		"byte order mark":     "\ufeffa",
		"bidi override":       "a\u202eb",
		"bidi isolate":        "a\u2066b",
		"variation selector":  "\u79d8\ufe0f",
		"grapheme joiner":     "a\u034fb",
		"Hangul filler":       "a\u3164b",
		"tag character":       "a\U000e0041",
		"decomposed umlaut":   "mu\u0308ller",
		"mixed normal forms":  "\u00fc/u\u0308",
		"swapped marks":       "a\u0323\u0302", // NFC composes them to one letter
		"full width":          "\uff41",
		"full-width slash":    "a\uff0fb",
		"division slash":      "a\u2215b",
		"ligature":            "\ufb01le",
		"superscript":         "a\u00b2",
		"roman numeral":       "\u2160",
		"mathematical letter": "\U0001d41a",
		"Latin and Cyrillic":  "p\u0430ssword",
		"mixed over segments": "db/\u0430",
		"Greek and Latin":     "\u03bfk",
		"mark first":          "\u0301a",
		"mark after slash":    "a/\u0301",
		"emoji":               "\U0001f511",
		"private use":         "\ue000",
		"unassigned":          "\u0378",
		"replacement":         "\ufffd",
		"bad UTF-8":           "a\xffb",
		"surrogate":           "a\xed\xa0\x80",
		"overlong slash":      "a\xc0\xafb",
		"backslash":           `a\b`,
		"percent":             "a%2e%2e",
		"at":                  "a@1",
		"hash":                "a#b",
		"star":                "a/*",
		"question":            "a?",
		"template":            "{{a}}",
		"dollar":              "$a",
		"quote":               `a"b`,
		"dash first":          "-a",
		"dash after slash":    "a/-b",
		"tilde":               "~/a",
		"angle":               "<a>",
		"semicolon":           "a;b",
		"ampersand":           "a&b",
	}
	for why, s := range bad {
		got, err := Path(s)
		if !errors.Is(err, ErrNotCanonical) || got != "" {
			t.Errorf("%s, %+q: %+q, %v; want a refusal", why, s, got, err)
		}
	}
}

func TestField(t *testing.T) {
	for _, s := range []string{"password", "CA.crt", ".dockerconfigjson", "a-b", "_x", "0", strings.Repeat("f", MaxField)} {
		if got, err := Field(s); err != nil || got != s {
			t.Errorf("%q: %q, %v; want it accepted unchanged", s, got, err)
		}
	}
	for _, s := range []string{"", ".", "..", "-a", "a b", "a=b", "a@1", "a#b", "a/b", "a\n", "é", "a\x00", strings.Repeat("f", MaxField+1)} {
		if got, err := Field(s); !errors.Is(err, ErrNotCanonical) || got != "" {
			t.Errorf("%q: %q, %v; want a refusal", s, got, err)
		}
	}
}

func TestErrorsAreSafeToPrint(t *testing.T) {
	for _, s := range []string{"a\x1b[2J", "a\u202eb", "a\nfake log line", strings.Repeat("x", 1<<16)} {
		_, err := Path(s)
		if err == nil {
			t.Fatalf("%+q was accepted", s)
		}
		text := err.Error()
		if len(text) > 1000 {
			t.Errorf("the error has %d bytes", len(text))
		}
		for _, r := range text {
			if r < 0x20 || r == 0x7f || r == '\u202e' {
				t.Errorf("the error passes %U through: %+q", r, text)
			}
		}
	}
	_, err := Path("mu\u0308ller")
	if want := `send "m\u00fcller"`; !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %s", err, want)
	}
}

func TestParseReference(t *testing.T) {
	good := map[string]Reference{
		"hizo://ml/db#password":             {Resource{"ml", "db"}, "password", 0},
		"hizo://ml/train/db#password@7":     {Resource{"ml", "train/db"}, "password", 7},
		"hizo://ml/a+b=c:d#.env":            {Resource{"ml", "a+b=c:d"}, ".env", 0},
		"hizo://m/p#f@18446744073709551615": {Resource{"m", "p"}, "f", 1<<64 - 1},
	}
	for s, want := range good {
		got, err := ParseReference(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%s: %+v, %v, written %s; want %+v", s, got, err, got, want)
		}
	}
	longest := Reference{Resource{strings.Repeat("v", MaxVault), strings.Repeat("p", MaxPath)}, strings.Repeat("f", MaxField), 1<<64 - 1}
	if got, err := ParseReference(longest.String()); err != nil || got != longest {
		t.Errorf("the longest reference: %v", err)
	}
	for _, s := range []string{
		"", "hizo://", "hizo://ml", "hizo://ml#f", "hizo:///db#f", "hizo://ml/#f", "hizo://ml/db", "hizo://ml/db#",
		"hizo://ml/db#f@", "hizo://ml/db#f@0", "hizo://ml/db#f@01", "hizo://ml/db#f@+1", "hizo://ml/db#f@-1",
		"hizo://ml/db#f@1_0", "hizo://ml/db#f@0x1", "hizo://ml/db#f@18446744073709551616", "hizo://ml/db#f@1@2",
		"hizo://ml/db#f#g", "hizo://ml/db@1#f", "HIZO://ml/db#f", "hizo:/ml/db#f", "http://ml/db#f", " hizo://ml/db#f",
		"hizo://ml/db#f ", "hizo://ml//db#f", "hizo://ml/../db#f", "hizo://ML/db#f", "hizo://u:p@ml/db#f",
		"hizo://ml/db?x=1#f", longest.String() + "0",
	} {
		if got, err := ParseReference(s); !errors.Is(err, ErrNotCanonical) || got != (Reference{}) {
			t.Errorf("%q: %+v, %v; want a refusal", s, got, err)
		}
	}
}

func TestParsePrincipal(t *testing.T) {
	for s, want := range map[string]Principal{
		"user/alice":     {KindUser, "alice"},
		"user/a@b.org":   {KindUser, "a@b.org"},
		"workload/train": {KindWorkload, "train"},
		"node/n1":        {KindNode, "n1"},
	} {
		if got, err := ParsePrincipal(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "alice", "user/", "/alice", "user/Alice", "User/alice", "user//alice", "user/a/b", "role/x", "workload/a@b", "users/alice", "user/alice "} {
		if got, err := ParsePrincipal(s); !errors.Is(err, ErrNotCanonical) || !got.IsZero() {
			t.Errorf("%q: %v, %v; want a refusal", s, got, err)
		}
	}
}
