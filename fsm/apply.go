package fsm

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/hashicorp/raft"
)

// Apply applies one committed entry and returns []Result, one per record in order. What was applied before a restart
// is skipped and returns a nil []Result; an entry that is no entry of ours returns an error and changes nothing but
// the position. A format or kind of another version stops the node.
func (s *Store) Apply(log *raft.Log) any {
	s.applying.Lock()
	defer s.applying.Unlock()
	if log.Index <= s.position.Index {
		return []Result(nil)
	}
	t := newTx(s, log.Index, log.Term)
	entry, err := DecodeEntry(log.Data)
	if s.foreign(log, err); err != nil {
		t.commit()
		return err
	}
	records := make([]record, len(entry.Records))
	for i, data := range entry.Records {
		r := &records[i]
		r.cmd, r.err = DecodeCommand(data)
		s.foreign(log, r.err)
		if r.err == nil {
			r.body, r.err = DecodeBody(r.cmd.Kind, r.cmd.Body)
			s.foreign(log, r.err)
			r.known = true
		}
	}
	results := make([]Result, len(records))
	t.start(entry.Time)
	for i := range records {
		results[i] = t.apply(&records[i], i == 0)
	}
	t.sweep(len(records))
	t.writeEvents()
	t.commit()
	return results
}

// foreign stops the node if err says that another version wrote the log entry: replicas that skip it diverge from
// those that know it.
func (s *Store) foreign(log *raft.Log, err error) {
	if unknown, ok := errors.AsType[*UnknownFormatError](err); ok {
		s.fatal(fmt.Errorf("raft entry %d: %w", log.Index, unknown))
	}
}

// record is one decoded record of an entry.
type record struct {
	cmd   Command
	body  any
	err   error // not decodable
	known bool  // the command itself was decodable, so it can be audited
}

// outcome is what the decision on one record came to.
type outcome struct {
	Result
	versions []uint32 // per audit: the version it named
	signer   string   // detail of a leaf that says who may sign checkpoints
	withheld []bool   // per audit: refused only because another reference was
	replaced bool     // a retried login: the memory of the request takes the new token
	note     string   // what Apply has to say in the leaves, beside the proposer's detail
}

func refuse(code Code) outcome { return outcome{Result: Result{Code: code}} }

func done() outcome { return outcome{Result: Result{Code: CodeOK}} }

func wrote(version uint32) outcome {
	return outcome{Result: Result{Code: CodeOK, Version: version}, versions: []uint32{version}}
}

func superseded(object string) outcome {
	return outcome{Result: Result{Code: CodeSuperseded, Changed: object}}
}

// apply decides one record and, only then, stages its writes and its audit leaves.
func (t *tx) apply(r *record, first bool) Result {
	if r.err != nil && (!r.known || len(r.cmd.Audits) > MaxRefs) {
		return Result{Code: CodeInvalid, Index: t.index, Time: t.time}
	}
	out := t.decide(r, first)
	if out.Index == 0 {
		out.Index = t.index
	}
	if out.Code == CodeOK {
		t.accept()
	} else {
		t.reject()
	}
	if (!out.Duplicate || out.replaced) && remembers(&r.cmd) && settled(out.Code) {
		t.remember(r, &out)
	}
	if first {
		t.afterFirst()
	}
	out.Time = t.time
	switch out.Code {
	case CodeSuperseded, CodeFenced, CodeClock:
		// Nothing happened, and the proposer decides again: that attempt is the one to record.
	default:
		out.Audit = t.size
		t.audit(&r.cmd, &out)
	}
	return out.Result
}

func (t *tx) decide(r *record, first bool) outcome {
	cmd := &r.cmd
	if cmd.Term != 0 && cmd.Term != t.term {
		return refuse(CodeFenced)
	}
	if t.clock && !(first && cmd.Kind == KindClockJump) {
		return refuse(CodeClock)
	}
	if len(cmd.Audits) > MaxRefs {
		cmd.Audits = nil
		return refuse(CodeInvalid)
	}
	if r.err != nil || !wellFormed(cmd) {
		return refuse(CodeInvalid)
	}
	cluster := t.cluster()
	if cluster == nil && cmd.Kind != KindGenesis {
		return refuse(CodeInvalid)
	}
	if cmd.Kind.Since() > t.level() {
		return refuse(CodeLevel)
	}
	var before *request
	if remembers(cmd) {
		out, known := t.recall(cmd)
		if out.Code != 0 {
			return out
		}
		before = known
	}
	if out := t.checkReads(cmd.Reads); out.Code != CodeOK {
		return out
	}
	if cluster != nil && cluster.Sealed && !whileSealed(cmd.Kind) {
		return refuse(CodeSealed)
	}
	return t.dispatch(cmd, r.body, before, first)
}

func (t *tx) dispatch(cmd *Command, body any, before *request, first bool) outcome {
	switch body := body.(type) {
	case nil: // KindRecord
		return done()
	case *Genesis:
		return t.genesis(body)
	case *Tick:
		return done()
	case *ClockJump:
		return t.clockJump(body, first)
	case *ReadVersions:
		return t.readVersions(cmd, body)
	case *SecretPut:
		return t.secretPut(cmd, body)
	case *SecretVersions:
		return t.secretVersions(cmd.Kind, body)
	case *VaultCreate:
		return t.vaultCreate(body)
	case *KeyAdd:
		return t.keyAdd(body)
	case *UserPut:
		return t.userPut(body)
	case *PrincipalDisable:
		return t.principalDisable(body)
	case *RoleBinding:
		return t.roleGrant(body)
	case *RoleRevoke:
		return t.roleRevoke(body)
	case *WorkloadPut:
		return t.workloadPut(body)
	case *SecretIDPut:
		return t.secretIDPut(body)
	case *Login:
		return t.login(cmd, body, before)
	case *TokenRevoke:
		return t.tokenRevoke(body)
	case *TokenRenew:
		return t.tokenRenew(body)
	case *Enrol:
		return t.enrol(body, before)
	case *EnrolmentPut:
		return t.enrolmentPut(body)
	case *Certificate:
		return t.certificate(body)
	case *PolicyPut:
		return t.policyPut(body)
	case *PolicyDelete:
		return t.policyDelete(body)
	case *JoinTokenPut:
		return t.joinTokenPut(body)
	case *MemberJoin:
		return t.memberJoin(body)
	case *MemberApprove:
		return t.memberApprove(body)
	case *MemberUpdate:
		return t.memberUpdate(body)
	case *MemberRemove:
		return t.memberRemove(body)
	case *Quarantine:
		return t.quarantine(body)
	case *MemberVote:
		return t.memberVote(body)
	case *MembershipSet:
		return t.membershipSet(body)
	case *DealPropose:
		return t.dealPropose(body)
	case *DealCommit:
		return t.dealCommit(body)
	case *DealAbort:
		return t.dealAbort(body)
	case *DealRetire:
		return t.dealRetire(body)
	case *ShareRelease:
		return t.shareRelease(body)
	case *SealFlag:
		return t.sealFlag(body)
	case *Unsealed:
		return t.unsealed(body)
	case *RootRotate:
		return t.rootRotate(body)
	case *Checkpoint:
		return t.checkpoint(body)
	case *ConsumerPut:
		return t.consumerPut(cmd, body)
	case *ConsumerAck:
		return t.consumerAck(cmd, body)
	case *ConsumerLeave:
		return t.consumerLeave(cmd, body)
	case *ConsumerSeen:
		return t.consumerSeen(body)
	case *PipelinePut:
		return t.pipelinePut(body)
	case *PipelineDelete:
		return t.pipelineDelete(body)
	case *SealRevocation:
		return t.sealRevoke(body)
	case *Injection:
		return t.injection(cmd, body)
	case *IssuerPut:
		return t.issuerPut(body)
	case *IssuerDelete:
		return t.issuerDelete(body)
	case *ClaimBindingPut:
		return t.claimBindingPut(body)
	case *ClaimBindingDelete:
		return t.claimBindingDelete(body)
	case *LevelRaise:
		return t.levelRaise(body)
	case *Recovered:
		return t.recovered(body)
	case *KeySchedule:
		return t.keySchedule(body)
	case *KeyRotationBegin:
		return t.keyRotationBegin(body)
	case *KeyRewrap:
		return t.keyRewrap(body)
	case *KeyRetire:
		return t.keyRetire(body)
	case *OperatorsPropose:
		return t.operatorsPropose(body)
	case *OperatorsConfirm:
		return t.operatorsConfirm(body)
	case *OperatorsCommit:
		return t.operatorsCommit(body)
	case *OperatorsAbort:
		return t.operatorsAbort(body)
	case *BackupKept:
		return t.backupKept(body)
	case *Backup:
		return t.backup(body)
	case *LeaseRolePut:
		return t.leaseRolePut(body)
	case *LeaseRoleDelete:
		return t.leaseRoleDelete(body)
	case *LeaseCreate:
		return t.leaseCreate(cmd, body, before)
	case *LeaseActivate:
		return t.leaseActivate(cmd, body)
	case *LeaseRenew:
		return t.leaseRenew(cmd, body)
	case *LeaseRevoke:
		return t.leaseRevoke(body)
	case *LeaseSweep:
		return t.leaseSweep(body)
	case *LeaseOutcomes:
		return t.leaseOutcomes(body)
	case *DeadLeases:
		return t.deadLeases(cmd.Kind, body)
	case *RotationSet:
		return t.rotationSet(body)
	case *RotationDelete:
		return t.rotationDelete(body)
	case *RotationPause:
		return t.rotationPause(body)
	case *RotationRun:
		return t.rotationRun(body)
	case *RotationStage:
		return t.rotationStage(cmd, body)
	case *RotationAdvance:
		return t.rotationAdvance(cmd, body)
	case *RotationFail:
		return t.rotationFail(cmd, body)
	case *RotationUse:
		return t.rotationUse(cmd, body)
	}
	// NewBody and this switch name the same types; a test holds them together.
	panic(fmt.Sprintf("fsm: kind %d is decoded but not applied", cmd.Kind))
}

// wellFormed checks what does not depend on the state.
func wellFormed(cmd *Command) bool {
	if cmd.Principal == "" || !multi(cmd.Principal) || len(cmd.Reads) > MaxReads {
		return false
	}
	for i := range cmd.Reads {
		// Names of caches and of the store must not be what a peer likes: only objects that object.go makes.
		if name := cmd.Reads[i].Object; name == "" || len(name) > 4*MaxName || !readable(name) {
			return false
		}
	}
	if unaudited(cmd.Kind) {
		return len(cmd.Audits) == 0 // a tick could otherwise carry the leaf of an approval
	}
	if len(cmd.Audits) == 0 {
		return false
	}
	own := signerAction(cmd.Kind)
	if own != "" && len(cmd.Audits) != 1 {
		return false
	}
	for i := range cmd.Audits {
		switch cmd.Audits[i].Decision {
		case Allowed:
			switch cmd.Audits[i].Action {
			case ActionGenesis, ActionJoin, ActionApprove, ActionRemove, ActionBackup, ActionRestore, ActionRecover:
				if own == "" {
					return false
				}
			}
		case Denied, Failed:
			if cmd.Kind != KindRecord {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// readable says whether a read set may name the object.
func readable(name string) bool {
	kind, _, _ := strings.Cut(name, "/")
	switch kind {
	case ObjCluster, ObjPolicies, "user", "workload", "roles", "token", "secretid", "enrolment", "jointoken",
		"certificate", "policy", "vault", "secret", "key", "member", ObjMembership, "keyrotation", "operators",
		"pipeline", "runner", "sealrevocation",
		ObjIssuers, ObjClaimBindings, "issuer", "claimbinding",
		"lease", "leaserole",
		ObjRotations, "rotation":
		return true
	}
	return false
}

// unaudited kinds are duties that release nothing and grant nothing. Every other command carries its audit record.
func unaudited(k Kind) bool {
	switch k {
	case KindTick, KindMemberUpdate, KindDealPropose, KindDealCommit, KindDealAbort, KindDealRetire, KindCheckpoint,
		KindLeaseSweep, KindKeyRewrap, KindBackupKept:
		return true
	}
	return false
}

// whileSealed kinds need no keys and stay possible under the seal flag.
func whileSealed(k Kind) bool {
	switch k {
	case KindRecord, KindTick, KindClockJump, KindMemberUpdate, KindMemberRemove, KindQuarantine, KindDealAbort,
		KindShareRelease, KindSealFlag, KindUnsealed, KindCheckpoint, KindGenesis, KindRecovered:
		return true
	}
	return false
}

// checkReads says whether everything the decision rested on is as it was (CodeOK), earlier records of this entry
// included.
func (t *tx) checkReads(reads []Read) outcome {
	for i := range reads {
		o := t.lookup(reads[i].Object)
		index := uint64(0)
		if o != nil {
			index = o.changed()
		}
		if token, ok := o.(*storedToken); ok && token.Token.Expires <= t.time {
			return refuse(CodeExpired)
		}
		if o != nil && !alive(t, o) {
			index = 0
		}
		if index != reads[i].Index {
			return superseded(reads[i].Object)
		}
	}
	return done()
}

// millis of a duration constant.
func millis[D ~int64](d D) int64 { return int64(d) / 1e6 }

// start sets the entry's time. Cluster time never goes back, and moves at most MaxClockStep without a ClockJump: one
// wrong clock would otherwise expire everything for good.
func (t *tx) start(proposed int64) {
	t.proposed = proposed
	if t.cluster() == nil {
		t.time = max(proposed, 0)
		return
	}
	if proposed > t.time+millis(MaxClockStep) {
		t.clock = true
		return
	}
	t.time = max(t.time, proposed)
}

// afterFirst looks at the clock again once a leading ClockJump has been decided.
func (t *tx) afterFirst() {
	if t.clock && t.proposed <= t.time+millis(MaxClockStep) {
		t.clock = false
		t.time = max(t.time, t.proposed)
	}
}

// clockJump moves cluster time on. Only the first record of an entry may, so that an entry has one time.
func (t *tx) clockJump(b *ClockJump, first bool) outcome {
	if !first {
		return refuse(CodeClock)
	}
	if b.To <= 0 || b.To > math.MaxInt64/4 {
		return refuse(CodeInvalid)
	}
	// That a majority of Raft's voters agrees, and their signatures, is checked before proposing: voters are not part
	// of this state, and approved members may be more than there are voters. Here only who is named.
	if len(b.Readings) == 0 {
		return refuse(CodeInvalid)
	}
	named := make(map[string]bool, len(b.Readings))
	for i := range b.Readings {
		m := find[Member](t, ObjMember(b.Readings[i].Node))
		if m == nil || !m.Approved || named[m.ID] {
			return refuse(CodeInvalid)
		}
		named[m.ID] = true
	}
	t.time = max(t.time, b.To)
	return done()
}
