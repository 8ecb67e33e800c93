package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// A vault's new key takes over every data key without touching a value, although the leader dies meanwhile; then the
// old generation is gone. Deleted versions are moved along, so that they can be restored.
func TestVaultKeyRotation(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Clock: clock}})
	c.Vault("ml")
	c.Vault("other")
	c.Put("other", "x", "password", "y")
	const secrets = 12
	before := make(map[string]fsm.VersionData)
	read := func(path string, version uint32) fsm.VersionData {
		t.Helper()
		list, _ := c.Leader().Store().StaleData("ml", 1<<31, "", 1000)
		for _, s := range list {
			if s.Path == path && s.Version == version {
				return fsm.VersionData{Ref: fsm.Ref{Path: path, Version: version}, Data: s.Data}
			}
		}
		t.Fatalf("%s@%d is gone", path, version)
		return fsm.VersionData{}
	}
	for i := range secrets {
		path := fmt.Sprintf("db/%d", i)
		c.Put("ml", path, "password", "old")
		c.Put("ml", path, "password", fmt.Sprintf("secret-%d", i))
		before[path] = read(path, 2)
	}
	if _, err := c.Engineer.Secrets().Delete(t.Context(), &hizov1.ChangeVersionsRequest{Vault: "ml", Path: "db/0", Versions: []uint32{1}}); err != nil {
		t.Fatal(err)
	}
	out, err := c.Engineer.Keys().RotateVault(t.Context(), &hizov1.RotateVaultRequest{Vault: "ml"})
	if err != nil || out.GetKeyGeneration() != 2 {
		t.Fatalf("%v, %v", out, err)
	}
	killed := c.Leader()
	c.Kill(killed)
	purpose := keyring.Vault("ml")
	c.Await("every data key under the new generation", func() bool {
		store := c.Leader().Store()
		old, ok := store.Key(purpose, 1)
		now, _ := store.Key(purpose, 2)
		return (!ok || old.Live == 0) && now.Live == 2*secrets
	})
	c.Await("the old generation to be retired", func() bool {
		clock.Advance(time.Second)
		_, there := c.Leader().Store().Key(purpose, 1)
		return !there
	})
	c.Restart(killed)
	for path, was := range before {
		if now := read(path, 2); now.Data.Generation != 2 || bytes.Equal(now.Data.WrappedKey, was.Data.WrappedKey) {
			t.Errorf("%s is under generation %d", path, now.Data.Generation)
		}
		got, err := c.Engineer.Secrets().Reveal(t.Context(), &hizov1.RevealRequest{Vault: "ml", Path: path})
		if want := "secret-" + path[3:]; err != nil || string(got.GetFields()["password"]) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := c.Engineer.Secrets().Undelete(t.Context(), &hizov1.ChangeVersionsRequest{Vault: "ml", Path: "db/0", Versions: []uint32{1}}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Engineer.Secrets().Reveal(t.Context(), &hizov1.RevealRequest{Vault: "ml", Path: "db/0", Version: 1}); err != nil || string(got.GetFields()["password"]) != "old" {
		t.Errorf("the version that was deleted meanwhile: %v", err)
	}
	if v, _ := c.Leader().Store().Vault("other"); v.Generation != 1 {
		t.Error("another vault's key was rotated")
	}
	if _, err := c.Engineer.Keys().RotateVault(t.Context(), &hizov1.RotateVaultRequest{Vault: "none"}); apitest.Reason(err) != hizov1.ReasonNotFound {
		t.Errorf("a vault that is not there: %v", err)
	}
	if err := c.Leader().Store().Verify(); err != nil {
		t.Error(err)
	}
}

// The root key, the nodes' shares and their certificates are renewed when somebody asks, each once.
func TestKeysOnDemand(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	c.Vault("ml")
	c.Put("ml", "db", "password", "hunter2")
	finished := func(subject string) {
		t.Helper()
		if k, err := c.Engineer.Keys().Rotate(t.Context(), &hizov1.RotateRequest{Subject: subject}); err != nil || k.GetSinceUnix() == 0 && k.GetLastUnix() == 0 {
			t.Fatalf("%s: %v, %v", subject, k, err)
		}
		c.Await(subject, func() bool {
			k, ok := c.Leader().Store().KeyRotation(subject)
			return ok && k.Due == 0 && k.Last != 0
		})
	}
	cl := func() fsm.Cluster { cl, _ := c.Leader().Store().Cluster(); return cl }
	was := cl()
	finished(fsm.RotateNodeShares)
	if now := cl(); now.NodeEpoch <= was.NodeEpoch || now.RootGeneration != was.RootGeneration {
		t.Errorf("after a deal: epoch %d, root %d", now.NodeEpoch, now.RootGeneration)
	}
	was = cl()
	finished(fsm.RotateRoot)
	if now := cl(); now.RootGeneration != was.RootGeneration+1 || now.NodeEpoch <= was.NodeEpoch {
		t.Errorf("after a rotation of the root: root %d → %d", was.RootGeneration, now.RootGeneration)
	}
	c.AwaitReady()
	if got, err := c.Engineer.Secrets().Reveal(t.Context(), &hizov1.RevealRequest{Vault: "ml", Path: "db"}); err != nil || string(got.GetFields()["password"]) != "hunter2" {
		t.Errorf("under the new root: %v", err)
	}
	if now := cl(); now.RootGeneration != was.RootGeneration+1 {
		t.Errorf("the root was rotated twice: %d → %d", was.RootGeneration, now.RootGeneration)
	}
	certs := make(map[string]string)
	for _, m := range c.Leader().Store().Members() {
		certs[m.ID] = string(m.ClientCert)
	}
	// Certificates have whole seconds.
	c.Await("another second", func() bool { return time.Now().UnixMilli()/1000 > c.Leader().Store().Time()/1000 })
	finished(fsm.RotateCertificates)
	for _, m := range c.Leader().Store().Members() {
		if certs[m.ID] == string(m.ClientCert) || len(m.ClientCert) == 0 {
			t.Errorf("%s has its old certificate", m.ID)
		}
	}
	if _, err := hizov1.NewAuthServiceClient(dial(t, c, c.Leader().ID)).WhoAmI(bearer(t.Context(), c.Engineer.Token), &hizov1.WhoAmIRequest{}); err != nil {
		t.Errorf("with the new certificates: %v", err)
	}
	finished(fsm.RotateVaults)
	for _, bad := range []string{"", "root ", "vault/", "vault/none"} {
		if _, err := c.Engineer.Keys().Rotate(t.Context(), &hizov1.RotateRequest{Subject: bad}); err == nil {
			t.Errorf("rotated %q", bad)
		}
	}
}

// Schedules begin rotations by themselves, as often as they say, and stop when they are removed.
func TestKeySchedules(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Nodes: 1, Development: true, Clock: clock}})
	c.Vault("ml")
	store := c.Leader().Store()
	set := func(subject string, s *hizov1.KeySchedule) (*hizov1.KeyRotation, error) {
		return c.Engineer.Keys().SetKeySchedule(t.Context(), &hizov1.SetKeyScheduleRequest{Subject: subject, Schedule: s})
	}
	for _, bad := range []*hizov1.KeySchedule{
		{}, {EverySeconds: 1}, {EverySeconds: -60}, {Cron: "not cron"}, {EverySeconds: 60, Cron: "@daily"}, {Cron: "@daily", Zone: "Mars/Base"},
		{EverySeconds: 1 << 60},
	} {
		if k, err := set("root", bad); apitest.Reason(err) != hizov1.ReasonInvalid {
			t.Errorf("%v: %v, %v", bad, k, err)
		}
	}
	k, err := set("vault/ml", &hizov1.KeySchedule{EverySeconds: 60})
	if err != nil || k.GetNextUnix() == 0 {
		t.Fatal(k, err)
	}
	generation := func() uint32 { v, _ := store.Vault("ml"); return v.Generation }
	for want := uint32(2); want <= 3; want++ {
		clock.Advance(61 * time.Second)
		c.Await(fmt.Sprintf("generation %d", want), func() bool { return generation() >= want })
		if generation() != want {
			t.Fatalf("generation %d, not %d", generation(), want)
		}
		c.Await("its end", func() bool { k, _ := store.KeyRotation("vault/ml"); return k.Due == 0 })
	}
	if _, err := set("vault/ml", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := set("root", &hizov1.KeySchedule{Cron: "*/2 * * * *", Zone: "Europe/Berlin"}); err != nil {
		t.Fatal(err)
	}
	was, _ := store.Cluster()
	clock.Advance(121 * time.Second)
	c.Await("the root to be rotated on schedule", func() bool { now, _ := store.Cluster(); return now.RootGeneration > was.RootGeneration })
	// The root gives vaults that hold something a new key as well; this one holds nothing, and its schedule is gone.
	if k, _ := store.KeyRotation("vault/ml"); k.Next != 0 || k.Due != 0 {
		t.Errorf("the removed schedule came: %+v", k)
	}
	// Operators whose recipients nobody knows get no new shares, and the schedule goes on.
	if _, err := set("operator-shares", &hizov1.KeySchedule{EverySeconds: 60}); err != nil {
		t.Fatal(err)
	}
	first, _ := store.KeyRotation("operator-shares")
	clock.Advance(61 * time.Second)
	c.Await("the schedule to move on", func() bool { k, _ := store.KeyRotation("operator-shares"); return k.Next > first.Next })
	if next, _ := store.OperatorSets(); next != nil {
		t.Error("shares for nobody")
	}
	list, err := c.Engineer.Keys().ListKeyRotations(t.Context(), &hizov1.ListKeyRotationsRequest{})
	if err != nil || len(list.GetRotations()) != 3 || len(list.GetVaults()) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

func decryptShare(t *testing.T, file []byte, identity age.Identity) shares.Share {
	t.Helper()
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(file)), identity)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	share, err := shares.ParseText(string(bytes.TrimSpace(text.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	return share
}

// New operators' shares come into force when their operators have shown that they can read them; until then, and when
// they are dropped, the old ones open the cluster. Afterwards the old ones open nothing, and the root is renewed.
func TestOperatorSharesRotation(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Nodes: 1}}) // three operators, two of them unseal
	n := c.Leader()
	var identities []*age.HybridIdentity
	var recipients []string
	for range 3 {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		identities, recipients = append(identities, id), append(recipients, id.Recipient().String())
	}
	keys := c.Engineer.Keys()
	ctx := t.Context()
	if _, err := keys.Rotate(ctx, &hizov1.RotateRequest{Subject: "operator-shares"}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("shares for operators whom nobody knows: %v", err)
	}
	operator := c.User("olga", "Operator")
	ask := &hizov1.RotateRequest{Subject: "operator-shares", Operators: recipients, Threshold: 2}
	if _, err := operator.Keys().Rotate(ctx, ask); apitest.Reason(err) != hizov1.ReasonPermissionDenied {
		t.Errorf("an Operator chooses the operators: %v", err)
	}
	if _, err := keys.Rotate(ctx, &hizov1.RotateRequest{Subject: "operator-shares", Operators: recipients, Threshold: 4}); apitest.Reason(err) != hizov1.ReasonInvalid {
		t.Errorf("4 of 3: %v", err)
	}
	unseal := func(list ...shares.Share) error {
		t.Helper()
		if !n.Status().Sealed {
			if _, err := c.Engineer.Cluster().Seal(ctx, &hizov1.SealRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		c.Await("the node to be sealed", func() bool { return n.Status().Sealed })
		for _, s := range list {
			text, err := s.Text()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.SubmitShare(ctx, text); err != nil {
				return err
			}
		}
		c.Await("the node to be unsealed", func() bool { return !n.Status().Sealed && n.Leading() })
		return nil
	}
	if _, err := keys.Rotate(ctx, ask); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Rotate(ctx, ask); apitest.Reason(err) != hizov1.ReasonConflict {
		t.Errorf("a second set beside the first: %v", err)
	}
	if _, err := keys.AbortOperatorShares(ctx, &hizov1.AbortOperatorSharesRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Rotate(ctx, ask); err != nil {
		t.Fatal(err)
	}
	out, err := operator.Keys().OperatorShares(ctx, &hizov1.OperatorSharesRequest{})
	if err != nil || out.GetInForce() || len(out.GetShares()) != 3 || out.GetNeeded() != 3 {
		t.Fatalf("%v, %v", out, err)
	}
	var fresh []shares.Share
	for i, share := range out.GetShares() {
		fresh = append(fresh, decryptShare(t, share.GetFile(), identities[i]))
		if _, err := age.Decrypt(armor.NewReader(bytes.NewReader(share.GetFile())), identities[(i+1)%3]); err == nil {
			t.Errorf("operator %d can read another's share", i+1)
		}
	}
	if err := unseal(c.Shares[:2]...); err != nil {
		t.Fatalf("the old shares while the new ones wait: %v", err)
	}
	if err := unseal(fresh[0]); !errors.Is(err, shares.ErrOtherDeal) {
		t.Errorf("a share that is not in force: %v", err)
	}
	if err := unseal(c.Shares[1:]...); err != nil {
		t.Fatal(err)
	}
	confirm := func(i int, code []byte) (*hizov1.OperatorSharesResponse, error) {
		return operator.Keys().ConfirmOperatorShare(ctx, &hizov1.ConfirmOperatorShareRequest{Operator: uint32(i + 1), Code: code})
	}
	code := func(s shares.Share) []byte {
		b, err := s.Confirmation()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, wrong := range map[string][]byte{"another's": code(fresh[1]), "made up": make([]byte, 32)} {
		if _, err := confirm(0, wrong); apitest.Reason(err) != hizov1.ReasonNotFound {
			t.Errorf("%s code: %v", name, err)
		}
	}
	was, _ := n.Store().Cluster()
	for i, share := range fresh {
		if now, _ := n.Store().Cluster(); !bytes.Equal(now.OperatorDeal, was.OperatorDeal) {
			t.Fatalf("in force after %d confirmations", i)
		}
		if out, err := confirm(i, code(share)); err != nil || len(out.GetShares()[0].GetFile()) != 0 {
			t.Fatalf("confirm: %v", err)
		}
	}
	c.Await("the new shares and a new root", func() bool {
		now, _ := n.Store().Cluster()
		return !bytes.Equal(now.OperatorDeal, was.OperatorDeal) && now.RootGeneration == was.RootGeneration+1
	})
	if err := unseal(c.Shares[0]); !errors.Is(err, shares.ErrOtherDeal) {
		t.Errorf("an old share: %v", err)
	}
	if err := unseal(fresh[2], fresh[0]); err != nil {
		t.Fatalf("the new shares: %v", err)
	}
	// Now the cluster knows its operators.
	if _, err := operator.Keys().Rotate(ctx, &hizov1.RotateRequest{Subject: "operator-shares"}); err != nil {
		t.Errorf("the same operators again: %v", err)
	}
}
