package policy

import (
	"net/netip"
	"time"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/hizo/hizo/api/name"
)

// Entity types of the schema.
const (
	typeUser     types.EntityType = "Hizo::User"
	typeWorkload types.EntityType = "Hizo::Workload"
	typeNode     types.EntityType = "Hizo::Node"
	typeRole     types.EntityType = "Hizo::Role"
	typeVault    types.EntityType = "Hizo::Vault"
	typeSecret   types.EntityType = "Hizo::Secret"
	typeSystem   types.EntityType = "Hizo::System"
	typePipeline types.EntityType = "Hizo::Pipeline"
	typeLease    types.EntityType = "Hizo::LeaseRole"
	typeClaims   types.EntityType = "Hizo::Claims"
	typeAction   types.EntityType = "Hizo::Action"
)

// Resource is what an action is asked on. Make one with the functions below,
// from names that package name has accepted.
type Resource struct {
	uid   types.EntityUID
	vault string // of a secret, a pipeline or a lease role
	path  string // of a secret; the name of a pipeline or a lease role
}

// System is the resource of actions on the cluster as a whole.
func System() Resource { return Resource{uid: types.NewEntityUID(typeSystem, "hizo")} }

// Vault is a vault, existing or to be.
func Vault(vault string) Resource {
	return Resource{uid: types.NewEntityUID(typeVault, types.String(vault))}
}

// Secret is a secret; its parent is its vault.
func Secret(vault, path string) Resource {
	return Resource{uid: types.NewEntityUID(typeSecret, types.String(vault+"/"+path)), vault: vault, path: path}
}

// Pipeline is a pipeline, existing or to be; its parent is its vault.
func Pipeline(vault, pipeline string) Resource {
	return Resource{uid: types.NewEntityUID(typePipeline, types.String(vault+"/"+pipeline)), vault: vault, path: pipeline}
}

// LeaseRole is a role that leases are issued of; its parent is its vault.
func LeaseRole(vault, role string) Resource {
	return Resource{uid: types.NewEntityUID(typeLease, types.String(vault+"/"+role)), vault: vault, path: role}
}

// Role is a role that is granted or revoked.
func Role(role string) Resource {
	return Resource{uid: types.NewEntityUID(typeRole, types.String(role))}
}

// Identity is a user, workload or node as the object of an action.
func Identity(p name.Principal) Resource { return Resource{uid: principalUID(p)} }

// String gives the Cedar form, Hizo::Secret::"ml/db".
func (r Resource) String() string { return r.uid.String() }

// Request is one question. Names in it are canonical (package name).
type Request struct {
	Principal name.Principal
	Roles     []string // held by the principal; ignored unless CanHold
	Action    Action
	Resource  Resource

	// The facts that policies may look at.
	Time   time.Time // cluster time
	Addr   netip.Addr
	Method string // "password", "secret-id", "certificate", …
	Claims map[string]string

	// Granted says that the pipeline which the principal runs was granted what is asked for.
	Granted bool
}

// Decision answers a Request.
type Decision struct {
	Allowed bool
	// Policies are the IDs of the deciding policies, in a fixed order: those
	// that forbid if any does, otherwise those that permit. Empty when
	// nothing matched, which means no.
	Policies []string
	// Errors of policies that failed while deciding. A forbid that failed
	// counts as matched, a permit that failed as not matched.
	Errors []string
	// Cacheable is true when the decision rests on principal, roles, action,
	// resource and policy set alone: no policy in question looked at time,
	// address, method or claims. It may rest on Granted.
	Cacheable bool
}

func principalUID(p name.Principal) types.EntityUID {
	switch p.Kind {
	case name.KindUser:
		return types.NewEntityUID(typeUser, types.String(p.Name))
	case name.KindWorkload:
		return types.NewEntityUID(typeWorkload, types.String(p.Name))
	case name.KindNode:
		return types.NewEntityUID(typeNode, types.String(p.Name))
	}
	return types.EntityUID{} // in no type of the schema: no policy matches it
}
