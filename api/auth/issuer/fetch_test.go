package issuer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/auth/issuer/issuertest"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type published struct {
	*issuer.Issuer
	ci    *issuertest.Issuer
	clock *clock
	log   *bytes.Buffer
}

// fetching is an issuer whose keys are fetched.
func fetching(t *testing.T, ci *issuertest.Issuer, change func(*issuer.Config)) *published {
	t.Helper()
	p := &published{ci: ci, clock: &clock{now: time.Now()}, log: new(bytes.Buffer)}
	f := issuer.NewFetcher(p.clock.Now, slog.New(slog.NewTextHandler(p.log, nil)))
	t.Cleanup(f.Close)
	c := issuer.Config{
		Kind: issuer.OIDC, URL: ci.URL, Audiences: []string{audience}, Algorithms: issuer.DefaultAlgorithms(),
		CA: ci.CA, Local: true, MaxAge: issuer.DefaultMaxAge,
	}
	if change != nil {
		change(&c)
	}
	var err error
	if p.Issuer, err = issuer.New(c, f); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *published) login(t *testing.T) string {
	t.Helper()
	_, err := verify(t, p.Issuer, p.ci.GitHub(audience, nil), time.Now())
	return why(err)
}

func (p *published) want(t *testing.T, what, want string, fetches int64) {
	t.Helper()
	if got := p.login(t); got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
	if got := p.ci.Fetched.Load(); got != fetches {
		t.Errorf("%s: the keys were fetched %d times, want %d", what, got, fetches)
	}
}

func TestKeysAreFetchedAndRotate(t *testing.T) {
	ci := issuertest.New(t)
	p := fetching(t, ci, nil)
	p.want(t, "first", "believed", 1)
	p.want(t, "again", "believed", 1)
	ci.Rotate("second", false)
	p.want(t, "a new key, too soon after the last fetch", string(issuer.UnknownKey), 1)
	p.clock.add(10 * time.Second)
	p.want(t, "a new key", "believed", 2)
	ci.Rotate("third", true)
	p.clock.add(10 * time.Second)
	p.want(t, "another new key", "believed", 3)
}

// TestUnknownKeysDoNotFlood: a storm of tokens with kids that nobody has costs the issuer one fetch in a while.
func TestUnknownKeysDoNotFlood(t *testing.T) {
	ci := issuertest.New(t)
	p := fetching(t, ci, nil)
	p.want(t, "first", "believed", 1)
	p.clock.add(time.Minute)
	storm := make([]string, 40)
	for n := range storm {
		storm[n] = signRSA1(t, fmt.Sprint("kid-", n), []byte(fmt.Sprintf(`{"iss":%q,"sub":"x","aud":%q,"exp":%d}`, ci.URL, audience, time.Now().Add(time.Minute).Unix())))
	}
	var wg sync.WaitGroup
	for _, text := range storm {
		wg.Go(func() {
			if _, err := verify(t, p.Issuer, text, time.Now()); err == nil {
				t.Error("believed")
			}
		})
	}
	wg.Wait()
	p.want(t, "after the storm", "believed", 2)
}

func signRSA1(t *testing.T, kid string, payload []byte) string {
	t.Helper()
	ci := issuertest.New(t)
	ci.Rotate(kid, true)
	return ci.SignBytes(payload)
}

// TestUnreachableIssuer: those who wait for it are few, and what was fetched goes on counting for a while.
func TestUnreachableIssuer(t *testing.T) {
	ci := issuertest.New(t)
	p := fetching(t, ci, nil)
	p.want(t, "first", "believed", 1)
	ci.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	p.clock.add(11 * time.Hour)
	p.want(t, "keys of today", "believed", 1)
	p.clock.add(2 * time.Hour)
	p.want(t, "keys of yesterday", string(issuer.NoKeys), 1)
	ci.Answer(nil)
	p.want(t, "too soon after the failure", string(issuer.NoKeys), 1)
	p.clock.add(10 * time.Second)
	p.want(t, "back", "believed", 2)
}

// TestWaitingIsBounded: while an issuer hangs, so many logins of it wait and no more, and each no longer than its
// caller.
func TestWaitingIsBounded(t *testing.T) {
	ci := issuertest.New(t)
	release := make(chan struct{})
	ci.Answer(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		ci.Serve(w, r)
	})
	p := fetching(t, ci, nil)
	token := must(issuer.Parse(ci.GitHub(audience, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 30)
	for range 30 {
		go func() {
			_, err := p.Verify(ctx, token, time.Now())
			results <- err
		}()
	}
	for range 14 { // 16 wait, the others hear at once
		if err := <-results; why(err) != string(issuer.NoKeys) {
			t.Errorf("%v", err)
		}
	}
	cancel()
	for range 16 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := p.Verify(t.Context(), token, time.Now())
		done <- err
	}()
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the fetch that they had waited for: %v", err)
	}
}

// TestFetchRefuses lists the answers and places that keys are not taken from.
func TestFetchRefuses(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	canary := "do-not-repeat-me"
	for name, c := range map[string]struct {
		answer func(ci *issuertest.Issuer) http.HandlerFunc
		change func(*issuer.Config)
		says   string
	}{
		"loopback":   {nil, func(c *issuer.Config) { c.Local = false }, "--allow-local"},
		"unknown CA": {nil, func(c *issuer.Config) { c.CA = nil }, "--ca"},
		"another host": {func(*issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }
		}, nil, "redirected"},
		"another issuer's document": {func(ci *issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"issuer":"https://other.example","jwks_uri":%q}`, ci.URL+"/keys")
			}
		}, nil, "its answer"},
		"keys over http": {func(ci *issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://%s"}`, ci.URL, canary)
			}
		}, nil, "its answer"},
		"an endless answer": {func(*issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"issuer": "%s"}`, strings.Repeat("x", issuer.MaxKeySet))
			}
		}, nil, "its answer"},
		"no JSON": {func(*issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, canary) }
		}, nil, "its answer"},
		"a private key": {func(ci *issuertest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/keys" {
					key := ci.Key()
					fmt.Fprintf(w, `{"keys":[%s]}`, must(key.MarshalJSON()))
					return
				}
				ci.Serve(w, r)
			}
		}, nil, "private key"},
	} {
		t.Run(name, func(t *testing.T) {
			ci := issuertest.New(t)
			if c.answer != nil {
				ci.Answer(c.answer(ci))
			}
			p := fetching(t, ci, c.change)
			if got := p.login(t); got != string(issuer.NoKeys) {
				t.Errorf("%s", got)
			}
			if log := p.log.String(); !strings.Contains(log, c.says) || strings.Contains(log, canary) {
				t.Errorf("the log says: %s", log)
			}
		})
	}
}

func TestKeysURL(t *testing.T) {
	ci := issuertest.New(t)
	p := fetching(t, ci, func(c *issuer.Config) { c.KeysURL = ci.URL + "/keys" })
	ci.Answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		ci.Serve(w, r)
	})
	p.want(t, "first", "believed", 1)
}

// A Fetcher that is closed starts nothing.
func TestClosedFetcher(t *testing.T) {
	ci := issuertest.New(t)
	f := issuer.NewFetcher(time.Now, slog.New(slog.DiscardHandler))
	i, err := issuer.New(issuer.Config{
		Kind: issuer.OIDC, URL: ci.URL, Audiences: []string{audience}, Algorithms: []string{"RS256"}, CA: ci.CA, Local: true, MaxAge: time.Hour,
	}, f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := verify(t, i, ci.GitHub(audience, nil), time.Now()); why(err) != string(issuer.NoKeys) || ci.Fetched.Load() != 0 {
		t.Errorf("%v, %d fetches", err, ci.Fetched.Load())
	}
}
