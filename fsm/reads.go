package fsm

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Reads of the committed state. What they return shares memory with the store: treat it as read-only.
//
// For a read set take the index from the value (its Changed), or take Index before the value, never after: an older
// index beside a newer value is merely superseded, a newer index beside an older value would pass.

// Position says how far the store has come.
func (s *Store) Position() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.position
}

// Time is the cluster time in Unix milliseconds.
func (s *Store) Time() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.time
}

// Index is the Raft index of an object's last change, 0 if it is absent.
func (s *Store) Index(object string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return indexOf(s, object)
}

func indexOf(f finder, name string) uint64 {
	o := f.lookup(name)
	if o == nil {
		return 0
	}
	if !alive(f, o) {
		return 0
	}
	return o.changed()
}

// alive says whether a token, a client certificate or a secret id was not revoked with all others of its principal, nor
// with the binding or issuer that a token rests on. All other objects live as long as they are there.
func alive(f finder, o object) bool {
	switch o := o.(type) {
	case *storedToken:
		return generationOf(f, o.Token.Principal).Count == o.Generation && grounded(f, &o.Token)
	case *Certificate:
		return generationOf(f, o.Principal).Credentials == o.Generation
	case *SecretID:
		return generationOf(f, ObjWorkload(o.Workload)).Credentials == o.Generation
	}
	return true
}

func generationOf(f finder, principal string) generation {
	if g := find[generation](f, objGeneration(principal)); g != nil {
		return *g
	}
	return generation{}
}

// readAlive is read for what can be revoked.
func readAlive[T any, P interface {
	*T
	object
}](s *Store, name string) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o := find[T, P](s, name)
	if o == nil || !alive(s, P(o)) {
		var none T
		return none, false
	}
	return *o, true
}

// Cluster returns the cluster record, false before Genesis.
func (s *Store) Cluster() (Cluster, bool) { return read[Cluster](s, ObjCluster) }

// User returns a user.
func (s *Store) User(name string) (User, bool) { return read[User](s, ObjUser(name)) }

// Workload returns a workload.
func (s *Store) Workload(name string) (Workload, bool) { return read[Workload](s, ObjWorkload(name)) }

// Roles returns the role bindings of a principal such as "user/alice", sorted by role.
func (s *Store) Roles(principal string) []RoleBinding {
	set, _ := read[roleSet](s, ObjRoles(principal))
	return set.Bindings
}

// Token returns a token that was not revoked. It may have expired: compare Expires with Time.
func (s *Store) Token(hash []byte) (Token, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := find[storedToken](s, ObjToken(hash))
	if t == nil || !alive(s, t) {
		return Token{}, false
	}
	return t.Token, true
}

// SecretID returns a one-time secret id that was not revoked, used or not.
func (s *Store) SecretID(hash []byte) (SecretID, bool) {
	return readAlive[SecretID](s, ObjSecretID(hash))
}

// Enrolment returns a one-time enrolment, used or not.
func (s *Store) Enrolment(hash []byte) (Enrolment, bool) {
	return read[Enrolment](s, ObjEnrolment(hash))
}

// JoinToken returns a join token, used or not.
func (s *Store) JoinToken(hash []byte) (JoinToken, bool) {
	return read[JoinToken](s, ObjJoinToken(hash))
}

// Certificate returns the client certificate over a key (SHA-256 of the PKIX form), unless it was revoked.
func (s *Store) Certificate(key []byte) (Certificate, bool) {
	return readAlive[Certificate](s, ObjCertificate(key))
}

// Policy returns one policy.
func (s *Store) Policy(name string) (Policy, bool) { return read[Policy](s, ObjPolicy(name)) }

// Vault returns a vault.
func (s *Store) Vault(name string) (Vault, bool) { return read[Vault](s, ObjVault(name)) }

// Secret returns the head of a path.
func (s *Store) Secret(vault, path string) (Secret, bool) {
	return read[Secret](s, ObjSecret(vault, path))
}

// Member returns a member.
func (s *Store) Member(id string) (Member, bool) { return read[Member](s, ObjMember(id)) }

// Deal returns a proposed or committed deal; retired ones are gone.
func (s *Store) Deal(epoch uint64) (Deal, bool) { return read[Deal](s, objDeal(epoch)) }

// Key returns one generation of a key.
func (s *Store) Key(purpose string, generation uint32) (WrappedKey, bool) {
	return read[WrappedKey](s, objKeyGen(purpose, generation))
}

// KeyGeneration returns the newest generation of a purpose, 0 if there is none.
func (s *Store) KeyGeneration(purpose string) uint32 {
	head, _ := read[keyHead](s, ObjKey(purpose))
	return head.Current
}

// VersionData returns the ciphertext of a version outside the log: for rewrapping and tests. Nothing may be released
// from it; releases go through KindRead.
func (s *Store) VersionData(vault, path string, number uint32) (VersionData, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v := find[storedVersion](s, objVersion(vault, path, number))
	data := find[SealedValue](s, objData(vault, path, number))
	if v == nil || data == nil {
		return VersionData{}, false
	}
	return VersionData{Ref: Ref{vault, path, number}, Created: v.Created, Data: *data}, true
}

// Versions describes the versions of a path, oldest first.
func (s *Store) Versions(vault, path string) []Version {
	db := s.acquire()
	if db == nil {
		return nil
	}
	defer db.release()
	head, ok := read[Secret](s, ObjSecret(vault, path))
	if !ok {
		return nil
	}
	var out []Version
	scan(s, db, versionPrefix(vault, path), "", func(_ string, v *storedVersion) bool {
		out = append(out, v.describe(&head))
		return true
	})
	return out
}

func (v *storedVersion) describe(head *Secret) Version {
	stage := StageOld
	switch {
	case v.Destroyed:
		stage = StageDestroyed
	case v.Number == head.Pending:
		stage = StagePending
	case v.Number == head.Current:
		stage = StageCurrent
	case v.Number == head.Previous:
		stage = StagePrevious
	}
	return Version{Number: v.Number, Stage: stage, Created: v.Created, By: v.By, Deleted: v.Deleted, Size: v.Size}
}

// Secrets lists the heads of a vault's paths that begin with prefix and sort after the path after, at most limit.
func (s *Store) Secrets(vault, prefix, after string, limit int) []Secret {
	var out []Secret
	root := ObjSecret(vault, "")
	from := ""
	if after != "" {
		from = root + after + "\x00"
	}
	s.scan(root+prefix, from, func(_ string, o object) bool {
		if len(out) == limit {
			return false
		}
		out = append(out, *o.(*Secret))
		return len(out) < limit
	})
	return out
}

// Users lists all users by name.
func (s *Store) Users() []User { return list[User](s, "user/") }

// Workloads lists all workloads by name.
func (s *Store) Workloads() []Workload { return list[Workload](s, "workload/") }

// Policies lists all policies by name.
func (s *Store) Policies() []Policy { return list[Policy](s, "policy/") }

// Vaults lists all vaults by name.
func (s *Store) Vaults() []Vault { return list[Vault](s, "vault/") }

// Members lists all members by id.
func (s *Store) Members() []Member { return list[Member](s, "member/") }

// Keys lists every generation of every key, without ciphertext order guarantees beyond purpose and generation.
func (s *Store) Keys() []WrappedKey { return list[WrappedKey](s, prefixKeyGen) }

// Deals lists the deals that are not retired, oldest first.
func (s *Store) Deals() []Deal { return list[Deal](s, prefixDeal) }

// Bindings lists all role bindings by principal and role.
func (s *Store) Bindings() []RoleBinding {
	var out []RoleBinding
	for _, set := range list[roleSet](s, "roles/") {
		out = append(out, set.Bindings...)
	}
	return out
}

// Checkpoints lists the checkpoints of at least that size, smallest first.
func (s *Store) Checkpoints(from uint64) []Checkpoint {
	var out []Checkpoint
	s.scan(prefixCheckpoint, objCheckpoint(from), func(_ string, o object) bool {
		out = append(out, *o.(*Checkpoint))
		return true
	})
	return out
}

// SignersAt returns whose signatures count under a checkpoint of that size.
func (s *Store) SignersAt(size uint64) []Signer {
	var last *signerSet
	s.scan(prefixSigners, "", func(name string, o object) bool {
		if name > objSigners(size) {
			return false
		}
		last = o.(*signerSet)
		return true
	})
	if last == nil {
		return nil
	}
	return last.Signers
}

// Checkpoint returns the checkpoint of exactly that size.
func (s *Store) Checkpoint(size uint64) (Checkpoint, bool) {
	return read[Checkpoint](s, objCheckpoint(size))
}

// SignerGaps are the audit records, from one record on, of removals that those who signed the checkpoint before could
// not vouch for: no majority of them was left. (Two members who become one; several removals within a second.) A
// verification has to be told to trust them, as it has for those of recoveries, which are not repeated here.
func (s *Store) SignerGaps(from uint64) []uint64 {
	recovery, _ := s.Recovery()
	var gaps []uint64
	for _, seq := range s.SignerChanges(from) {
		before := from + 1
		if cp, ok := s.checkpointUpTo(seq); ok {
			before = max(before, cp.Size)
		}
		if before > seq || slices.ContainsFunc(recovery.Records, func(r uint64) bool { return before <= r && r < seq }) {
			continue
		}
		signed, now := s.SignersAt(before), s.SignersAt(seq+1)
		left := 0
		for _, who := range signed {
			if slices.ContainsFunc(now, func(n Signer) bool { return n.ID == who.ID && bytes.Equal(n.Key, who.Key) }) {
				left++
			}
		}
		if left*2 <= len(signed) {
			gaps = append(gaps, seq)
		}
	}
	return gaps
}

// LatestCheckpoint returns the checkpoint of the largest size.
func (s *Store) LatestCheckpoint() (Checkpoint, bool) {
	return s.lastCheckpoint(after(prefixCheckpoint))
}

// checkpointUpTo is the largest checkpoint of at most that size.
func (s *Store) checkpointUpTo(size uint64) (Checkpoint, bool) {
	return s.lastCheckpoint([]byte(objCheckpoint(size + 1)))
}

func (s *Store) lastCheckpoint(below []byte) (Checkpoint, bool) {
	db := s.acquire()
	if db == nil {
		return Checkpoint{}, false
	}
	defer db.release()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefixCheckpoint), UpperBound: below})
	if err != nil {
		s.fatal(err)
	}
	defer it.Close()
	if !it.Last() {
		if err := it.Error(); err != nil {
			s.fatal(err)
		}
		return Checkpoint{}, false
	}
	o, err := decodeObject(string(it.Key()), it.Value())
	if err != nil {
		s.fatal(err)
	}
	return *o.(*Checkpoint), true
}

// Remembered is the answer that a request id got, for whoever has to answer before proposing again. Apply is what
// decides: the id may be used for the first time in an entry that is under way.
type Remembered struct {
	Fingerprint []byte
	Code        Code
	Version     uint32
	Index       uint64
	Time        int64
}

// Remembered returns the answer to a mutation by its principal and request id.
func (s *Store) Remembered(principal string, id [16]byte) (Remembered, bool) {
	r, ok := read[request](s, objRequest(id, principal))
	return Remembered{Fingerprint: r.Fingerprint, Code: r.Code, Version: r.Version, Index: r.Index, Time: r.Time}, ok
}

func list[T any, P interface {
	*T
	object
}](s *Store, prefix string) []T {
	var out []T
	s.scan(prefix, "", func(_ string, o object) bool {
		out = append(out, *o.(P))
		return true
	})
	return out
}

// scan visits the committed objects whose names begin with prefix, from a name on, in order of names.
func (s *Store) scan(prefix, from string, visit func(name string, o object) bool) {
	db := s.acquire()
	if db == nil {
		return
	}
	defer db.release()
	scan(s, db, prefix, from, visit)
}

func scan[O object](s *Store, db *database, prefix, from string, visit func(name string, o O) bool) {
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: []byte(cmp.Or(from, prefix)), UpperBound: after(prefix),
	})
	if err != nil {
		s.fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		name := string(it.Key())
		o, err := decodeObject(name, it.Value())
		if err != nil {
			s.fatal(err)
		}
		if !visit(name, o.(O)) {
			return
		}
	}
	if err := it.Error(); err != nil {
		s.fatal(err)
	}
}

// after is the first key behind all that begin with prefix.
func after(prefix string) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// Changed returns a channel that is closed when the next entry, or configuration of Raft, has applied. Take it before looking at the state.
func (s *Store) Changed() <-chan struct{} {
	s.listeners.Lock()
	defer s.listeners.Unlock()
	if s.notify == nil {
		s.notify = make(chan struct{})
	}
	return s.notify
}

func (s *Store) wake() {
	s.listeners.Lock()
	defer s.listeners.Unlock()
	if s.notify != nil {
		close(s.notify)
		s.notify = nil
	}
}

// WaitApplied waits until the entry at index has applied. Only entries with commands move the position: take index
// from a Result, not from a no-op or a configuration.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	for {
		changed := s.Changed()
		if s.Position().Index >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
