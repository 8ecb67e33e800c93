// Package pkcs11 is a seal over a PKCS#11 token, by crypto11.
//
// Keys are generated in the token as sensitive and not extractable, and that is read back from the token
// before a key is used. Wrapping is Encrypt by AES-256-GCM with random nonces of 12 bytes made here
// (SoftHSM has no C_WrapKey for GCM).
//
// Failure model: any error that is not known to be the caller's throws the connection away. The next
// attempt configures a new one, logs in and finds the keys again, once within the same call and then at
// every later call, so a token that comes back is used again. Two things are not tried twice: a refused
// PIN (tokens lock), and an identity key that is another one now. A call into the module that never returns cannot
// be ended; its caller gets ErrDevice when Config.Timeout or its context is over.
//
// PKCS#11 is initialised once per module and process. Several seals of one process share it, and the
// environment (SOFTHSM2_CONF) of the first; and a token to which the process is already logged in does
// not check another seal's PIN. State does not survive fork.
package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/crypto/seal"
)

// Config selects a token.
type Config struct {
	Module      string // path of the PKCS#11 library
	TokenLabel  string // label or serial number, or both, of exactly one token
	TokenSerial string
	PINFile     string // mode 0600, or a descriptor such as /dev/fd/3; read once, by Open

	// KeyPrefix begins the labels of all keys, so that nodes can share a token. Default "hizo/".
	KeyPrefix string
	// Timeout bounds one operation, the wait for a session included. Default 10 s.
	Timeout time.Duration
	// MaxSessions bounds concurrent operations. Default 8, at least 2.
	MaxSessions int
}

func (c Config) token() string {
	var by []string
	if c.TokenLabel != "" {
		by = append(by, fmt.Sprintf("label %q", c.TokenLabel))
	}
	if c.TokenSerial != "" {
		by = append(by, fmt.Sprintf("serial %q", c.TokenSerial))
	}
	return "token with " + strings.Join(by, " and ")
}

// ErrConfig says that a Config is incomplete.
var ErrConfig = errors.New("PKCS#11 configuration")

// Seal implements seal.Seal over a token.
type Seal struct {
	cfg   Config
	slots chan struct{} // bounds calls under way, hung ones included

	// objects is held for writing while a key is made or destroyed. A token does not refuse a second key
	// of one label, and SoftHSM 2.6.1 answers CKR_GENERAL_ERROR to whoever searches meanwhile.
	objects sync.RWMutex

	mu       sync.Mutex
	pin      string // crypto11 wants a string, so it can't be wiped
	conn     *connection
	closing  <-chan struct{} // open while the last connection is being closed
	fatal    error           // never connect again
	identity *signer
}

var _ seal.Seal = (*Seal)(nil)

// Open logs in to the token and makes the identity key where there is none.
// seal.ErrPermissions, ErrPIN, ErrNoToken, ErrAmbiguous, ErrExtractable, ErrDevice.
func Open(cfg Config) (*Seal, error) {
	if cfg.KeyPrefix == "" {
		cfg.KeyPrefix = "hizo/"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = 8
	}
	switch {
	case cfg.Module == "":
		return nil, fmt.Errorf("%w: the module's path is missing", ErrConfig)
	case cfg.TokenLabel == "" && cfg.TokenSerial == "":
		return nil, fmt.Errorf("%w: give the token's label or serial number", ErrConfig)
	case cfg.PINFile == "":
		return nil, fmt.Errorf("%w: the PIN file is missing", ErrConfig)
	case cfg.MaxSessions < 2 || cfg.Timeout < 0:
		return nil, fmt.Errorf("%w: at least two sessions and a positive timeout are needed", ErrConfig)
	}
	file, err := seal.ReadSecretFile(cfg.PINFile)
	if err != nil {
		return nil, fmt.Errorf("open seal: PIN: %w", err)
	}
	defer file.Wipe()
	pin := strings.TrimRight(string(file.Reveal()), "\r\n")
	if pin == "" {
		return nil, fmt.Errorf("open seal: %s is empty: %w", cfg.PINFile, seal.ErrPIN)
	}
	s := &Seal{cfg: cfg, pin: pin, slots: make(chan struct{}, cfg.MaxSessions)}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Timeout)
	defer cancel()
	err = bounded(ctx, s.slots, func() error {
		conn, err := connect(cfg, pin, true)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fatal != nil { // Open gave up on us
			closeContext(conn)
			return s.fatal
		}
		s.conn = conn
		s.identity = &signer{seal: s, public: conn.identity.Public().(*ecdsa.PublicKey)} // openIdentity checked
		return nil
	})
	if err != nil {
		s.mu.Lock()
		s.fatal = seal.ErrClosed
		s.mu.Unlock()
		return nil, fmt.Errorf("open seal: %w", err)
	}
	return s, nil
}

// bounded runs f until it ends or ctx does. f goes on unobserved then, and keeps its slot.
func bounded(ctx context.Context, slots chan struct{}, f func() error) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w (all sessions are busy: %w)", seal.ErrDevice, context.Cause(ctx))
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-slots }()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w (no answer: %w)", seal.ErrDevice, context.Cause(ctx))
	}
}

// read runs f beside others of its kind.
func (s *Seal) read(ctx context.Context, f func(*connection) error) error {
	return s.do(ctx, func(c *connection) error {
		s.objects.RLock()
		defer s.objects.RUnlock()
		return f(c)
	})
}

// write runs f, which makes or destroys keys, alone.
func (s *Seal) write(ctx context.Context, f func(*connection) error) error {
	return s.do(ctx, func(c *connection) error {
		s.objects.Lock()
		defer s.objects.Unlock()
		return f(c)
	})
}

// do runs f on a connection, and once more on a new one if the device failed, unless the outcome of the
// first run is unknown.
func (s *Seal) do(ctx context.Context, f func(*connection) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return bounded(ctx, s.slots, func() error {
		for tries := 1; ; tries++ {
			conn, err := s.connection(ctx)
			if err != nil {
				return err
			}
			if err = f(conn); !errors.Is(err, seal.ErrDevice) {
				return err
			}
			s.drop(conn)
			if _, unknown := errors.AsType[*unknownOutcomeError](err); unknown || tries == 2 || ctx.Err() != nil {
				return err
			}
		}
	})
}

// connection returns the connection, making a new one if the last was dropped.
func (s *Seal) connection(ctx context.Context) (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fatal != nil {
		return nil, s.fatal
	}
	if s.conn != nil {
		return s.conn, nil
	}
	if s.closing != nil {
		// A fresh C_Initialize needs the old context to be gone. One that hangs in the module never is.
		select {
		case <-s.closing:
			s.closing = nil
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (the last connection does not close)", seal.ErrDevice)
		}
	}
	conn, err := connect(s.cfg, s.pin, false)
	switch {
	case err == nil:
	case errors.Is(err, seal.ErrDevice):
		return nil, err
	case errors.Is(err, seal.ErrPIN) || errors.Is(err, seal.ErrIdentity) || errors.Is(err, seal.ErrExtractable):
		s.fatal = err
		return nil, err
	default: // the token is not there, or not alone: it may come back
		return nil, fmt.Errorf("%w (%w)", seal.ErrDevice, err)
	}
	if !s.identity.public.Equal(conn.identity.Public()) {
		s.fatal = fmt.Errorf("%s: %w", s.cfg.token(), seal.ErrIdentity)
		s.closing = closeContext(conn)
		return nil, s.fatal
	}
	s.conn = conn
	return conn, nil
}

// drop throws a connection away, unless another caller already did.
func (s *Seal) drop(conn *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn = nil
		s.closing = closeContext(conn)
	}
}

// closeContext closes in the background: crypto11 waits for operations under way, and then finalises the
// module if nobody else in this process uses it.
func closeContext(conn *connection) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		initMu.Lock()
		defer initMu.Unlock()
		_ = conn.ctx.Close() // always nil
	}()
	return done
}

// Kind implements seal.Seal.
func (*Seal) Kind() seal.Kind { return seal.PKCS11 }

// Identity implements seal.Seal.
func (s *Seal) Identity() crypto.Signer { return s.identity }

// CreateKey implements seal.Seal. After ErrDevice the key may exist.
func (s *Seal) CreateKey(ctx context.Context, h seal.Handle) error {
	if err := h.Check(); err != nil {
		return err
	}
	return s.write(ctx, func(c *connection) error { return c.create(h) })
}

// Wrap implements seal.Seal.
func (s *Seal) Wrap(ctx context.Context, h seal.Handle, plaintext, aad []byte) ([]byte, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	if len(plaintext) > seal.MaxPlaintext {
		return nil, fmt.Errorf("wrap: %w", seal.ErrTooLarge)
	}
	// Copied, because a call that timed out goes on reading after its caller has wiped or reused them.
	plaintext, aad = slices.Clone(plaintext), slices.Clone(aad)
	defer clear(plaintext) // a call that goes on wraps zeros, and nobody sees the result
	out := make(chan []byte, 1)
	err := s.read(ctx, func(c *connection) error {
		b, err := c.wrap(h, plaintext, aad)
		if err == nil {
			out <- b
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrap: %w", err)
	}
	return <-out, nil
}

// Unwrap implements seal.Seal.
func (s *Seal) Unwrap(ctx context.Context, h seal.Handle, ciphertext, aad []byte) ([]byte, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	ciphertext, aad = slices.Clone(ciphertext), slices.Clone(aad)
	out := make(chan []byte, 1)
	err := s.read(ctx, func(c *connection) error {
		b, err := c.unwrap(h, ciphertext, aad)
		if err == nil {
			out <- b
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	return <-out, nil
}

// DestroyKey implements seal.Seal.
func (s *Seal) DestroyKey(ctx context.Context, h seal.Handle) error {
	if err := h.Check(); err != nil {
		return err
	}
	return s.write(ctx, func(c *connection) error { return c.destroy(h) })
}

// Keys implements seal.Seal.
func (s *Seal) Keys(ctx context.Context) ([]seal.Handle, error) {
	out := make(chan []seal.Handle, 1)
	err := s.read(ctx, func(c *connection) error {
		handles, err := c.list()
		if err == nil {
			out <- handles
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return slices.Sorted(slices.Values(<-out)), nil
}

// Healthy implements seal.Seal. It reaches for the token again if it was lost.
func (s *Seal) Healthy(ctx context.Context) error {
	return s.read(ctx, (*connection).alive)
}

// Close logs out by closing all sessions. It does not wait longer than Config.Timeout for operations
// under way.
func (s *Seal) Close() error {
	s.mu.Lock()
	conn, closing := s.conn, s.closing
	s.conn, s.closing, s.fatal, s.pin = nil, nil, fmt.Errorf("%w", seal.ErrClosed), ""
	s.mu.Unlock()
	if conn != nil {
		closing = closeContext(conn)
	}
	if closing == nil {
		return nil
	}
	timer := time.NewTimer(s.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-closing:
		return nil
	case <-timer.C:
		return fmt.Errorf("close seal: %w", seal.ErrDevice)
	}
}

// signer is the identity across reconnections.
type signer struct {
	seal   *Seal
	public *ecdsa.PublicKey
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer. The token brings its own randomness.
func (s *signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := seal.CheckDigest(digest, opts); err != nil {
		return nil, err
	}
	digest = slices.Clone(digest)
	out := make(chan []byte, 1)
	err := s.seal.read(context.Background(), func(c *connection) error {
		b, err := c.identity.Sign(random, digest, opts)
		if err == nil {
			out <- b
		}
		return classify(err)
	})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return <-out, nil
}
