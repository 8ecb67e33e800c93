package pkcs11

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/ThalesGroup/crypto11"
	p11 "github.com/miekg/pkcs11"

	"github.com/hizo/hizo/crypto/seal"
)

const identityLabel = "identity"

// connection is one crypto11 context with the handles found in it. Handles die with their session, so
// after any device error the whole connection is thrown away.
type connection struct {
	ctx      *crypto11.Context
	prefix   string
	identity crypto11.Signer

	mu    sync.Mutex
	aeads map[seal.Handle]cipher.AEAD
}

// initMu serialises the initialisation of PKCS#11 modules, which is state of the process: C_Initialize
// succeeds once per module until C_Finalize.
var initMu sync.Mutex

// connect logs in and finds the identity key. With create set, it makes one where there is none.
func connect(cfg Config, pin string, create bool) (_ *connection, err error) {
	initMu.Lock()
	defer initMu.Unlock()
	serial, err := findToken(cfg)
	if err != nil {
		return nil, err
	}
	c11 := &crypto11.Config{
		Path: cfg.Module, Pin: pin, MaxSessions: cfg.MaxSessions, PoolWaitTimeout: cfg.Timeout,
		GCMIVLength: seal.NonceSize, // crypto11's default is 16, which is not what NIST SP 800-38D is about
	}
	if serial != "" {
		c11.TokenSerial = serial
	} else {
		c11.TokenLabel = cfg.TokenLabel
	}
	ctx, err := crypto11.Configure(c11)
	if err != nil {
		return nil, classify(err)
	}
	c := &connection{ctx: ctx, prefix: cfg.KeyPrefix, aeads: make(map[seal.Handle]cipher.AEAD)}
	if err := c.openIdentity(create); err != nil {
		_ = ctx.Close() // always nil; the first error is the one to act on
		return nil, err
	}
	return c, nil
}

// findToken looks for exactly one token before crypto11 takes the first that matches. It returns the
// token's serial number: slots are renumbered at will, labels repeat.
func findToken(cfg Config) (string, error) {
	module := p11.New(cfg.Module)
	if module == nil {
		return "", fmt.Errorf("%w (cannot load module %s)", seal.ErrDevice, cfg.Module)
	}
	defer module.Destroy()
	switch err := module.Initialize(); err {
	case nil:
		defer func() { _ = module.Finalize() }() // crypto11 wants to initialise it itself
	case p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED):
	default:
		return "", classify(err)
	}
	slots, err := module.GetSlotList(true)
	if err != nil {
		return "", classify(err)
	}
	var serials []string
	for _, slot := range slots {
		info, err := module.GetTokenInfo(slot)
		if err != nil {
			continue // another token's trouble; ours is missed below
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 ||
			cfg.TokenLabel != "" && strings.TrimRight(info.Label, " \x00") != cfg.TokenLabel ||
			cfg.TokenSerial != "" && info.SerialNumber != cfg.TokenSerial {
			continue
		}
		serials = append(serials, info.SerialNumber)
	}
	switch len(serials) {
	case 0:
		return "", fmt.Errorf("%s: %w", cfg.token(), seal.ErrNoToken)
	case 1:
		return serials[0], nil
	}
	return "", fmt.Errorf("%s: %d tokens: %w; select one by its serial number", cfg.token(), len(serials), seal.ErrAmbiguous)
}

func (c *connection) openIdentity(create bool) error {
	label := []byte(c.prefix + identityLabel)
	pairs, err := c.ctx.FindKeyPairs(nil, label)
	if err != nil {
		return classify(err)
	}
	if len(pairs) == 0 {
		if !create {
			// Gone, or invisible because the session was lost or logged out just now: it may come back.
			return fmt.Errorf("%w (identity key %q is not to be seen: %w)", seal.ErrDevice, label, seal.ErrIdentity)
		}
		if err := c.createIdentity(label); err != nil {
			return err
		}
		if pairs, err = c.ctx.FindKeyPairs(nil, label); err != nil {
			return classify(err)
		}
	}
	if len(pairs) != 1 {
		return fmt.Errorf("identity key %q: %d keys: %w", label, len(pairs), seal.ErrAmbiguous)
	}
	if public, ok := pairs[0].Public().(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return fmt.Errorf("identity key %q is not a P-256 key: %w", label, seal.ErrIdentity)
	}
	if err := c.assertSealed(pairs[0]); err != nil {
		return fmt.Errorf("identity key %q: %w", label, err)
	}
	c.identity = pairs[0]
	return nil
}

func (c *connection) createIdentity(label []byte) error {
	id := make([]byte, 16)
	rand.Read(id)
	public, err := crypto11.NewAttributeSetWithIDAndLabel(id, label)
	if err != nil {
		return fmt.Errorf("identity attributes: %w", err)
	}
	private := public.Copy()
	if err := set(private, true, crypto11.CkaPrivate, crypto11.CkaSensitive, crypto11.CkaSign); err != nil {
		return err
	}
	if err := set(private, false, crypto11.CkaExtractable, crypto11.CkaDecrypt, crypto11.CkaUnwrap, crypto11.CkaDerive); err != nil {
		return err
	}
	_, err = c.ctx.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P256())
	return classify(err)
}

func set(attrs crypto11.AttributeSet, value bool, types ...crypto11.AttributeType) error {
	for _, t := range types {
		if err := attrs.Set(t, value); err != nil {
			return fmt.Errorf("key attributes: %w", err)
		}
	}
	return nil
}

// assertSealed reads back from the token that a key cannot leave it.
func (c *connection) assertSealed(key any) error {
	attrs, err := c.ctx.GetAttributes(key, []crypto11.AttributeType{crypto11.CkaExtractable, crypto11.CkaSensitive})
	if err != nil {
		return classify(err)
	}
	if !isBool(attrs[crypto11.CkaExtractable], 0) || !isBool(attrs[crypto11.CkaSensitive], 1) {
		return seal.ErrExtractable
	}
	// A key that was ever extractable may have been. Not all tokens keep this record.
	if never, err := c.ctx.GetAttribute(key, crypto11.CkaNeverExtractable); err == nil && len(never.Value) == 1 && never.Value[0] == 0 {
		return seal.ErrExtractable
	}
	return nil
}

func isBool(a *crypto11.Attribute, want byte) bool {
	return a != nil && len(a.Value) == 1 && a.Value[0] == want
}

func (c *connection) label(h seal.Handle) []byte { return []byte(c.prefix + "key/" + string(h)) }

func (c *connection) find(h seal.Handle) ([]*crypto11.SecretKey, error) {
	keys, err := c.ctx.FindKeys(nil, c.label(h))
	if err != nil {
		return nil, classify(err)
	}
	if len(keys) == 0 {
		// Logged out behind our back, private objects are invisible rather than refused. Looked for again
		// because the session may have been logged in again, by another connection, before alive asked.
		if err := c.alive(); err != nil {
			return nil, err
		}
		if keys, err = c.ctx.FindKeys(nil, c.label(h)); err != nil {
			return nil, classify(err)
		}
	}
	return keys, nil
}

// alive asks the token for random bytes and for a private object.
func (c *connection) alive() error {
	r, err := c.ctx.NewRandomReader()
	if err != nil {
		return classify(err)
	}
	var b [16]byte
	if _, err := r.Read(b[:]); err != nil {
		return classify(err)
	}
	pairs, err := c.ctx.FindKeyPairs(nil, []byte(c.prefix+identityLabel))
	if err != nil {
		return classify(err)
	}
	if len(pairs) == 0 {
		return fmt.Errorf("%w (the session no longer sees private objects)", seal.ErrDevice)
	}
	return nil
}

// aead returns a key ready for use, asserted and remembered when it is first found.
func (c *connection) aead(h seal.Handle) (cipher.AEAD, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.aeads[h]; ok {
		return a, nil
	}
	keys, err := c.find(h)
	if err != nil {
		return nil, err
	}
	switch len(keys) {
	case 0:
		return nil, fmt.Errorf("key %s: %w", h, seal.ErrNoKey)
	case 1:
	default:
		return nil, fmt.Errorf("key %s: %d keys: %w", h, len(keys), seal.ErrAmbiguous)
	}
	if err := c.assertSealed(keys[0]); err != nil {
		return nil, fmt.Errorf("key %s: %w", h, err)
	}
	a, err := keys[0].NewGCM()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", h, classify(err))
	}
	c.aeads[h] = a
	return a, nil
}

func (c *connection) forget(h seal.Handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.aeads, h)
}

func (c *connection) create(h seal.Handle) error {
	keys, err := c.find(h)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		return fmt.Errorf("create key %s: %w", h, seal.ErrKeyExists)
	}
	attrs, err := crypto11.NewAttributeSetWithIDAndLabel(c.label(h), c.label(h))
	if err != nil {
		return fmt.Errorf("key attributes: %w", err)
	}
	if err := set(attrs, true, crypto11.CkaPrivate, crypto11.CkaSensitive, crypto11.CkaEncrypt, crypto11.CkaDecrypt); err != nil {
		return err
	}
	if err := set(attrs, false, crypto11.CkaExtractable, crypto11.CkaSign, crypto11.CkaVerify, crypto11.CkaWrap, crypto11.CkaUnwrap, crypto11.CkaDerive); err != nil {
		return err
	}
	key, err := c.ctx.GenerateSecretKeyWithAttributes(attrs, 256, crypto11.CipherAES)
	if err != nil {
		return &unknownOutcomeError{h, classify(err)}
	}
	if err := c.assertSealed(key); errors.Is(err, seal.ErrDevice) {
		return &unknownOutcomeError{h, err}
	} else if err != nil {
		return fmt.Errorf("create key %s: %w", h, joinDelete(err, key))
	}
	return nil
}

// unknownOutcomeError says that the device failed while it made a key.
type unknownOutcomeError struct {
	handle seal.Handle
	err    error
}

func (e *unknownOutcomeError) Error() string {
	return fmt.Sprintf("create key %s: %v; whether the key exists now is unknown", e.handle, e.err)
}

func (e *unknownOutcomeError) Unwrap() error { return e.err }

func joinDelete(err error, key *crypto11.SecretKey) error {
	if del := key.Delete(); del != nil {
		return fmt.Errorf("%w; deleting it failed as well: %w", err, del)
	}
	return err
}

func (c *connection) destroy(h seal.Handle) error {
	defer c.forget(h)
	keys, err := c.find(h)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := k.Delete(); err != nil {
			return fmt.Errorf("destroy key %s: %w", h, classify(err))
		}
	}
	return nil
}

func (c *connection) list() ([]seal.Handle, error) {
	attrs := crypto11.NewAttributeSet()
	if err := attrs.Set(crypto11.CkaKeyType, p11.CKK_AES); err != nil {
		return nil, fmt.Errorf("key attributes: %w", err)
	}
	keys, err := c.ctx.FindKeysWithAttributes(attrs)
	if err != nil {
		return nil, classify(err)
	}
	if len(keys) == 0 {
		if err := c.alive(); err != nil {
			return nil, err
		}
	}
	var handles []seal.Handle
	for _, k := range keys {
		label, err := c.ctx.GetAttribute(k, crypto11.CkaLabel)
		if err != nil {
			return nil, classify(err)
		}
		if name, ok := bytes.CutPrefix(label.Value, []byte(c.prefix+"key/")); ok && seal.Handle(name).Check() == nil {
			handles = append(handles, seal.Handle(name))
		}
	}
	return handles, nil
}

// sealWith turns the panic of crypto11's AEAD on any error of the HSM into that error.
func sealWith(a cipher.AEAD, nonce, plaintext, aad []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			cause, ok := r.(error)
			if !ok {
				panic(r)
			}
			err = classify(cause)
		}
	}()
	return a.Seal(nil, nonce, plaintext, aad), nil
}

func (c *connection) wrap(h seal.Handle, plaintext, aad []byte) ([]byte, error) {
	a, err := c.aead(h)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, seal.NonceSize)
	rand.Read(nonce)
	sealed, err := sealWith(a, nonce, plaintext, aad)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", h, err)
	}
	if len(sealed) != len(plaintext)+seal.TagSize {
		return nil, fmt.Errorf("key %s: %w (it answered %d bytes where GCM gives %d)", h, seal.ErrDevice, len(sealed), len(plaintext)+seal.TagSize)
	}
	out := make([]byte, 0, seal.Overhead+len(plaintext))
	out = append(out, seal.Format)
	out = append(out, nonce...)
	return append(out, sealed...), nil
}

func (c *connection) unwrap(h seal.Handle, ciphertext, aad []byte) ([]byte, error) {
	a, err := c.aead(h)
	if err != nil {
		return nil, err
	}
	if len(ciphertext) < seal.Overhead || len(ciphertext) > seal.MaxPlaintext+seal.Overhead || ciphertext[0] != seal.Format {
		return nil, fmt.Errorf("key %s: %w", h, seal.ErrAuth)
	}
	nonce, sealed := ciphertext[1:1+seal.NonceSize], ciphertext[1+seal.NonceSize:]
	plain, err := a.Open(nil, nonce, sealed, aad)
	if err == nil {
		return plain, nil
	}
	if vague(err) && works(a) {
		return nil, fmt.Errorf("key %s: %w (%w)", h, seal.ErrAuth, err)
	}
	return nil, fmt.Errorf("key %s: %w", h, classify(err))
}

// works seals and opens something of our own, to tell a bad ciphertext from a bad device.
func works(a cipher.AEAD) bool {
	nonce := make([]byte, seal.NonceSize)
	rand.Read(nonce)
	sealed, err := sealWith(a, nonce, nonce, nil)
	if err != nil {
		return false
	}
	plain, err := a.Open(nil, nonce, sealed, nil)
	return err == nil && bytes.Equal(plain, nonce)
}
