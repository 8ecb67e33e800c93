package fsm

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// What the records of a rotation do; rotation.go says what they are.

// rotating says whether an attempt is under way.
func (r *Rotation) rotating() bool { return r.Attempt.State != RotationIdle }

// markRotations tells the engine that a person changed something.
func (t *tx) markRotations() { t.put(ObjRotations, &policyMark{Changed: t.index}) }

func (t *tx) putRotation(r *Rotation) {
	r.Changed = t.index
	t.put(ObjRotation(r.Vault, r.Path), r)
}

func (t *tx) rotationSet(b *RotationSet) outcome {
	r := b.Rotation
	if !segment(r.Vault) || !multi(r.Path) || !segment(r.Target) || len(r.Options) > MaxRotationOptions ||
		r.Every < 0 || r.Grace < 0 || r.Deadline < 0 || (r.Every == 0) == (r.Cron == "") {
		return refuse(CodeInvalid)
	}
	for i, o := range r.Options {
		if !segment(o.Name) || len(o.Value) > MaxRotationOption || i > 0 && r.Options[i-1].Name >= o.Name {
			return refuse(CodeInvalid)
		}
	}
	if find[Vault](t, ObjVault(r.Vault)) == nil {
		return refuse(CodeNotFound)
	}
	r.Number, r.Attempt, r.Paused, r.Requested, r.Created = 0, RotationAttempt{}, false, false, t.time
	r.Tries, r.RetryAt, r.Failure, r.FailedAt = 0, 0, "", 0 // what was wrong may have been mended: try at once
	if have := find[Rotation](t, ObjRotation(r.Vault, r.Path)); have != nil {
		r.Number, r.Attempt, r.Paused, r.Requested, r.Created = have.Number, have.Attempt, have.Paused, have.Requested, have.Created
	}
	t.putRotation(&r)
	t.markRotations()
	return done()
}

func (t *tx) rotationDelete(b *RotationDelete) outcome {
	have := find[Rotation](t, ObjRotation(b.Vault, b.Path))
	if have == nil {
		return refuse(CodeNotFound)
	}
	out := done()
	if have.rotating() {
		if !b.Force {
			return refuse(CodeRotating)
		}
		r := *have
		out.note = fmt.Sprintf("the attempt under way was dropped; version %d is kept", r.Attempt.Version)
		t.endAttempt(&r, RotationDropped, out.note)
		out.versions = []uint32{have.Attempt.Version}
	}
	t.del(ObjRotation(b.Vault, b.Path))
	t.scan(rotatedPrefix(b.Vault, b.Path), func(name string, _ object) bool {
		t.del(name)
		return true
	})
	t.markRotations()
	return out
}

func (t *tx) rotationPause(b *RotationPause) outcome {
	have := find[Rotation](t, ObjRotation(b.Vault, b.Path))
	if have == nil {
		return refuse(CodeNotFound)
	}
	r := *have
	if r.Paused && !b.Paused {
		r.NextRun = b.NextRun
	}
	r.Paused = b.Paused
	t.putRotation(&r)
	t.markRotations()
	return done()
}

func (t *tx) rotationRun(b *RotationRun) outcome {
	have := find[Rotation](t, ObjRotation(b.Vault, b.Path))
	if have == nil {
		return refuse(CodeNotFound)
	}
	r := *have
	r.RetryAt = 0 // somebody is waiting: no back-off
	number := r.Number
	if !r.rotating() {
		r.Requested = true
		number++
	}
	t.putRotation(&r)
	t.markRotations()
	return outcome{Result: Result{Code: CodeOK, Version: number}}
}

// attemptOf finds the rotation whose attempt a record of the engine names. Another attempt, or another state than the
// engine has seen, means that it has to look again.
func (t *tx) attemptOf(term uint64, vault, path string, id [16]byte, from RotationState) (*Rotation, outcome) {
	if term == 0 {
		return nil, refuse(CodeInvalid) // only a leader that is fenced
	}
	name := ObjRotation(vault, path)
	have := find[Rotation](t, name)
	if have == nil || have.Attempt.ID != id || have.Attempt.State != from {
		return nil, superseded(name)
	}
	r := *have
	return &r, done()
}

// rotationStage begins an attempt.
func (t *tx) rotationStage(cmd *Command, b *RotationStage) outcome {
	if b.ID == [16]byte{} || len(b.Data.Ciphertext) == 0 || len(b.Data.WrappedKey) == 0 {
		return refuse(CodeInvalid)
	}
	r, out := t.attemptOf(cmd.Term, b.Vault, b.Path, [16]byte{}, RotationIdle)
	if out.Code != CodeOK {
		return out
	}
	name := ObjSecret(b.Vault, b.Path)
	head := Secret{Vault: r.Vault, Path: r.Path, Oldest: 1, Next: 1}
	if have := find[Secret](t, name); have != nil {
		head = *have
	}
	if b.Version != head.Next || b.Old != head.Current {
		return superseded(name)
	}
	if head.Next+1-head.Oldest > MaxVersions && head.Oldest == head.Current {
		// Attempts that were given up count as versions: the last one that works is not forgotten for them.
		return refuse(CodeLimit)
	}
	if out := t.appendVersion(cmd, &head, b.Version, &b.Data); out.Code != CodeOK {
		return out
	}
	head.Pending, head.Rotating, head.Changed = b.Version, true, t.index
	t.put(name, &head)
	r.Number++
	r.Attempt = RotationAttempt{
		ID: b.ID, State: RotationStaged, Version: b.Version, Old: b.Old, Started: t.time, Since: t.time, Requested: r.Requested,
	}
	r.Requested, r.NextRun = false, b.NextRun
	t.stepped(r)
	return wrote(b.Version)
}

// stepped stores a rotation whose attempt entered another state.
func (t *tx) stepped(r *Rotation) {
	r.Tries, r.RetryAt, r.Failure, r.FailedAt = 0, 0, "", 0
	r.Attempt.Since = t.time
	t.putRotation(r)
	t.emit(Event{Kind: EventRotation, Vault: r.Vault, Path: r.Path, Version: r.Attempt.Version})
}

// follows are the steps that may be recorded.
var follows = map[[2]RotationState]bool{
	{RotationStaged, RotationApplied}:    true,
	{RotationApplied, RotationVerified}:  true,
	{RotationVerified, RotationPromoted}: true,
	{RotationPromoted, RotationRetiring}: true,
	{RotationRetiring, RotationRetired}:  true,
	{RotationGivingUp, RotationGivenUp}:  true, // the old value logs in, the new one does not
	{RotationGivingUp, RotationVerified}: true, // the new one does after all
	{RotationGivingUp, RotationDropped}:  true, // neither does
}

func (t *tx) rotationAdvance(cmd *Command, b *RotationAdvance) outcome {
	if !follows[[2]RotationState{b.From, b.To}] {
		return refuse(CodeInvalid)
	}
	r, out := t.attemptOf(cmd.Term, b.Vault, b.Path, b.ID, b.From)
	if out.Code != CodeOK {
		return out
	}
	out = wrote(r.Attempt.Version)
	switch b.To {
	case RotationPromoted:
		t.promote(r)
	case RotationRetiring:
		why, due := t.graceOver(r)
		if !due {
			return superseded(ObjRotation(r.Vault, r.Path))
		}
		r.Attempt.Why = why
		out.note, out.versions = why, []uint32{r.Attempt.Old}
	case RotationRetired:
		out.note, out.versions = t.retire(r), []uint32{r.Attempt.Old}
		detail := r.Attempt.Why
		if out.note != "" {
			detail = also(detail, out.note)
		}
		t.endAttempt(r, RotationRetired, detail)
		r.Failure = ""
		t.putRotation(r)
		return out
	case RotationGivenUp, RotationDropped:
		t.endAttempt(r, b.To, r.Failure)
		t.putRotation(r)
		return out
	}
	r.Attempt.State = b.To
	t.stepped(r)
	return out
}

// promote makes the pending version the current one: readers get it from this record on.
func (t *tx) promote(r *Rotation) {
	name := ObjSecret(r.Vault, r.Path)
	head := *find[Secret](t, name)
	head.Previous, head.Current, head.Pending = head.Current, head.Pending, 0
	head.Changed = t.index
	t.put(name, &head)
	r.Attempt.Promoted = t.time
	t.emit(Event{Kind: EventPromoted, Vault: r.Vault, Path: r.Path, Version: head.Current})
}

// graceOver says whether the old value may go, and why.
func (t *tx) graceOver(r *Rotation) (why string, due bool) {
	if r.Attempt.Old == 0 {
		return "there is no old value", true
	}
	behind := 0
	if r.Wait {
		behind = t.lagging(r.Vault, r.Path, r.Attempt.Version)
	}
	return GraceOver(r, t.time, behind)
}

// GraceOver says whether the old value of a promoted attempt may go, and why: now in ms, and how many consumers use an
// older version.
func GraceOver(r *Rotation, now int64, behind int) (why string, due bool) {
	a := &r.Attempt
	switch {
	case a.Old == 0:
		return "there is no old value", true
	case now < a.Promoted+r.Grace:
		return "", false
	case !r.Wait:
		return "the grace is over", true
	case behind == 0:
		return "all consumers have moved", true
	case now >= a.Promoted+r.Deadline:
		return fmt.Sprintf("the deadline has passed; consumers that still use an older version: %d", behind), true
	}
	return "", false
}

// retire takes the old value out of use: its version is deleted (and can be undeleted), and what was issued by it ends
// where the rotation says so.
func (t *tx) retire(r *Rotation) (detail string) {
	if r.Attempt.Old == 0 {
		return ""
	}
	name := objVersion(r.Vault, r.Path, r.Attempt.Old)
	if v := find[storedVersion](t, name); v != nil && v.Deleted == 0 && !v.Destroyed {
		next := *v
		next.Deleted = t.time
		t.put(name, &next)
	}
	t.emit(Event{Kind: EventRetired, Vault: r.Vault, Path: r.Path, Version: r.Attempt.Old})
	if !r.RevokeIssued {
		return ""
	}
	principals := t.laggards(r.Vault, r.Path, r.Attempt.Version)
	for _, p := range principals {
		g := generationOf(t, p)
		g.Count++
		g.Changed = t.index
		t.put(objGeneration(p), &g)
	}
	t.revokeLeasesOfAdmin(r.Vault, r.Path, r.Attempt.Old)
	return fmt.Sprintf("revoked: tokens of principals: %d, and the leases made with version %d", len(principals), r.Attempt.Old)
}

// endAttempt writes an attempt's record and frees the secret. What was promoted stays so; what was not is destroyed,
// unless nobody knows whether the target has it.
func (t *tx) endAttempt(r *Rotation, state RotationState, detail string) {
	a := r.Attempt
	name := ObjSecret(r.Vault, r.Path)
	head := *find[Secret](t, name)
	if head.Pending != 0 && state == RotationGivenUp {
		object := objVersion(r.Vault, r.Path, head.Pending)
		v := *find[storedVersion](t, object)
		v.Destroyed = true
		t.put(object, &v)
		t.dropData(r.Vault, r.Path, head.Pending)
	}
	head.Pending, head.Rotating, head.Changed = 0, false, t.index
	t.put(name, &head)
	t.record(r, RotationRecord{
		Number: r.Number, ID: a.ID, Version: a.Version, Old: a.Old, Started: a.Started, Promoted: a.Promoted, Ended: t.time,
		State: state, Detail: detail, Failures: a.Failures, Requested: a.Requested,
	})
	r.Attempt = RotationAttempt{}
	r.Tries, r.RetryAt = 0, 0
	t.emit(Event{Kind: EventRotation, Vault: r.Vault, Path: r.Path, Version: a.Version})
}

func (t *tx) record(r *Rotation, ended RotationRecord) {
	t.put(objRotated(r.Vault, r.Path, ended.Number), &ended)
	if ended.Number > MaxRotationRecords {
		t.del(objRotated(r.Vault, r.Path, ended.Number-MaxRotationRecords))
	}
}

func (t *tx) rotationFail(cmd *Command, b *RotationFail) outcome {
	if len(b.Message) > MaxRotationText || !utf8.ValidString(b.Message) || b.Message == "" {
		return refuse(CodeInvalid)
	}
	r, out := t.attemptOf(cmd.Term, b.Vault, b.Path, b.ID, b.From)
	if out.Code != CodeOK {
		return out
	}
	out = done()
	out.note = strings.Clone(b.Message)
	r.Tries++
	r.RetryAt, r.Failure, r.FailedAt = b.RetryAt, out.note, t.time
	r.Attempt.Failures++
	switch {
	case !b.GiveUp:
	case b.From == RotationIdle:
		r.Number++
		t.record(r, RotationRecord{
			Number: r.Number, Started: t.time, Ended: t.time, State: RotationGivenUp, Detail: out.note, Failures: r.Tries,
			Requested: r.Requested,
		})
		r.Requested, r.NextRun, r.Tries, r.RetryAt = false, b.NextRun, 0, 0
	case b.From == RotationStaged, b.From == RotationApplied, b.From == RotationVerified:
		r.Attempt.State, r.Attempt.Since, r.Tries, r.RetryAt = RotationGivingUp, t.time, 0, 0
	default:
		return refuse(CodeInvalid) // what was promoted is never given up
	}
	if b.From == RotationIdle {
		r.Attempt = RotationAttempt{}
	}
	t.putRotation(r)
	t.emit(Event{Kind: EventRotation, Vault: r.Vault, Path: r.Path, Version: r.Attempt.Version})
	if r.Attempt.Version != 0 {
		out.versions = []uint32{r.Attempt.Version}
	}
	return out
}

// rotationUse releases values to a target.
func (t *tx) rotationUse(cmd *Command, b *RotationUse) outcome {
	n := len(b.Refs)
	if cmd.Term == 0 || n == 0 || n > MaxRefs || len(cmd.Audits) != n {
		return refuse(CodeInvalid)
	}
	name := ObjRotation(b.Vault, b.Path)
	r := find[Rotation](t, name)
	if r == nil || r.Attempt.ID != b.ID {
		return superseded(name)
	}
	return t.release(b.Refs, make([]Code, n), func(ref Ref) (VersionData, Code) {
		if r.rotating() && ref == (Ref{b.Vault, b.Path, r.Attempt.Version}) {
			return t.version(ref)
		}
		return t.resolve(ref)
	})
}

// laggards are the principals of live consumers that use an older version, each once, in order.
func (t *tx) laggards(vault, path string, version uint32) (principals []string) {
	prefix := usingPrefix(vault, path)
	t.scan(prefix, func(name string, _ object) bool {
		c := find[consumer](t, prefixConsumer+name[len(prefix):])
		if c != nil && c.expires() > t.time && c.lags(vault, path, version) && !slices.Contains(principals, c.Principal) {
			principals = append(principals, c.Principal)
		}
		return true
	})
	return principals
}
