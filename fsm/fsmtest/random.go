package fsmtest

import (
	"fmt"
	"math/rand/v2"

	"github.com/hizo/hizo/fsm"
)

// Random makes random commands that mostly fit the state of a store, and some that don't: stale, repeated, malformed.
// One seed gives one sequence for one history of states.
type Random struct {
	Builder
	rng    *rand.Rand
	store  *fsm.Store
	tokens int
	recent []fsm.Command
}

// NewRandom makes commands for the state of store.
func NewRandom(seed uint64, store *fsm.Store) *Random {
	return &Random{rng: rand.New(rand.NewPCG(seed, 0x68697a6f)), store: store}
}

// Entry makes the next log entry: some commands at a time that mostly moves a little.
func (r *Random) Entry() fsm.Entry {
	r.Now()
	switch n := r.rng.IntN(100); {
	case n < 70:
		r.Time += int64(r.rng.IntN(2000))
	case n < 80:
		r.Time += int64(r.rng.IntN(240_000))
	case n < 83:
		r.Time -= int64(r.rng.IntN(10_000)) // a leader's clock behind the last one's
	case n < 84:
		r.Time += 6 * 60_000 // refused
	}
	if c, ok := r.store.Cluster(); ok && c.Sealed && r.rng.IntN(10) == 0 {
		return r.entry(r.Command(fsm.KindUnsealed, "node/n1", "unseal", "cluster", fsm.Unsealed{Node: "n1", Method: "operators", Changed: c.Changed}))
	} else if !ok {
		return r.entry(r.Genesis(), r.Enrol("u0", "first"))
	}
	if r.Time > r.store.Time()+300_000 {
		if r.rng.IntN(3) == 0 {
			r.Time = r.store.Time()
		} else if r.rng.IntN(2) == 0 {
			jump := r.Command(fsm.KindClockJump, "node/n1", "clock", "cluster", fsm.ClockJump{
				To: r.Time, Readings: r.readings(),
			})
			return r.entry(jump, r.one())
		}
	}
	if r.rng.IntN(200) == 0 {
		to := r.store.Time() + int64(r.rng.IntN(30*3_600_000)) // everything short-lived goes
		jump := r.Command(fsm.KindClockJump, "node/n1", "clock", "cluster", fsm.ClockJump{
			To: to, Readings: r.readings(),
		})
		r.Time = to
		return r.entry(jump)
	}
	commands := make([]fsm.Command, r.rng.IntN(8))
	for i := range commands {
		commands[i] = r.one()
	}
	e := r.entry(commands...)
	if r.rng.IntN(50) == 0 {
		e.Records = append(e.Records, []byte{fsm.CommandFormat, 0xc1, byte(r.rng.IntN(256))})
	}
	return e
}

func (r *Random) entry(commands ...fsm.Command) fsm.Entry {
	e := fsm.Entry{Time: r.Time}
	for _, c := range commands {
		e.Records = append(e.Records, fsm.EncodeCommand(c))
		r.recent = append(r.recent, c)
	}
	if len(r.recent) > 50 {
		r.recent = r.recent[len(r.recent)-50:]
	}
	return e
}

func (r *Random) name(kind string, n int) string { return fmt.Sprintf("%s%d", kind, r.rng.IntN(n)) }

// token is one of the newest, which mostly live.
func (r *Random) token() string {
	return fmt.Sprintf("token-%d", max(0, r.tokens-r.rng.IntN(12)))
}

func (r *Random) newToken() string {
	r.tokens++
	return fmt.Sprintf("token-%d", r.tokens)
}

func (r *Random) principal() string {
	if r.rng.IntN(2) == 0 {
		return "user/" + r.name("u", 4)
	}
	return "workload/" + r.name("w", 3)
}

func (r *Random) role() string {
	return []string{fsm.RoleSecurityEngineer, "Auditor", "Operator", "PipelineOwner"}[r.rng.IntN(4)]
}

func (r *Random) expires() int64 { return r.Time + int64(r.rng.IntN(3_600_000)) - 60_000 }

// one makes one command.
func (r *Random) one() fsm.Command {
	if len(r.recent) > 0 && r.rng.IntN(10) == 0 {
		c := r.recent[r.rng.IntN(len(r.recent))] // a retry
		if r.rng.IntN(4) == 0 {
			c.Fingerprint = []byte("another")
		}
		return c
	}
	c := r.make()
	switch r.rng.IntN(20) {
	case 0: // stale
		c.Reads = append(c.Reads, fsm.Read{Object: fsm.ObjUser(r.name("u", 4)), Index: uint64(r.rng.IntN(int(r.Index) + 1))})
	case 1, 2, 3:
		object := []string{
			fsm.ObjToken(HashOf(r.token())), fsm.ObjRoles(r.principal()), fsm.ObjPolicies, fsm.ObjCluster,
			fsm.ObjVault(r.name("v", 3)), fsm.ObjSecret(r.name("v", 3), r.name("p", 5)), fsm.ObjUser(r.name("u", 4)),
		}[r.rng.IntN(7)]
		c.Reads = append(c.Reads, fsm.Read{Object: object, Index: r.store.Index(object)})
	case 4:
		c.Term = r.Term + uint64(r.rng.IntN(2))
	case 5:
		c.Body = c.Body[:len(c.Body)/2] // malformed
		if len(c.Body) == 0 {
			c.Body = nil
		}
	case 6:
		c.Request = RequestID(r.Time-int64(r.rng.IntN(50*3_600_000))+10*3_600_000, r.rng.Uint64())
	}
	return c
}

func (r *Random) make() fsm.Command {
	vault, path := r.name("v", 3), r.name("p", 5)
	who := r.principal()
	if r.rng.IntN(14) == 0 {
		return r.pipeline(who)
	}
	if r.rng.IntN(10) == 0 {
		return r.federation(who)
	}
	if r.rng.IntN(12) == 0 {
		return r.consumer(who)
	}
	if r.rng.IntN(7) == 0 {
		return r.lease(who, vault)
	}
	if r.rng.IntN(6) == 0 {
		return r.rotation(who)
	}
	if r.rng.IntN(8) == 0 {
		return r.keys(who, vault)
	}
	switch r.rng.IntN(44) {
	case 0:
		return r.Vault(vault)
	case 1, 2, 3, 4, 5, 6:
		head, _ := r.store.Secret(vault, path)
		v, _ := r.store.Vault(vault)
		body := fsm.SecretPut{
			Vault: vault, Path: path, Version: max(head.Next, 1), CAS: -1, Data: Sealed(vault, path, head.Next),
		}
		body.Data.Generation = v.Generation
		if r.rng.IntN(4) == 0 {
			body.CAS = int64(head.Current) - int64(r.rng.IntN(2))
		}
		return r.Command(fsm.KindSecretPut, who, "put", vault+"/"+path, body)
	case 7, 8:
		return r.Command([]fsm.Kind{fsm.KindSecretDelete, fsm.KindSecretRestore, fsm.KindSecretDestroy}[r.rng.IntN(3)],
			who, "versions", vault+"/"+path, fsm.SecretVersions{Vault: vault, Path: path, Versions: r.versions(vault, path)})
	case 9, 10, 11, 12, 13, 14:
		refs := make([]fsm.Ref, 1+r.rng.IntN(3))
		for i := range refs {
			refs[i] = fsm.Ref{Vault: r.name("v", 3), Path: r.name("p", 5), Version: uint32(r.rng.IntN(3))}
		}
		return r.Read(who, refs...)
	case 15:
		purpose := []string{"vault/" + vault, "mac", "audit"}[r.rng.IntN(3)]
		return r.Command(fsm.KindKeyAdd, who, "key", purpose, fsm.KeyAdd{Key: fsm.WrappedKey{
			Purpose: purpose, Generation: r.store.KeyGeneration(purpose) + uint32(r.rng.IntN(2)), RootGeneration: 1,
			Ciphertext: []byte("key"),
		}})
	case 16, 17:
		return r.Command(fsm.KindUserPut, who, "user", "", fsm.UserPut{
			User: fsm.User{Name: r.name("u", 4), Password: HashOf(r.token())}, Update: r.rng.IntN(2) == 0,
			EndLogins: r.Index%8 == 0, Keep: HashOf(fmt.Sprintf("token-%d", r.tokens)),
		})
	case 18:
		return r.Command(fsm.KindWorkloadPut, who, "workload", "", fsm.WorkloadPut{
			Workload: fsm.Workload{Name: r.name("w", 3)},
		})
	case 19:
		return r.Command(fsm.KindUserDisable, who, "disable", "", fsm.PrincipalDisable{
			Principal: r.principal(), Disabled: r.rng.IntN(3) > 0, MAC: []byte("mac"),
		})
	case 20, 21:
		return r.Command(fsm.KindRoleGrant, who, "grant", "", fsm.RoleBinding{Role: r.role(), Principal: r.principal(), By: who})
	case 22:
		body := fsm.RoleRevoke{Role: r.role(), Principal: r.principal()}
		for _, b := range r.store.Bindings() {
			if b.Role == fsm.RoleSecurityEngineer && r.rng.IntN(4) == 0 { // often the last one
				body = fsm.RoleRevoke{Role: b.Role, Principal: b.Principal}
			}
		}
		return r.Command(fsm.KindRoleRevoke, who, "revoke", "", body)
	case 23:
		return r.Command(fsm.KindSecretIDPut, who, "secretid", "", fsm.SecretIDPut{SecretID: fsm.SecretID{
			Hash: HashOf(r.name("id", 20)), Workload: r.name("w", 3), Expires: r.expires(),
		}})
	case 24, 25, 26:
		principal := r.principal()
		body := fsm.Login{Token: r.Token(principal, r.newToken()), ClientKey: []byte{byte(r.rng.IntN(3))}}
		if r.rng.IntN(2) == 0 {
			body.SecretID = HashOf(r.name("id", 20))
			if id, ok := r.store.SecretID(body.SecretID); ok {
				body.Token.Principal = "workload/" + id.Workload
			}
		}
		return r.Command(fsm.KindLogin, principal, "login", principal, body)
	case 27:
		if r.rng.IntN(3) == 0 {
			return r.Command(fsm.KindTokenRevoke, who, "revoke", "", fsm.TokenRevoke{Principal: r.principal(), Credentials: r.Index%2 == 0})
		}
		return r.Command(fsm.KindTokenRevoke, who, "revoke", "", fsm.TokenRevoke{Hash: HashOf(r.token())})
	case 28:
		token := fmt.Sprintf("token-%d", max(r.tokens-r.rng.IntN(8), 0)) // older ones are mostly gone
		return r.Command(fsm.KindTokenRenew, who, "renew", "", fsm.TokenRenew{Hash: HashOf(token), Expires: r.expires()})
	case 29:
		name := r.name("id", 20)
		return r.Command(fsm.KindEnrolmentPut, who, "enrolment", "", fsm.EnrolmentPut{Enrolment: fsm.Enrolment{
			Hash: HashOf(name), Roles: []string{r.role()}, Expires: r.expires(),
		}})
	case 30:
		hash := HashOf(r.name("id", 20))
		e, _ := r.store.Enrolment(hash)
		user := r.name("u", 6)
		body := fsm.Enrol{Hash: hash, User: fsm.User{Name: user}, Token: r.Token("user/"+user, r.newToken())}
		for _, role := range e.Roles {
			body.Roles = append(body.Roles, fsm.RoleBinding{Role: role, Principal: "user/" + user})
		}
		return r.Command(fsm.KindEnrol, "anonymous", "enrol", user, body)
	case 31:
		return r.Command(fsm.KindCertificate, who, "certificate", "", fsm.Certificate{
			Principal: r.principal(), Key: HashOf(r.name("cert", 5)), Serial: "1", Expires: r.expires(),
		})
	case 32:
		if r.rng.IntN(3) == 0 {
			return r.Command(fsm.KindPolicyDelete, who, "policy", "", fsm.PolicyDelete{Name: r.name("policy", 3)})
		}
		return r.Command(fsm.KindPolicyPut, who, "policy", "", fsm.PolicyPut{Policy: fsm.Policy{
			Name: r.name("policy", 3), Text: "permit(principal, action, resource);", By: who,
		}})
	case 33, 34, 40, 41:
		return r.member(who)
	case 35, 36:
		return r.deal()
	case 37:
		if r.rng.IntN(2) == 0 {
			return r.Command(fsm.KindSealFlag, who, "seal", "cluster", fsm.SealFlag{Sealed: r.rng.IntN(6) == 0})
		}
		c, _ := r.store.Cluster()
		return r.Command(fsm.KindUnsealed, who, "unseal", "cluster", fsm.Unsealed{
			Node: r.name("n", 5), Method: []string{"quorum", "operators", "handover", "magic"}[r.rng.IntN(4)], Changed: c.Changed,
		})
	case 38:
		size := r.store.AuditSize()
		if size > 1 && r.rng.IntN(3) == 0 {
			size -= uint64(r.rng.IntN(2))
		}
		root, _ := r.store.TreeRoot(size)
		c := r.Command(fsm.KindCheckpoint, "node/n1", "checkpoint", "", fsm.Checkpoint{
			Origin: "hizo/test", Size: size, Root: root[:], Time: r.Time,
			Signatures: []fsm.Signature{{Node: r.name("n", 3), Signature: []byte("signature")}},
		})
		c.Audits = nil
		return c
	case 39:
		c := r.Command(fsm.KindTick, "node/n1", "", "", fsm.Tick{})
		c.Audits, c.Request = nil, [16]byte{}
		return c
	}
	c := r.Command(fsm.KindRecord, who, "list", "vault", nil)
	c.Audits[0].Decision = fsm.Decision(1 + r.rng.IntN(3))
	return c
}

func (r *Random) consumer(who string) fsm.Command {
	id := r.name("c", 3)
	uses := make([]fsm.Use, 1+r.rng.IntN(2))
	for i := range uses {
		uses[i] = fsm.Use{Vault: r.name("v", 3), Path: r.name("p", 5)}
		if head, ok := r.store.Secret(uses[i].Vault, uses[i].Path); ok {
			uses[i].Version = uint32(r.rng.IntN(int(head.Next) + 1))
		}
	}
	switch r.rng.IntN(7) {
	case 0, 1:
		return r.Command(fsm.KindConsumerPut, who, "consumer", id, fsm.ConsumerPut{
			ID: id, TTL: int64(r.rng.IntN(3_600_000)), Uses: uses,
		})
	case 2, 3, 4:
		if have, ok := r.store.Consumer(who, id); ok {
			uses = uses[:1]
			uses[0].Vault, uses[0].Path = have[0].Vault, have[0].Path
			head, _ := r.store.Secret(uses[0].Vault, uses[0].Path)
			uses[0].Version = head.Current
		}
		return r.Command(fsm.KindConsumerAck, who, "consumer", id, fsm.ConsumerAck{ID: id, Uses: uses})
	case 5:
		return r.Command(fsm.KindConsumerLeave, who, "consumer", id, fsm.ConsumerLeave{ID: id})
	}
	return r.Command(fsm.KindConsumerSeen, "node/n1", "consumer", "", fsm.ConsumerSeen{Consumers: []fsm.ConsumerName{
		{Principal: who, ID: id}, {Principal: r.principal(), ID: r.name("c", 3)},
	}})
}

func (r *Random) versions(vault, path string) []uint32 {
	head, ok := r.store.Secret(vault, path)
	if !ok || r.rng.IntN(2) == 0 {
		return nil
	}
	var out []uint32
	for range 1 + r.rng.IntN(3) {
		out = append(out, head.Oldest+uint32(r.rng.IntN(int(head.Next-head.Oldest))))
	}
	return out
}

func (r *Random) member(who string) fsm.Command {
	node := r.name("n", 5)
	token := "join-" + node + "-" + r.name("", 3)
	switch r.rng.IntN(12) {
	case 9:
		return r.Command(fsm.KindMemberVote, who, "demote", node, fsm.MemberVote{ID: node, Voter: r.rng.IntN(2) == 0, MAC: []byte("v")})
	case 10:
		return r.Command(fsm.KindMembershipSet, who, "configure", "", fsm.MembershipSet{Membership: fsm.Membership{
			Stabilise: int64(r.rng.IntN(9)), CleanUpAfter: int64(r.rng.IntN(9)) - 1,
		}})
	case 11:
		if r.rng.IntN(2) == 0 {
			return r.Command(fsm.KindRecovered, "node/n1", "recover", "cluster", fsm.Recovered{
				ID: [16]byte{byte(1 + r.rng.IntN(9))}, Node: "n1", By: "alice", Reason: "fire", GivenUp: []string{node},
			})
		}
		return r.Command(fsm.KindLevelRaise, "node/n1", "level", "cluster", fsm.LevelRaise{Level: uint32(r.rng.IntN(fsm.HighestLevel + 2))})
	case 0, 1:
		return r.Command(fsm.KindJoinTokenPut, who, "join-token", node, fsm.JoinTokenPut{JoinToken: fsm.JoinToken{
			Hash: HashOf(token), Node: node, Fingerprint: Fingerprint(node), Expires: r.expires(),
		}})
	case 2, 3:
		return r.Command(fsm.KindMemberJoin, "node/"+node, "join", node, fsm.MemberJoin{
			Token: HashOf(token), Member: fsm.Member{ID: node, PeerAddr: node, Key: Key(node), SealKind: "pkcs11"},
		})
	case 4, 6, 7:
		return r.Command(fsm.KindMemberApprove, who, "approve", node, fsm.MemberApprove{ID: node, Key: Key(node), MAC: []byte("m")})
	case 5:
		return r.Command(fsm.KindQuarantine, who, "quarantine", node, fsm.Quarantine{ID: node, On: r.rng.IntN(3) == 0})
	}
	if r.rng.IntN(4) == 0 && node != "n1" {
		return r.Command(fsm.KindMemberRemove, who, "remove", node, fsm.MemberRemove{ID: node})
	}
	return r.Command(fsm.KindMemberUpdate, who, "update", node, fsm.MemberUpdate{
		Member: fsm.Member{ID: node, PeerAddr: node + ":" + r.name("", 9), ClientCert: []byte("cert"), Level: uint32(r.rng.IntN(fsm.HighestLevel + 1))},
	})
}

// readings are of every approved member's clock.
func (r *Random) readings() (list []fsm.ClockReading) {
	for _, m := range r.store.Members() {
		if m.Approved {
			list = append(list, fsm.ClockReading{Node: m.ID})
		}
	}
	return list
}

func (r *Random) deal() fsm.Command {
	c, _ := r.store.Cluster()
	var members []string
	for _, m := range r.store.Members() {
		if m.Approved && !m.Quarantined && !m.NonVoter {
			members = append(members, m.ID)
		}
	}
	epoch := c.PendingEpoch
	switch r.rng.IntN(10) {
	case 0, 1:
		return r.Command(fsm.KindDealPropose, "node/n1", "deal", "", fsm.DealPropose{Deal: fsm.Deal{
			Members: members, Threshold: len(members)/2 + 1, Root: []byte("root"),
			RootGeneration: c.RootGeneration + uint32(r.rng.IntN(2)), Body: []byte("commitments"),
		}})
	case 2, 3:
		return r.Command(fsm.KindDealCommit, "node/n1", "deal", "", fsm.DealCommit{Epoch: epoch, Provers: members})
	case 4:
		return r.Command(fsm.KindDealRetire, "node/n1", "deal", "", fsm.DealRetire{Epoch: c.NodeEpoch})
	case 5, 6, 7:
		body := fsm.ShareRelease{Epoch: c.NodeEpoch, Holder: r.name("n", 5), Node: r.name("n", 5)}
		if d, ok := r.store.Deal(c.NodeEpoch); ok && r.rng.IntN(4) > 0 {
			body.Holder = d.Members[r.rng.IntN(len(d.Members))]
		}
		return r.Command(fsm.KindShareRelease, "node/n1", "share", "", body)
	}
	if r.rng.IntN(2) == 0 {
		return r.Command(fsm.KindDealAbort, "node/n1", "deal", "", fsm.DealAbort{Epoch: epoch})
	}
	body := fsm.RootRotate{
		RootGeneration: c.RootGeneration + 1, RootID: []byte("id"), OperatorRoot: []byte("sealed"), MAC: []byte("mac"),
	}
	if d, ok := r.store.Deal(epoch); ok && d.RootGeneration == body.RootGeneration {
		body.Epoch, body.Provers = epoch, members
	}
	for _, k := range r.store.Keys() {
		k.RootGeneration, k.Ciphertext = body.RootGeneration, []byte("rewrapped")
		body.Keys = append(body.Keys, k)
	}
	return r.Command(fsm.KindRootRotate, "user/u0", "rotate", "root", body)
}
