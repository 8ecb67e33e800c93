package fsm

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// dealPropose opens a deal under the Raft index of its record as the epoch. One is open at a time.
func (t *tx) dealPropose(b *DealPropose) outcome {
	cluster := t.cluster()
	if cluster.PendingEpoch != 0 {
		return refuse(CodeConflict)
	}
	d := b.Deal
	n := len(d.Members)
	if n == 0 || n > 255 || d.Threshold < 1 || d.Threshold > n || len(d.Root) == 0 {
		return refuse(CodeInvalid)
	}
	// A deal may be of the root in force, or of the next one, which RootRotate then brings.
	if d.RootGeneration != cluster.RootGeneration && d.RootGeneration != cluster.RootGeneration+1 {
		return superseded(ObjCluster)
	}
	seen := make(map[string]bool, n)
	for _, id := range d.Members {
		m := find[Member](t, ObjMember(id))
		if m == nil || !m.Approved || m.Quarantined || m.NonVoter {
			return refuse(CodeDenied)
		}
		if seen[id] {
			return refuse(CodeInvalid)
		}
		seen[id] = true
	}
	d.Epoch, d.Changed, d.Provers = t.index, t.index, nil
	t.put(objDeal(d.Epoch), &d)
	t.putCluster(func(c *Cluster) { c.PendingEpoch = t.index })
	return done()
}

// dealCommit makes the open deal the one in force, at a quorum of its members and at least min(n, t+1) proofs: with
// fewer, one lost node could leave too few shares.
func (t *tx) dealCommit(b *DealCommit) outcome {
	return t.commitDeal(b.Epoch, b.Provers, t.cluster().RootGeneration)
}

func (t *tx) commitDeal(epoch uint64, proved []string, root uint32) outcome {
	have := find[Deal](t, objDeal(epoch))
	if have == nil || t.cluster().PendingEpoch != epoch {
		return refuse(CodeNotFound)
	}
	if have.RootGeneration != root {
		return superseded(ObjCluster)
	}
	provers := slices.Compact(slices.Sorted(slices.Values(proved)))
	for _, id := range provers {
		if !slices.Contains(have.Members, id) {
			return refuse(CodeDenied)
		}
	}
	n := len(have.Members)
	if len(provers) < max(n/2+1, min(n, have.Threshold+1)) {
		return refuse(CodeInvalid)
	}
	d := *have
	d.Provers, d.Changed = provers, t.index
	t.put(objDeal(epoch), &d)
	t.putCluster(func(c *Cluster) { c.NodeEpoch, c.PendingEpoch = epoch, 0 })
	t.rotated(RotateNodeShares)
	return done()
}

// rootRotate puts a new root key in force: every key of the state comes rewrapped, and the node set with it.
func (t *tx) rootRotate(b *RootRotate) outcome {
	cluster := t.cluster()
	if b.RootGeneration != cluster.RootGeneration+1 {
		return superseded(ObjCluster)
	}
	if len(b.RootID) == 0 || len(b.OperatorRoot) == 0 || len(b.Keys) == 0 {
		return refuse(CodeInvalid)
	}
	if b.Epoch != 0 {
		if out := t.commitDeal(b.Epoch, b.Provers, b.RootGeneration); out.Code != CodeOK {
			return out
		}
	} else {
		t.scan(prefixDeal, func(name string, _ object) bool {
			t.del(name) // their shares open no root that is in force
			return true
		})
		t.putCluster(func(c *Cluster) { c.NodeEpoch, c.PendingEpoch = 0, 0 })
	}
	missing := map[string]bool{}
	t.scan(prefixKeyGen, func(name string, _ object) bool {
		missing[name] = true
		return true
	})
	for _, key := range b.Keys {
		if !multi(key.Purpose) || key.RootGeneration != b.RootGeneration || len(key.Ciphertext) == 0 {
			return refuse(CodeInvalid)
		}
		name := objKeyGen(key.Purpose, key.Generation)
		if !missing[name] {
			if out := t.nextKey(&KeyAdd{Key: key}); out.Code != CodeOK {
				return out
			}
			continue
		}
		delete(missing, name)
		next := *find[WrappedKey](t, name)
		next.RootGeneration, next.Ciphertext, next.Changed = key.RootGeneration, key.Ciphertext, t.index
		t.put(name, &next)
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if t.unused(name) {
			t.del(name)
			continue
		}
		purpose, _, _ := strings.Cut(strings.TrimPrefix(name, prefixKeyGen), "\x00")
		return superseded(ObjKey(purpose))
	}
	t.putCluster(func(c *Cluster) {
		c.RootGeneration, c.RootID, c.OperatorRoot, c.MAC = b.RootGeneration, b.RootID, b.OperatorRoot, b.MAC
	})
	t.rotated(RotateRoot)
	return done()
}

// unused says whether a key generation of a vault was replaced and encrypts nothing: a rotation may leave it out.
func (t *tx) unused(name string) bool {
	key := find[WrappedKey](t, name)
	_, isVault := vaultOf(key.Purpose)
	head := find[keyHead](t, ObjKey(key.Purpose))
	return isVault && key.Live == 0 && head != nil && head.Current != key.Generation
}

func (t *tx) dealAbort(b *DealAbort) outcome {
	if t.cluster().PendingEpoch != b.Epoch || b.Epoch == 0 {
		return refuse(CodeNotFound)
	}
	t.del(objDeal(b.Epoch))
	t.putCluster(func(c *Cluster) { c.PendingEpoch = 0 })
	return done()
}

// dealRetire drops the deals before the one in force: every prover has applied its commit.
func (t *tx) dealRetire(b *DealRetire) outcome {
	if t.cluster().NodeEpoch != b.Epoch || b.Epoch == 0 {
		return refuse(CodeNotFound)
	}
	t.scan(prefixDeal, func(name string, o object) bool {
		if o.(*Deal).Epoch < b.Epoch {
			t.del(name)
		}
		return true
	})
	t.putCluster(func(c *Cluster) { c.RetiredBelow = b.Epoch })
	return done()
}

// shareRelease is the record that must commit before a share leaves its holder.
func (t *tx) shareRelease(b *ShareRelease) outcome {
	if t.cluster().Sealed {
		return refuse(CodeSealed)
	}
	to := find[Member](t, ObjMember(b.Node))
	if to == nil || !to.Approved || to.Quarantined {
		return refuse(CodeDenied)
	}
	deal := find[Deal](t, objDeal(b.Epoch))
	if deal == nil || b.Epoch != t.cluster().NodeEpoch {
		return refuse(CodeNotFound)
	}
	if t.lookup(ObjMember(b.Holder)) == nil || !slices.Contains(deal.Members, b.Holder) {
		return refuse(CodeDenied)
	}
	return done()
}

// checkpoint stores a signed statement of the audit tree; signatures over one size are gathered. The root is checked
// against the tree of the entries before this one, which is all a signer can have seen.
func (t *tx) checkpoint(b *Checkpoint) outcome {
	if b.Size == 0 || b.Size > t.s.size || len(b.Root) != tlog.HashSize || len(b.Signatures) == 0 ||
		len(b.Signatures) > 255 {
		return refuse(CodeInvalid)
	}
	root, err := tlog.TreeHash(int64(b.Size), hashReader{t.s.db})
	if err != nil {
		t.must(err)
	}
	if tlog.Hash(b.Root) != root {
		return refuse(CodeInvalid)
	}
	c := *b
	if have := find[Checkpoint](t, objCheckpoint(b.Size)); have != nil {
		if have.Origin != b.Origin || have.Time != b.Time {
			return refuse(CodeConflict) // the signatures cover both: they would not verify beside the others
		}
		c = *have
		c.Signatures = append(slices.Clone(have.Signatures), b.Signatures...)
	}
	// The first signature of a node stays, so that a later one cannot replace it.
	slices.SortStableFunc(c.Signatures, func(a, b Signature) int { return strings.Compare(a.Node, b.Node) })
	c.Signatures = slices.CompactFunc(c.Signatures, func(a, b Signature) bool { return a.Node == b.Node })
	t.put(objCheckpoint(b.Size), &c)
	return done()
}
