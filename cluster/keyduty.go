package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// keysEvery is how often the leader looks whether keys have to be renewed.
const keysEvery = time.Second

// Bounds of one step of rewrapping: what it reads at once, and what one record carries.
const (
	rewrapAtOnce = fsm.MaxRewraps
	rewrapBytes  = 128 << 10
	// retireAfter is how long an older generation outlives its last data key: a reveal may have been given the old
	// wrapping just before.
	retireAfter = 5 * time.Second
)

// keyDuty renews the cluster's own keys: it begins what a schedule has made due, brings vaults and certificates to an
// end, and moves data keys to their vault's newest generation whenever some are not, for whatever reason. The root and
// the node set are dealDuty's work. Everything that it knows between steps can be lost: the state says what is due.
func (n *Node) keyDuty(ctx context.Context, term uint64) {
	r := rewrapping{n: n, idle: make(map[string]time.Time), at: make(map[string]string)}
	var looked time.Time
	n.reconcile(ctx, func() error {
		if n.keys.sealed() || !n.Initialised() || !r.busy && time.Since(looked) < keysEvery {
			return nil
		}
		looked = time.Now()
		now := time.UnixMilli(max(n.store.Time(), n.unixMilli()))
		for _, k := range n.store.KeyRotations() {
			if err := n.keysDue(ctx, term, k, now); err != nil {
				return fmt.Errorf("rotate %s: %w", k.Subject, err)
			}
		}
		if err := n.operatorsDuty(ctx, term); err != nil {
			return err
		}
		return r.step(ctx, term)
	})
}

// NextRotation reckons when a schedule of the cluster's keys comes next, in Unix milliseconds; 0 without a schedule.
func NextRotation(k fsm.KeyRotation, after time.Time) (int64, error) {
	if k.Every == 0 && k.Cron == "" {
		return 0, nil
	}
	s, err := schedule.Parse(schedule.Spec{Every: time.Duration(k.Every) * time.Millisecond, Cron: k.Cron, Zone: k.Zone, Window: k.Window})
	if err != nil {
		return 0, err
	}
	next, ok := s.Next(after)
	if !ok {
		return 0, fmt.Errorf("%w: it never comes", schedule.ErrSpec)
	}
	return next.UnixMilli(), nil
}

// keysDue brings one subject a step further.
func (n *Node) keysDue(ctx context.Context, term uint64, k fsm.KeyRotation, now time.Time) error {
	if k.Next != 0 && k.Next <= now.UnixMilli() {
		next, err := NextRotation(k, now)
		if err != nil {
			return err
		}
		return n.beginScheduled(ctx, term, k, next)
	}
	if k.Due == 0 {
		return nil
	}
	vault, single := vaultOf(k.Subject)
	switch {
	case k.Subject == fsm.RotateCertificates:
		for _, m := range n.store.Members() {
			if trusted(m) && !issuedSince(m, k.Due) {
				return nil // memberDuty is at it
			}
		}
	case k.Subject == fsm.RotateVaults, single:
		for _, v := range n.store.Vaults() {
			if single && v.Name != vault {
				continue
			}
			if err := n.renewVault(ctx, term, v, k.Due); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	return n.keyRotation(ctx, term, fsm.KeyRotationBegin{Subject: k.Subject, Done: true}, "finished")
}

func vaultOf(subject string) (string, bool) {
	const prefix = "vault/"
	if len(subject) <= len(prefix) || subject[:len(prefix)] != prefix {
		return "", false
	}
	return subject[len(prefix):], true
}

// beginScheduled starts what came due, or moves on to the next time where it cannot be done now.
func (n *Node) beginScheduled(ctx context.Context, term uint64, k fsm.KeyRotation, next int64) error {
	body := fsm.KeyRotationBegin{Subject: k.Subject, Next: next}
	if k.Subject == fsm.RotateOperators {
		if waiting, _ := n.store.OperatorSets(); waiting == nil {
			offer, err := n.OperatorsBody(nil, 0)
			if err == nil {
				offer.Next = next
				return n.proposeDuty(ctx, term, fsm.KindOperatorsPropose, &offer, keysAudit(k.Subject, "scheduled"))
			}
			n.log.Error("a scheduled rotation of the operators' shares was left out", "error", err)
		}
		body.Skip = true
		return n.keyRotation(ctx, term, body, "skipped")
	}
	if err := n.Rotatable(k.Subject); err != nil {
		n.log.Error("a scheduled rotation was left out", "subject", k.Subject, "error", err)
		body.Skip = true
		return n.keyRotation(ctx, term, body, "skipped")
	}
	return n.keyRotation(ctx, term, body, "scheduled")
}

// Rotatable says why a part of the cluster's keys cannot be rotated now. It is what Apply decides, in words.
func (n *Node) Rotatable(subject string) error {
	cl, ok := n.store.Cluster()
	if !ok {
		return ErrNotInitialised
	}
	if cl.NodeEpoch == 0 && (subject == fsm.RotateNodeShares || subject == fsm.RotateRoot && len(n.store.Members()) > 1) {
		return ErrNoNodeSet
	}
	return nil
}

func keysAudit(subject, detail string) fsm.Audit {
	return fsm.Audit{Action: "keys.rotate", Resource: subject, Decision: fsm.Allowed, Detail: detail}
}

func (n *Node) keyRotation(ctx context.Context, term uint64, body fsm.KeyRotationBegin, detail string) error {
	n.log.Info("rotation of the cluster's keys", "subject", body.Subject, "what", detail)
	return n.proposeDuty(ctx, term, fsm.KindKeyRotationBegin, &body, keysAudit(body.Subject, detail))
}

// renewVault adds a key generation, unless the newest one is younger than the rotation.
func (n *Node) renewVault(ctx context.Context, term uint64, v fsm.Vault, due int64) error {
	purpose := keyring.Vault(v.Name)
	if newest, ok := n.store.Key(purpose, v.Generation); ok && newest.Created >= due {
		return nil
	}
	body, err := n.VaultKeyBody(v.Name)
	if err != nil {
		return err
	}
	cmd := n.dutyCommand(fsm.KindKeyAdd, &body, fsm.Audit{
		Action: "vault.rotate-key", Resource: v.Name, Decision: fsm.Allowed, Detail: fmt.Sprintf("generation=%d", body.Key.Generation),
	})
	cmd.Term = term
	result, err := n.Propose(ctx, cmd)
	if err == nil {
		err = codeError(result)
	}
	return err
}

// VaultKeyBody makes a vault's next key generation. The caller authorises and proposes it; data keys follow by
// themselves.
func (n *Node) VaultKeyBody(vault string) (fsm.KeyAdd, error) {
	ring, err := n.Keyring()
	if err != nil {
		return fsm.KeyAdd{}, err
	}
	purpose := keyring.Vault(vault)
	key, err := ring.Generate(purpose, n.store.KeyGeneration(purpose)+1)
	if err != nil {
		return fsm.KeyAdd{}, err
	}
	return fsm.KeyAdd{Key: storedKey(key, n.store.Time())}, nil
}

// rewrapping moves data keys of vaults to the newest generation and retires the older ones. Values are never touched.
// at is how far the present pass over a vault has come, idle since when nothing was left to do there.
type rewrapping struct {
	n    *Node
	at   map[string]string
	idle map[string]time.Time
	busy bool // the last batch was not the last
}

// step does one bounded batch, for the first vault that needs one.
func (r *rewrapping) step(ctx context.Context, term uint64) error {
	n := r.n
	r.busy = false
	older := make(map[string][]fsm.WrappedKey)
	for _, k := range n.store.Keys() {
		if vault, ok := vaultOf(k.Purpose); ok && k.Generation < n.store.KeyGeneration(k.Purpose) {
			older[vault] = append(older[vault], k)
		}
	}
	for _, v := range n.store.Vaults() {
		live := uint64(0)
		for _, k := range older[v.Name] {
			live += k.Live
		}
		switch {
		case len(older[v.Name]) == 0:
			delete(r.idle, v.Name)
		case live > 0:
			delete(r.idle, v.Name)
			return r.batch(ctx, term, v)
		case r.idle[v.Name].IsZero():
			r.idle[v.Name] = n.cfg.Clock()
		case n.cfg.Clock().Sub(r.idle[v.Name]) >= retireAfter:
			return r.retire(ctx, term, older[v.Name][0])
		}
	}
	return nil
}

func (r *rewrapping) batch(ctx context.Context, term uint64, v fsm.Vault) error {
	n := r.n
	ring, err := n.Keyring()
	if err != nil {
		return err
	}
	cl, _ := n.store.Cluster()
	list, last := n.store.StaleData(v.Name, v.Generation, r.at[v.Name], rewrapAtOnce)
	r.at[v.Name] = last
	body := fsm.KeyRewrap{Vault: v.Name, Generation: v.Generation}
	size := 0
	var failed error
	for _, stale := range list {
		bind := envelope.Bind{Cluster: cl.ID, Vault: v.Name, Path: stale.Path, Version: uint64(stale.Version)}
		moved, err := envelope.Rewrap(ring, bind, envelope.Sealed(stale.Data), v.Generation)
		if err != nil {
			// One that cannot be opened keeps its generation, and the generation with it: nothing is lost by rotating.
			failed = fmt.Errorf("a data key of vault %s stays under generation %d: %w", v.Name, stale.Data.Generation, err)
			continue
		}
		body.Items = append(body.Items, fsm.RewrappedKey{Path: stale.Path, Version: stale.Version, From: stale.Data.Generation, WrappedKey: moved.WrappedKey})
		if size += len(stale.Path) + len(moved.WrappedKey) + 16; size > rewrapBytes {
			r.at[v.Name] = "" // the rest with the next pass
			break
		}
	}
	if len(body.Items) == 0 {
		return failed
	}
	if err := n.proposeDuty(ctx, term, fsm.KindKeyRewrap, &body); err != nil {
		r.at[v.Name] = ""
		return fmt.Errorf("rewrap data keys of vault %s: %w", v.Name, err)
	}
	r.busy = true
	return failed
}

func (r *rewrapping) retire(ctx context.Context, term uint64, k fsm.WrappedKey) error {
	err := r.n.proposeDuty(ctx, term, fsm.KindKeyRetire, &fsm.KeyRetire{Purpose: k.Purpose, Generation: k.Generation}, fsm.Audit{
		Action: "keys.retire", Resource: k.Purpose, Decision: fsm.Allowed, Detail: fmt.Sprintf("generation=%d", k.Generation),
	})
	if err != nil {
		return fmt.Errorf("retire generation %d of %s: %w", k.Generation, k.Purpose, err)
	}
	if ring, err := r.n.Keyring(); err == nil {
		ring.Forget(k.Purpose, k.Generation)
	}
	r.n.log.Info("retired a key generation", "purpose", k.Purpose, "generation", k.Generation)
	return nil
}
