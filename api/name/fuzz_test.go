package name

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// FuzzPath states what canonical means without repeating how it is checked.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"a/b", "a//b", "../a", "m\u00fc", "mu\u0308", "\u79d8\u8535", "p\u0430ss", "a\u200b", ".env", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Path(s)
		if err != nil {
			if got != "" {
				t.Fatalf("refused and yet answered %+q", got)
			}
			return
		}
		if got != s {
			t.Fatalf("repaired %+q into %+q", s, got)
		}
		assertPath(t, s)
		// Folding case and compatibility forms may at most change case: if
		// more changed, another spelling would look the same.
		if folded := norm.NFKC.String(s); folded != s {
			t.Fatalf("%+q reads like %+q", s, folded)
		}
	})
}

func assertPath(t *testing.T, s string) {
	t.Helper()
	if len(s) == 0 || len(s) > MaxPath || !utf8.ValidString(s) || !norm.NFC.IsNormalString(s) {
		t.Fatalf("accepted %+q: length, UTF-8 or normal form", s)
	}
	segments := strings.Split(s, "/")
	if len(segments) > MaxSegments {
		t.Fatalf("accepted %d segments", len(segments))
	}
	for _, segment := range segments {
		if segment == "" || strings.Trim(segment, ".") == "" {
			t.Fatalf("accepted the segment %q", segment)
		}
	}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) || !unicode.IsPrint(r) || unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Z) || strings.ContainsRune("#@%\\*?\"'`${}<>|;&~!()[]^", r) {
			t.Fatalf("accepted %U", r)
		}
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"ml", "Ml", "a..b", "a-", "\u0430", "a@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, check := range []check{Vault, Workload, Node, Policy, User} {
			got, err := check(s)
			if err != nil {
				continue
			}
			if got != s || len(s) > 64 || strings.ToLower(s) != s || strings.Contains(s, "..") || strings.ContainsAny(s, "/ \t\n#%*") {
				t.Fatalf("accepted %+q as %+q", s, got)
			}
			if p, err := ParsePrincipal("user/" + s); err != nil || p.String() != "user/"+s {
				t.Fatalf("%q is a name and yet no principal: %v", s, err)
			}
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"hizo://ml/db#password", "hizo://ml/a/b#f@3", "hizo://ml/db#f@03", "hizo://ml/../b#f", "hizo://a/b#c@1@2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			return
		}
		if ref.String() != s {
			t.Fatalf("%+q parses to %+v, which is written %+q: two spellings", s, ref, ref.String())
		}
		assertPath(t, ref.Path)
		if _, err := Vault(ref.Vault); err != nil {
			t.Fatal(err)
		}
		if _, err := Field(ref.Field); err != nil {
			t.Fatal(err)
		}
		if r, err := ParseResource(ref.Resource.String()); err != nil || r != ref.Resource {
			t.Fatalf("resource form %q: %v, %v", ref.Resource, r, err)
		}
	})
}

func FuzzLeaseReference(f *testing.F) {
	for _, s := range []string{"hizo-lease://ml/db#username", "hizo-lease://ml/db#password", "hizo-lease://ml/a/b#password", "hizo-lease://ml/db", "hizo-lease://ml/db#x", "hizo://ml/db#password"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseLeaseReference(s)
		if err != nil {
			return
		}
		if ref.String() != s {
			t.Fatalf("%+q parses to %+v, which is written %+q: two spellings", s, ref, ref.String())
		}
		if !IsLeaseReference(s) || IsReference(s) {
			t.Fatalf("%+q is taken for something else", s)
		}
		if _, err := Vault(ref.Vault); err != nil {
			t.Fatal(err)
		}
		if _, err := Lease(ref.Role); err != nil || strings.Contains(ref.Role, "/") {
			t.Fatalf("role %+q: %v", ref.Role, err)
		}
		if r, err := ParseLeaseRole(ref.LeaseRole.String()); err != nil || r != ref.LeaseRole {
			t.Fatalf("role form %q: %v, %v", ref.LeaseRole, r, err)
		}
	})
}
