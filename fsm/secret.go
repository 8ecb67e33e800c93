package fsm

import (
	"math"
	"strings"
)

// readVersions releases ciphertexts: all references of the command or none. Every reference gets its own audit leaf
// with the version it named.
func (t *tx) readVersions(cmd *Command, b *ReadVersions) outcome {
	n := len(b.Refs)
	if n == 0 || n > MaxRefs || len(cmd.Audits) != n {
		return refuse(CodeInvalid)
	}
	return t.release(b.Refs, make([]Code, n), t.resolve)
}

// release resolves references, whose codes come first, and refuses all where one code, theirs or another, is not
// CodeOK.
func (t *tx) release(refs []Ref, codes []Code, resolve func(Ref) (VersionData, Code)) outcome {
	out := done()
	out.versions = make([]uint32, len(refs))
	values := make([]VersionData, len(refs))
	for i := range refs {
		values[i], codes[i] = resolve(refs[i])
		out.versions[i] = values[i].Ref.Version
	}
	for _, code := range codes {
		if code != CodeOK {
			out.Code = code
			break
		}
	}
	if out.Code == CodeOK {
		out.Value = values
		return out
	}
	out.withheld = make([]bool, len(codes))
	for i, code := range codes {
		out.withheld[i] = code == CodeOK
	}
	return out
}

// resolve finds the version a reference names; Version is set in the answer as soon as it is known.
func (t *tx) resolve(ref Ref) (VersionData, Code) {
	v := VersionData{Ref: ref}
	head := find[Secret](t, ObjSecret(ref.Vault, ref.Path))
	if head == nil {
		return v, CodeNotFound
	}
	if ref.Version == 0 {
		v.Ref.Version = head.Current
	}
	if head.Pending != 0 && v.Ref.Version == head.Pending {
		return v, CodeNotFound // it is nobody's yet
	}
	return t.version(v.Ref)
}

// version gives a version by its number.
func (t *tx) version(ref Ref) (VersionData, Code) {
	v := VersionData{Ref: ref}
	version := find[storedVersion](t, objVersion(ref.Vault, ref.Path, v.Ref.Version))
	switch {
	case version == nil:
		return v, CodeNotFound
	case version.Destroyed:
		return v, CodeDestroyed
	case version.Deleted != 0:
		return v, CodeDeleted
	}
	data := find[SealedValue](t, objData(ref.Vault, ref.Path, v.Ref.Version))
	if data == nil {
		return v, CodeDestroyed
	}
	v.Created, v.Data = version.Created, *data
	return v, CodeOK
}

// secretPut appends a version. The number and the key generation are what the value was encrypted for; if either is no
// longer right the value has to be encrypted again.
func (t *tx) secretPut(cmd *Command, b *SecretPut) outcome {
	if !segment(b.Vault) || !multi(b.Path) || len(b.Data.Ciphertext) == 0 || len(b.Data.WrappedKey) == 0 {
		return refuse(CodeInvalid)
	}
	vault := find[Vault](t, ObjVault(b.Vault))
	if vault == nil {
		return refuse(CodeNotFound)
	}
	name := ObjSecret(b.Vault, b.Path)
	head := Secret{Vault: b.Vault, Path: b.Path, Oldest: 1, Next: 1}
	if have := find[Secret](t, name); have != nil {
		head = *have
	}
	if head.Rotating {
		// Two writers would each overwrite what the other has made valid at the target.
		return outcome{Result: Result{Code: CodeRotating, Version: head.Current}}
	}
	if b.CAS >= 0 && uint64(b.CAS) != uint64(head.Current) {
		return outcome{Result: Result{Code: CodeConflict, Version: head.Current}}
	}
	if b.Version != head.Next {
		return superseded(name)
	}
	head.Previous, head.Current = head.Current, b.Version
	if out := t.appendVersion(cmd, &head, b.Version, &b.Data); out.Code != CodeOK {
		return out
	}
	head.Changed = t.index
	t.put(name, &head)
	t.emit(Event{Kind: EventPut, Vault: b.Vault, Path: b.Path, Version: b.Version})
	return wrote(b.Version)
}

// appendVersion stores a version under the head's next number and forgets the oldest one where there are too many. The
// caller has checked the number, and stores the head.
func (t *tx) appendVersion(cmd *Command, head *Secret, number uint32, data *SealedValue) outcome {
	purpose := vaultPurpose(head.Vault)
	keyName := objKeyGen(purpose, data.Generation)
	key := find[WrappedKey](t, keyName)
	vault := find[Vault](t, ObjVault(head.Vault))
	if vault == nil || data.Generation != vault.Generation || key == nil || key.Retired {
		return superseded(ObjKey(purpose))
	}
	if key.Wraps >= MaxWraps {
		return refuse(CodeKeyExhausted)
	}
	if head.Next == math.MaxUint32 {
		return refuse(CodeLimit)
	}
	used := *key
	used.Wraps++
	used.Live++
	t.put(keyName, &used)
	head.Next++
	if head.Next-head.Oldest > MaxVersions {
		t.del(objVersion(head.Vault, head.Path, head.Oldest))
		t.dropData(head.Vault, head.Path, head.Oldest)
		head.Oldest++
	}
	t.put(objVersion(head.Vault, head.Path, number), &storedVersion{
		Number: number, Created: t.time, By: strings.Clone(cmd.Principal), Size: uint32(len(data.Ciphertext)),
	})
	t.put(objData(head.Vault, head.Path, number), data)
	return done()
}

// secretVersions deletes, restores or destroys versions. Destroying removes the data key with the ciphertext.
func (t *tx) secretVersions(kind Kind, b *SecretVersions) outcome {
	name := ObjSecret(b.Vault, b.Path)
	have := find[Secret](t, name)
	if have == nil {
		return refuse(CodeNotFound)
	}
	numbers := b.Versions
	if len(numbers) == 0 {
		numbers = []uint32{have.Current}
	}
	if len(numbers) > MaxRefs {
		return refuse(CodeLimit)
	}
	event := map[Kind]EventKind{
		KindSecretDelete: EventDeleted, KindSecretRestore: EventUndeleted, KindSecretDestroy: EventDestroyed,
	}[kind]
	seen := make(map[uint32]bool, len(numbers))
	changed := make([]*storedVersion, 0, len(numbers))
	for _, number := range numbers {
		v := find[storedVersion](t, objVersion(b.Vault, b.Path, number))
		switch {
		case v == nil:
			return refuse(CodeNotFound)
		case seen[number]:
			return refuse(CodeInvalid)
		case v.Destroyed && kind != KindSecretDestroy:
			return refuse(CodeDestroyed)
		case have.Rotating && kind != KindSecretRestore && have.needs(number):
			return refuse(CodeRotating)
		}
		seen[number] = true
		next := *v
		switch kind {
		case KindSecretDelete:
			if next.Deleted == 0 {
				next.Deleted = t.time
			}
		case KindSecretRestore:
			next.Deleted = 0
		case KindSecretDestroy:
			next.Destroyed = true
		}
		changed = append(changed, &next)
	}
	for _, v := range changed {
		t.put(objVersion(b.Vault, b.Path, v.Number), v)
		if v.Destroyed {
			t.dropData(b.Vault, b.Path, v.Number)
		}
		t.emit(Event{Kind: event, Vault: b.Vault, Path: b.Path, Version: v.Number})
	}
	head := *have
	head.Changed = t.index
	t.put(name, &head)
	if len(numbers) == 1 {
		return wrote(numbers[0])
	}
	return done()
}

// needs says whether the attempt that is under way may still need a version: to log in with it, or to go back to it.
func (s *Secret) needs(number uint32) bool {
	return number == s.Pending || number == s.Current || number == s.Previous
}

func vaultPurpose(vault string) string { return "vault/" + vault }

// vaultCreate makes a vault with its first key.
func (t *tx) vaultCreate(b *VaultCreate) outcome {
	if !segment(b.Vault.Name) || b.Key.Purpose != vaultPurpose(b.Vault.Name) || b.Key.Generation == 0 ||
		b.Vault.Generation != b.Key.Generation || len(b.Key.Ciphertext) == 0 {
		return refuse(CodeInvalid)
	}
	name := ObjVault(b.Vault.Name)
	if t.lookup(name) != nil || t.lookup(ObjKey(b.Key.Purpose)) != nil {
		return refuse(CodeExists)
	}
	if t.keyCount() >= MaxKeys {
		return refuse(CodeLimit)
	}
	vault := b.Vault
	vault.Created, vault.Changed = t.time, t.index
	t.put(name, &vault)
	t.putKey(b.Key)
	return done()
}

// keyCount is how many key generations there are. Only commands as rare as a new vault look.
func (t *tx) keyCount() (n int) {
	t.scan(prefixKeyGen, func(string, object) bool {
		n++
		return true
	})
	return n
}

func (t *tx) putKey(key WrappedKey) {
	key.Created, key.Wraps, key.Live, key.Retired, key.Changed = t.time, 0, 0, false, t.index
	t.put(objKeyGen(key.Purpose, key.Generation), &key)
	t.put(ObjKey(key.Purpose), &keyHead{Purpose: key.Purpose, Current: key.Generation, Changed: t.index})
}

// keyAdd adds the next generation of a purpose. For a vault it becomes the one that values are encrypted under.
func (t *tx) keyAdd(b *KeyAdd) outcome {
	if t.keyCount() >= MaxKeys {
		return refuse(CodeLimit)
	}
	return t.nextKey(b)
}

func (t *tx) nextKey(b *KeyAdd) outcome {
	if !multi(b.Key.Purpose) || b.Key.Generation == 0 || len(b.Key.Ciphertext) == 0 {
		return refuse(CodeInvalid)
	}
	current := uint32(0)
	if head := find[keyHead](t, ObjKey(b.Key.Purpose)); head != nil {
		current = head.Current
	}
	if b.Key.Generation <= current {
		return refuse(CodeExists)
	}
	if b.Key.Generation != current+1 {
		return superseded(ObjKey(b.Key.Purpose))
	}
	if name, isVault := vaultOf(b.Key.Purpose); isVault {
		have := find[Vault](t, ObjVault(name))
		if have == nil {
			return refuse(CodeNotFound)
		}
		vault := *have
		vault.Generation, vault.Changed = b.Key.Generation, t.index
		t.put(ObjVault(name), &vault)
	}
	switch b.Key.Purpose {
	case PurposeMAC:
		t.putCluster(func(c *Cluster) { c.MACGeneration = b.Key.Generation })
	case PurposeAudit:
		t.putCluster(func(c *Cluster) { c.AuditGeneration = b.Key.Generation })
	}
	t.putKey(b.Key)
	return done()
}

// Key purposes whose newest generation the cluster record names.
const (
	PurposeMAC   = "mac"
	PurposeAudit = "audit"
)
