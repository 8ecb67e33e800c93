package auth

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}

func fill(b []byte, from byte) {
	for i := range b {
		b[i] = from + byte(i)
	}
}

func sampleJoin() JoinToken {
	var t JoinToken
	fill(t.Cluster[:], 0x10)
	fill(t.secret[:], 0x40)
	fill(t.Joiner[:], 0x80)
	t.Nodes = []JoinNode{{Addr: "10.0.0.1:7000"}, {Addr: "[2001:db8::1]:7000"}, {Addr: "n3.example.org:65535"}}
	for i := range t.Nodes {
		fill(t.Nodes[i].Key[:], byte(i))
	}
	return t
}

// reframe encodes raw bytes as a token with a right checksum, so that what is
// refused is refused for what it says.
func reframe(raw []byte) string {
	raw = binary.BigEndian.AppendUint32(raw, joinChecksum(raw))
	return joinPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func rawJoin(t testing.TB, token JoinToken) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token.Reveal(), joinPrefix))
	if err != nil {
		t.Fatal(err)
	}
	return raw[:len(raw)-4]
}

func TestJoinToken(t *testing.T) {
	want := sampleJoin()
	got, err := ParseJoinToken(want.Reveal())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
	golden(t, "join.txt", fmt.Sprintf("%s\n%s\n%x\n", want.Reveal(), hex.EncodeToString(rawJoin(t, want)), want.Hash()))
	if want.Hash() != HashJoinSecret(want.Secret()) {
		t.Error("hash of token and of its secret differ")
	}
	other := sampleJoin()
	other.secret[0]++
	if other.Hash() == want.Hash() {
		t.Error("the hash does not depend on the secret")
	}
	fresh, err := NewJoinToken(want.Cluster, want.Joiner, want.Nodes)
	if err != nil || fresh.Secret() == want.Secret() || fresh.Secret() == [32]byte{} {
		t.Errorf("a new token: %v", err)
	}
	most := sampleJoin()
	most.Nodes = nil
	for range MaxJoinNodes {
		most.Nodes = append(most.Nodes, JoinNode{Addr: strings.Repeat("h", maxJoinAddr-6) + ":65535"})
	}
	if got, err := ParseJoinToken(most.Reveal()); err != nil || !reflect.DeepEqual(got, most) {
		t.Errorf("the longest token: %v", err)
	}
}

func TestJoinTokenRefused(t *testing.T) {
	text := sampleJoin().Reveal()
	raw := rawJoin(t, sampleJoin())
	change := func(i int, b byte) string { r := append([]byte(nil), raw...); r[i] = b; return reframe(r) }
	const count = 1 + 16 + 32 + 32
	bad := map[string]string{
		"empty": "", "prefix alone": joinPrefix, "another prefix": AccessToken.text() + text[len(joinPrefix):],
		"cut": text[:len(text)-1], "longer": text + "A", "newline": text[:20] + "\n" + text[20:], "padding": text + "=",
		"unknown format": change(0, 2), "no nodes": reframe(append(append([]byte(nil), raw[:count]...), 0)),
		"fewer nodes than said": change(count, 4), "more nodes than said": change(count, 2), "many nodes": change(count, 255),
		"an address past the end": change(count+1, 255), "trailing bytes": reframe(append(append([]byte(nil), raw...), 0)),
		"huge": joinPrefix + strings.Repeat("A", 1<<20),
	}
	for i := len(joinPrefix); i < len(text); i++ {
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		bad[fmt.Sprintf("wrong character at %d", i)] = text[:i] + string(c) + text[i+1:]
	}
	// The last character holds bits that belong to no byte: one spelling only.
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		if s := text[:len(text)-1] + string(c); s != text {
			bad["last character "+string(c)] = s
		}
	}
	for why, s := range bad {
		if got, err := ParseJoinToken(s); !errors.Is(err, ErrJoinToken) || !reflect.DeepEqual(got, JoinToken{}) {
			t.Errorf("%s: %v", why, err)
		}
	}
	for _, addr := range []string{"", ":7000", "host", "host:", "host:0", "host:65536", "host:http", "host:07000", "ho st:7000", "h\n:7000", "h\u00f6st:7000", strings.Repeat("h", 260) + ":1"} {
		if _, err := NewJoinToken([16]byte{}, [32]byte{}, []JoinNode{{Addr: addr}}); err == nil {
			t.Errorf("the address %q was accepted", addr)
		}
	}
	if _, err := NewJoinToken([16]byte{}, [32]byte{}, make([]JoinNode, MaxJoinNodes+1)); err == nil {
		t.Error("too many nodes were accepted")
	}
}

func (k TokenKind) text() string { return string(k) }

func FuzzParseJoinToken(f *testing.F) {
	f.Add(sampleJoin().Reveal())
	f.Add("hizoj_")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseJoinToken(s)
		if err == nil && token.Reveal() != s {
			t.Fatalf("two spellings of one token")
		}
	})
}

// FuzzJoinTokenBody gets past the checksum.
func FuzzJoinTokenBody(f *testing.F) {
	f.Add(rawJoin(f, sampleJoin()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		token, err := ParseJoinToken(reframe(raw))
		if err != nil {
			return
		}
		if err := token.check(); err != nil {
			t.Fatal(err)
		}
		if token.Reveal() != reframe(raw) {
			t.Fatal("two encodings of one token")
		}
	})
}
