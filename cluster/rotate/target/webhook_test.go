package target_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
	"github.com/hizo/hizo/crypto/secret"
)

const hookKey = "a-key-of-more-than-sixteen-bytes"

// receiver keeps one account, as docs/targets.md asks of those who receive webhooks.
type receiver struct {
	*httptest.Server
	port int

	mu       sync.Mutex
	valid    map[string]string // password to the attempt that brought it
	newest   string
	fenced   map[string]bool
	requests []*http.Request
	log      strings.Builder // what a careful receiver writes down
}

func startReceiver(t *testing.T, first string) *receiver {
	r := &receiver{valid: map[string]string{first: ""}, fenced: map[string]bool{}}
	r.start(t, "127.0.0.1:0")
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *receiver) start(t testing.TB, address string) {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.Listener = l
	r.Config.ErrorLog = quiet
	r.StartTLS()
	r.port = l.Addr().(*net.TCPAddr).Port
}

var inputText = regexp.MustCompile(`^hizo=(\("@method" "@target-uri" "content-digest" "content-type" "hizo-attempt" "hizo-action"\);created=(\d+);keyid="hizo";alg="hmac-sha256")$`)

// verified checks a request as RFC 9421 says, written apart from what signs it.
func verified(r *http.Request, body []byte) error {
	sum := sha256.Sum256(body)
	if r.Header.Get("Content-Digest") != "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":" {
		return errors.New("digest")
	}
	parts := inputText.FindStringSubmatch(r.Header.Get("Signature-Input"))
	if parts == nil {
		return fmt.Errorf("signature input %q", r.Header.Get("Signature-Input"))
	}
	created, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || time.Since(time.Unix(created, 0)).Abs() > 5*time.Minute {
		return errors.New("created")
	}
	base := strings.Join([]string{
		`"@method": ` + r.Method, `"@target-uri": https://` + r.Host + r.URL.Path, `"content-digest": ` + r.Header.Get("Content-Digest"),
		`"content-type": ` + r.Header.Get("Content-Type"), `"hizo-attempt": ` + r.Header.Get("Hizo-Attempt"),
		`"hizo-action": ` + r.Header.Get("Hizo-Action"), `"@signature-params": ` + parts[1],
	}, "\n")
	h := hmac.New(sha256.New, []byte(hookKey))
	h.Write([]byte(base))
	if r.Header.Get("Signature") != "hizo=:"+base64.StdEncoding.EncodeToString(h.Sum(nil))+":" {
		return errors.New("signature")
	}
	return nil
}

func (r *receiver) serve(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, 1<<20))
	if err != nil {
		return // the sender has gone
	}
	var m struct {
		Attempt, Action string
		New, Old        map[string][]byte
	}
	if json.Unmarshal(body, &m) != nil || m.Attempt != request.Header.Get("Hizo-Attempt") || m.Action != request.Header.Get("Hizo-Action") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request)
	fmt.Fprintln(&r.log, m.Action, m.Attempt)
	if err := verified(request, body); err != nil {
		fmt.Fprintln(&r.log, "not signed:", err)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	next := string(m.New["password"])
	switch m.Action {
	case "apply":
		if m.Attempt < r.newest || r.fenced[m.Attempt] {
			w.WriteHeader(http.StatusConflict)
			return
		}
		r.newest, r.valid[next] = m.Attempt, m.Attempt
	case "verify":
		if _, ok := r.valid[next]; !ok {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
	case "retire":
		if m.Attempt == r.newest {
			r.valid = map[string]string{next: m.Attempt}
		}
	case "fence":
		r.fenced[m.Attempt] = true
		if r.valid[next] == m.Attempt {
			delete(r.valid, next)
		}
	}
	// A receiver that repeats what it was told: nobody reads it.
	w.Header().Set("Echo", next)
	_, _ = w.Write(body) // the sender hangs up
}

func (r *receiver) config(port int) map[string]string {
	return map[string]string{"url": fmt.Sprintf("https://127.0.0.1:%d/rotate", port), "ca": certificate(r.Server)}
}

var loopback = target.Webhook{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

func hookAdmin() target.Value { return target.Value{"key": secret.Copy([]byte(hookKey))} }

func TestWebhook(t *testing.T) {
	targettest.Target(t, func(t *testing.T) targettest.Subject {
		r := startReceiver(t, "first-password")
		return targettest.Subject{
			Kind: "webhook", Target: target.NewWebhook(loopback), Config: r.config(r.port), Admin: hookAdmin(),
			First: target.Value{"password": secret.Copy([]byte("first-password"))},
			Login: func(v target.Value) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if _, ok := r.valid[string(v["password"].Reveal())]; !ok {
					return errors.New("not valid")
				}
				return nil
			},
			Server: targettest.Server{
				Port:  r.port,
				Stop:  func(testing.TB) { r.Close() },
				Start: func(t testing.TB) { r.start(t, fmt.Sprintf("127.0.0.1:%d", r.port)) },
				Log: func(testing.TB) string {
					r.mu.Lock()
					defer r.mu.Unlock()
					return r.log.String()
				},
			},
			Through: func(config map[string]string, port int) map[string]string { return r.config(port) },
			Overlap: true, External: true,
		}
	})
}

func hookAttempt(config map[string]string) target.Attempt {
	return target.Attempt{
		ID: [16]byte{15: 7}, Vault: "ml", Path: "db", Config: config, Admin: hookAdmin(),
		Old: target.Value{"password": secret.Copy([]byte("old-password-0123"))}, New: target.Value{"password": secret.Copy([]byte("new-password-4567"))},
	}
}

func TestWebhookAnswers(t *testing.T) {
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirection was followed") }))
	defer other.Close()
	for status, want := range map[int]string{
		200: "done", 204: "done", 301: "permanent", 307: "permanent", 400: "permanent", 404: "permanent", 409: "permanent",
		401: "again", 403: "again", 408: "again", 425: "again", 429: "again", 500: "again", 503: "again",
	} {
		var ids []string
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ids = append(ids, r.Header.Get("Idempotency-Key"))
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
			_, _ = io.Copy(w, r.Body) // the sender need not read it
		}))
		a := hookAttempt(map[string]string{"url": server.URL, "ca": certificate(server)})
		for range 2 {
			err := target.NewWebhook(loopback).Apply(t.Context(), a)
			got := "done"
			if errors.Is(err, target.ErrPermanent) {
				got = "permanent"
			} else if err != nil {
				got = "again"
			}
			if got != want {
				t.Errorf("status %d: %v", status, err)
			}
			if err != nil && (strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), strconv.Itoa(status))) {
				t.Errorf("status %d: %v", status, err)
			}
		}
		if len(ids) != 2 || ids[0] != ids[1] || !strings.HasSuffix(ids[0], "07-apply") {
			t.Errorf("status %d: ids %q", status, ids)
		}
		server.Close()
	}
}

func TestWebhookBounds(t *testing.T) {
	t.Parallel()
	t.Run("a receiver that never ends", func(t *testing.T) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
					return
				}
			}
		}))
		defer server.Close()
		if err := target.NewWebhook(loopback).Apply(t.Context(), hookAttempt(map[string]string{"url": server.URL, "ca": certificate(server)})); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a receiver that never answers", func(t *testing.T) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // then the end of the connection shows
			<-r.Context().Done()
		}))
		defer server.Close()
		err := target.NewWebhook(loopback).Apply(t.Context(), hookAttempt(map[string]string{"url": server.URL, "ca": certificate(server), "timeout_seconds": "1"}))
		if err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("headers without end", func(t *testing.T) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
		}))
		defer server.Close()
		err := target.NewWebhook(loopback).Apply(t.Context(), hookAttempt(map[string]string{"url": server.URL, "ca": certificate(server)}))
		if err == nil || errors.Is(err, target.ErrPermanent) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("an unknown authority", func(t *testing.T) {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog = quiet
		server.StartTLS()
		defer server.Close()
		if err := target.NewWebhook(loopback).Apply(t.Context(), hookAttempt(map[string]string{"url": server.URL})); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Fatalf("%v", err)
		}
	})
}

// TestWebhookStaysOut: addresses that a node can reach and others can't are refused when they are dialled.
func TestWebhookStaysOut(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request came through") }))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "127.1.2.3"} {
		a := hookAttempt(map[string]string{"url": fmt.Sprintf("https://%s:%d/", host, port), "ca": certificate(server)})
		err := target.NewWebhook(target.Webhook{}).Apply(t.Context(), a)
		// A host without IPv6 does not get as far as the guard.
		if err == nil || !strings.Contains(err.Error(), "does not send requests to") && !strings.HasPrefix(host, "[") {
			t.Errorf("%s: %v", host, err)
		}
		if host != "localhost" && target.NewWebhook(target.Webhook{}).Check(a.Config) == nil {
			t.Errorf("%s is accepted", host)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range own {
		p, err := netip.ParsePrefix(o.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		a := hookAttempt(map[string]string{"url": fmt.Sprintf("https://%s:%d/", p.Addr(), port), "ca": certificate(server)})
		if err := target.NewWebhook(target.Webhook{}).Apply(t.Context(), a); err == nil || !strings.Contains(err.Error(), "does not send requests to") {
			t.Errorf("%s: %v", p.Addr(), err)
		}
	}
}

func TestWebhookCheck(t *testing.T) {
	for _, config := range []map[string]string{
		{}, {"url": "http://example.com/"}, {"url": "https://user:password@example.com/"}, {"url": "https:///x"}, {"url": "https://example.com/#x"},
		{"url": "ftp://example.com/"}, {"url": "https://example.com/", "actions": "verify"}, {"url": "https://example.com/", "actions": "apply,restart"},
		{"url": "https://example.com/", "ca": "no certificate"}, {"url": "https://example.com/", "method": "GET"}, {"url": "https://exa mple.com:x/"},
	} {
		if err := target.NewWebhook(loopback).Check(config); err == nil {
			t.Errorf("%v is accepted", config)
		} else if strings.Contains(err.Error(), "password@") {
			t.Errorf("%v", err)
		}
	}
	if err := target.NewWebhook(loopback).Check(map[string]string{"url": "https://example.com/rotate", "admin": "ml/hook", "actions": "apply,verify"}); err != nil {
		t.Error(err)
	}
	a := hookAttempt(map[string]string{"url": "https://127.0.0.1:1/"})
	a.Admin = target.Value{"key": secret.Copy([]byte("short"))}
	if err := target.NewWebhook(loopback).Apply(t.Context(), a); !errors.Is(err, target.ErrPermanent) {
		t.Errorf("a short key signs: %v", err)
	}
}

// TestWebhookAsDocumented runs the receiver's check of docs/targets.md on a request as it is sent.
func TestWebhookAsDocumented(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	doc, err := os.ReadFile("../../../docs/targets.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```python\n")
	snippet, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/targets.md has no Python block")
	}
	var headers http.Header
	var body []byte
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		headers = r.Header
		body, _ = io.ReadAll(r.Body) // what is missing fails below
	}))
	defer server.Close()
	config := map[string]string{"url": server.URL + "/rotate?which=one", "ca": certificate(server)}
	if err := target.NewWebhook(loopback).Apply(t.Context(), hookAttempt(config)); err != nil {
		t.Fatal(err)
	}
	genuine := func(url string, body []byte, change ...string) string {
		flat := map[string]string{}
		for name := range headers {
			flat[name] = headers.Get(name)
		}
		for i := 0; i < len(change); i += 2 {
			flat[change[i]] = change[i+1]
		}
		input, err := json.Marshal(map[string]any{"url": url, "body": body, "headers": flat, "key": hookKey})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(python, "-c", snippet+`
import email.message, json, sys
i = json.load(sys.stdin)
headers = email.message.Message()
for name, value in i["headers"].items():
    headers[name] = value
print(genuine(i["key"].encode(), i["url"], headers, base64.b64decode(i["body"])))
`)
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	url := config["url"]
	if got := genuine(url, body); got != "True" {
		t.Fatalf("a genuine request: %s", got)
	}
	if got := genuine(url, append([]byte(" "), body...)); got != "False" {
		t.Errorf("another body: %s", got)
	}
	if got := genuine(server.URL+"/elsewhere", body); got != "False" {
		t.Errorf("another URL: %s", got)
	}
	if got := genuine(url, body, "Hizo-Action", "retire"); got != "False" {
		t.Errorf("another action: %s", got)
	}
}
