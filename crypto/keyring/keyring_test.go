package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/internal/golden"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
)

var cluster = [16]byte{1, 2, 3}

// store is a state of wrapped keys that counts how often it is asked.
type store struct {
	mu    sync.Mutex
	keys  []keyring.WrappedKey
	loads atomic.Int64
}

func (s *store) load(purpose string, generation uint32) (keyring.WrappedKey, error) {
	s.loads.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return keyring.Static(s.keys...)(purpose, generation)
}

var purposes = []string{
	keyring.Audit, keyring.AuditHPKE, keyring.MAC, keyring.Password, keyring.Fingerprint, keyring.CA, keyring.Gossip, keyring.Pipeline, keyring.Vault("models"),
}

// filled makes a keyring with two generations of every purpose.
func filled(t testing.TB, root keyring.Root) (*keyring.Keyring, *store) {
	t.Helper()
	s := &store{}
	kr, err := keyring.Open(root, 1, cluster, s.load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kr.Close)
	for _, p := range purposes {
		for gen := uint32(1); gen <= 2; gen++ {
			w, err := kr.Generate(p, gen)
			if err != nil {
				t.Fatal(err)
			}
			s.keys = append(s.keys, w)
		}
	}
	return kr, s
}

func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

func TestSealOpen(t *testing.T) {
	kr, s := filled(t, keyring.NewRoot())
	type place struct {
		purpose string
		gen     uint32
	}
	sealed := map[place][]byte{}
	for _, p := range purposes {
		for gen := uint32(1); gen <= 2; gen++ {
			b, err := kr.Seal(p, gen, []byte("plain"), []byte("here"))
			if err != nil {
				t.Fatal(err)
			}
			if len(b) != 5+29 {
				t.Errorf("5 bytes sealed to %d", len(b))
			}
			sealed[place{p, gen}] = b
		}
	}
	for at, b := range sealed {
		for in := range sealed {
			plain, err := kr.Open(in.purpose, in.gen, b, []byte("here"))
			if in == at {
				if err != nil || string(plain) != "plain" {
					t.Errorf("%v: %q, %v", at, plain, err)
				}
				continue
			}
			want(t, fmt.Sprintf("made for %v, opened in %v", at, in), err, keyring.ErrAuth)
		}
		_, err := kr.Open(at.purpose, at.gen, b, []byte("there"))
		want(t, "another aad", err, keyring.ErrAuth)
	}
	if n := s.loads.Load(); n != int64(len(sealed)) {
		t.Errorf("the state was asked %d times for %d keys", n, len(sealed))
	}
	kr.Forget(keyring.Audit, 1)
	if _, err := kr.Open(keyring.Audit, 1, sealed[place{keyring.Audit, 1}], []byte("here")); err != nil {
		t.Errorf("forgotten, but still in the state: %v", err)
	}
	if n := s.loads.Load(); n != int64(len(sealed))+1 {
		t.Error("a forgotten key was still there")
	}
}

func TestNoSuchKey(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	_, err := kr.Seal(keyring.Audit, 3, nil, nil)
	want(t, "generation 3", err, keyring.ErrNoKey)
	_, err = kr.Open(keyring.Vault("other"), 1, make([]byte, 64), nil)
	want(t, "another vault", err, keyring.ErrNoKey)
	_, err = kr.MAC(3, "d", nil)
	want(t, "MAC", err, keyring.ErrNoKey)
	want(t, "VerifyMAC", kr.VerifyMAC(3, "d", nil, nil), keyring.ErrNoKey)
	_, err = kr.Fingerprint(3, "d", nil)
	want(t, "Fingerprint", err, keyring.ErrNoKey)
	_, err = kr.HPKE(keyring.AuditHPKE, 3)
	want(t, "HPKE", err, keyring.ErrNoKey)
	_, err = kr.Derive(keyring.Gossip, 3, "x", 32)
	want(t, "Derive", err, keyring.ErrNoKey)
	broken := errors.New("the store is on fire")
	kr, err = keyring.Open(keyring.NewRoot(), 1, cluster, func(string, uint32) (keyring.WrappedKey, error) { return keyring.WrappedKey{}, broken })
	if err != nil {
		t.Fatal(err)
	}
	_, err = kr.Seal(keyring.Audit, 1, nil, nil)
	want(t, "a broken store", err, broken)
}

func TestPurposes(t *testing.T) {
	kr, s := filled(t, keyring.NewRoot())
	before := s.loads.Load()
	for _, p := range []string{"", "vault", "vault/", "Audit", "audit ", "root", "vault/" + strings.Repeat("x", 256)} {
		_, err := kr.Generate(p, 1)
		want(t, fmt.Sprintf("generate %.20q", p), err, keyring.ErrPurpose)
		_, err = kr.Seal(p, 1, nil, nil)
		want(t, fmt.Sprintf("seal %.20q", p), err, keyring.ErrPurpose)
	}
	if s.loads.Load() != before {
		t.Error("the state was asked for an impossible purpose")
	}
}

// A wrapped key opens in its own place only.
func TestWrappedKeysAreBound(t *testing.T) {
	root := keyring.NewRoot()
	kr, _ := filled(t, root)
	w, err := kr.Generate(keyring.Vault("a"), 5)
	if err != nil {
		t.Fatal(err)
	}
	try := func(root keyring.Root, rootGen uint32, cluster [16]byte, w keyring.WrappedKey, purpose string, gen uint32) error {
		kr, err := keyring.Open(root, rootGen, cluster, func(string, uint32) (keyring.WrappedKey, error) { return w, nil })
		if err != nil {
			t.Fatal(err)
		}
		defer kr.Close()
		_, err = kr.Seal(purpose, gen, nil, nil)
		return err
	}
	if err := try(root, 1, cluster, w, w.Purpose, w.Generation); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(*keyring.WrappedKey)) keyring.WrappedKey {
		c := w
		c.Ciphertext = slices.Clone(w.Ciphertext)
		f(&c)
		return c
	}
	for name, err := range map[string]error{
		"another root":       try(keyring.NewRoot(), 1, cluster, w, w.Purpose, w.Generation),
		"another generation": try(root, 2, cluster, w, w.Purpose, w.Generation),
		"root generation relabelled": try(root, 2, cluster, edit(func(w *keyring.WrappedKey) { w.RootGeneration = 2 }),
			w.Purpose, w.Generation),
		"another cluster": try(root, 1, [16]byte{9}, w, w.Purpose, w.Generation),
		"found under another vault": try(root, 1, cluster, w,
			keyring.Vault("b"), w.Generation),
		"relabelled to another vault": try(root, 1, cluster, edit(func(w *keyring.WrappedKey) { w.Purpose = keyring.Vault("b") }),
			keyring.Vault("b"), w.Generation),
		"found under another generation": try(root, 1, cluster, w, w.Purpose, 6),
		"relabelled to another generation": try(root, 1, cluster, edit(func(w *keyring.WrappedKey) { w.Generation = 6 }),
			w.Purpose, 6),
		"a changed bit": try(root, 1, cluster, edit(func(w *keyring.WrappedKey) { w.Ciphertext[20] ^= 1 }), w.Purpose, w.Generation),
		"cut short":     try(root, 1, cluster, edit(func(w *keyring.WrappedKey) { w.Ciphertext = w.Ciphertext[:28] }), w.Purpose, w.Generation),
		"empty":         try(root, 1, cluster, edit(func(w *keyring.WrappedKey) { w.Ciphertext = nil }), w.Purpose, w.Generation),
	} {
		want(t, name, err, keyring.ErrAuth)
	}
}

func TestMAC(t *testing.T) {
	root := keyring.NewRoot()
	kr, s := filled(t, root)
	mac, err := kr.MAC(1, "token", []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the pooled state is reset
		if err := kr.VerifyMAC(1, "token", []byte("body"), mac); err != nil || len(mac) != keyring.MACSize {
			t.Fatalf("%d bytes, %v", len(mac), err)
		}
	}
	elsewhere, err := keyring.Open(root, 1, [16]byte{9}, s.load)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "another cluster", elsewhere.VerifyMAC(1, "token", []byte("body"), mac), keyring.ErrAuth)
	for name, err := range map[string]error{
		"another generation": kr.VerifyMAC(2, "token", []byte("body"), mac),
		"another domain":     kr.VerifyMAC(1, "role", []byte("body"), mac),
		"another body":       kr.VerifyMAC(1, "token", []byte("bodies"), mac),
		"moved boundary":     kr.VerifyMAC(1, "tokenb", []byte("ody"), mac),
		"a changed bit":      kr.VerifyMAC(1, "token", []byte("body"), append([]byte{mac[0] ^ 1}, mac[1:]...)),
		"cut short":          kr.VerifyMAC(1, "token", []byte("body"), mac[:16]),
		"empty":              kr.VerifyMAC(1, "token", []byte("body"), nil),
	} {
		want(t, name, err, keyring.ErrMAC)
	}
}

func TestFingerprint(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	fp := func(gen uint32, domain, body string) string {
		t.Helper()
		b, err := kr.Fingerprint(gen, domain, []byte(body))
		if err != nil || len(b) != keyring.FingerprintSize {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return string(b)
	}
	a := fp(1, "request", "body")
	if a != fp(1, "request", "body") {
		t.Error("equal bodies have different fingerprints")
	}
	for _, b := range []string{fp(2, "request", "body"), fp(1, "requestb", "ody"), fp(1, "request", "bodY")} {
		if a == b {
			t.Error("different bodies have one fingerprint")
		}
	}
	mac, err := kr.MAC(1, "request", []byte("body"))
	if err != nil || strings.HasPrefix(string(mac), a) {
		t.Errorf("a fingerprint gives a MAC away: %v", err)
	}
}

func TestHPKE(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	k, err := kr.HPKE(keyring.AuditHPKE, 1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := kr.HPKE(keyring.AuditHPKE, 2)
	if err != nil || bytes.Equal(k.Public(), other.Public()) {
		t.Errorf("two generations have one key pair: %v", err)
	}
	sealed, err := hybrid.Seal(k.Public(), nil, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	kr.Forget(keyring.AuditHPKE, 1)
	if k, err = kr.HPKE(keyring.AuditHPKE, 1); err != nil {
		t.Fatal(err)
	}
	if b, err := k.Open(sealed, nil); err != nil || string(b.Reveal()) != "body" {
		t.Errorf("opened again, the key pair is another: %v", err)
	}
}

func TestDerive(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	get := func(gen uint32, label string) secret.Bytes {
		t.Helper()
		b, err := kr.Derive(keyring.Gossip, gen, label, 32)
		if err != nil || b.Len() != 32 {
			t.Fatalf("%d bytes, %v", b.Len(), err)
		}
		return b
	}
	a := get(1, "memberlist")
	if !a.Equal(get(1, "memberlist")) || a.Equal(get(2, "memberlist")) || a.Equal(get(1, "other")) {
		t.Error("sub-keys")
	}
	a.Wipe() // the caller's own
	if get(1, "memberlist").Equal(a) {
		t.Error("wiping a sub-key reached the keyring")
	}
}

func TestClose(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	sealed, err := kr.Seal(keyring.Audit, 1, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := kr.Generate(keyring.Audit, 9)
	if err != nil {
		t.Fatal(err)
	}
	kr.Close()
	kr.Close()
	_, err = kr.Open(keyring.Audit, 1, sealed, nil)
	want(t, "open", err, keyring.ErrClosed)
	_, err = kr.Seal(keyring.Audit, 2, nil, nil)
	want(t, "seal", err, keyring.ErrClosed)
	_, err = kr.MAC(1, "d", nil)
	want(t, "MAC", err, keyring.ErrClosed)
	_, err = kr.HPKE(keyring.AuditHPKE, 1)
	want(t, "HPKE", err, keyring.ErrClosed)
	_, err = kr.Derive(keyring.Gossip, 1, "x", 32)
	want(t, "derive", err, keyring.ErrClosed)
	_, err = kr.Generate(keyring.Audit, 3)
	want(t, "generate", err, keyring.ErrClosed)
	_, err = kr.Rewrap(w, keyring.NewRoot(), 2)
	want(t, "rewrap", err, keyring.ErrClosed)
}

func TestCloseWhileInUse(t *testing.T) {
	kr, _ := filled(t, keyring.NewRoot())
	var wg sync.WaitGroup
	started := make(chan struct{}, 8)
	for range cap(started) {
		wg.Go(func() {
			for i := 0; ; i++ {
				gen := uint32(i%2) + 1
				b, err := kr.Seal(keyring.Vault("models"), gen, []byte("plain"), nil)
				if err == nil {
					_, err = kr.Open(keyring.Vault("models"), gen, b, nil)
				}
				if err == nil {
					_, err = kr.Derive(keyring.Gossip, gen, "x", 32)
				}
				if err == nil {
					_, err = kr.MAC(gen, "d", b)
				}
				if err == nil {
					_, err = kr.HPKE(keyring.AuditHPKE, gen)
				}
				if i == 0 {
					started <- struct{}{}
				}
				if err != nil {
					if !errors.Is(err, keyring.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range cap(started) {
		<-started
	}
	kr.Forget(keyring.Vault("models"), 1)
	kr.Close()
	wg.Wait()
}

func TestRewrapAll(t *testing.T) {
	oldRoot, newRoot := keyring.NewRoot(), keyring.NewRoot()
	kr, s := filled(t, oldRoot)
	sealed, err := kr.Seal(keyring.Vault("models"), 2, []byte("plain"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	moved, err := kr.RewrapAll(s.keys, newRoot, 2)
	if err != nil {
		t.Fatal(err)
	}
	after, err := keyring.Open(newRoot, 2, cluster, keyring.Static(moved...))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := after.Open(keyring.Vault("models"), 2, sealed, []byte("here")); err != nil || string(plain) != "plain" {
		t.Errorf("under the new root: %q, %v", plain, err)
	}
	before, err := keyring.Open(oldRoot, 1, cluster, keyring.Static(moved...))
	if err != nil {
		t.Fatal(err)
	}
	_, err = before.Open(keyring.Vault("models"), 2, sealed, []byte("here"))
	want(t, "the old root on new wrappings", err, keyring.ErrAuth)

	s.keys[3].Ciphertext = slices.Clone(s.keys[3].Ciphertext)
	s.keys[3].Ciphertext[15] ^= 1
	out, err := kr.RewrapAll(s.keys, newRoot, 2)
	want(t, "one damaged key", err, keyring.ErrAuth)
	if out != nil {
		t.Error("some keys were rewrapped")
	}
	_, err = kr.RewrapAll(s.keys, keyring.Root{}, 2)
	want(t, "no root", err, keyring.ErrRoot)
}

func TestRoot(t *testing.T) {
	a, b := keyring.NewRoot(), keyring.NewRoot()
	if a.ID() == b.ID() || a.Equal(b) || a.ID() == (keyring.RootID{}) {
		t.Error("two roots are alike")
	}
	if bytes.Contains(a.Bytes().Reveal(), a.ID().Bytes()) {
		t.Error("the fingerprint is a part of the key")
	}
	if s := fmt.Sprintf("%v %+v %#v %x", a, a, a, a); strings.Contains(s, fmt.Sprintf("%x", a.Bytes().Reveal()[:4])) ||
		strings.Contains(s, strings.Trim(fmt.Sprint(a.Bytes().Reveal()[:4]), "[]")) {
		t.Errorf("a root shows: %s", s)
	}
	for _, n := range []int{0, 31, 33} {
		_, err := keyring.RootFrom(secret.Random(n))
		want(t, fmt.Sprintf("%d bytes", n), err, keyring.ErrRoot)
	}
	_, err := keyring.Open(keyring.Root{}, 1, cluster, nil)
	want(t, "open without a root", err, keyring.ErrRoot)
	a.Wipe()
	if !bytes.Equal(a.Bytes().Reveal(), make([]byte, keyring.RootSize)) {
		t.Error("Wipe")
	}
}

func TestRootWrappings(t *testing.T) {
	root := keyring.NewRoot()
	nodes, operators := secret.Random(32), secret.Random(32)
	ctx := keyring.Context{Cluster: cluster, Generation: 3, Deal: [8]byte{4}}
	call, err := hybrid.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	operatorKey, err := keyring.OperatorKey(operators)
	if err != nil {
		t.Fatal(err)
	}
	forNodes, err := keyring.WrapForNodes(nodes, root, ctx)
	if err != nil {
		t.Fatal(err)
	}
	forOperators, err := keyring.SealForOperators(operatorKey.Public(), root, ctx)
	if err != nil {
		t.Fatal(err)
	}
	handover, err := keyring.SealRootTo(call.Public(), root, ctx, "node-2")
	if err != nil {
		t.Fatal(err)
	}
	type opener func(wrapped []byte, ctx keyring.Context) (keyring.Root, error)
	openers := map[string]struct {
		wrapped []byte
		open    opener
		wrong   opener
	}{
		"nodes": {
			forNodes,
			func(w []byte, c keyring.Context) (keyring.Root, error) { return keyring.OpenForNodes(nodes, w, c) },
			func(w []byte, c keyring.Context) (keyring.Root, error) { return keyring.OpenForNodes(operators, w, c) },
		},
		"operators": {
			forOperators,
			func(w []byte, c keyring.Context) (keyring.Root, error) {
				return keyring.OpenForOperators(operators, w, c)
			},
			func(w []byte, c keyring.Context) (keyring.Root, error) { return keyring.OpenForOperators(nodes, w, c) },
		},
		"handover": {
			handover,
			func(w []byte, c keyring.Context) (keyring.Root, error) { return keyring.OpenRoot(call, w, c, "node-2") },
			func(w []byte, c keyring.Context) (keyring.Root, error) { return keyring.OpenRoot(call, w, c, "node-3") },
		},
	}
	for name, o := range openers {
		t.Run(name, func(t *testing.T) {
			got, err := o.open(o.wrapped, ctx)
			if err != nil || !got.Equal(root) || got.ID() != root.ID() {
				t.Fatalf("%v", err)
			}
			refuse := func(what string, open opener, w []byte, c keyring.Context) {
				t.Helper()
				if _, err := open(w, c); !errors.Is(err, keyring.ErrAuth) && !errors.Is(err, hybrid.ErrOpen) {
					t.Errorf("%s: %v", what, err)
				}
			}
			refuse("the wrong secret", o.wrong, o.wrapped, ctx)
			refuse("another cluster", o.open, o.wrapped, keyring.Context{Generation: 3, Deal: ctx.Deal})
			refuse("another generation", o.open, o.wrapped, keyring.Context{Cluster: cluster, Generation: 4, Deal: ctx.Deal})
			refuse("another deal", o.open, o.wrapped, keyring.Context{Cluster: cluster, Generation: 3})
			changed := slices.Clone(o.wrapped)
			changed[len(changed)-1] ^= 1
			refuse("a changed bit", o.open, changed, ctx)
			refuse("cut short", o.open, o.wrapped[:len(o.wrapped)-1], ctx)
			refuse("empty", o.open, nil, ctx)
		})
	}
	if _, err := keyring.OpenForNodes(nodes, forOperators, ctx); err == nil {
		t.Error("one wrapping passes for another")
	}
	for name, f := range map[string]func() ([]byte, error){
		"nodes":     func() ([]byte, error) { return keyring.WrapForNodes(nodes, keyring.Root{}, ctx) },
		"operators": func() ([]byte, error) { return keyring.SealForOperators(operatorKey.Public(), keyring.Root{}, ctx) },
		"handover":  func() ([]byte, error) { return keyring.SealRootTo(call.Public(), keyring.Root{}, ctx, "n") },
	} {
		_, err := f()
		want(t, "wrap nothing for "+name, err, keyring.ErrRoot)
	}
	if _, err := keyring.WrapForNodes(secret.Random(16), root, ctx); err == nil {
		t.Error("a node secret of 16 bytes is taken")
	}
}

// vector holds what a cluster stored once; it must open for ever.
type vector struct {
	Root                           []byte
	NodeSecret, ForNodes           []byte
	OperatorSecret, ForOperators   []byte
	RootID                         []byte
	Keys                           []keyring.WrappedKey
	Sealed                         []byte // "plain" at "here", by the vault's key
	MAC, Fingerprint, Sub, HPKEPub []byte
}

func TestGolden(t *testing.T) {
	ctx := keyring.Context{Cluster: cluster, Generation: 1, Deal: [8]byte{5}}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v := golden.Load(t, "keyring.json", func() vector {
		root, nodes, operators := keyring.NewRoot(), secret.Random(32), secret.Random(32)
		kr, s := filled(t, root)
		opKey, err := keyring.OperatorKey(operators)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := kr.Derive(keyring.Gossip, 1, "memberlist", 32)
		if err != nil {
			t.Fatal(err)
		}
		hpke, err := kr.HPKE(keyring.AuditHPKE, 1)
		if err != nil {
			t.Fatal(err)
		}
		return vector{
			Root: root.Bytes().Reveal(), RootID: root.ID().Bytes(), Keys: s.keys,
			NodeSecret: nodes.Reveal(), ForNodes: must(keyring.WrapForNodes(nodes, root, ctx)),
			OperatorSecret: operators.Reveal(), ForOperators: must(keyring.SealForOperators(opKey.Public(), root, ctx)),
			Sealed:      must(kr.Seal(keyring.Vault("models"), 1, []byte("plain"), []byte("here"))),
			MAC:         must(kr.MAC(1, "token", []byte("body"))),
			Fingerprint: must(kr.Fingerprint(1, "request", []byte("body"))), Sub: sub.Reveal(), HPKEPub: hpke.Public(),
		}
	})
	root, err := keyring.RootFrom(secret.New(v.Root))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root.ID().Bytes(), v.RootID) {
		t.Error("the root's fingerprint changed")
	}
	if r, err := keyring.OpenForNodes(secret.New(v.NodeSecret), v.ForNodes, ctx); err != nil || !r.Equal(root) {
		t.Errorf("nodes: %v", err)
	}
	if r, err := keyring.OpenForOperators(secret.New(v.OperatorSecret), v.ForOperators, ctx); err != nil || !r.Equal(root) {
		t.Errorf("operators: %v", err)
	}
	kr, err := keyring.Open(root, 1, cluster, keyring.Static(v.Keys...))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := kr.Open(keyring.Vault("models"), 1, v.Sealed, []byte("here")); err != nil || string(b) != "plain" {
		t.Errorf("vault key: %v", err)
	}
	if err := kr.VerifyMAC(1, "token", []byte("body"), v.MAC); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(must(kr.Fingerprint(1, "request", []byte("body"))), v.Fingerprint) {
		t.Error("fingerprints changed")
	}
	if sub, err := kr.Derive(keyring.Gossip, 1, "memberlist", 32); err != nil || !bytes.Equal(sub.Reveal(), v.Sub) {
		t.Errorf("sub-keys changed: %v", err)
	}
	if k, err := kr.HPKE(keyring.AuditHPKE, 1); err != nil || !bytes.Equal(k.Public(), v.HPKEPub) {
		t.Errorf("HPKE keys changed: %v", err)
	}
}

func FuzzOpenForNodes(f *testing.F) {
	nodes := secret.New(make([]byte, 32))
	b, err := keyring.WrapForNodes(nodes, keyring.NewRoot(), keyring.Context{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:40])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		if _, err := keyring.OpenForNodes(nodes, wrapped, keyring.Context{}); err == nil {
			t.Fatal("opened what was never wrapped")
		}
	})
}

func FuzzWrappedKey(f *testing.F) {
	root := keyring.NewRoot()
	f.Add("audit", uint32(1), uint32(1), make([]byte, 61))
	f.Fuzz(func(t *testing.T, purpose string, gen, rootGen uint32, ciphertext []byte) {
		w := keyring.WrappedKey{Purpose: purpose, Generation: gen, RootGeneration: rootGen, Ciphertext: ciphertext}
		kr, err := keyring.Open(root, 1, cluster, keyring.Static(w))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kr.Seal(purpose, gen, nil, nil); !errors.Is(err, keyring.ErrAuth) && !errors.Is(err, keyring.ErrPurpose) {
			t.Fatalf("%v", err)
		}
	})
}

func bench(b *testing.B, f func(kr *keyring.Keyring) error) {
	kr, _ := filled(b, keyring.NewRoot())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(kr); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	plain, aad := make([]byte, 256), make([]byte, 64)
	bench(b, func(kr *keyring.Keyring) error { _, err := kr.Seal(keyring.Audit, 1, plain, aad); return err })
}

func BenchmarkMAC(b *testing.B) {
	body := make([]byte, 200)
	bench(b, func(kr *keyring.Keyring) error { _, err := kr.MAC(1, "token", body); return err })
}

func BenchmarkVerifyMAC(b *testing.B) {
	body := make([]byte, 200)
	kr, _ := filled(b, keyring.NewRoot())
	mac, err := kr.MAC(1, "token", body)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := kr.VerifyMAC(1, "token", body, mac); err != nil {
			b.Fatal(err)
		}
	}
}
