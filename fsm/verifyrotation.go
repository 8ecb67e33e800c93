package fsm

import "strings"

// rotations checks that an attempt and the head of its secret tell one story.
func (v *verifier) rotations() {
	for name, o := range v.objects {
		r, ok := o.(*Rotation)
		if !ok {
			continue
		}
		if name != ObjRotation(r.Vault, r.Path) || v.objects[ObjVault(r.Vault)] == nil {
			v.problem("rotation %q is misplaced", name)
		}
		a := r.Attempt
		if !r.rotating() {
			if a != (RotationAttempt{}) {
				v.problem("rotation %q: what is left of an attempt: %+v", name, a)
			}
			continue
		}
		head := find[Secret](v, ObjSecret(r.Vault, r.Path))
		if head == nil || a.ID == [16]byte{} {
			v.problem("rotation %q: its attempt has no secret or no id", name)
			continue
		}
		switch a.State {
		case RotationStaged, RotationApplied, RotationVerified, RotationGivingUp:
			if head.Pending != a.Version || head.Current != a.Old {
				v.problem("rotation %q in state %d: version %d is pending, %d current, the attempt is from %d to %d",
					name, a.State, head.Pending, head.Current, a.Old, a.Version)
			}
		case RotationPromoted, RotationRetiring:
			if head.Pending != 0 || head.Current != a.Version || head.Previous != a.Old {
				v.problem("rotation %q in state %d: version %d is current, the attempt is from %d to %d",
					name, a.State, head.Current, a.Old, a.Version)
			}
		default:
			v.problem("rotation %q is in state %d", name, a.State)
		}
	}
	for name, o := range v.objects {
		if ended, ok := o.(*RotationRecord); ok {
			owner := strings.TrimPrefix(name[:len(name)-5], "rotated/")
			r := find[Rotation](v, "rotation/"+owner)
			// The oldest record goes when an attempt ends, not when it begins.
			if r == nil || ended.Number > r.Number || r.Number-ended.Number > MaxRotationRecords ||
				r.Number-ended.Number == MaxRotationRecords && !r.rotating() {
				v.problem("record %d of the rotation of %q is out of place", ended.Number, owner)
			}
		}
	}
}
