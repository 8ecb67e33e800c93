package policy

import (
	"slices"

	"github.com/hizo/hizo/api/name"
)

// The roles. A user may hold several and then may do what any one permits.
const (
	SecurityEngineer = "SecurityEngineer"
	Operator         = "Operator"
	Auditor          = "Auditor"
	PipelineOwner    = "PipelineOwner"
)

// Roles returns every role.
func Roles() []string { return []string{SecurityEngineer, Operator, Auditor, PipelineOwner} }

// IsRole reports whether role exists.
func IsRole(role string) bool { return slices.Contains(Roles(), role) }

// CanHold reports whether principals of this kind may hold roles at all.
// Workloads may not: a workload that were SecurityEngineer would reveal, and
// workloads only ever get values injected.
func CanHold(kind name.Kind) bool { return kind == name.KindUser }

// CanGrant is the fixed grant matrix, for revoking as well: SecurityEngineers
// make SecurityEngineers, Operators, Auditors and PipelineOwners, nobody else
// makes anything. That the last SecurityEngineer stays is the state machine's
// rule, as it alone sees the order of two revocations.
func CanGrant(granter []string, role string) bool {
	return IsRole(role) && slices.Contains(granter, SecurityEngineer)
}
