package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// How keys are fetched. Between two fetches of one issuer lies at least minInterval, whatever tokens name: unknown kids
// cost their senders, not the issuer.
const (
	fetchTimeout = 5 * time.Second  // discovery and keys together
	minInterval  = 10 * time.Second // between the beginnings of two fetches of one issuer
	freshFor     = 15 * time.Minute // then keys are fetched anew beside the logins that use them
	staleAfter   = 12 * time.Hour   // then they are not used any more: a key that the issuer withdrew must die
	maxWaiting   = 16               // logins that wait for one fetch; more are told to try again
	maxRedirects = 3
)

// Fetcher fetches key sets in the background. One serves all issuers of a server.
type Fetcher struct {
	ctx   context.Context
	stop  context.CancelFunc
	log   *slog.Logger
	clock func() time.Time

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// NewFetcher makes a Fetcher; Close ends it. clock is that of this node, not cluster time: it paces.
func NewFetcher(clock func() time.Time, log *slog.Logger) *Fetcher {
	f := &Fetcher{log: log, clock: clock}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// Close ends what is under way and waits for it.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.wg.Wait()
}

// start runs a fetch unless the Fetcher is closed.
func (f *Fetcher) start(fetch func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.wg.Go(fetch)
	}
	return !f.closed
}

// remote are the keys of an issuer that publishes them.
type remote struct {
	conf    Config
	fetcher *Fetcher
	client  *http.Client

	mu      sync.Mutex
	keys    keySet
	fetched time.Time // when keys were
	begun   time.Time // the last fetch, successful or not
	failed  bool      // the last fetch did
	flight  chan struct{}
	waiting int
}

func newRemote(c Config, f *Fetcher) (*remote, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, wrong("ca", "holds no certificate in PEM")
		}
	}
	dialer := &net.Dialer{Timeout: fetchTimeout}
	if !c.Local {
		dialer.Control = refuseLocal
	}
	return &remote{conf: c, fetcher: f, client: &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			// No proxy: it would resolve names by itself, past the check of addresses.
			DialContext: dialer.DialContext, TLSClientConfig: conf, ForceAttemptHTTP2: true, DisableKeepAlives: true,
			TLSHandshakeTimeout: fetchTimeout, ResponseHeaderTimeout: fetchTimeout, MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects || req.URL.Scheme != "https" || req.URL.Host != via[0].URL.Host {
				return errRedirect
			}
			return nil
		},
	}}, nil
}

var (
	errRedirect = errors.New("redirected to another host, or too often")
	errLocal    = errors.New("its address is of this machine or this link: an issuer there is put with --allow-local")
	errAnswer   = errors.New("its answer is not what it should be")
)

// refuseLocal looks at the address that a name has led to, so that no name leads to services that trust this machine
// or to the metadata services of clouds.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || local(at.Addr()) {
		return errLocal
	}
	return nil
}

func local(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() ||
		addr.IsLinkLocalUnicast() || addr == metadataIPv6
}

// metadataIPv6 is where a cloud serves credentials of machines over IPv6, outside the link-local range.
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

// find answers from memory where it can. What it can't answer starts a fetch, which all that wait share.
func (r *remote) find(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	for {
		keys, flight, err := r.look(kid)
		if flight == nil {
			return keys, err
		}
		select {
		case <-flight:
			r.done()
		case <-ctx.Done():
			r.done()
			return nil, context.Cause(ctx)
		}
	}
}

func (r *remote) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
}

// look returns keys, an error, or what to wait for.
func (r *remote) look(kid string) ([]jose.JSONWebKey, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.fetcher.clock()
	age := now.Sub(r.fetched)
	due := r.begun.IsZero() || now.Sub(r.begun) >= minInterval || now.Before(r.begun)
	if len(r.keys) > 0 && age < staleAfter {
		if keys := r.keys.named(kid); len(keys) > 0 {
			if age >= freshFor && due && r.flight == nil {
				r.fetch(now)
			}
			return keys, nil, nil
		}
	}
	switch {
	case r.flight == nil && !due && r.failed:
		return nil, nil, refuse(NoKeys)
	case r.flight == nil && !due:
		return nil, nil, refuse(UnknownKey)
	case r.waiting >= maxWaiting:
		return nil, nil, refuse(NoKeys)
	case r.flight == nil && !r.fetch(now):
		return nil, nil, refuse(NoKeys)
	}
	r.waiting++
	return nil, r.flight, nil
}

// fetch starts one. The lock is held.
func (r *remote) fetch(now time.Time) bool {
	flight := make(chan struct{})
	started := r.fetcher.start(func() {
		ctx, cancel := context.WithTimeout(r.fetcher.ctx, fetchTimeout)
		defer cancel()
		keys, err := r.load(ctx)
		if err != nil && r.fetcher.ctx.Err() == nil {
			r.fetcher.log.Warn("the keys of an issuer cannot be fetched", "issuer", r.conf.URL, "error", reasonOf(err))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.failed = err != nil; err == nil {
			r.keys, r.fetched = keys, now
		}
		r.flight = nil
		close(flight)
	})
	if started {
		r.begun, r.flight = now, flight
	}
	return started
}

// reasonOf keeps what foreign servers say out of logs.
func reasonOf(err error) string {
	for _, known := range []error{errRedirect, errLocal, errAnswer} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate does not verify: put the issuer with --ca if it has a CA of its own"
	}
	if e, ok := errors.AsType[*ConfigError](err); ok {
		return e.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it does not answer in time"
	}
	return "it cannot be reached"
}

func (r *remote) load(ctx context.Context) (keySet, error) {
	from := r.conf.KeysURL
	if from == "" {
		// OpenID Connect Discovery 1.0, section 4.
		data, err := r.get(ctx, strings.TrimSuffix(r.conf.URL, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return nil, err
		}
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if json.Unmarshal(data, &doc) != nil || doc.Issuer != r.conf.URL || checkURL("jwks_uri", doc.Keys) != nil {
			return nil, errAnswer
		}
		from = doc.Keys
	}
	data, err := r.get(ctx, from)
	if err != nil {
		return nil, err
	}
	return parseKeySet(data)
}

func (r *remote) get(ctx context.Context, from string) ([]byte, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, errAnswer
	}
	req := (&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"Accept": {"application/json"}}}).WithContext(ctx)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errAnswer
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxKeySet {
		return nil, errAnswer
	}
	return data, nil
}
