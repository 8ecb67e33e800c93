package shares_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/btcutil/bech32"

	"github.com/hizo/hizo/crypto/internal/golden"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/crypto/shares"
)

var cluster = [16]byte{1, 2, 3}

func split(t testing.TB, set shares.Set, threshold, count int) (secret.Bytes, shares.Deal, []shares.Share) {
	t.Helper()
	s, deal, list, err := shares.Split(cluster, set, threshold, count)
	if err != nil {
		t.Fatal(err)
	}
	return s, deal, list
}

func text(t testing.TB, s shares.Share) string {
	t.Helper()
	out, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func binary(t testing.TB, s shares.Share) []byte {
	t.Helper()
	out, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// subsets calls f with every choice of k of the list.
func subsets(list []shares.Share, k int, f func([]shares.Share)) {
	var pick func(from int, chosen []shares.Share)
	pick = func(from int, chosen []shares.Share) {
		if len(chosen) == k {
			f(slices.Clone(chosen))
			return
		}
		for i := from; i < len(list); i++ {
			pick(i+1, append(chosen, list[i]))
		}
	}
	pick(0, nil)
}

func TestEverySubset(t *testing.T) {
	for n := 1; n <= 5; n++ {
		for threshold := 1; threshold <= n; threshold++ {
			s, deal, list := split(t, shares.NodeSet, threshold, n)
			if s.Len() != 32 || len(list) != n || len(deal.Commitments) != n {
				t.Fatalf("%d of %d: %d bytes, %d shares, %d commitments", threshold, n, s.Len(), len(list), len(deal.Commitments))
			}
			for k := range n + 1 {
				subsets(list, k, func(chosen []shares.Share) {
					slices.Reverse(chosen) // the order does not matter
					got, err := deal.Combine(chosen)
					if k >= threshold {
						if err != nil || !got.Equal(s) {
							t.Errorf("%d of %d by %d: %v", threshold, n, k, err)
						}
						return
					}
					tooFew, ok := errors.AsType[*shares.TooFewError](err)
					if !ok || tooFew.Have != k || tooFew.Need != threshold || !errors.Is(err, shares.ErrTooFew) {
						t.Errorf("%d of %d by %d: %v", threshold, n, k, err)
					}
				})
			}
		}
	}
}

// One share fewer than the threshold gives nothing, even to who lies about the threshold and leaves the
// commitments out.
func TestFewerSharesDontInterpolate(t *testing.T) {
	s, deal, list := split(t, shares.OperatorSet, 3, 5)
	deal.Threshold = 2
	subsets(list, 2, func(chosen []shares.Share) {
		got, err := deal.Combine(chosen)
		if err == nil && got.Equal(s) {
			t.Fatal("two shares of a 3-of-5 deal gave the secret")
		}
		if err != nil {
			t.Fatal(err) // then this test shows nothing
		}
	})
}

func TestDealsDiffer(t *testing.T) {
	a, dealA, listA := split(t, shares.NodeSet, 2, 3)
	b, dealB, listB := split(t, shares.NodeSet, 2, 3)
	if a.Equal(b) || dealA.ID == dealB.ID || bytes.Equal(binary(t, listA[0])[28:], binary(t, listB[0])[28:]) {
		t.Error("two deals are alike")
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, c := range []struct{ threshold, n int }{{0, 3}, {-1, 3}, {4, 3}, {1, 0}, {2, shares.MaxCount + 1}} {
		if _, _, _, err := shares.Split(cluster, shares.NodeSet, c.threshold, c.n); !errors.Is(err, shares.ErrThreshold) {
			t.Errorf("%d of %d: %v", c.threshold, c.n, err)
		}
	}
	if _, _, _, err := shares.Split(cluster, 3, 2, 3); err == nil {
		t.Error("set 3 is taken")
	}
	if _, _, list, err := shares.Split(cluster, shares.NodeSet, 1, shares.MaxCount); err != nil || len(list) != shares.MaxCount {
		t.Errorf("the largest deal: %v", err)
	}
}

func TestWrongSharesAreNamed(t *testing.T) {
	_, deal, list := split(t, shares.OperatorSet, 2, 3)
	_, _, others := split(t, shares.OperatorSet, 2, 3)

	// edit changes a share's encoding, as someone with a text editor could.
	edit := func(s shares.Share, f func(b []byte)) shares.Share {
		t.Helper()
		b := binary(t, s)
		f(b)
		var out shares.Share
		if err := out.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, c := range map[string]struct {
		share shares.Share
		want  error
		index uint8 // of a *WrongShareError
	}{
		"as dealt":            {list[1], nil, 0},
		"another cluster":     {edit(list[1], func(b []byte) { b[1]++ }), shares.ErrOtherCluster, 0},
		"a node's":            {edit(list[1], func(b []byte) { b[17] = byte(shares.NodeSet) }), shares.ErrOtherSet, 0},
		"another deal":        {others[1], shares.ErrOtherDeal, 0},
		"value of another":    {edit(list[1], func(b []byte) { copy(b[28:], binary(t, list[2])[28:]) }), shares.ErrWrongShare, 2},
		"renumbered":          {edit(list[1], func(b []byte) { b[27] = 3 }), shares.ErrWrongShare, 3},
		"number beyond count": {edit(list[1], func(b []byte) { b[27] = 4 }), shares.ErrWrongShare, 4},
		"another threshold":   {edit(list[1], func(b []byte) { b[26] = 1 }), shares.ErrWrongShare, 2},
		"one bit":             {edit(list[1], func(b []byte) { b[28] ^= 1 }), shares.ErrWrongShare, 2},
		"another deal's, relabelled": {edit(others[1], func(b []byte) {
			copy(b[18:26], deal.ID[:])
		}), shares.ErrWrongShare, 2},
		"empty": {shares.Share{Cluster: cluster, Set: shares.OperatorSet, Deal: deal.ID, Index: 1}, shares.ErrWrongShare, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for what, err := range map[string]error{"check": deal.Check(c.share), "combine": second(deal.Combine([]shares.Share{list[0], c.share}))} {
				if what == "combine" && c.share.Index == list[0].Index {
					continue
				}
				if !errors.Is(err, c.want) {
					t.Errorf("%s: %v, want %v", what, err, c.want)
				}
				if wrong, ok := errors.AsType[*shares.WrongShareError](err); ok && wrong.Index != c.index {
					t.Errorf("%s names share %d, want %d", what, wrong.Index, c.index)
				}
			}
		})
	}
	err := second(deal.Combine([]shares.Share{list[0], list[2], list[0]}))
	if dup, ok := errors.AsType[*shares.DuplicateShareError](err); !ok || dup.Index != 1 || !errors.Is(err, shares.ErrDuplicateShare) {
		t.Errorf("the same share twice: %v", err)
	}
}

func second(_ secret.Bytes, err error) error { return err }

func TestProof(t *testing.T) {
	_, _, list := split(t, shares.NodeSet, 2, 3)
	_, _, others := split(t, shares.NodeSet, 2, 3)
	nonce := []byte("nonce")
	proof := shares.Prove(list[0], nonce, 7, "node-1")
	if err := shares.VerifyProof(list[0], nonce, 7, "node-1", proof); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another share":  shares.VerifyProof(list[1], nonce, 7, "node-1", proof),
		"another deal":   shares.VerifyProof(others[0], nonce, 7, "node-1", proof),
		"another nonce":  shares.VerifyProof(list[0], []byte("nonc"), 7, "node-1", proof),
		"another epoch":  shares.VerifyProof(list[0], nonce, 8, "node-1", proof),
		"another node":   shares.VerifyProof(list[0], nonce, 7, "node-2", proof),
		"a changed byte": shares.VerifyProof(list[0], nonce, 7, "node-1", append([]byte{proof[0] ^ 1}, proof[1:]...)),
		"cut short":      shares.VerifyProof(list[0], nonce, 7, "node-1", proof[:31]),
		"nothing":        shares.VerifyProof(list[0], nonce, 7, "node-1", nil),
	} {
		if !errors.Is(err, shares.ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestText(t *testing.T) {
	_, deal, list := split(t, shares.OperatorSet, 2, 3)
	s := text(t, list[0])
	for _, form := range []string{s, strings.ToUpper(s), "  " + s + "\n"} {
		got, err := shares.ParseText(form)
		if err != nil {
			t.Fatal(err)
		}
		if err := deal.Check(got); err != nil {
			t.Error(err)
		}
	}
	if !strings.HasPrefix(s, "hizoshare1") {
		t.Errorf("begins with %.12s", s)
	}
	// Every single mistyped character, every swap of neighbours and every cut is noticed, and no error
	// repeats what was typed or what should have been.
	const charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	refuse := func(what, typed string) {
		t.Helper()
		_, err := shares.ParseText(typed)
		if !errors.Is(err, shares.ErrText) && !errors.Is(err, shares.ErrFormat) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for i := 0; i+6 <= len(s); i++ {
			if strings.Contains(err.Error(), s[i:i+6]) && s[i:i+6] != "hizosh" {
				t.Fatalf("%s: the error shows a part of the share: %v", what, err)
			}
		}
	}
	for i := range s {
		for _, c := range charset + "1bioA!" {
			if byte(c) != s[i] {
				refuse(fmt.Sprintf("character %d is %c", i, c), s[:i]+string(c)+s[i+1:])
			}
		}
		refuse("cut", s[:i])
		if i > 0 && s[i] != s[i-1] {
			refuse("swapped", s[:i-1]+string([]byte{s[i], s[i-1]})+s[i+1:])
		}
	}
	refuse("longer", s+"q")
	refuse("huge", s+strings.Repeat("q", 1<<20))
	// The older checksum of BIP 173 misses insertions before a final p.
	_, groups, err := bech32.DecodeNoLimit(s)
	if err != nil {
		t.Fatal(err)
	}
	old, err := bech32.Encode("hizoshare", groups)
	if err != nil {
		t.Fatal(err)
	}
	refuse("bech32 without m", old)
	refuse("another kind", "age-secret-key-1"+s[10:])
}

func TestSharesRedact(t *testing.T) {
	_, _, list := split(t, shares.OperatorSet, 2, 3)
	value := binary(t, list[0])[28:]
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&out, verb, list[0])
		fmt.Fprintf(&out, verb, &list[0])
		fmt.Fprintf(&out, verb, struct{ s []shares.Share }{list})
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "share", list[0], "list", list)
	b, err := json.Marshal(map[string]any{"share": list[0]})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	for _, form := range []string{hex.EncodeToString(value[:8]), strings.Trim(fmt.Sprint(value[:8]), "[]"), string(value), text(t, list[0])[50:60]} {
		if strings.Contains(out.String(), form) {
			t.Errorf("a share's value shows in %s", out.String())
		}
	}
	list[0].Wipe()
	if !bytes.Equal(binary(t, list[0])[28:], make([]byte, 32)) {
		t.Error("Wipe")
	}
}

func TestStorageAAD(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range [][]byte{
		shares.StorageAAD(cluster, shares.DealID{1}, "a"), shares.StorageAAD(cluster, shares.DealID{1}, "b"),
		shares.StorageAAD(cluster, shares.DealID{2}, "a"), shares.StorageAAD([16]byte{}, shares.DealID{1}, "a"),
	} {
		if seen[string(b)] {
			t.Error("two places have one AAD")
		}
		seen[string(b)] = true
	}
}

type vector struct {
	Deal, Secret []byte
	Texts        []string
	Proof        []byte // of the first share, nonce "nonce", epoch 7, node "node-1"
}

func TestGolden(t *testing.T) {
	v := golden.Load(t, "deal.json", func() vector {
		s, deal, list := split(t, shares.OperatorSet, 2, 3)
		b, err := deal.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		v := vector{Deal: b, Secret: s.Reveal(), Proof: shares.Prove(list[0], []byte("nonce"), 7, "node-1")}
		for _, s := range list {
			v.Texts = append(v.Texts, text(t, s))
		}
		return v
	})
	var deal shares.Deal
	if err := deal.UnmarshalBinary(v.Deal); err != nil {
		t.Fatal(err)
	}
	var list []shares.Share
	for _, s := range v.Texts {
		share, err := shares.ParseText(s)
		if err != nil {
			t.Fatal(err)
		}
		if text(t, share) != s {
			t.Error("a share's text changed")
		}
		list = append(list, share)
	}
	got, err := deal.Combine(list[1:])
	if err != nil || !bytes.Equal(got.Reveal(), v.Secret) {
		t.Errorf("an old deal gives another secret: %v", err)
	}
	if err := shares.VerifyProof(list[0], []byte("nonce"), 7, "node-1", v.Proof); err != nil {
		t.Error(err)
	}
	if b, err := deal.MarshalBinary(); err != nil || !bytes.Equal(b, v.Deal) {
		t.Errorf("a deal's encoding changed: %v", err)
	}
}

func TestDealDecoderRefuses(t *testing.T) {
	_, deal, _ := split(t, shares.NodeSet, 2, 3)
	good, err := deal.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(i int, v byte) []byte {
		b := slices.Clone(good)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "longer": append(slices.Clone(good), 0), "format": edit(0, 2), "set": edit(17, 0),
		"threshold 0": edit(26, 0), "threshold above count": edit(26, 4), "count": edit(27, 2), "no shares": edit(27, 0)[:28],
	} {
		var d shares.Deal
		if err := d.UnmarshalBinary(b); !errors.Is(err, shares.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	deal.Commitments[1].Index = 1
	if _, err := deal.MarshalBinary(); !errors.Is(err, shares.ErrFormat) {
		t.Errorf("encoding a deal with two first shares: %v", err)
	}
}

func FuzzParseText(f *testing.F) {
	_, _, list := split(f, shares.OperatorSet, 2, 3)
	f.Add(text(f, list[0]))
	f.Add("hizoshare1")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		share, err := shares.ParseText(s)
		if err != nil {
			return
		}
		if got := text(t, share); got != strings.ToLower(strings.TrimSpace(s)) {
			t.Fatalf("%q parses and encodes as %q", s, got)
		}
	})
}

func FuzzShare(f *testing.F) {
	_, _, list := split(f, shares.OperatorSet, 2, 3)
	f.Add(binary(f, list[0]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s shares.Share
		if s.UnmarshalBinary(b) == nil && !bytes.Equal(binary(t, s), b) {
			t.Fatalf("%x decodes and encodes otherwise", b)
		}
	})
}

func FuzzDeal(f *testing.F) {
	_, deal, list := split(f, shares.OperatorSet, 2, 3)
	b, err := deal.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d shares.Deal
		if d.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := d.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes otherwise: %v", b, err)
		}
		// Whatever the deal, combining shares of another ends in an error, not a panic.
		if _, err := d.Combine(list); err == nil && d.ID != deal.ID {
			t.Fatal("another deal's shares combined")
		}
	})
}

func BenchmarkCombine(b *testing.B) {
	_, deal, list := split(b, shares.NodeSet, 3, 5)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := deal.Combine(list); err != nil {
			b.Fatal(err)
		}
	}
}
