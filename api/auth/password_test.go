package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// cheap keeps tests fast; the parameters are part of each hash.
var cheap = Params{Memory: 64, Time: 1, Threads: 1}

func newHasher(t testing.TB, p Params, concurrency int) *Hasher {
	t.Helper()
	h, err := NewHasher(p, concurrency)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestPassword(t *testing.T) {
	h := newHasher(t, cheap, 1)
	password := []byte("correct horse battery")
	hash, err := h.Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") || strings.Contains(hash, "horse") {
		t.Errorf("hash %s", hash)
	}
	if string(password) != "correct horse battery" {
		t.Error("the caller's password was changed")
	}
	again, err := h.Hash(t.Context(), password)
	if err != nil || again == hash {
		t.Errorf("two hashes of one password are equal, or %v", err)
	}
	for _, c := range []struct {
		why, hash, password string
		ok                  bool
	}{
		{"right", hash, "correct horse battery", true},
		{"right, another salt", again, "correct horse battery", true},
		{"wrong", hash, "correct horse batterz", false},
		{"case", hash, "Correct horse battery", false},
		{"cut", hash, "correct horse batter", false},
		{"longer", hash, "correct horse battery ", false},
		{"empty", hash, "", false},
		{"far too long", hash, strings.Repeat("x", MaxPassword+1), false},
		{"unknown user", "", "correct horse battery", false},
		{"unknown user, empty", "", "", false},
	} {
		ok, err := h.Verify(t.Context(), c.hash, []byte(c.password))
		if err != nil || ok != c.ok {
			t.Errorf("%s: %v, %v", c.why, ok, err)
		}
	}
}

// TestPasswordNormalForm: RFC 8265, section 4.2.2.
func TestPasswordNormalForm(t *testing.T) {
	h := newHasher(t, cheap, 1)
	hash, err := h.Hash(t.Context(), []byte("Schl\u00fcsselblume"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Verify(t.Context(), hash, []byte("Schlu\u0308sselblume")); !ok || err != nil {
		t.Errorf("typed on another keyboard: %v, %v", ok, err)
	}
	if ok, _ := h.Verify(t.Context(), hash, []byte("Schlusselblume")); ok {
		t.Error("without its dots it is another password")
	}
}

// TestUnknownUserSameWork counts what an attacker could time: a user who does
// not exist costs the same argon2id, with the same parameters.
func TestUnknownUserSameWork(t *testing.T) {
	h := newHasher(t, cheap, 1)
	hash, err := h.Hash(t.Context(), []byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	type work struct {
		params               Params
		password, salt, size int
	}
	var done []work
	h.key = func(password, salt []byte, p Params, length uint32) []byte {
		done = append(done, work{p, len(password), len(salt), int(length)})
		return argon2id(password, salt, p, length)
	}
	for _, password := range []string{"correct horse battery", "wrong", ""} {
		done = nil
		for _, stored := range []string{hash, ""} {
			if _, err := h.Verify(t.Context(), stored, []byte(password)); err != nil {
				t.Fatal(err)
			}
		}
		if len(done) != 2 || done[0] != done[1] {
			t.Errorf("password of %d bytes: known and unknown user cost %+v", len(password), done)
		}
	}
	done = nil
	for _, stored := range []string{hash, ""} {
		if ok, err := h.Verify(t.Context(), stored, []byte(strings.Repeat("x", MaxPassword+1))); ok || err != nil {
			t.Error(ok, err)
		}
	}
	if len(done) != 0 {
		t.Errorf("a password above the limit was hashed: %+v", done)
	}
}

// TestDummyNeverMatches: even a password whose key is the dummy's is refused.
func TestDummyNeverMatches(t *testing.T) {
	h := newHasher(t, cheap, 1)
	h.key = func([]byte, []byte, Params, uint32) []byte { return h.dummy.key }
	if ok, err := h.Verify(t.Context(), "", []byte("x")); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestNeedsRehash(t *testing.T) {
	old := newHasher(t, cheap, 1)
	now := newHasher(t, Params{Memory: 128, Time: 1, Threads: 1}, 1)
	hash, err := old.Hash(t.Context(), []byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := now.Verify(t.Context(), hash, []byte("correct horse battery")); !ok || err != nil {
		t.Errorf("a hash of older parameters: %v, %v", ok, err)
	}
	if !now.NeedsRehash(hash) || old.NeedsRehash(hash) || !now.NeedsRehash("") {
		t.Error("NeedsRehash")
	}
}

// TestConcurrencyIsBounded: as many at once as asked for, a bounded queue
// behind them, and a caller who gives up leaves it.
func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 2
		h := newHasher(t, cheap, slots)
		release := make(chan struct{})
		var running, most atomic.Int32
		h.key = func([]byte, []byte, Params, uint32) []byte {
			n := running.Add(1)
			for {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			<-release
			running.Add(-1)
			return make([]byte, keyBytes)
		}
		ctx, giveUp := context.WithCancelCause(t.Context())
		gone := errors.New("client went away")
		var wg sync.WaitGroup
		var left atomic.Int32
		fill := slots * (1 + waiting)
		for i := range fill {
			wg.Go(func() {
				c := t.Context()
				if i >= slots { // may hold a slot all the same; then it ends well
					c = ctx
				}
				if _, err := h.Verify(c, "", []byte("x")); errors.Is(err, gone) {
					left.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := h.Verify(t.Context(), "", []byte("x")); !errors.Is(err, ErrBusy) {
			t.Errorf("with a full queue: %v", err)
		}
		giveUp(gone)
		synctest.Wait()
		if left.Load() == 0 {
			t.Error("nobody left the queue")
		}
		close(release)
		wg.Wait()
		if most.Load() != slots {
			t.Errorf("%d ran at once, want %d", most.Load(), slots)
		}
		if _, err := h.Verify(t.Context(), "", []byte("x")); err != nil {
			t.Errorf("after the rush: %v", err)
		}
	})
}

// TestChangesTakeNothingFromLogins: neither their slots nor their queue.
func TestChangesTakeNothingFromLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(t, cheap, 1)
		release := make(chan struct{})
		var running atomic.Int32
		h.key = func(password []byte, _ []byte, _ Params, _ uint32) []byte {
			if string(password) == "a change" {
				running.Add(1)
				<-release
			}
			return make([]byte, keyBytes)
		}
		var wg sync.WaitGroup
		var busy atomic.Int32
		for i := range 100 {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = h.Hash(t.Context(), []byte("a change"))
				} else {
					_, err = h.VerifyForChange(t.Context(), "", []byte("a change"))
				}
				if errors.Is(err, ErrBusy) {
					busy.Add(1)
				}
			})
		}
		synctest.Wait()
		if running.Load() != changing || busy.Load() != 100-changing*(1+waiting) {
			t.Errorf("%d changes run, %d were refused", running.Load(), busy.Load())
		}
		if _, err := h.Verify(t.Context(), "", []byte("a login")); err != nil {
			t.Errorf("a login beside them: %v", err)
		}
		close(release)
		wg.Wait()
	})
}

func TestCheckPassword(t *testing.T) {
	for _, good := range []string{"correct horse battery", "abcdefghijkl", "\u79d8\u8535\u79d8\u8535\u9375\u8a9e\u6587", strings.Repeat("abcde", 200)} {
		if err := CheckPassword("alice", []byte(good)); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for why, bad := range map[string]string{
		"empty": "", "short": "elevenbytes", "too long": strings.Repeat("abcde", 205), "newline at its end": "correct horse battery\n",
		"zero byte": "correct horse\x00battery", "bad UTF-8": "correct horse\xff", "one character": "aaaaaaaaaaaaaaaa", "four characters": "abcdabcdabcdabcd",
		"the user name": "somebody-called-alice", "in upper case": "SOMEBODY-CALLED-ALICE", "twice": "somebody-called-alice somebody-called-alice",
	} {
		err := CheckPassword("somebody-called-alice", []byte(bad))
		if !errors.Is(err, ErrWeakPassword) {
			t.Errorf("%s: %v", why, err)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%s: the error quotes the password: %v", why, err)
		}
	}
}

func TestHasherConfig(t *testing.T) {
	for _, p := range []Params{{}, {Memory: 64, Time: 0, Threads: 1}, {Memory: 64, Time: 1}, {Memory: 7, Time: 1, Threads: 1}, {Memory: maxMemory + 1, Time: 1, Threads: 1}, {Memory: 64, Time: maxTime + 1, Threads: 1}, {Memory: 1024, Time: 1, Threads: maxThreads + 1}} {
		if _, err := NewHasher(p, 1); err == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
	if _, err := NewHasher(cheap, 0); err == nil {
		t.Error("no concurrency was accepted")
	}
	if _, err := NewHasher(DefaultParams, 1); err != nil {
		t.Error(err)
	}
}

func TestParsePHC(t *testing.T) {
	// Golden: computed once with the reference parameters below; a change of
	// the format or of the algorithm would lock everybody out.
	h := newHasher(t, cheap, 1)
	stored := phc{params: cheap, salt: []byte("0123456789abcdef")}
	stored.key = argon2id([]byte("correct horse battery"), stored.salt, cheap, keyBytes)
	golden(t, "password.txt", stored.String()+"\n")
	if ok, err := h.Verify(t.Context(), stored.String(), []byte("correct horse battery")); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	good := stored.String()
	for why, bad := range map[string]string{
		"argon2i":        strings.Replace(good, "argon2id", "argon2i", 1),
		"version":        strings.Replace(good, "v=19", "v=16", 1),
		"memory":         strings.Replace(good, "m=64", "m=4294967295", 1),
		"time":           strings.Replace(good, "t=1", "t=4000000000", 1),
		"threads":        strings.Replace(good, "p=1", "p=256", 1),
		"leading zero":   strings.Replace(good, "m=64", "m=064", 1),
		"sign":           strings.Replace(good, "t=1", "t=+1", 1),
		"order":          strings.Replace(good, "m=64,t=1", "t=1,m=64", 1),
		"padding":        good + "=",
		"one part less":  good[:strings.LastIndex(good, "$")],
		"one part more":  good + "$x",
		"short key":      good[:strings.LastIndex(good, "$")] + "$AAAA",
		"cut":            good[:len(good)-1],
		"newline":        good + "\n",
		"not base64":     good[:len(good)-2] + "**",
		"long":           good + strings.Repeat("A", 1000),
		"text before it": "x" + good,
	} {
		if ok, err := h.Verify(t.Context(), bad, []byte("correct horse battery")); ok || !errors.Is(err, ErrPasswordHash) {
			t.Errorf("%s: %v, %v", why, ok, err)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Fatalf("%q is written %q", s, p.String())
		}
		if p.params.Memory > maxMemory || p.params.Time > maxTime || len(p.key) < 16 {
			t.Fatalf("%+v", p)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	h := newHasher(b, DefaultParams, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Verify(b.Context(), "", []byte("correct horse battery")); err != nil {
			b.Fatal(err)
		}
	}
}
