package name

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// pathPunctuation is the ASCII punctuation a path segment may hold. Left out
// on purpose: '#' and '@' (they end a path in a reference), '%' (URL
// escapes), '\\' (another separator), '*' and '?' (patterns), quotes, '$' and
// braces (templates), '~' and white space (shells).
const pathPunctuation = "-_.+=:,"

// Path checks the path of a secret inside its vault: segments divided by
// single slashes, none at either end.
func Path(s string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &Error{What: "path", Input: s, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case s == "":
		return refuse("is empty")
	case len(s) > MaxPath:
		return refuse("is %d bytes long, at most %d are allowed", len(s), MaxPath)
	case !utf8.ValidString(s):
		return refuse("is not valid UTF-8")
	case s[0] == '/':
		return refuse("must not begin with a slash")
	case s[len(s)-1] == '/':
		return refuse("must not end with a slash")
	case strings.Contains(s, "//"):
		return refuse("must not contain %q", "//")
	case strings.Count(s, "/") >= MaxSegments:
		return refuse("has %d segments, at most %d are allowed", strings.Count(s, "/")+1, MaxSegments)
	}
	ascii := true
	for segment := range strings.SplitSeq(s, "/") {
		if strings.Trim(segment, ".") == "" {
			return refuse("must not contain the segment %q", segment)
		}
		for i, r := range segment {
			if reason := pathRune(r, i == 0); reason != "" {
				return refuse("%s", reason)
			}
			ascii = ascii && r < utf8.RuneSelf
		}
	}
	if ascii {
		return s, nil
	}
	if !norm.NFC.IsNormalString(s) {
		return refuse("is not in Unicode normal form C: send %s", quote(norm.NFC.String(s)))
	}
	// Compatibility forms (full-width letters, ligatures, superscripts) are
	// canonical under NFC and yet read as other letters.
	if !norm.NFKC.IsNormalString(s) {
		return refuse("has letters that only look like others (compatibility forms): send %s", quote(norm.NFKC.String(s)))
	}
	if a, b, mixed := mixedScripts(s); mixed {
		return refuse("mixes %s and %s letters, which can look alike", a, b)
	}
	return s, nil
}

// pathRune says what is wrong with r in a path, or nothing.
func pathRune(r rune, first bool) string {
	if r < utf8.RuneSelf {
		switch {
		case isAlnum(byte(r)) || strings.IndexByte(pathPunctuation, byte(r)) >= 0:
			if first && r == '-' {
				return "must not have a segment that begins with '-'"
			}
			return ""
		case r < 0x20 || r == 0x7f:
			return fmt.Sprintf("has a control character (%U)", r)
		case r == ' ':
			return "has a space"
		}
		return fmt.Sprintf("has a character that is not allowed (%q)", r)
	}
	switch {
	// Invisible, and partly letters or marks by category: Hangul fillers,
	// variation selectors, the grapheme joiner (UTS #39, section 3.1).
	case unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
		return fmt.Sprintf("has an invisible character (%U)", r)
	case unicode.IsLetter(r), unicode.Is(unicode.Nd, r):
		return ""
	case unicode.Is(unicode.Mn, r), unicode.Is(unicode.Mc, r):
		if first {
			return fmt.Sprintf("has a segment that begins with a combining mark (%U)", r)
		}
		return ""
	}
	return fmt.Sprintf("has a character that is neither letter nor digit (%U)", r)
}

// lookalikes are the scripts whose letters are mistaken for one another. Of
// these one path may use one. (A path wholly in one of them can still look
// like a path in another; listings show both.)
var lookalikes = []struct {
	name  string
	table *unicode.RangeTable
}{
	{"Latin", unicode.Latin}, {"Cyrillic", unicode.Cyrillic}, {"Greek", unicode.Greek},
	{"Armenian", unicode.Armenian}, {"Cherokee", unicode.Cherokee}, {"Coptic", unicode.Coptic},
	{"Lisu", unicode.Lisu}, {"Georgian", unicode.Georgian}, {"Deseret", unicode.Deseret},
}

func mixedScripts(s string) (a, b string, mixed bool) {
	for _, r := range s {
		for _, script := range lookalikes {
			if !unicode.Is(script.table, r) {
				continue
			}
			if a != "" && a != script.name {
				return a, script.name, true
			}
			a = script.name
		}
	}
	return "", "", false
}
