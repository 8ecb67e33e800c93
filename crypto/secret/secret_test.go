package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hizo/hizo/crypto/secret"
)

const canary = "canary-4711"

// holder has what fmt cannot call methods on: unexported fields.
type holder struct {
	Public  secret.Bytes
	private secret.Bytes
	list    []secret.Bytes
	byName  map[string]secret.Bytes
	pointer *secret.Bytes
	any     any
}

func TestNothingShows(t *testing.T) {
	s := secret.New([]byte(canary))
	h := holder{s, s, []secret.Bytes{s}, map[string]secret.Bytes{"k": s}, &s, s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, s); got != secret.Redacted {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if b, err := json.Marshal([]any{s, map[string]any{"k": &s}}); err != nil || string(b) != `["[redacted]",{"k":"[redacted]"}]` {
		t.Errorf("JSON: %s, %v", b, err)
	}
	if v := slog.AnyValue(s).Resolve(); v.String() != secret.Redacted {
		t.Errorf("slog: %v", v)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%c", "%U", "%t", "%p", "%e", "%z"} {
		for _, v := range []any{s, &s, h, &h, []any{s, h}, map[string]any{"a": h}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, s, h, errors.Join(fmt.Errorf("%v", h)))
	for _, logger := range []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))} {
		logger.Info("x", "s", s, "h", h, "p", &s, slog.Group("g", "s", s))
	}
	for _, v := range []any{s, h, map[string]any{"s": s}, []secret.Bytes{s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	if b, err := xml.Marshal(s); err == nil {
		out.Write(b)
	}
	if err := gob.NewEncoder(&out).Encode(s); err != nil && strings.Contains(err.Error(), canary) {
		t.Error("gob's error shows the secret")
	}
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(fmt.Sprint(h))
	}()
	text := out.String()
	for _, form := range []string{
		canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary)),
		strings.Trim(fmt.Sprintf("%#v", []byte(canary)), "[]byte{}"), "Y2FuYXJ5",
	} {
		if strings.Contains(text, form) {
			t.Errorf("%q shows", form)
		}
	}
	if !strings.Contains(text, secret.Redacted) {
		t.Error("nothing says that something was redacted")
	}
}

func TestBytes(t *testing.T) {
	s := secret.New([]byte(canary))
	if string(s.Reveal()) != canary || s.Len() != len(canary) {
		t.Errorf("reveals %q", s.Reveal())
	}
	clone, alias := s.Clone(), s
	if !s.Equal(clone) || s.Equal(secret.New([]byte("canary-4712"))) || s.Equal(secret.New([]byte("canary"))) {
		t.Error("Equal")
	}
	s.Wipe()
	if !bytes.Equal(alias.Reveal(), make([]byte, len(canary))) {
		t.Errorf("wiped, an alias still holds %q", alias.Reveal())
	}
	if string(clone.Reveal()) != canary {
		t.Error("wiping reached a clone")
	}
	var zero secret.Bytes
	zero.Wipe()
	if zero.Len() != 0 || len(zero.Reveal()) != 0 || !zero.Equal(secret.New(nil)) || fmt.Sprint(zero) != secret.Redacted {
		t.Error("zero value")
	}
	b := []byte(canary)
	c := secret.Copy(b)
	clear(b)
	if string(c.Reveal()) != canary {
		t.Error("Copy shares memory")
	}
	if a, b := secret.Random(32), secret.Random(32); a.Len() != 32 || a.Equal(b) {
		t.Error("Random")
	}
}

func TestDo(t *testing.T) {
	var out secret.Bytes
	secret.Do(func() { out = secret.New([]byte(canary)) })
	if string(out.Reveal()) != canary {
		t.Error("what f made for its caller is gone")
	}
}
