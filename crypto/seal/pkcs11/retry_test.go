package pkcs11

import (
	"errors"
	"strings"
	"testing"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// A device error is tried again once, on another connection; an unknown outcome never is.
func TestRetry(t *testing.T) {
	token, err := softhsm.Provision(t.TempDir(), "hizo")
	if errors.Is(err, softhsm.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(softhsm.ConfEnv, token.Conf)
	s, err := Open(Config{Module: token.Module, TokenLabel: token.Label, PINFile: token.PINFile})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	unknown := &unknownOutcomeError{"a", seal.ErrDevice}
	if text := unknown.Error(); !strings.Contains(text, "unknown") {
		t.Errorf("the error does not say that the outcome is unknown: %s", text)
	}
	for name, c := range map[string]struct {
		answers []error // of one call after the other
		want    error
		calls   int
		keeps   bool // the connection
	}{
		"success":                {[]error{nil}, nil, 1, true},
		"a refusal":              {[]error{seal.ErrNoKey}, seal.ErrNoKey, 1, true},
		"device, then success":   {[]error{seal.ErrDevice, nil}, nil, 2, false},
		"device, then a refusal": {[]error{seal.ErrDevice, seal.ErrAuth}, seal.ErrAuth, 2, false},
		"device twice":           {[]error{seal.ErrDevice, seal.ErrDevice}, seal.ErrDevice, 2, false},
		"unknown outcome":        {[]error{unknown}, seal.ErrDevice, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Healthy(t.Context()); err != nil {
				t.Fatal(err)
			}
			first := s.conn
			var seen []*connection
			err := s.do(t.Context(), func(conn *connection) error {
				seen = append(seen, conn)
				return c.answers[len(seen)-1]
			})
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if len(seen) != c.calls {
				t.Fatalf("%d calls, want %d", len(seen), c.calls)
			}
			if c.calls == 2 && seen[1] == first {
				t.Error("tried again on the same connection")
			}
			if (s.conn == first) != c.keeps {
				t.Errorf("the connection is kept: %v, want %v", s.conn == first, c.keeps)
			}
		})
	}
}
