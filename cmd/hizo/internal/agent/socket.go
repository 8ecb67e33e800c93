package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
)

// The socket speaks HTTP/1 with JSON:
//
//	GET /v1/values                          {"generation": 3, "values": [{"name": "PW", "secret": "ml/db", "version": 7}]}
//	GET /v1/values/NAME                     {"generation": 3, "name": "PW", "value": "…", "encoding": "utf-8", "secret": …}
//	GET /v1/values/NAME?after=3&wait=60s    the same, when the generation is newer or the time is over
//
// Encoding is "base64" for bytes that are no text. Errors are {"error": "…"}. Who asks is known by the user of the
// process at the other end (SO_PEERCRED), who sees only what was allowed to that user; anything else is not found.

// Limits of the socket.
const (
	maxWait        = 5 * time.Minute
	maxHeader      = 8 << 10
	headerTimeout  = 10 * time.Second
	maxConnections = 64
)

// socket gives values to local users.
type socket struct {
	SocketConfig
	server   *http.Server
	listener net.Listener

	mu         sync.Mutex
	set        *values.Set
	generation uint64
	changed    chan struct{} // closed at the next generation
	until      time.Time     // values without a word of the cluster are served up to here; zero: no bound
}

type peerKey struct{}

// listen opens the socket. What an ended agent left in its place is removed; what somebody listens on is not.
func listen(cfg SocketConfig, log *slog.Logger) (*socket, error) {
	if conn, err := net.Dial("unix", cfg.Path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: another process listens there", cfg.Path)
	}
	if st, err := os.Lstat(cfg.Path); err == nil && st.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(cfg.Path); err != nil {
			return nil, err
		}
	}
	l, err := listenUnix(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Others must be able to connect where they are allowed something; who they are decides, not the mode.
	mode := os.FileMode(0o600)
	if slices.ContainsFunc(cfg.Allow, func(a AllowConfig) bool { return int(a.uid) != os.Getuid() }) {
		mode = 0o666
	}
	if err := os.Chmod(cfg.Path, mode); err != nil {
		l.Close()
		return nil, err
	}
	s := &socket{SocketConfig: cfg, listener: l, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/values", s.list)
	mux.HandleFunc("GET /v1/values/{name}", s.get)
	s.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			uid, err := peerUID(conn)
			if err != nil {
				return ctx // nobody, who is allowed nothing
			}
			return context.WithValue(ctx, peerKey{}, uid)
		},
	}
	go func() {
		if err := s.server.Serve(&bounded{Listener: l, free: make(chan struct{}, maxConnections)}); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the socket is closed", slog.Any("error", err))
		}
	}()
	return s, nil
}

// close ends the socket and removes it.
func (s *socket) close() { _ = s.server.Close() }

// update replaces what is served.
func (s *socket) update(set *values.Set, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = until
	if s.set != nil && len(set.Changed(s.set)) == 0 {
		s.set = set
		return
	}
	s.set = set
	s.generation++
	close(s.changed)
	s.changed = make(chan struct{})
}

// allowed are the variables of who asks.
func (s *socket) allowed(r *http.Request) []string {
	uid, ok := r.Context().Value(peerKey{}).(uint32)
	var out []string
	for _, a := range s.Allow {
		if ok && a.uid == uid {
			out = append(out, a.Variables...)
		}
	}
	return out
}

type answer struct {
	Generation uint64   `json:"generation"`
	Name       string   `json:"name,omitempty"`
	Value      *string  `json:"value,omitempty"`
	Encoding   string   `json:"encoding,omitempty"`
	Secret     string   `json:"secret,omitempty"`
	Version    uint32   `json:"version,omitempty"`
	Values     []answer `json:"values,omitempty"`
	Error      string   `json:"error,omitempty"`
}

func reply(w http.ResponseWriter, code int, a any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a) // the reader may have gone
}

func refuse(w http.ResponseWriter, code int, text string) {
	reply(w, code, map[string]string{"error": text})
}

func (s *socket) list(w http.ResponseWriter, r *http.Request) {
	names := s.allowed(r)
	s.mu.Lock()
	a := answer{Generation: s.generation}
	if s.set != nil {
		for _, v := range s.set.Values {
			if slices.Contains(names, v.Name) {
				a.Values = append(a.Values, answer{Generation: s.generation, Name: v.Name, Secret: v.Secret, Version: v.Version})
			}
		}
	}
	s.mu.Unlock()
	reply(w, http.StatusOK, a)
}

func (s *socket) get(w http.ResponseWriter, r *http.Request) {
	variable := r.PathValue("name")
	if !slices.Contains(s.allowed(r), variable) {
		refuse(w, http.StatusNotFound, "there is no such value for this user")
		return
	}
	if text := r.URL.Query().Get("after"); text != "" {
		after, err := strconv.ParseUint(text, 10, 64)
		wait, err2 := time.ParseDuration(r.URL.Query().Get("wait"))
		if err != nil || err2 != nil || wait < 0 || wait > maxWait {
			refuse(w, http.StatusBadRequest, "after is a generation, and wait a time up to 5m: ?after=3&wait=60s")
			return
		}
		s.await(r.Context(), after, wait)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil || !s.until.IsZero() && time.Now().After(s.until) {
		refuse(w, http.StatusServiceUnavailable, "the cluster has not been reached for too long: ask again")
		return
	}
	v, ok := s.set.Get(variable)
	if !ok {
		refuse(w, http.StatusNotFound, "there is no such value for this user")
		return
	}
	a := answer{Generation: s.generation, Name: v.Name, Secret: v.Secret, Version: v.Version, Encoding: "utf-8"}
	text := string(v.Bytes.Reveal())
	if !utf8.ValidString(text) {
		a.Encoding, text = "base64", base64.StdEncoding.EncodeToString(v.Bytes.Reveal())
	}
	a.Value = &text
	reply(w, http.StatusOK, a)
}

// await returns when the generation is newer, or the time or the caller has gone.
func (s *socket) await(ctx context.Context, after uint64, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		s.mu.Lock()
		newer, changed := s.generation > after, s.changed
		s.mu.Unlock()
		if newer {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// bounded takes no more connections than it may have at a time.
type bounded struct {
	net.Listener
	free chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	b.free <- struct{}{}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &counted{Conn: conn, done: sync.OnceFunc(func() { <-b.free })}, nil
}

type counted struct {
	net.Conn
	done func()
}

func (c *counted) Close() error {
	defer c.done()
	return c.Conn.Close()
}
