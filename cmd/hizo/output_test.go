package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/proto"

	"github.com/hizo/hizo/api/hizov1"
)

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

// Programs read these: names, order and shape are a contract.
func TestFormats(t *testing.T) {
	members := []*hizov1.Member{
		{Id: "n1", PeerAddr: "10.0.0.1:7301", ClientAddr: "10.0.0.1:7300", KeyFingerprint: strings.Repeat("ab", 32), SealKind: "pkcs11", Approved: true, Voter: true, Leader: true, HoldsShare: true},
		{Id: "node-two", PeerAddr: "10.0.0.2:7301", KeyFingerprint: strings.Repeat("cd", 32), SealKind: "software", Quarantined: true},
	}
	record := &hizov1.AuditRecord{
		Sequence: 41, TimeUnixMs: 1764000000123, Principal: "user/alice", Action: "reveal", Resource: "ml/db", Version: 3,
		Decision: "allowed", Outcome: "ok", Policies: []string{"shipped/x"}, ClientAddress: "10.0.0.9:1234",
		Reason: "looks\x1b[31mred\u202e", Count: 2, Claims: map[string]string{"b": "2", "a": "1"},
	}
	identity := &hizov1.Identity{Principal: "user/алиса", CreatedUnix: 1764000000, Roles: []string{"Auditor", "Operator"}}
	for name, c := range map[string]struct {
		message proto.Message
		table   table
	}{
		"members":  {&hizov1.MembersResponse{Members: members}, memberTable(members)},
		"record":   {record, table{head: recordHead, rows: [][]string{recordRow(record)}}},
		"identity": {identity, identityTable([]*hizov1.Identity{identity})},
		"empty":    {&hizov1.ListVaultsResponse{}, vaultTable(nil)},
	} {
		for _, format := range []string{"table", "json", "yaml"} {
			golden(t, name+"."+format, render(t, format, func(s *session) error { return s.show(c.message, c.table) }))
		}
	}
}

func render(t *testing.T, format string, show func(*session) error) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := show(&session{g: &Globals{Format: format}, stdout: f}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, ünïcode 秘蔵": "plain text, ünïcode 秘蔵",
		"a\nb\tc":                `a\nb\tc`,
		"\x1b]0;title\x07":       `\u001b]0;title\u0007`,
		"bad\xffbyte":            `bad\xffbyte`,
		"left\u202eright":        `left\u202eright`,
		"\u009b31m":              `\u009b31m`,
		"�":                      "�",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-01-30":           "2026-01-30T00:00:00Z",
		"2026-01-30T10:00:00Z": "2026-01-30T10:00:00Z",
		"90m":                  "2026-01-31T10:30:00Z",
		"7d":                   "2026-01-24T12:00:00Z",
		"1d12h":                "2026-01-30T00:00:00Z",
	} {
		ms, err := parseTime("--since", text, now)
		if got := time.UnixMilli(ms).UTC().Format(time.RFC3339); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "d", "-1d", "-5m", "1dd", "7", "1d-2h", " 7d"} {
		if ms, err := parseTime("--since", text, now); err == nil {
			t.Errorf("%q: accepted as %d", text, ms)
		}
	}
	if ms, err := parseTime("--since", "", now); ms != 0 || err != nil {
		t.Errorf("nothing: %d, %v", ms, err)
	}
}

// Whatever text others wrote, programs read back exactly that, and terminals nothing else.
func FuzzFormats(f *testing.F) {
	f.Add("plain", "two\nlines\n")
	f.Add("\x1b[31m", "left\u202eright")
	f.Add("- a: [b]", "\U000e0001 #x")
	f.Add("true", " 12 ")
	f.Fuzz(func(t *testing.T, a, b string) {
		want := map[string]string{"a": strings.ToValidUTF8(a, "?"), "b": strings.ToValidUTF8(b, "?")}
		compact, err := marshalJSON(want)
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"json", "yaml"} {
			text, err := encode(format, compact)
			if err != nil {
				t.Fatal(err)
			}
			if i := bytes.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
				t.Fatalf("%s: %q is not for terminals", format, text)
			}
			var got map[string]string
			unmarshal := json.Unmarshal
			if format == "yaml" {
				unmarshal = func(b []byte, v any) error { return yaml.Unmarshal(b, v) }
			}
			if err := unmarshal(text, &got); err != nil || !maps.Equal(got, want) {
				t.Fatalf("%s: %q: got %q, %v, want %q", format, text, got, err, want)
			}
		}
	})
}
