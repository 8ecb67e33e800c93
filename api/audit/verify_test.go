package audit_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/api/audit"
)

var update = flag.Bool("update", false, "write golden files anew")

const clusterID = "000102030405060708090a0b0c0d0e0f"

// node is a member with a key of its own.
type node struct {
	id   string
	key  *ecdsa.PrivateKey
	pkix []byte
}

func newNode(t testing.TB, id string) *node {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &node{id: id, key: key, pkix: pkix}
}

func (n *node) detail() string {
	return fmt.Sprintf("cluster=%s node=%s key=%s", clusterID, n.id, base64.StdEncoding.EncodeToString(n.pkix))
}

func (n *node) sign(t testing.TB, c audit.Checkpoint) audit.Signature {
	sum := sha256.Sum256(c.Text())
	sig, err := ecdsa.SignASN1(rand.Reader, n.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return audit.Signature{Node: n.id, Key: audit.KeyHint(n.pkix), Signature: sig}
}

// logBook is an audit log and what its export says.
type logBook struct {
	t      testing.TB
	out    bytes.Buffer
	w      *audit.Writer
	hashes []tlog.Hash // stored hashes of x/mod's tlog: not the code under test
	size   int64
	first  tlog.Hash
	leaves [][]byte
}

func (l *logBook) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = l.hashes[at]
	}
	return out, nil
}

func (l *logBook) add(r audit.Record) {
	l.t.Helper()
	r.Seq, r.Index, r.Time = uint64(l.size), uint64(l.size)+10, 1_700_000_000_000+l.size
	if r.Outcome == 0 {
		r.Outcome = 1
	}
	if r.Decision == 0 {
		r.Decision = 1
	}
	leaf := r.Leaf()
	hashes, err := tlog.StoredHashes(l.size, leaf, l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.hashes = append(l.hashes, hashes...)
	l.leaves = append(l.leaves, leaf)
	if l.size++; l.size == 1 {
		l.first = audit.LeafHash(leaf)
		if l.w, err = audit.NewWriter(&l.out, clusterID, l.first, 0); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := l.w.Leaf(leaf); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logBook) records(n int) {
	for i := range n {
		l.add(audit.Record{
			Principal: "user/alice", Action: "reveal", Resource: "ml/db/main", Version: uint32(i + 1), Policies: []string{"shipped/security-engineer-secrets"},
			Count: 1, Generation: 1, Sealed: bytes.Repeat([]byte{byte(i), 7}, 20),
		})
	}
}

func (l *logBook) state() audit.Checkpoint {
	root, err := tlog.TreeHash(l.size, l)
	if err != nil {
		l.t.Fatal(err)
	}
	return audit.Checkpoint{Origin: audit.Origin(clusterID), Size: uint64(l.size), Root: root, Time: 1_700_000_100_000}
}

func (l *logBook) checkpoint(by ...*node) {
	l.t.Helper()
	n := audit.Note{Checkpoint: l.state()}
	for _, b := range by {
		n.Signatures = append(n.Signatures, b.sign(l.t, n.Checkpoint))
	}
	if err := l.w.Checkpoint(n.Format()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logBook) close() []byte {
	if err := l.w.Close(); err != nil {
		l.t.Fatal(err)
	}
	return l.out.Bytes()
}

func (l *logBook) trust() audit.Trust { return audit.Trust{Cluster: clusterID, Genesis: l.first} }

func (l *logBook) verify() (audit.Report, error) {
	return audit.Verify(bytes.NewReader(l.close()), l.trust().Begin())
}

func begin(t testing.TB, first *node) *logBook {
	l := &logBook{t: t}
	l.add(audit.Record{Principal: "node/" + first.id, Action: "genesis", Resource: "cluster", Detail: first.detail()})
	return l
}

func (l *logBook) member(action string, n *node) {
	l.add(audit.Record{Principal: "user/alice", Action: action, Resource: "node/" + n.id, Detail: n.detail()})
}

// whole is a log with members that come and go.
func whole(t testing.TB) *logBook {
	a, b, c, d := newNode(t, "n1"), newNode(t, "n2"), newNode(t, "n3"), newNode(t, "n4")
	l := begin(t, a)
	l.records(3)
	l.checkpoint(a)
	l.member("join", b)
	l.member("approve", b)
	l.checkpoint(a, b)
	l.member("approve", c)
	l.checkpoint(a, b)
	l.records(5)
	l.checkpoint(b, c)
	l.member("approve", d)
	l.member("remove", a)
	l.checkpoint(b, c, d)
	l.records(2)
	l.checkpoint(c, d)
	return l
}

// small is a log with a line of every kind.
func small(t testing.TB) *logBook {
	a, b := newNode(t, "n1"), newNode(t, "n2")
	l := begin(t, a)
	l.records(1)
	l.member("approve", b)
	l.checkpoint(a)
	l.records(1)
	l.checkpoint(b, a)
	return l
}

func TestVerifiesAWholeLog(t *testing.T) {
	l := whole(t)
	report, err := l.verify()
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != uint64(l.size) || report.Checkpoints != 6 || report.Unsigned != 0 {
		t.Errorf("report: %+v", report)
	}
	if s := report.State.Signers; len(s) != 3 || s["n1"] != nil || s["n4"] == nil {
		t.Errorf("signers: %v", len(s))
	}
}

func TestSaysWhatNobodyHasSigned(t *testing.T) {
	l := whole(t)
	l.records(2)
	report, err := l.verify()
	if err != nil || report.Unsigned != 2 {
		t.Errorf("unsigned %d, %v; want 2", report.Unsigned, err)
	}
}

// Every byte of an export counts: each is changed, in more than one way, and each change is found. Where a
// leaf or a header changed, the fault names its very line.
func TestFindsOneChangedByte(t *testing.T) {
	l := small(t)
	export := l.close()
	from := l.trust().Begin()
	line := 1
	for i := range export {
		for _, change := range []byte{0x01, 0x20} {
			export[i] ^= change
			_, err := audit.Verify(bytes.NewReader(export), from)
			export[i] ^= change
			fault, ok := errors.AsType[*audit.Fault](err)
			if !ok {
				t.Fatalf("byte %d (%q, line %d) changed by %#x: %v", i, export[i], line, change, err)
			}
			// A newline that goes joins two lines, one that comes divides one.
			if fault.Line != line {
				t.Fatalf("byte %d (%q) of line %d: the fault is said to be at line %d: %v", i, export[i], line, fault.Line, err)
			}
		}
		if export[i] == '\n' {
			line++
		}
	}
}

func TestFindsWhatIsMissingOrAdded(t *testing.T) {
	l := small(t)
	export := l.close()
	lines := bytes.SplitAfter(export, []byte("\n"))
	lines = lines[:len(lines)-1]
	join := func(parts ...[][]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, bytes.Join(p, nil)...)
		}
		return all
	}
	check := func(what string, changed []byte) {
		if _, err := audit.Verify(bytes.NewReader(changed), l.trust().Begin()); err == nil {
			t.Errorf("%s: not found", what)
		} else if _, ok := errors.AsType[*audit.Fault](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range lines {
		check(fmt.Sprintf("line %d removed", i+1), join(lines[:i], lines[i+1:]))
		check(fmt.Sprintf("line %d twice", i+1), join(lines[:i+1], lines[i:]))
		if i+1 < len(lines) {
			check(fmt.Sprintf("lines %d and %d swapped", i+1, i+2), join(lines[:i], lines[i+1:i+2], lines[i:i+1], lines[i+2:]))
		}
		check(fmt.Sprintf("cut before line %d", i+1), join(lines[:i]))
	}
	for n := range export {
		check(fmt.Sprintf("cut at byte %d", n), export[:n])
	}
	check("a byte behind the end", append(bytes.Clone(export), '\n'))
}

// Whoever rewrites history consistently, hashes and end line included, still lacks the signatures.
func TestFindsARewrittenHistory(t *testing.T) {
	a, b, c := newNode(t, "n1"), newNode(t, "n2"), newNode(t, "n3")
	three := func() *logBook {
		l := begin(t, a)
		l.checkpoint(a)
		l.member("approve", b)
		l.checkpoint(a)
		l.member("approve", c)
		l.checkpoint(a, b)
		return l
	}
	evil := newNode(t, "n9")
	cases := map[string]func(l *logBook){
		"no signature":                 func(l *logBook) { l.records(1); l.checkpoint() },
		"one of three":                 func(l *logBook) { l.records(1); l.checkpoint(a) },
		"one of three, twice":          func(l *logBook) { l.records(1); l.checkpoint(a, a) },
		"a stranger":                   func(l *logBook) { l.records(1); l.checkpoint(a, evil) },
		"a majority and a stranger":    func(l *logBook) { l.records(1); l.checkpoint(a, b, evil) },
		"a name with another key":      func(l *logBook) { l.records(1); l.checkpoint(a, &node{id: "n2", key: evil.key, pkix: evil.pkix}) },
		"a name with another's hint":   func(l *logBook) { l.records(1); l.checkpoint(a, &node{id: "n2", key: evil.key, pkix: b.pkix}) },
		"members added by themselves":  func(l *logBook) { l.member("approve", evil); l.checkpoint(evil, a) },
		"members removed by the rest":  func(l *logBook) { l.member("remove", b); l.member("remove", c); l.checkpoint(a) },
		"a removed member still signs": func(l *logBook) { l.member("remove", b); l.checkpoint(a, c); l.records(1); l.checkpoint(a, b) },
		"a refused approval": func(l *logBook) {
			l.add(audit.Record{Action: "approve", Detail: evil.detail(), Outcome: 18})
			l.checkpoint(a, evil)
		},
		"a second genesis":               func(l *logBook) { l.member("genesis", evil); l.checkpoint(a, b) },
		"an approval without a member":   func(l *logBook) { l.add(audit.Record{Action: "approve"}); l.checkpoint(a, b) },
		"a checkpoint of another log":    func(l *logBook) { l.forged(a, b, func(c *audit.Checkpoint) { c.Origin = "hizo/other" }) },
		"a checkpoint of another size":   func(l *logBook) { l.forged(a, b, func(c *audit.Checkpoint) { c.Size++ }) },
		"a checkpoint of another root":   func(l *logBook) { l.forged(a, b, func(c *audit.Checkpoint) { c.Root[5] ^= 1 }) },
		"text changed behind signatures": func(l *logBook) { l.altered(a, b, func(c *audit.Checkpoint) { c.Time++ }) },
	}
	for what, forge := range cases {
		t.Run(what, func(t *testing.T) {
			l := three()
			forge(l)
			_, err := l.verify()
			if _, ok := errors.AsType[*audit.Fault](err); !ok {
				t.Errorf("got %v, want a fault", err)
			}
		})
	}
	t.Run("another first record", func(t *testing.T) {
		l := begin(t, evil)
		l.checkpoint(evil)
		trust := three().trust()
		if _, err := audit.Verify(bytes.NewReader(l.close()), trust.Begin()); err == nil {
			t.Error("a log of another cluster passed")
		}
	})
	t.Run("another first record under the right header", func(t *testing.T) {
		good, bad := three(), begin(t, evil)
		bad.checkpoint(evil)
		lines := bytes.SplitAfter(bad.close(), []byte("\n"))
		lines[0] = bytes.SplitAfter(good.close(), []byte("\n"))[0]
		_, err := audit.Verify(bytes.NewReader(bytes.Join(lines, nil)), good.trust().Begin())
		if fault, ok := errors.AsType[*audit.Fault](err); !ok || fault.Line != 2 {
			t.Errorf("got %v, want a fault at line 2", err)
		}
	})
}

// forged signs a changed checkpoint; altered changes one after it was signed.
func (l *logBook) forged(a, b *node, change func(*audit.Checkpoint)) {
	c := l.state()
	change(&c)
	n := audit.Note{Checkpoint: c, Signatures: []audit.Signature{a.sign(l.t, c), b.sign(l.t, c)}}
	if err := l.w.Checkpoint(n.Format()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logBook) altered(a, b *node, change func(*audit.Checkpoint)) {
	l.records(1)
	c := l.state()
	n := audit.Note{Checkpoint: c, Signatures: []audit.Signature{a.sign(l.t, c), b.sign(l.t, c)}}
	change(&n.Checkpoint)
	if err := l.w.Checkpoint(n.Format()); err != nil {
		l.t.Fatal(err)
	}
}

// A log is verified in parts, each beginning where the one before has ended.
func TestGoesOnWhereTheLastOneEnded(t *testing.T) {
	a := newNode(t, "n1")
	l := begin(t, a)
	l.records(6)
	l.checkpoint(a)
	first, err := l.verify()
	if err != nil {
		t.Fatal(err)
	}
	m := &logBook{t: t, hashes: l.hashes, size: l.size, first: l.first}
	if m.w, err = audit.NewWriter(&m.out, clusterID, l.first, uint64(l.size)); err != nil {
		t.Fatal(err)
	}
	m.records(3)
	m.checkpoint(a)
	part := m.close()
	second, err := audit.Verify(bytes.NewReader(part), first.State)
	if err != nil {
		t.Fatal(err)
	}
	if second.State.Size != 10 || second.Records != 3 {
		t.Errorf("%+v", second)
	}
	if _, err := audit.Verify(bytes.NewReader(part), l.trust().Begin()); err == nil {
		t.Error("a part without the state before it passed")
	}
	if _, err := audit.Verify(bytes.NewReader(part), second.State); err == nil {
		t.Error("a part passed twice")
	}
}

func TestTrustText(t *testing.T) {
	trust := audit.Trust{Cluster: clusterID, Genesis: tlog.Hash{1, 2, 3}}
	got, err := audit.ParseTrust(trust.String() + "\n")
	if err != nil || !reflect.DeepEqual(got, trust) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "hizo-trust-v1", "hizo-trust-v2 " + clusterID + " " + strings.Repeat("0", 64),
		"hizo-trust-v1 00 " + strings.Repeat("0", 64), "hizo-trust-v1 " + clusterID + " 00", strings.ToUpper(trust.String()), trust.String() + " x"} {
		if _, err := audit.ParseTrust(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// The format is a contract with exports that lie in archives.
func TestExportGolden(t *testing.T) {
	l := &logBook{t: t}
	l.add(audit.Record{Principal: "node/n1", Action: "genesis", Resource: "cluster", Detail: "cluster=" + clusterID + " node=n1 key=AAAA"})
	l.records(1)
	n := audit.Note{Checkpoint: l.state(), Signatures: []audit.Signature{{Node: "n1", Key: [4]byte{1, 2, 3, 4}, Signature: []byte("signature")}}}
	if err := l.w.Checkpoint(n.Format()); err != nil {
		t.Fatal(err)
	}
	got := l.close()
	golden := filepath.Join("testdata", "export.v1.jsonl")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the export format changed:\n%s\nwant\n%s", got, want)
	}
}

func FuzzParseLeaf(f *testing.F) {
	r := audit.Record{Seq: 3, Principal: "user/alice", Action: "reveal", Resource: "ml/db", Policies: []string{"a", "b"}, Sealed: []byte{1}, Decision: 1, Outcome: 1}
	f.Add(r.Leaf())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, leaf []byte) {
		r, err := audit.ParseLeaf(leaf)
		if err == nil && !bytes.Equal(r.Leaf(), leaf) {
			t.Errorf("%x parses and is written as %x", leaf, r.Leaf())
		}
	})
}

func FuzzParseNote(f *testing.F) {
	n := audit.Note{Checkpoint: audit.Checkpoint{Origin: "hizo/x", Size: 3}, Signatures: []audit.Signature{{Node: "n1", Signature: []byte("x")}}}
	f.Add(n.Format())
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := audit.ParseNote(text); err == nil && n.Format() != text {
			t.Errorf("%q parses and is written as %q", text, n.Format())
		}
	})
}

func FuzzVerify(f *testing.F) {
	l := whole(f)
	f.Add(l.close())
	f.Fuzz(func(t *testing.T, export []byte) {
		_, _ = audit.Verify(bytes.NewReader(export), l.trust().Begin()) // must not panic
	})
}

// A restore begins another log, by another signer, at a record that only a trust file vouches for.
func TestRestoreInTheLog(t *testing.T) {
	a, r, thief := newNode(t, "n1"), newNode(t, "r1"), newNode(t, "n1")
	const id = "0011223344556677"
	restored := func(by *node, origin string) *logBook {
		l := begin(t, a)
		l.records(2)
		l.checkpoint(a)
		l.add(audit.Record{
			Principal: "node/r1", Action: "restore", Resource: "cluster",
			Detail: r.detail() + " origin=" + audit.Origin(clusterID) + "/" + id + " after=" + audit.Origin(clusterID) + " records=3",
		})
		l.records(1)
		n := audit.Note{Checkpoint: l.state()}
		n.Origin = origin
		n.Signatures = []audit.Signature{by.sign(t, n.Checkpoint)}
		if err := l.w.Checkpoint(n.Format()); err != nil {
			t.Fatal(err)
		}
		return l
	}
	next := audit.Origin(clusterID) + "/" + id
	l := restored(r, next)
	leaf := l.leaves[3]
	if _, err := l.verify(); err == nil || !strings.Contains(err.Error(), "restored from a backup") {
		t.Errorf("without trust in it: %v", err)
	}
	trust := l.trust()
	trust.Restores = append(trust.Restores, audit.LeafHash(leaf))
	if again, err := audit.ParseTrust(trust.String()); err != nil || !reflect.DeepEqual(again, trust) {
		t.Errorf("%+v, %v", again, err)
	}
	report, err := audit.Verify(bytes.NewReader(l.out.Bytes()), trust.Begin())
	if err != nil || report.State.Origin() != next || len(report.State.Signers) != 1 || report.State.Signers["r1"] == nil {
		t.Fatalf("%+v, %v", report.State, err)
	}
	for name, bad := range map[string]*logBook{
		"signed by who signed before": restored(a, next), "by a stranger": restored(thief, next), "under the old origin": restored(r, audit.Origin(clusterID)),
	} {
		bad.close()
		trust := bad.trust()
		trust.Restores = append(trust.Restores, audit.LeafHash(bad.leaves[3]))
		if _, err := audit.Verify(bytes.NewReader(bad.out.Bytes()), trust.Begin()); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

// A recovery from a lost quorum gives up most of those who sign. The rest can't vouch for that; a trust file can.
func TestRecoveryInTheLog(t *testing.T) {
	a, b, c := newNode(t, "n1"), newNode(t, "n2"), newNode(t, "n3")
	recovered := func(detail string, by *node) *logBook {
		l := begin(t, a)
		l.member("approve", b)
		l.member("approve", c)
		l.checkpoint(a)
		l.records(2)
		l.checkpoint(a, b)
		l.add(audit.Record{Principal: "node/n3", Action: "recover", Resource: "cluster", Detail: detail})
		l.member("remove", a)
		l.member("remove", b)
		l.records(1)
		l.checkpoint(by)
		return l
	}
	const detail = `gave_up=n1,n2 survivors= last_index=7 last_term=2 at=1 by="alice" reason="fire"`
	l := recovered(detail, c)
	export := l.close()
	trust := l.trust()
	_, err := audit.Verify(bytes.NewReader(export), trust.Begin())
	hash := audit.LeafHash(l.leaves[5])
	if err == nil || !strings.Contains(err.Error(), "most nodes were lost for good") || !strings.Contains(err.Error(), hex.EncodeToString(hash[:])) {
		t.Errorf("without trust in it: %v", err)
	}
	// As the message says.
	trust, err = audit.ParseTrust(trust.String() + " " + hex.EncodeToString(hash[:]))
	if err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(bytes.NewReader(export), trust.Begin())
	if err != nil || len(report.State.Signers) != 1 || report.State.Signers["n3"] == nil || report.Unsigned != 0 {
		t.Errorf("with trust in it: %+v, %v", report, err)
	}
	for what, bad := range map[string]*logBook{
		"signed by one that was given up": recovered(detail, a),
		"nobody is given up":              recovered("survivors=n3", c),
		"everybody is given up":           recovered("gave_up=n1,n2,n3", c),
		"one is left who is silent":       recovered("gave_up=n1", c),
	} {
		trust := bad.trust()
		trust.Restores = append(trust.Restores, audit.LeafHash(bad.leaves[5]))
		if _, err := audit.Verify(bytes.NewReader(bad.close()), trust.Begin()); err == nil {
			t.Errorf("verified: %s", what)
		}
	}
}

// Who is left of two can't vouch for the removal of the other, nor two of five for that of three. A trust file can.
func TestRemovalsThatNobodyCanVouchFor(t *testing.T) {
	a, b, c := newNode(t, "n1"), newNode(t, "n2"), newNode(t, "n3")
	removed := func(sign func(l *logBook), gone ...*node) *logBook {
		l := begin(t, a)
		l.member("approve", b)
		l.member("approve", c)
		l.checkpoint(a)
		l.records(1)
		l.checkpoint(a, b)
		for _, n := range gone {
			l.member("remove", n)
		}
		sign(l)
		l.records(1)
		l.checkpoint(a)
		return l
	}
	for what, l := range map[string]*logBook{
		"one by one":   removed(func(l *logBook) { l.checkpoint(a, b); l.member("remove", b); l.checkpoint(a) }, c),
		"both at once": removed(func(l *logBook) { l.checkpoint(a) }, c, b),
	} {
		export := l.close()
		trust := l.trust()
		_, err := audit.Verify(bytes.NewReader(export), trust.Begin())
		var hash string
		for i, leaf := range l.leaves {
			if r, err := audit.ParseLeaf(leaf); err == nil && r.Action == "remove" && r.Resource == "node/n2" {
				h := audit.LeafHash(l.leaves[i])
				hash = hex.EncodeToString(h[:])
			}
		}
		if err == nil || !strings.Contains(err.Error(), hash) {
			t.Fatalf("%s: without trust in %s: %v", what, hash, err)
		}
		if trust, err = audit.ParseTrust(trust.String() + " " + hash); err != nil { // as the message says
			t.Fatal(err)
		}
		report, err := audit.Verify(bytes.NewReader(export), trust.Begin())
		if err != nil || len(report.State.Signers) != 1 || report.State.Signers["n1"] == nil || report.Unsigned != 0 {
			t.Errorf("%s: with trust in it: %+v, %v", what, report, err)
		}
	}
	// A majority is there and did not sign: that is no gap, and no trust in a removal is asked for.
	l := removed(func(l *logBook) { l.checkpoint(b) }, c)
	if _, err := l.verify(); err == nil || strings.Contains(err.Error(), "trust file") {
		t.Errorf("a minority's signature: %v", err)
	}
	// Nor does trust in a removal make up for who is left and silent.
	trust := l.trust()
	trust.Restores = append(trust.Restores, audit.LeafHash(l.leaves[4]))
	if r, err := audit.ParseLeaf(l.leaves[4]); err != nil || r.Action != "remove" {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := audit.Verify(bytes.NewReader(l.out.Bytes()), trust.Begin()); err == nil {
		t.Error("one of the two that are left signed, and it verified")
	}
}
