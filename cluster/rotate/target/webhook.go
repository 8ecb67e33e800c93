package target

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Webhook is what a node's own file says about webhooks.
type Webhook struct {
	Allow   []netip.Prefix  // addresses that are allowed although guard.go refuses them
	Cluster func() []string // hosts of the members: names or addresses, without ports
}

// webhook asks somebody else to change a value: one POST over HTTPS for each step, signed with a key that both have
// (signature.go). The receiver keeps what Target promises; a step that may have been lost comes again with the same
// attempt and the same value. What he answers beside the status is not read.
//
//	2xx                  done
//	401, 403             again later: the key may be rotating as well
//	408, 425, 429, 5xx   again later
//	anything else        it will not get better by itself
type webhook struct{ guard guard }

// NewWebhook makes the target of kind "webhook".
func NewWebhook(w Webhook) Target { return webhook{guard{w.Allow, w.Cluster}} }

type hookConfig struct {
	url      *url.URL
	fields   fields
	length   int
	actions  []string
	sendOld  bool
	timeout  time.Duration
	roots    *x509.CertPool
	hostname string
}

var hookActions = []string{"apply", "verify", "retire", "fence"}

func parseWebhook(config map[string]string) (hookConfig, error) {
	o := read(config)
	c := hookConfig{
		fields: o.fields(), length: o.length(), actions: o.list("actions"), sendOld: o.choice("send_old", "no", "yes") == "yes",
		timeout: time.Duration(o.number("timeout_seconds", 15, 1, 120)) * time.Second, hostname: o.text("server_name", ""),
	}
	text := o.text("url", "")
	u, err := url.Parse(text)
	switch {
	case text == "":
		o.fail("option url is missing")
	case err != nil: // whose text could repeat a password in the URL
		o.fail("option url is not a URL")
	case u.Scheme != "https":
		o.fail("option url does not begin with https://")
	case u.User != nil:
		o.fail("option url holds a user: options hold no secrets, and requests are signed")
	case u.Hostname() == "" || u.Fragment != "" || u.Opaque != "":
		o.fail("option url has the form https://host/path")
	}
	c.url = u
	if c.actions == nil {
		c.actions = hookActions
	}
	for _, a := range c.actions {
		if !slices.Contains(hookActions, a) {
			o.fail("option actions: %q is none of %s", a, strings.Join(hookActions, ", "))
		}
	}
	if !slices.Contains(c.actions, "apply") {
		o.fail("option actions: without apply nothing would change")
	}
	if ca := o.text("ca", ""); ca != "" {
		c.roots = x509.NewCertPool()
		if !c.roots.AppendCertsFromPEM([]byte(ca)) {
			o.fail("option ca holds no PEM certificate")
		}
	}
	return c, o.done()
}

// Check refuses addresses that are never dialled. What a name stands for is looked at when it is dialled.
func (w webhook) Check(config map[string]string) error {
	c, err := parseWebhook(config)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(c.url.Hostname()); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := w.guard.check(ctx, a); err != nil {
			return fmt.Errorf("option url: %w; rotation.webhook_allow in the node's own configuration can allow it", err)
		}
	}
	return nil
}

func (webhook) Stage(_ context.Context, a Attempt) (Value, error) {
	c, err := parseWebhook(a.Config)
	if err != nil {
		return nil, step{"webhook", "stage"}.permanent("%v", err)
	}
	v := c.fields.next(a.Old, string(a.Old[c.fields.username].Reveal()), c.length)
	if v[c.fields.username].Len() == 0 {
		delete(v, c.fields.username)
	}
	return v, nil
}

func (w webhook) Apply(ctx context.Context, a Attempt) error  { return w.post(ctx, a, "apply") }
func (w webhook) Verify(ctx context.Context, a Attempt) error { return w.post(ctx, a, "verify") }
func (w webhook) Retire(ctx context.Context, a Attempt) error { return w.post(ctx, a, "retire") }
func (w webhook) Fence(ctx context.Context, a Attempt) error  { return w.post(ctx, a, "fence") }

// hookBody is what is sent. Values are base64, because fields may hold any bytes.
type hookBody struct {
	Attempt string            `json:"attempt"`
	Action  string            `json:"action"`
	Vault   string            `json:"vault"`
	Path    string            `json:"path"`
	New     map[string]string `json:"new,omitempty"`
	Old     map[string]string `json:"old,omitempty"` // with send_old=yes
}

func encoded(v Value) map[string]string {
	out := make(map[string]string, len(v))
	for name, b := range v {
		out[name] = base64.StdEncoding.EncodeToString(b.Reveal())
	}
	return out
}

var keyIDText = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func (w webhook) post(ctx context.Context, a Attempt, action string) error {
	s := step{"webhook", action}
	c, err := parseWebhook(a.Config)
	if err != nil {
		return s.permanent("%v", err)
	}
	if !slices.Contains(c.actions, action) {
		return nil
	}
	key, keyID := a.Admin["key"], string(a.Admin["keyid"].Reveal())
	if keyID == "" {
		keyID = "hizo"
	}
	if key.Len() < 16 || !keyIDText.MatchString(keyID) {
		return s.permanent("requests are signed: set option admin to a secret with the field key, of at least 16 bytes (and keyid, if the receiver has several)")
	}
	id := hex.EncodeToString(a.ID[:])
	message := hookBody{Attempt: id, Action: action, Vault: a.Vault, Path: a.Path, New: encoded(a.New)}
	if c.sendOld {
		message.Old = encoded(a.Old)
	}
	body, err := json.Marshal(message)
	if err != nil {
		return s.permanent("the request does not encode")
	}
	defer clear(body)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return s.permanent("option url does not make a request")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "hizo")
	r.Header.Set("Hizo-Attempt", id)
	r.Header.Set("Hizo-Action", action)
	r.Header.Set("Idempotency-Key", id+"-"+action)
	signRequest(r, body, key.Reveal(), keyID, time.Now())

	transport := w.transport(c)
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(r)
	if err != nil {
		return hookError(ctx, s, c.url, err)
	}
	_ = response.Body.Close() // what it says could repeat a value
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return s.passing(errRefused, "%s does not accept the signature (status %d): do both sides have the same key?", c.url.Host, code)
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return s.passing(nil, "%s answers with status %d", c.url.Host, code)
	case code >= 300 && code < 400:
		return s.permanent("%s answers with status %d: redirections are not followed, set option url to where it points", c.url.Host, code)
	default:
		return s.permanent("%s answers with status %d", c.url.Host, code)
	}
}

// transport makes one connection, to an address that the guard has seen; no proxy of the environment, no HTTP/2, and
// bounded headers.
func (w webhook) transport(c hookConfig) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, ControlContext: w.guard.control}
	return &http.Transport{
		Proxy: nil, DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots, ServerName: c.hostname},
		TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 16 << 10,
	}
}

func hookError(ctx context.Context, s step, u *url.URL, err error) error {
	port := 443
	if p, err := net.LookupPort("tcp", u.Port()); err == nil && u.Port() != "" {
		port = p
	}
	if errors.Is(err, errGuarded) {
		// Nothing was sent, and nothing can be taken back either: the attempt waits for another url, or for the node's file.
		return s.passing(nil, "%s has an address that this node does not send requests to; rotation.webhook_allow in its own configuration can allow it", u.Host)
	}
	return s.network(ctx, address{host: u.Hostname(), port: port}, err)
}
