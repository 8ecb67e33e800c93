// Package targettest is what every rotation target and every maker of accounts must keep, tried against the real thing.
//
//	targettest.Target(t, func(t *testing.T) targettest.Subject { … })   // each call makes a fresh account
//	targettest.Users(t, func(t *testing.T) targettest.Maker { … })
//
// A subject that can be reached through a proxy (config host and port) is also cut off and frozen at every single answer
// of its server.
package targettest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/secret"
)

// Server is what the suites need of a server beside its protocol. The zero Server is none: nothing is cut, stopped or
// read then.
type Server struct {
	Port        int // 0: not reached by config host and port
	Stop, Start func(testing.TB)
	Log         func(testing.TB) string
}

func (s Server) reached() bool { return s.Port != 0 }

// patience bounds every call.
const patience = servertest.Patience

// answers is how many answers of a server one call can have at most.
const answers = 100

// watch collects what must not leak, and what it could leak into.
type watch struct {
	mu     sync.Mutex
	values []secret.Bytes
	errors []string
}

// value notes a value's password.
func (w *watch) value(v target.Value) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, b := range v {
		if name != "username" && b.Len() >= 8 {
			w.values = append(w.values, b.Clone())
		}
	}
}

// seen notes an error, nil included, and returns it.
func (w *watch) seen(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errors = append(w.errors, err.Error())
	}
	return err
}

// check fails the test if a value, in any usual encoding, is in an error or in the server's log.
func (w *watch) check(t testing.TB, log func(testing.TB) string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	places := map[string]string{"errors": strings.Join(w.errors, "\n")}
	if log != nil {
		places["the server's log"] = log(t)
	}
	for place, text := range places {
		for _, v := range w.values {
			b := v.Reveal()
			for name, form := range map[string]string{
				"": string(b), " in base64": base64.RawStdEncoding.EncodeToString(b), " in hexadecimal": hex.EncodeToString(b),
			} {
				if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
					t.Errorf("a value stands in %s%s", place, name)
				}
			}
		}
	}
}

// within runs one call with a bound.
func within(t testing.TB, d time.Duration, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return call(ctx)
}

// until runs one call and gives up waiting for it when the moment comes.
func until(t testing.TB, moment <-chan struct{}, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-moment:
			cancel()
		case <-stop:
		}
	}()
	return call(ctx)
}

func happened(moment <-chan struct{}) bool {
	select {
	case <-moment:
		return true
	default:
		return false
	}
}

// next is the answer to lose after the n-th.
func next(stride, n int) int {
	if os.Getenv("HIZO_TEST_ALL") != "" {
		stride = 1
	}
	return n + max(1, stride)
}

// described fails the test unless an error is one that can be stored and shown.
func described(t testing.TB, err error, kind string) {
	t.Helper()
	e, ok := errors.AsType[*target.Error](err)
	if !ok {
		t.Fatalf("not a *target.Error: %T %v", err, err)
	}
	if e.Kind != kind || e.Stage == "" || e.Message == "" || len(e.Error()) > 500 {
		t.Errorf("the error does not describe itself: %+v", e)
	}
}

// id makes an attempt's id; later ones are greater.
func id() [16]byte { return uuid.Must(uuid.NewV7()) }
