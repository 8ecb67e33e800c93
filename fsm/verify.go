package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// Replicated visits every replicated key with its value, in order of keys: two stores at one index hold the same, byte
// for byte. Node-local keys (position, Raft configuration) are left out. Key and value are valid during the visit.
func (s *Store) Replicated(visit func(key, value []byte) error) error {
	db := s.acquire()
	if db == nil {
		return errClosed
	}
	defer db.release()
	return replicated(db, visit)
}

func replicated(db *database, visit func(key, value []byte) error) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: after(localPrefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := visit(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// Verify reads the whole state and says what in it contradicts itself: versions, keys, deals, roles, tokens, the memory
// of requests, the expiry index and every hash of the audit tree. It is slow. Nothing may be applied meanwhile.
func (s *Store) Verify() error {
	db := s.acquire()
	if db == nil {
		return errClosed
	}
	defer db.release()
	v := verifier{
		s: s, objects: map[string]object{}, expiry: map[string]int64{}, leaves: map[uint64]tlog.Hash{},
		hashes: map[uint64][]byte{}, now: s.Time(),
	}
	if err := replicated(db, v.load); err != nil {
		return err
	}
	v.secrets()
	v.rotations()
	v.keys()
	v.members()
	v.signers()
	v.identities()
	v.expiries()
	v.leases()
	v.events()
	v.consumers()
	v.pipelines()
	v.tree()
	return errors.Join(v.problems...)
}

type verifier struct {
	s        *Store
	now      int64
	objects  map[string]object
	expiry   map[string]int64
	leaves   map[uint64]tlog.Hash
	hashes   map[uint64][]byte
	problems []error
}

func (v *verifier) problem(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *verifier) lookup(name string) object { return v.objects[name] }

func (v *verifier) load(key, value []byte) error {
	name := string(key)
	rest, isLeaf := strings.CutPrefix(name, prefixLeaf)
	if isLeaf {
		seq := binary.BigEndian.Uint64([]byte(rest))
		r, err := ParseLeaf(value)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", seq, err)
		}
		if r.Seq != seq || !bytes.Equal(r.LeafBytes(), value) {
			v.problem("leaf %d calls itself %d or is not canonical", seq, r.Seq)
		}
		v.leaves[seq] = tlog.RecordHash(value)
		return nil
	}
	if rest, ok := strings.CutPrefix(name, prefixHash); ok {
		v.hashes[binary.BigEndian.Uint64([]byte(rest))] = bytes.Clone(value)
		return nil
	}
	if rest, ok := strings.CutPrefix(name, prefixExpiry); ok {
		if _, twice := v.expiry[rest[8:]]; twice {
			v.problem("the expiry index holds %q twice", rest[8:])
		}
		v.expiry[rest[8:]] = int64(binary.BigEndian.Uint64([]byte(rest)))
		return nil
	}
	if name == keyTime || name == keySize || name == keyEpoch {
		return nil
	}
	o, err := decodeObject(name, value)
	if err != nil {
		return fmt.Errorf("object %q: %w", name, err)
	}
	if !bytes.Equal(encodeObject(o), value) {
		v.problem("object %q is not canonical", name)
	}
	if o.changed() > v.s.Position().Index {
		v.problem("object %q changed at %d, after the last entry", name, o.changed())
	}
	if cached, known := v.s.cache.get(name); known && remembered(name) {
		if cached == nil || !bytes.Equal(encodeObject(cached), value) {
			v.problem("object %q is another one in the cache", name)
		}
	}
	v.objects[name] = o
	return nil
}

func (v *verifier) secrets() {
	kept := 0
	for name, o := range v.objects {
		head, ok := o.(*Secret)
		if !ok {
			continue
		}
		if name != ObjSecret(head.Vault, head.Path) || v.objects[ObjVault(head.Vault)] == nil {
			v.problem("secret %q is misplaced", name)
		}
		// Numbers behind the current one are of rotations: one under way, or such as ended without a new value.
		if head.Current >= head.Next || head.Previous >= max(head.Current, 1) || head.Oldest == 0 ||
			head.Next-head.Oldest > MaxVersions || head.Current != 0 && head.Oldest > head.Current ||
			head.Pending != 0 && (head.Pending != head.Next-1 || head.Pending <= head.Current || !head.Rotating) {
			v.problem("secret %q: %+v", name, *head)
		}
		if r := find[Rotation](v, ObjRotation(head.Vault, head.Path)); head.Rotating != (r != nil && r.rotating()) {
			v.problem("secret %q: an attempt is under way is %t, its rotation disagrees", name, head.Rotating)
		}
		current := 0
		for n := head.Oldest; n < head.Next; n++ {
			version := find[storedVersion](v, objVersion(head.Vault, head.Path, n))
			data := find[SealedValue](v, objData(head.Vault, head.Path, n))
			kept++
			switch {
			case version == nil || version.Number != n:
				v.problem("secret %q lacks version %d", name, n)
				continue
			case version.Destroyed != (data == nil):
				v.problem("secret %q version %d: destroyed is %t, ciphertext is there: %t", name, n, version.Destroyed, data != nil)
			}
			if stage := version.describe(head).Stage; stage == StageCurrent || stage == StageDestroyed && n == head.Current {
				current++
			}
		}
		if current != min(int(head.Current), 1) {
			v.problem("secret %q has %d current versions", name, current)
		}
	}
	for name := range v.objects {
		if strings.HasPrefix(name, prefixVersion) {
			kept--
		}
	}
	if kept != 0 {
		v.problem("%d versions belong to no secret", -kept)
	}
}

func (v *verifier) keys() {
	live := make(map[string]uint64)
	for name, o := range v.objects {
		if data, ok := o.(*SealedValue); ok {
			vault, _, _ := strings.Cut(strings.TrimPrefix(name, prefixData), "/")
			live[objKeyGen(vaultPurpose(vault), data.Generation)]++
		}
	}
	for name, o := range v.objects {
		if key, ok := o.(*WrappedKey); ok && key.Live != live[name] {
			v.problem("key %q generation %d wraps %d data keys, not %d", key.Purpose, key.Generation, live[name], key.Live)
		} else if ok {
			delete(live, name)
		}
	}
	for name := range live {
		v.problem("data keys are under %q, which is gone", name)
	}
	for name, o := range v.objects {
		switch o := o.(type) {
		case *keyHead:
			if find[WrappedKey](v, objKeyGen(o.Purpose, o.Current)) == nil || name != ObjKey(o.Purpose) {
				v.problem("key %q: generation %d is missing", name, o.Current)
			}
		case *WrappedKey:
			head := find[keyHead](v, ObjKey(o.Purpose))
			if head == nil || o.Generation > head.Current || o.Wraps > MaxWraps {
				v.problem("key %q generation %d is out of place", o.Purpose, o.Generation)
			}
		case *Vault:
			head := find[keyHead](v, ObjKey(vaultPurpose(o.Name)))
			if head == nil || head.Current != o.Generation {
				v.problem("vault %q is at generation %d, its key is not", o.Name, o.Generation)
			}
		}
	}
}

// signers compares the newest signer set with the members, which have not changed since.
func (v *verifier) signers() {
	var newest string
	for name := range v.objects {
		if strings.HasPrefix(name, prefixSigners) {
			newest = max(newest, name)
		}
	}
	set, _ := v.objects[newest].(*signerSet)
	want := make(map[string]string)
	for name, o := range v.objects {
		if m, ok := o.(*Member); ok && m.Approved {
			want[name] = string(m.Key)
		}
	}
	if set == nil {
		set = new(signerSet)
	}
	if len(set.Signers) != len(want) {
		v.problem("%d members may sign checkpoints, %d are approved", len(set.Signers), len(want))
	}
	for _, who := range set.Signers {
		if want[ObjMember(who.ID)] != string(who.Key) {
			v.problem("%s may sign checkpoints and is no approved member", who.ID)
		}
	}
}

func (v *verifier) members() {
	cluster := find[Cluster](v, ObjCluster)
	if cluster == nil {
		if len(v.objects) != 0 {
			v.problem("there is state before Genesis")
		}
		return
	}
	for _, epoch := range []uint64{cluster.NodeEpoch, cluster.PendingEpoch} {
		if epoch != 0 && find[Deal](v, objDeal(epoch)) == nil {
			v.problem("deal %d is missing", epoch)
		}
	}
	for _, o := range v.objects {
		if d, ok := o.(*Deal); ok && d.Epoch > cluster.NodeEpoch && d.Epoch != cluster.PendingEpoch && cluster.NodeEpoch != 0 {
			v.problem("deal %d is neither in force nor proposed", d.Epoch)
		}
	}
}

func (v *verifier) identities() {
	holders, engineers, able := 0, 0, 0
	for name, o := range v.objects {
		set, ok := o.(*roleSet)
		if !ok {
			continue
		}
		if len(set.Bindings) == 0 {
			v.problem("%q is empty", name)
		}
		for i, b := range set.Bindings {
			holders++
			if ObjRoles(b.Principal) != name || v.objects[objHolder(b.Role, b.Principal)] == nil ||
				v.objects[b.Principal] == nil || i > 0 && set.Bindings[i-1].Role >= b.Role {
				v.problem("role binding %q of %q is out of place", b.Role, b.Principal)
			}
			if b.Role == RoleSecurityEngineer {
				engineers++
				if !v.disabled(b.Principal) {
					able++
				}
			}
		}
	}
	if engineers > 0 && able == 0 {
		v.problem("no enabled SecurityEngineer is left")
	}
	for name, o := range v.objects {
		switch o := o.(type) {
		case *marker:
			if strings.HasPrefix(name, prefixHolder) {
				holders--
			}
		case *storedToken:
			v.checkCredential(name, o, o.Token.Principal)
		case *Certificate:
			v.checkCredential(name, o, o.Principal)
		case *SecretID:
			v.checkCredential(name, o, ObjWorkload(o.Workload))
		case *request:
			var id [16]byte
			copy(id[:], name[len(prefixRequest):])
			if ms, ok := requestTime(id); !ok || ms > v.now+millis(RequestMemory) {
				v.problem("request %x is remembered for too long", id)
			}
			if !settled(o.Code) || o.Index > v.s.Position().Index {
				v.problem("request %x is remembered with code %d at %d", id, o.Code, o.Index)
			}
		}
	}
	if holders != 0 {
		v.problem("%d holders without a role binding", -holders)
	}
}

func (v *verifier) checkCredential(name string, o object, principal string) {
	if alive(v, o) && v.disabled(principal) {
		v.problem("%s of the disabled %q lives", name, principal)
	}
	if live := indexOf(v.s, name) != 0; live != alive(v, o) {
		v.problem("%s of %q: Index disagrees with the state", name, principal)
	}
}

func (v *verifier) disabled(name string) bool {
	switch o := v.objects[name].(type) {
	case *User:
		return o.Disabled
	case *Workload:
		return o.Disabled
	}
	return true
}

func (v *verifier) expiries() {
	expected := map[string]int64{}
	for name, o := range v.objects {
		switch o := o.(type) {
		case *storedToken:
			expected[name] = o.Token.Expires + millis(TokenMemory)
		case *SecretID:
			expected[name] = o.Expires + millis(OneTimeMemory)
		case *Enrolment:
			expected[name] = o.Expires + millis(OneTimeMemory)
		case *JoinToken:
			expected[name] = o.Expires + millis(OneTimeMemory)
		case *Certificate:
			expected[name] = o.Expires
		case *consumer:
			expected[name] = o.expires() + millis(ConsumerMemory)
		case *SealRevocation:
			if o.Expires != 0 {
				expected[name] = o.Expires
			}
		case *assertion:
			expected[name] = o.Expires
		}
	}
	for name, at := range expected {
		if v.expiry[name] != at {
			v.problem("%q expires at %d, its index says %d", name, at, v.expiry[name])
		}
	}
	for name := range v.expiry {
		if _, ok := expected[name]; !ok {
			v.problem("the expiry index holds %q, which is not there", name)
		}
	}
}

// pipelines checks that every identity runs one pipeline, that of which it is an identity.
func (v *verifier) pipelines() {
	runners := 0
	for name, o := range v.objects {
		switch o := o.(type) {
		case *Pipeline:
			if name != ObjPipeline(o.Vault, o.Name) || !o.valid() || v.objects[ObjVault(o.Vault)] == nil {
				v.problem("pipeline %q: %+v", name, *o)
			}
			for _, id := range o.Identities {
				runners++
				if r := find[runner](v, ObjRunner(id)); r == nil || r.Vault != o.Vault || r.Name != o.Name {
					v.problem("%q runs another pipeline than %q", id, name)
				}
			}
		case *runner:
			runners--
		case *SealRevocation:
			if name != ObjSealRevocation(o.Vault, o.Pipeline, o.Digest) || v.objects[ObjPipeline(o.Vault, o.Pipeline)] == nil {
				v.problem("revocation %q belongs to no pipeline", name)
			}
		}
	}
	if runners != 0 {
		v.problem("%d more identities than runners", runners)
	}
}

// tree computes every stored hash again, with x/mod's own code.
func (v *verifier) tree() {
	size := v.s.AuditSize()
	if uint64(len(v.leaves)) != size || uint64(len(v.hashes)) != size {
		v.problem("the audit log has %d records, %d leaves, %d hashes", size, len(v.leaves), len(v.hashes))
		return
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	})
	for n := range size {
		hashes, err := tlog.StoredHashesForRecordHash(int64(n), v.leaves[n], reader)
		if err != nil {
			v.problem("leaf %d: %w", n, err)
			return
		}
		var joined []byte
		for _, h := range hashes {
			joined = append(joined, h[:]...)
		}
		if !bytes.Equal(joined, v.hashes[n]) {
			v.problem("leaf %d: its stored hashes are wrong", n)
		}
		stored = append(stored, hashes...)
	}
	for _, o := range v.objects {
		if c, ok := o.(*Checkpoint); ok {
			if root, err := tlog.TreeHash(int64(c.Size), reader); err != nil || root != tlog.Hash(c.Root) {
				v.problem("checkpoint of size %d has another root than the tree", c.Size)
			}
		}
	}
	root, err := tlog.TreeHash(int64(size), reader)
	if got, gotErr := v.s.TreeRoot(size); err != nil || gotErr != nil || got != root {
		v.problem("the tree's root is wrong: %v, %v", err, gotErr)
	}
}
