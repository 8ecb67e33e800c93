package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/hizo/hizo/cmd/hizo/internal/mask"
)

// through sends text in chunks of the given sizes (the last repeats).
func through(t testing.TB, p *mask.Patterns, text string, sizes ...int) string {
	t.Helper()
	var out bytes.Buffer
	m := p.Masker(&out)
	for i := 0; len(text) > 0; i++ {
		n := min(max(1, sizes[min(i, len(sizes)-1)]), len(text))
		if k, err := m.Write([]byte(text[:n])); err != nil || k != n {
			t.Fatalf("write: %d, %v", k, err)
		}
		text = text[n:]
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestMasks(t *testing.T) {
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBg\n}\nkqhkiG9w0BAQ\n-----END KEY-----\n"
	for _, c := range []struct{ name, value, in, want string }{
		{"plain", "hunter2", "password=hunter2!\n", "password=****!\n"},
		{"twice in a row", "hunter2", "hunter2hunter2 hunter2", "**** ****"},
		{"beginning only", "hunter2", "hunter hunter", "hunter hunter"},
		{"false start", "aab", "aaab", "a****"},
		{"self overlap", "abab", "x ababab y", "x **** y"},
		{"short", "7", "port 7", "port ****"},
		{"base64", "hunter2", base64.StdEncoding.EncodeToString([]byte("hunter2")), "****"},
		{"base64 without padding", "hunter2!", base64.RawURLEncoding.EncodeToString([]byte("hunter2!")), "****E"},
		{"url query", "p&ss w=rd", "q=" + url.QueryEscape("p&ss w=rd"), "q=****"},
		{"url path", "p/ss w?rd", "/x/" + url.PathEscape("p/ss w?rd"), "/x/****"},
		{"hex", "hunter2", hex.EncodeToString([]byte("hunter2")), "****"},
		{"json", "say \"hi\"\tall", `{"v":"say \"hi\"\tall"}`, `{"v":"****"}`},
		{"json with markup", "a<b>&cdef", `"a<b>&cdef" a\u003cb\u003e\u0026cdef`, `"****" ****`},
		{"whole key", key, "k:" + key + ".", "k:****."},
		{"on a terminal", "two\nlines", "two\r\nlines", "****"},
		{"single lines", key, "line MIIEvQIBADANBg and } and kqhkiG9w0BAQ", "line **** and } and ****"},
	} {
		p := mask.New([]byte(c.value))
		for size := 1; size <= len(c.in); size++ {
			if got := through(t, p, c.in, size); got != c.want {
				t.Errorf("%s, chunks of %d: got %q, want %q", c.name, size, got, c.want)
			}
		}
	}
}

// Basic authentication hides "user:password" in base64, where the password starts at any of three alignments.
func TestMasksInsideBase64(t *testing.T) {
	value := "correct horse battery"
	p := mask.New([]byte(value))
	for before := range 6 {
		for after := range 4 {
			text := strings.Repeat("u", before) + value + strings.Repeat("z", after)
			got := through(t, p, base64.StdEncoding.EncodeToString([]byte(text)), 3)
			plain, _ := base64.StdEncoding.DecodeString(strings.ReplaceAll(got, mask.Replacement, ""))
			if !strings.Contains(got, mask.Replacement) || len(plain) > before+after+4 {
				t.Errorf("%d before, %d after: %q", before, after, got)
			}
		}
	}
}

func TestOverlappingValues(t *testing.T) {
	p := mask.New([]byte("abcd"), []byte("cdef"), []byte("bc"))
	if got := through(t, p, "1abcdef2bc3abc4def", 1); got != "1****2****3a****4def" {
		t.Errorf("got %q", got)
	}
}

// What is held back is what may still become a value, and no more.
func TestHoldsBackOnlyBeginnings(t *testing.T) {
	var out bytes.Buffer
	m := mask.New([]byte("hunter2")).Masker(&out)
	fmt.Fprint(m, "password: ")
	if out.String() != "password: " {
		t.Errorf("held back an innocent prompt: %q", out.String())
	}
	fmt.Fprint(m, "hunt")
	if out.String() != "password: " {
		t.Errorf("let a beginning through: %q", out.String())
	}
	fmt.Fprint(m, "ing\n")
	if out.String() != "password: hunting\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestLongValuesInPieces(t *testing.T) {
	long := make([]byte, 50_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range long {
		long[i] = 'a' + byte(r.IntN(26))
	}
	if got := through(t, mask.New(long), "<"+string(long)+">", 999); got != "<****>" {
		t.Errorf("%d bytes came through", len(got))
	}
}

func TestWipe(t *testing.T) {
	p := mask.New([]byte("hunter2"))
	p.Wipe()
	if got := through(t, p, "hunter2", 7); got != "hunter2" {
		t.Errorf("patterns are still there: %q", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteErrorsAreReported(t *testing.T) {
	if _, err := mask.New([]byte("x")).Masker(broken{}).Write([]byte("text")); err != io.ErrClosedPipe {
		t.Errorf("got %v", err)
	}
}

// No value comes through, for any values, any text and any cut into writes, and the cut makes no difference.
func FuzzMask(f *testing.F) {
	f.Add("hunter2", "unter", "say hunter2 and hunhunter2ter2", uint64(1))
	f.Add("abab", "ba", "abababab", uint64(2))
	f.Add("a\nbcde\nf", "", "a\r\nbcde\r\nf a\nbcde\nf", uint64(3))
	f.Fuzz(func(t *testing.T, a, b, text string, seed uint64) {
		// A value that is made of the replacement's characters can't be told from it.
		if strings.Contains(a+b, "*") {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		text += a + text + b + a // both do occur
		p := mask.New([]byte(a), []byte(b))
		whole := through(t, p, text, len(text))
		sizes := make([]int, 8)
		for i := range sizes {
			sizes[i] = 1 + r.IntN(9)
		}
		if cut := through(t, p, text, sizes...); cut != whole {
			t.Errorf("cut %v: %q, whole %q", sizes, cut, whole)
		}
		for _, v := range []string{a, b} {
			if v == "" {
				continue
			}
			if strings.Contains(whole, v) {
				t.Errorf("value %q came through: %q", v, whole)
			}
		}
		if a == "" && b == "" && whole != text {
			t.Errorf("changed %q to %q", text, whole)
		}
	})
}

func BenchmarkMask(b *testing.B) {
	p := mask.New([]byte("correct horse battery staple"), []byte("hunter2"))
	line := bytes.Repeat([]byte("epoch 12 loss 0.3141 accuracy 0.9512\n"), 100)
	m := p.Masker(io.Discard)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := m.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}
