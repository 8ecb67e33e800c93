package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// raw reaches past the seal into the module that this process has initialised.
func raw(t *testing.T, token softhsm.Token) (*p11.Ctx, uint) {
	t.Helper()
	ctx := p11.New(token.Module)
	if ctx == nil {
		t.Fatal("module does not load")
	}
	t.Cleanup(ctx.Destroy)
	if err := ctx.Initialize(); err != p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatalf("the module was not initialised by a seal: %v", err)
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && info.SerialNumber == token.Serial {
			return ctx, slot
		}
	}
	t.Fatalf("token %s not found", token.Serial)
	return nil, 0
}

func session(t *testing.T, ctx *p11.Ctx, slot uint) p11.SessionHandle {
	t.Helper()
	s, err := ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func find(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, label string) []p11.ObjectHandle {
	t.Helper()
	if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, label)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := ctx.FindObjects(s, 10)
	if err = errors.Join(err, ctx.FindObjectsFinal(s)); err != nil {
		t.Fatal(err)
	}
	return found
}

// plant makes an AES key as somebody else would.
func plant(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, label string, extractable, sensitive bool) {
	t.Helper()
	_, err := ctx.GenerateKey(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, label), p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, extractable), p11.NewAttribute(p11.CKA_SENSITIVE, sensitive),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: got error %v, want %v", what, err, target)
		}
	}
}

// used makes a seal with one key and one ciphertext, and returns a check that both still work.
func used(t *testing.T, cfg pkcs11.Config) (*pkcs11.Seal, func(t *testing.T)) {
	t.Helper()
	s := open(t, cfg)
	if err := s.CreateKey(t.Context(), "share-1"); err != nil {
		t.Fatal(err)
	}
	b, err := s.Wrap(t.Context(), "share-1", []byte("share"), []byte("node"))
	if err != nil {
		t.Fatal(err)
	}
	return s, func(t *testing.T) {
		t.Helper()
		if got, err := s.Unwrap(t.Context(), "share-1", b, []byte("node")); err != nil || string(got) != "share" {
			t.Errorf("unwrap: %q, %v", got, err)
		}
		if _, err := s.Wrap(t.Context(), "share-1", []byte("x"), nil); err != nil {
			t.Errorf("wrap: %v", err)
		}
		digest := make([]byte, 32)
		sig, err := s.Identity().Sign(rand.Reader, digest, crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(s.Identity().Public().(*ecdsa.PublicKey), digest, sig) {
			t.Errorf("sign: %v", err)
		}
		if err := s.Healthy(t.Context()); err != nil {
			t.Errorf("healthy: %v", err)
		}
		if keys, err := s.Keys(t.Context()); err != nil || !slices.Equal(keys, []seal.Handle{"share-1"}) {
			t.Errorf("keys: %v, %v", keys, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	tokens := provision(t, "one", "two", "twin")
	twin := provisionTwin(t, tokens[2])
	good := config(tokens[0])
	pin := func(content string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, err := os.ReadFile(tokens[0].PINFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*pkcs11.Config)
		want   error
	}{
		"wrong PIN":            {func(c *pkcs11.Config) { c.PINFile = pin("not the pin", 0o600) }, seal.ErrPIN},
		"PIN of another token": {func(c *pkcs11.Config) { c.PINFile = tokens[1].PINFile }, seal.ErrPIN},
		"empty PIN":            {func(c *pkcs11.Config) { c.PINFile = pin("\n", 0o600) }, seal.ErrPIN},
		"PIN for the group":    {func(c *pkcs11.Config) { c.PINFile = pin(string(right), 0o640) }, seal.ErrPermissions},
		"PIN for everybody":    {func(c *pkcs11.Config) { c.PINFile = pin(string(right), 0o604) }, seal.ErrPermissions},
		"no PIN file":          {func(c *pkcs11.Config) { c.PINFile += ".none" }, fs.ErrNotExist},
		"PIN file a directory": {func(c *pkcs11.Config) { c.PINFile = t.TempDir() }, seal.ErrPermissions},
		"no such label":        {func(c *pkcs11.Config) { c.TokenLabel = "none" }, seal.ErrNoToken},
		"part of a label":      {func(c *pkcs11.Config) { c.TokenLabel = "on" }, seal.ErrNoToken},
		"no such serial":       {func(c *pkcs11.Config) { c.TokenLabel, c.TokenSerial = "", "0123456789abcdef" }, seal.ErrNoToken},
		"serial of another":    {func(c *pkcs11.Config) { c.TokenSerial = tokens[1].Serial }, seal.ErrNoToken},
		"label twice":          {func(c *pkcs11.Config) { c.TokenLabel, c.PINFile = "twin", tokens[2].PINFile }, seal.ErrAmbiguous},
		"no such module":       {func(c *pkcs11.Config) { c.Module = "/none.so" }, seal.ErrDevice},
		"no module":            {func(c *pkcs11.Config) { c.Module = "" }, pkcs11.ErrConfig},
		"no token":             {func(c *pkcs11.Config) { c.TokenLabel = "" }, pkcs11.ErrConfig},
		"no PIN":               {func(c *pkcs11.Config) { c.PINFile = "" }, pkcs11.ErrConfig},
		"one session":          {func(c *pkcs11.Config) { c.MaxSessions = 1 }, pkcs11.ErrConfig},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			s, err := pkcs11.Open(cfg)
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			want(t, "open", err, c.want)
			if strings.Contains(err.Error(), strings.TrimSpace(string(right))) {
				t.Error("the error shows the PIN")
			}
		})
	}
	t.Run("and still opens", func(t *testing.T) { used(t, good) })
	t.Run("serial tells twins apart", func(t *testing.T) {
		cfg := config(tokens[2])
		cfg.TokenSerial = tokens[2].Serial
		_, check := used(t, cfg)
		check(t)
		if twin == tokens[2].Serial {
			t.Fatal("the twins have one serial")
		}
	})
	t.Run("serial alone", func(t *testing.T) {
		cfg := config(tokens[1])
		cfg.TokenLabel, cfg.TokenSerial = "", tokens[1].Serial
		_, check := used(t, cfg)
		check(t)
	})
}

// provisionTwin makes a second token of the same label.
func provisionTwin(t *testing.T, token softhsm.Token) string {
	t.Helper()
	ctx := p11.New(token.Module)
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer ctx.Destroy()
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctx.InitToken(slots[len(slots)-1], "so-pin", token.Label); err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := ctx.GetTokenInfo(slot); err == nil && strings.TrimSpace(info.Label) == token.Label && info.SerialNumber != token.Serial {
			return info.SerialNumber
		}
	}
	t.Fatal("no twin")
	return ""
}

func TestPINFromDescriptor(t *testing.T) {
	token := provision(t, "hizo")[0]
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(token)
	cfg.PINFile = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(cfg.PINFile, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(cfg.PINFile, pin, 0) }()
	_, check := used(t, cfg)
	check(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestKeysCannotLeave(t *testing.T) {
	token := provision(t, "hizo")[0]
	used(t, config(token))
	ctx, slot := raw(t, token)
	s := session(t, ctx, slot)
	for _, label := range []string{"hizo/key/share-1", "hizo/identity"} {
		found := find(t, ctx, s, label)
		if len(found) == 0 {
			t.Fatalf("no object %s", label)
		}
		for _, o := range found {
			class, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, 0)})
			if err != nil {
				t.Fatal(err)
			}
			if class[0].Value[0] == p11.CKO_PUBLIC_KEY {
				continue
			}
			secretPart := uint(p11.CKA_VALUE)
			if _, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(secretPart, nil)}); err != p11.Error(p11.CKR_ATTRIBUTE_SENSITIVE) {
				t.Errorf("%s: reading its value: %v", label, err)
			}
			got, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{
				p11.NewAttribute(p11.CKA_EXTRACTABLE, nil), p11.NewAttribute(p11.CKA_NEVER_EXTRACTABLE, nil),
				p11.NewAttribute(p11.CKA_SENSITIVE, nil), p11.NewAttribute(p11.CKA_ALWAYS_SENSITIVE, nil), p11.NewAttribute(p11.CKA_PRIVATE, nil),
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range []byte{0, 1, 1, 1, 1} {
				if got[i].Value[0] != w {
					t.Errorf("%s: attribute %#x is %d, want %d", label, got[i].Type, got[i].Value[0], w)
				}
			}
		}
	}
}

func TestRefusesKeysThatCouldLeave(t *testing.T) {
	token := provision(t, "hizo")[0]
	s := open(t, config(token))
	ctx, slot := raw(t, token)
	session := session(t, ctx, slot)
	plant(t, ctx, session, "hizo/key/extractable", true, true)
	plant(t, ctx, session, "hizo/key/readable", false, false)
	plant(t, ctx, session, "hizo/key/twice", false, true)
	plant(t, ctx, session, "hizo/key/twice", false, true)
	for h, target := range map[seal.Handle]error{
		"extractable": seal.ErrExtractable, "readable": seal.ErrExtractable, "twice": seal.ErrAmbiguous,
	} {
		_, err := s.Wrap(t.Context(), h, []byte("x"), nil)
		want(t, "wrap with "+string(h), err, target)
		_, err = s.Unwrap(t.Context(), h, make([]byte, 64), nil)
		want(t, "unwrap with "+string(h), err, target)
		want(t, "create "+string(h), s.CreateKey(t.Context(), h), seal.ErrKeyExists)
		if err := s.DestroyKey(t.Context(), h); err != nil {
			t.Errorf("destroy %s: %v", h, err)
		}
	}
	if keys, err := s.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys left: %v, %v", keys, err)
	}
}

func TestRefusesIdentityThatCouldLeave(t *testing.T) {
	token := provision(t, "hizo")[0]
	cfg := config(token)
	other := cfg
	other.KeyPrefix = "other/"
	open(t, other) // initialises the module
	ctx, slot := raw(t, token)
	s := session(t, ctx, slot)
	curve := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // OID of P-256
	_, _, err := ctx.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*p11.Attribute{
			p11.NewAttribute(p11.CKA_EC_PARAMS, curve), p11.NewAttribute(p11.CKA_TOKEN, true),
			p11.NewAttribute(p11.CKA_ID, "id"), p11.NewAttribute(p11.CKA_LABEL, "hizo/identity"), p11.NewAttribute(p11.CKA_VERIFY, true),
		},
		[]*p11.Attribute{
			p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, "id"), p11.NewAttribute(p11.CKA_LABEL, "hizo/identity"),
			p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
		})
	if err != nil {
		t.Fatal(err)
	}
	_, err = pkcs11.Open(cfg)
	want(t, "open", err, seal.ErrExtractable)
}

func TestPrefixesAreSeparate(t *testing.T) {
	token := provision(t, "hizo")[0]
	a, check := used(t, config(token))
	cfg := config(token)
	cfg.KeyPrefix = "node-2/"
	b := open(t, cfg)
	if a.Identity().Public().(*ecdsa.PublicKey).Equal(b.Identity().Public()) {
		t.Error("two prefixes have one identity")
	}
	if keys, err := b.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys of the other prefix: %v, %v", keys, err)
	}
	if err := b.DestroyKey(t.Context(), "share-1"); err != nil {
		t.Fatal(err)
	}
	check(t)
}

func TestLostSessions(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, check := used(t, config(token))
	ctx, slot := raw(t, token)
	for name, lose := range map[string]func() error{
		"all sessions closed": func() error { return ctx.CloseAllSessions(slot) },
		"logged out":          func() error { return errors.Join(ctx.Logout(session(t, ctx, slot))) },
	} {
		// Each operation is the first to notice once.
		for op, f := range map[string]func() error{
			"check": func() error { return nil },
			"keys": func() error {
				keys, err := s.Keys(t.Context())
				if err == nil && len(keys) != 1 {
					t.Errorf("keys %v", keys)
				}
				return err
			},
			"healthy": func() error { return s.Healthy(t.Context()) },
			"wrap":    func() error { _, err := s.Wrap(t.Context(), "share-1", []byte("x"), nil); return err },
			"sign": func() error {
				_, err := s.Identity().Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
				return err
			},
			"destroy": func() error { return s.DestroyKey(t.Context(), "none") },
			"create": func() error {
				return errors.Join(s.CreateKey(t.Context(), "new"), s.DestroyKey(t.Context(), "new"))
			},
		} {
			t.Run(name+", "+op, func(t *testing.T) {
				if err := lose(); err != nil {
					t.Fatal(err)
				}
				if err := f(); err != nil {
					t.Errorf("%v", err)
				}
				check(t)
			})
		}
	}
}

// The module itself goes, as a driver that restarts does.
func TestLostModule(t *testing.T) {
	token := provision(t, "hizo")[0]
	_, check := used(t, config(token))
	ctx, _ := raw(t, token)
	if err := ctx.Finalize(); err != nil {
		t.Fatal(err)
	}
	check(t)
}

func TestLostToken(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, check := used(t, config(token))
	ctx, slot := raw(t, token)
	tokens := filepath.Join(filepath.Dir(token.Conf), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ctx.CloseAllSessions(slot); err != nil {
		t.Fatal(err)
	}
	for range 3 { // nothing gets worse by trying
		_, err := s.Unwrap(t.Context(), "share-1", append([]byte{seal.Format}, make([]byte, 64)...), nil)
		want(t, "unwrap", err, seal.ErrDevice)
		_, err = s.Wrap(t.Context(), "share-1", []byte("x"), nil)
		want(t, "wrap", err, seal.ErrDevice)
		_, err = s.Identity().Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		want(t, "sign", err, seal.ErrDevice)
		want(t, "healthy", s.Healthy(t.Context()), seal.ErrDevice, seal.ErrNoToken)
		want(t, "destroy", s.DestroyKey(t.Context(), "share-1"), seal.ErrDevice)
	}
	if err := os.Remove(tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	check(t)
}

// While a token is away, somebody puts another one of the same label in its place.
func TestExchangedToken(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, _ := used(t, config(token))
	ctx, slot := raw(t, token)
	tokens := filepath.Join(filepath.Dir(token.Conf), "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	if err := ctx.CloseAllSessions(slot); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, "healthy", s.Healthy(t.Context()), seal.ErrDevice) // lets go of the module
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	other, err := softhsm.Provision(filepath.Dir(token.Conf), "hizo")
	if err != nil {
		t.Fatal(err)
	}
	if other.Serial == token.Serial {
		t.Fatal("the same token again")
	}
	if now, err := os.ReadFile(other.PINFile); err != nil || string(now) == string(pin) {
		t.Fatal("the same PIN again", err)
	}
	want(t, "another PIN", s.Healthy(t.Context()), seal.ErrPIN)
	// The PIN is not tried again, not even when the right token is back: it could be the last attempt.
	if err := errors.Join(os.RemoveAll(tokens), os.Rename(tokens+".away", tokens)); err != nil {
		t.Fatal(err)
	}
	want(t, "afterwards", s.Healthy(t.Context()), seal.ErrPIN)
}

// The identity key is destroyed behind our back.
func TestLostIdentity(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, _ := used(t, config(token))
	ctx, slot := raw(t, token)
	session := session(t, ctx, slot)
	for _, o := range find(t, ctx, session, "hizo/identity") {
		if err := ctx.DestroyObject(session, o); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "identity gone", s.Healthy(t.Context()), seal.ErrDevice, seal.ErrIdentity)

	again := open(t, config(token)) // a restart makes a new identity
	if again.Identity().Public().(*ecdsa.PublicKey).Equal(s.Identity().Public()) {
		t.Error("the same identity again")
	}
	want(t, "the old seal", s.Healthy(t.Context()), seal.ErrIdentity)
	if err := again.Healthy(t.Context()); err != nil {
		t.Errorf("the new seal: %v", err)
	}
}

func TestReplacedIdentity(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, _ := used(t, config(token))
	ctx, slot := raw(t, token)
	session := session(t, ctx, slot)
	for _, o := range find(t, ctx, session, "hizo/identity") {
		if err := ctx.DestroyObject(session, o); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, config(token))
	if err := ctx.CloseAllSessions(slot); err != nil {
		t.Fatal(err)
	}
	want(t, "the old seal", s.Healthy(t.Context()), seal.ErrIdentity)
	if err := again.Healthy(t.Context()); err != nil {
		t.Errorf("the new seal: %v", err)
	}
}

// crypto11 panics when Seal fails in the HSM; and a key destroyed behind our back is a key that is missing.
func TestKeyDestroyedElsewhere(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, _ := used(t, config(token))
	ctx, slot := raw(t, token)
	session := session(t, ctx, slot)
	for _, o := range find(t, ctx, session, "hizo/key/share-1") {
		if err := ctx.DestroyObject(session, o); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Wrap(t.Context(), "share-1", []byte("x"), nil)
	want(t, "wrap", err, seal.ErrNoKey)
	_, err = s.Unwrap(t.Context(), "share-1", make([]byte, 64), nil)
	want(t, "unwrap", err, seal.ErrNoKey)
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("healthy: %v", err)
	}
}

// Several callers notice at once. The sessions go between calls and not under them: SoftHSM frees a
// session that another thread still uses, and the process dies in C_EncryptInit.
func TestConcurrentLoss(t *testing.T) {
	token := provision(t, "hizo")[0]
	s, check := used(t, config(token))
	ctx, slot := raw(t, token)
	var wg sync.WaitGroup
	var inModule sync.RWMutex
	for range 4 {
		wg.Go(func() {
			for range 20 {
				inModule.RLock()
				if _, err := s.Wrap(t.Context(), "share-1", []byte("x"), nil); err != nil {
					t.Errorf("wrap: %v", err)
				}
				inModule.RUnlock()
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			inModule.Lock()
			if err := ctx.CloseAllSessions(slot); err != nil && err != p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED) {
				t.Errorf("close all sessions: %v", err)
			}
			inModule.Unlock()
		}
	})
	wg.Wait()
	check(t)
}
