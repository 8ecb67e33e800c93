package fsm

import (
	"crypto/sha256"
	"math"
	"slices"
	"strings"
)

// What the cluster rotates of its own, by name: as it is in schedules, in audit records, and on the disk.
const (
	RotateRoot         = "root"
	RotateNodeShares   = "node-shares"
	RotateOperators    = "operator-shares"
	RotateCertificates = "certificates" // those that nodes present to clients
	RotateVaults       = "vaults"       // the keys of all vaults
)

// RotateVault is the key of one vault.
func RotateVault(vault string) string { return "vault/" + vault }

// KeyRotation is when a part of the cluster's keys is renewed, and whether that is under way. It grants nothing, so it
// has no MAC: on an edited disk keys are renewed too often, or late.
type KeyRotation struct {
	Subject string
	Every   int64 // ms; the schedule as people wrote it, all empty: on demand only
	Cron    string
	Zone    string
	Window  string
	Next    int64 // when the schedule comes due, Unix ms; 0: never
	Due     int64 // when the one under way began; 0: none is
	Last    int64 // when one was finished last
	Changed uint64
}

// OperatorSet is a set of operators' shares on its way into force, and after it the one in force as far as it was made
// that way. The old set opens the cluster until enough operators have shown that they can read their new shares.
type OperatorSet struct {
	Deal       []byte // crypto/shares.Deal, encoded
	Key        []byte // HPKE public key derived from the operators' seed
	Recipients []string
	Threshold  int
	Files      [][]byte // of each operator: share and code, age-encrypted to the recipient
	Proofs     [][]byte // SHA-256 of each code
	Confirmed  []int64  // when its operator sent the code, Unix ms; 0: not yet. Set by Apply
	Proposed   int64    // set by Apply
	MAC        []byte
	Changed    uint64
}

// Need is how many operators have to confirm before the set comes into force: one more than open it, if there are, so
// that one lost share is not too many.
func (o OperatorSet) Need() int { return min(len(o.Recipients), o.Threshold+1) }

// Confirmations counts them.
func (o OperatorSet) Confirmations() int {
	return len(o.Confirmed) - len(slices.DeleteFunc(slices.Clone(o.Confirmed), func(at int64) bool { return at != 0 }))
}

// MACDomain of an operator set.
func (OperatorSet) MACDomain() string { return "hizo/mac/operators/1" }

// MACBody covers whose shares open what, and what shows that they are readable.
func (o OperatorSet) MACBody() []byte {
	t := recipients(tuple(nil).bytes(o.Deal).bytes(o.Key).number(uint64(o.Threshold)), o.Recipients)
	for _, list := range [][][]byte{o.Files, o.Proofs} {
		t = t.number(uint64(len(list)))
		for _, b := range list {
			t = t.bytes(b)
		}
	}
	return t
}

func recipients(t tuple, list []string) tuple {
	t = t.number(uint64(len(list)))
	for _, r := range list {
		t = t.text(r)
	}
	return t
}

// KeySchedule sets or, without Every and Cron, removes a schedule. Next is the proposer's reckoning.
type KeySchedule struct {
	Subject string
	Every   int64
	Cron    string
	Zone    string
	Window  string
	Next    int64
}

// KeyRotationBegin asks for a rotation, or finishes one where only the leader can tell that it is through.
type KeyRotationBegin struct {
	Subject string
	Next    int64 // of the schedule that came due; 0: it stays as it is
	Skip    bool  // it came due and cannot be done: only Next moves on
	Done    bool
}

// KeyRewrap moves data keys of a vault to its newest key generation. Values stay as they are.
type KeyRewrap struct {
	Vault      string
	Generation uint32
	Items      []RewrappedKey
}

// RewrappedKey is the data key of one version, which was under From.
type RewrappedKey struct {
	Path       string
	Version    uint32
	From       uint32
	WrappedKey []byte
}

// KeyRetire drops a key generation that wraps nothing any more.
type KeyRetire struct {
	Purpose    string
	Generation uint32
}

// OperatorsPropose offers a new set to its operators.
type OperatorsPropose struct {
	Set  OperatorSet
	Next int64 // as in KeyRotationBegin
}

// OperatorsConfirm is one operator's word that the new share can be read: the code that stands beside it.
type OperatorsConfirm struct {
	Index int // from 1
	Code  []byte
}

// OperatorsCommit puts the confirmed set in force. MAC is the cluster record's.
type OperatorsCommit struct {
	Deal         []byte
	OperatorRoot []byte
	MAC          []byte
}

// OperatorsAbort drops the set that is not in force yet.
type OperatorsAbort struct{ Deal []byte }

// ObjKeyRotation names what is known of one subject's rotations.
func ObjKeyRotation(subject string) string { return prefixKeyRotation + subject }

// Objects of operators' sets.
const (
	ObjOperatorsNext = "operators/next"
	objOperators     = "operators/current"
)

const maxOperators = 32

// rotates says whether there is such a subject.
func (t *tx) rotates(subject string) bool {
	switch subject {
	case RotateRoot, RotateNodeShares, RotateOperators, RotateCertificates, RotateVaults:
		return true
	}
	vault, ok := vaultOf(subject)
	return ok && segment(vault) && find[Vault](t, ObjVault(vault)) != nil
}

func (t *tx) keySchedule(b *KeySchedule) outcome {
	scheduled := b.Every > 0 || b.Cron != ""
	if !t.rotates(b.Subject) || b.Every < 0 || scheduled != (b.Next > 0) ||
		len(b.Cron) > MaxName || len(b.Zone) > MaxName || len(b.Window) > MaxName {
		return refuse(CodeInvalid)
	}
	t.changeRotation(b.Subject, func(k *KeyRotation) {
		k.Every, k.Cron, k.Zone, k.Window, k.Next = b.Every, b.Cron, b.Zone, b.Window, b.Next
	})
	return done()
}

// changeRotation stores a changed copy.
func (t *tx) changeRotation(subject string, change func(*KeyRotation)) {
	next := KeyRotation{Subject: subject}
	if have := find[KeyRotation](t, ObjKeyRotation(subject)); have != nil {
		next = *have
	}
	change(&next)
	next.Changed = t.index
	t.put(ObjKeyRotation(subject), &next)
}

func (t *tx) keyRotationBegin(b *KeyRotationBegin) outcome {
	if !t.rotates(b.Subject) || b.Next < 0 || b.Skip && b.Done || b.Done && b.Next != 0 {
		return refuse(CodeInvalid)
	}
	begins := !b.Skip && !b.Done
	if begins && !t.rotatable(b.Subject) {
		return refuse(CodeConflict)
	}
	t.changeRotation(b.Subject, func(k *KeyRotation) {
		if b.Next != 0 && k.Next != 0 {
			k.Next = b.Next
		}
		if begins && k.Due == 0 {
			k.Due = t.time
		}
		if b.Done && k.Due != 0 {
			k.Due, k.Last = 0, t.time
		}
	})
	return done()
}

// rotatable: other nodes get a new root by their shares only, so without a node set one node alone may rotate it.
func (t *tx) rotatable(subject string) bool {
	switch subject {
	case RotateNodeShares:
		return t.cluster().NodeEpoch != 0
	case RotateRoot:
		members := 0
		t.scan("member/", func(string, object) bool {
			members++
			return members < 2
		})
		return t.cluster().NodeEpoch != 0 || members == 1
	case RotateOperators:
		return false // by OperatorsPropose
	}
	return true
}

// rotated finishes what is under way, if it is.
func (t *tx) rotated(subject string) {
	if have := find[KeyRotation](t, ObjKeyRotation(subject)); have != nil && have.Due != 0 {
		t.changeRotation(subject, func(k *KeyRotation) { k.Due, k.Last = 0, t.time })
	}
}

// keyRewrap takes what still is where the proposer found it; what was destroyed or rewrapped meanwhile is passed over.
func (t *tx) keyRewrap(b *KeyRewrap) outcome {
	if !segment(b.Vault) || len(b.Items) == 0 || len(b.Items) > MaxRewraps {
		return refuse(CodeInvalid)
	}
	vault := find[Vault](t, ObjVault(b.Vault))
	purpose := vaultPurpose(b.Vault)
	to := find[WrappedKey](t, objKeyGen(purpose, b.Generation))
	if vault == nil || to == nil || vault.Generation != b.Generation {
		return superseded(ObjKey(purpose))
	}
	if to.Wraps+uint64(len(b.Items)) > MaxWraps {
		return refuse(CodeKeyExhausted)
	}
	moved := make(map[uint32]uint64) // from generation
	seen := make(map[string]bool, len(b.Items))
	for i := range b.Items {
		item := &b.Items[i]
		if !multi(item.Path) || len(item.WrappedKey) == 0 || item.From >= b.Generation {
			return refuse(CodeInvalid)
		}
		name := objData(b.Vault, item.Path, item.Version)
		data := find[SealedValue](t, name)
		if data == nil || data.Generation != item.From || seen[name] {
			continue
		}
		seen[name] = true
		next := *data
		next.Generation, next.WrappedKey = b.Generation, item.WrappedKey
		t.put(name, &next)
		moved[item.From]++
	}
	count := uint64(0)
	for _, from := range slices.Sorted(keysOf(moved)) {
		count += moved[from]
		t.countLive(purpose, from, func(k *WrappedKey) { k.Live -= min(k.Live, moved[from]) })
	}
	t.countLive(purpose, b.Generation, func(k *WrappedKey) { k.Wraps, k.Live = k.Wraps+count, k.Live+count })
	return done()
}

func keysOf(m map[uint32]uint64) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// countLive changes the counts of a key generation. They are no change of the key: its index stays.
func (t *tx) countLive(purpose string, generation uint32, change func(*WrappedKey)) {
	name := objKeyGen(purpose, generation)
	if have := find[WrappedKey](t, name); have != nil {
		next := *have
		change(&next)
		t.put(name, &next)
	}
}

// dropData removes a version's ciphertext with its data key.
func (t *tx) dropData(vault, path string, number uint32) {
	name := objData(vault, path, number)
	if data := find[SealedValue](t, name); data != nil {
		t.countLive(vaultPurpose(vault), data.Generation, func(k *WrappedKey) { k.Live -= min(k.Live, 1) })
		t.del(name)
	}
}

// keyRetire drops a generation of a vault's key once nothing is wrapped by it.
func (t *tx) keyRetire(b *KeyRetire) outcome {
	name := objKeyGen(b.Purpose, b.Generation)
	key := find[WrappedKey](t, name)
	head := find[keyHead](t, ObjKey(b.Purpose))
	if _, isVault := vaultOf(b.Purpose); !isVault || b.Generation == math.MaxUint32 {
		return refuse(CodeInvalid)
	}
	if key == nil || head == nil {
		return refuse(CodeNotFound)
	}
	if key.Live != 0 || b.Generation >= head.Current {
		return refuse(CodeConflict)
	}
	t.del(name)
	return done()
}

func (t *tx) operatorsPropose(b *OperatorsPropose) outcome {
	s := b.Set
	n := len(s.Recipients)
	if n == 0 || n > maxOperators || s.Threshold < 1 || s.Threshold > n || len(s.Files) != n || len(s.Proofs) != n ||
		len(s.Deal) == 0 || len(s.Key) == 0 || b.Next < 0 {
		return refuse(CodeInvalid)
	}
	for i, r := range s.Recipients {
		if r == "" || slices.Index(s.Recipients, r) != i || len(s.Files[i]) == 0 || len(s.Proofs[i]) != sha256.Size {
			return refuse(CodeInvalid)
		}
	}
	if t.lookup(ObjOperatorsNext) != nil {
		return refuse(CodeConflict)
	}
	s.Confirmed, s.Proposed, s.Changed = make([]int64, n), t.time, t.index
	t.put(ObjOperatorsNext, &s)
	t.changeRotation(RotateOperators, func(k *KeyRotation) {
		k.Due = t.time
		if b.Next != 0 && k.Next != 0 {
			k.Next = b.Next
		}
	})
	return done()
}

func (t *tx) operatorsConfirm(b *OperatorsConfirm) outcome {
	have := find[OperatorSet](t, ObjOperatorsNext)
	name := ObjOperatorsNext
	if code := sha256.Sum256(b.Code); have == nil || b.Index < 1 || b.Index > len(have.Proofs) || string(have.Proofs[b.Index-1]) != string(code[:]) {
		// Who is late confirms a set that is in force already.
		have, name = find[OperatorSet](t, objOperators), objOperators
		if have == nil || b.Index < 1 || b.Index > len(have.Proofs) || string(have.Proofs[b.Index-1]) != string(code[:]) {
			return refuse(CodeNotFound)
		}
	}
	next := *have
	next.Confirmed = slices.Clone(have.Confirmed)
	if next.Confirmed[b.Index-1] == 0 {
		next.Confirmed[b.Index-1] = t.time
	}
	next.Changed = t.index
	t.put(name, &next)
	return done()
}

// operatorsCommit puts a set in force that enough operators can read, and asks for a new root: the old operators' shares
// open the present one for ever.
func (t *tx) operatorsCommit(b *OperatorsCommit) outcome {
	have := find[OperatorSet](t, ObjOperatorsNext)
	if have == nil || string(have.Deal) != string(b.Deal) {
		return refuse(CodeNotFound)
	}
	if have.Confirmations() < have.Need() || len(b.OperatorRoot) == 0 {
		return refuse(CodeInvalid)
	}
	now := *have
	now.Changed = t.index
	t.del(ObjOperatorsNext)
	t.put(objOperators, &now)
	t.putCluster(func(c *Cluster) {
		c.OperatorDeal, c.OperatorKey, c.OperatorRoot, c.MAC = now.Deal, now.Key, b.OperatorRoot, b.MAC
		c.OperatorRecipients = now.Recipients
	})
	t.rotated(RotateOperators)
	if t.rotatable(RotateRoot) {
		t.changeRotation(RotateRoot, func(k *KeyRotation) {
			if k.Due == 0 {
				k.Due = t.time
			}
		})
	}
	return done()
}

func (t *tx) operatorsAbort(b *OperatorsAbort) outcome {
	have := find[OperatorSet](t, ObjOperatorsNext)
	if have == nil || string(have.Deal) != string(b.Deal) {
		return refuse(CodeNotFound)
	}
	t.del(ObjOperatorsNext)
	t.changeRotation(RotateOperators, func(k *KeyRotation) { k.Due = 0 })
	return done()
}

// KeyRotations lists what is scheduled or has been rotated, by subject.
func (s *Store) KeyRotations() []KeyRotation {
	var out []KeyRotation
	s.scan(prefixKeyRotation, "", func(_ string, o object) bool {
		out = append(out, *o.(*KeyRotation))
		return true
	})
	return out
}

// KeyRotation is what is known of one subject.
func (s *Store) KeyRotation(subject string) (KeyRotation, bool) {
	return read[KeyRotation](s, ObjKeyRotation(subject))
}

// OperatorSets returns the set that waits for its operators, and the one in force if it was made that way.
func (s *Store) OperatorSets() (next, current *OperatorSet) {
	if o, ok := read[OperatorSet](s, ObjOperatorsNext); ok {
		next = &o
	}
	if o, ok := read[OperatorSet](s, objOperators); ok {
		current = &o
	}
	return next, current
}

// StaleData is a version whose data key is under an older key generation of its vault.
type StaleData struct {
	Path    string
	Version uint32
	Data    SealedValue // without the value's ciphertext
}

// StaleData lists up to limit versions of a vault with generations below one, behind a name that an earlier call
// returned. An empty name at the end: there is no more.
func (s *Store) StaleData(vault string, below uint32, behind string, limit int) (list []StaleData, last string) {
	prefix := prefixData + vault + "/"
	from := prefix
	if behind != "" {
		from = behind + "\x00"
	}
	s.scan(prefix, from, func(name string, o object) bool {
		if data := o.(*SealedValue); data.Generation < below {
			path := strings.TrimPrefix(name, prefix)
			if len(path) < 5 {
				return true
			}
			number := uint32(0)
			for _, b := range []byte(path[len(path)-4:]) {
				number = number<<8 | uint32(b)
			}
			list = append(list, StaleData{Path: path[:len(path)-5], Version: number, Data: SealedValue{
				Format: data.Format, Generation: data.Generation, WrappedKey: data.WrappedKey,
			}})
		}
		if len(list) == limit {
			last = name
			return false
		}
		return true
	})
	return list, last
}
