package policy

import "slices"

// Action is what a principal asks to do; the text is the identifier of the
// Cedar action, Hizo::Action::"reveal".
type Action string

// Actions on secrets. Only these are open to policies that users put; every
// other action is ruled by the shipped policies alone, so that no put policy
// can lock SecurityEngineers out or let anybody else manage anything.
const (
	Reveal   Action = "reveal"   // on a Secret: plaintext to the caller
	Inject   Action = "inject"   // on a Secret: value sealed to an execution key
	Put      Action = "put"      // on a Secret
	List     Action = "list"     // on a Vault: names, never values
	Versions Action = "versions" // on a Secret: version numbers and stages
	Delete   Action = "delete"   // on a Secret
	Undelete Action = "undelete" // on a Secret
	Destroy  Action = "destroy"  // on a Secret
	Open     Action = "open"     // on a Pipeline: its sealed value, sealed to an execution key
)

// Actions on who follows secrets, open to put policies as well. Where no policy speaks of Watch or Consume of a secret,
// Inject decides: whoever has a value injected may learn that there is another one, and say which one it uses.
const (
	Watch        Action = "watch"         // on a Secret, a Vault, or on oneself: one's own pipeline
	Consume      Action = "consume"       // on a Secret, or on oneself: leaving
	ConsumerList Action = "consumer.list" // on a Vault
)

// Actions on vaults.
const (
	VaultCreate Action = "vault.create" // on the Vault to be
	VaultList   Action = "vault.list"   // on the System
)

// Actions on identities: on the System or on the User, Workload or Role.
const (
	UserCreate       Action = "user.create"
	UserList         Action = "user.list"
	UserDisable      Action = "user.disable"
	PasswordSet      Action = "password.set" // on the User; anybody may set their own
	RoleGrant        Action = "role.grant"   // on the Role; see CanGrant
	RoleRevoke       Action = "role.revoke"
	RoleList         Action = "role.list"
	WorkloadCreate   Action = "workload.create"
	WorkloadList     Action = "workload.list"
	WorkloadSecretID Action = "workload.secret-id"
	CertificateIssue Action = "certificate.issue"
	TokenRevoke      Action = "token.revoke" // on the token's owner; anybody may revoke their own
	TokenRenew       Action = "token.renew"  // on the token's owner; own tokens only
	WhoAmI           Action = "whoami"       // on the System
)

// Actions on policies: on the System, PolicyExplain on the principal asked about.
const (
	PolicyPut     Action = "policy.put"
	PolicyList    Action = "policy.list"
	PolicyGet     Action = "policy.get"
	PolicyDelete  Action = "policy.delete"
	PolicyExplain Action = "policy.explain" // anybody may ask about themselves
)

// Actions on the audit log: on the System.
const (
	AuditRead   Action = "audit.read" // tail and search
	AuditExport Action = "audit.export"
	AuditProve  Action = "audit.prove"
	AuditVerify Action = "audit.verify" // checkpoints and consistency proofs
)

// Actions on the cluster: on the System or a Node. Unsealing is not here: a
// valid share is its own authority.
const (
	ClusterStatus     Action = "cluster.status"
	ClusterMembers    Action = "cluster.members"
	ClusterJoinToken  Action = "cluster.join-token"
	ClusterApprove    Action = "cluster.approve"
	ClusterRemove     Action = "cluster.remove"
	ClusterQuarantine Action = "cluster.quarantine"
	ClusterLift       Action = "cluster.lift" // takes a quarantine back
	ClusterSeal       Action = "cluster.seal"
	ClusterPromote    Action = "cluster.promote"
	ClusterDemote     Action = "cluster.demote"
	ClusterTransfer   Action = "cluster.transfer-leader"
	ClusterConfigure  Action = "cluster.configure" // how members are treated
)

// Actions on pipelines: on the Pipeline, PipelineList on the System.
const (
	PipelineCreate     Action = "pipeline.create"
	PipelineList       Action = "pipeline.list"
	PipelineShow       Action = "pipeline.show"
	PipelineGrant      Action = "pipeline.grant" // identities and references
	PipelineSet        Action = "pipeline.set"   // variables that are sealed
	PipelineDelete     Action = "pipeline.delete"
	PipelineKey        Action = "pipeline.key" // the public half
	PipelineRotateKey  Action = "pipeline.rotate-key"
	PipelineRevokeSeal Action = "pipeline.revoke-seal"
	PipelineReseal     Action = "pipeline.reseal"
)

// Actions on leases. The first is open to policies that users put, like those on secrets.
const (
	Lease           Action = "lease"           // on a LeaseRole: a user of a database for one run, and its renewal
	LeaseRolePut    Action = "lease.role.put"  // on the LeaseRole
	LeaseRoleList   Action = "lease.role.list" // on the System, and on the LeaseRole to be shown
	LeaseRoleDelete Action = "lease.role.delete"
	LeaseList       Action = "lease.list"   // on the System, or on the owner: anybody may list their own
	LeaseRevoke     Action = "lease.revoke" // on the System, or on the owner: anybody may revoke their own
	LeaseDeadList   Action = "lease.dead.list"
	LeaseDeadRetry  Action = "lease.dead.retry"
	LeaseDeadClear  Action = "lease.dead.clear"
)

// leaseActions returns those above that the shipped policies alone rule.
func leaseActions() []Action {
	return []Action{
		LeaseRolePut, LeaseRoleList, LeaseRoleDelete, LeaseList, LeaseRevoke, LeaseDeadList, LeaseDeadRetry, LeaseDeadClear,
	}
}

// Actions on rotations: on the Secret, RotationList on the System or a Vault.
const (
	RotationSet    Action = "rotation.set"
	RotationUse    Action = "rotation.use" // on the Secret with the credential that a rotation may use
	RotationList   Action = "rotation.list"
	RotationShow   Action = "rotation.show" // status and history
	RotationRun    Action = "rotation.run"
	RotationPause  Action = "rotation.pause" // and resume
	RotationDelete Action = "rotation.delete"
)

func rotationActions() []Action {
	return []Action{RotationSet, RotationUse, RotationList, RotationShow, RotationRun, RotationPause, RotationDelete}
}

// Actions on the cluster's own keys: on the System, VaultRotateKey on the Vault.
const (
	VaultRotateKey Action = "vault.rotate-key"
	KeysRotate     Action = "keys.rotate"
	KeysSchedule   Action = "keys.schedule"
	KeysList       Action = "keys.list"
	KeysConfirm    Action = "keys.confirm"   // fetch the operators' new share files, and say that one can be read
	KeysOperators  Action = "keys.operators" // other operators, or another threshold
)

// keyActions returns those above.
func keyActions() []Action {
	return []Action{VaultRotateKey, KeysRotate, KeysSchedule, KeysList, KeysConfirm, KeysOperators}
}

// Actions on backups: on the System. Verifying and restoring ask nobody: the operators' shares open a backup.
const (
	BackupCreate Action = "backup.create"
	BackupList   Action = "backup.list"
)

// Actions returns every action, in the order of this file.
func Actions() []Action {
	return slices.Concat(secretActions(), leaseActions(), keyActions(), rotationActions(), federationActions(), []Action{
		VaultCreate, VaultList,
		UserCreate, UserList, UserDisable, PasswordSet, RoleGrant, RoleRevoke, RoleList,
		WorkloadCreate, WorkloadList, WorkloadSecretID, CertificateIssue,
		TokenRevoke, TokenRenew, WhoAmI,
		PolicyPut, PolicyList, PolicyGet, PolicyDelete, PolicyExplain,
		AuditRead, AuditExport, AuditProve, AuditVerify,
		ClusterStatus, ClusterMembers, ClusterJoinToken, ClusterApprove,
		ClusterRemove, ClusterQuarantine, ClusterLift, ClusterSeal,
		ClusterPromote, ClusterDemote, ClusterTransfer, ClusterConfigure,
		BackupCreate, BackupList,
		PipelineCreate, PipelineList, PipelineShow, PipelineGrant, PipelineSet, PipelineDelete,
		PipelineKey, PipelineRotateKey, PipelineRevokeSeal, PipelineReseal,
	})
}

// IsAction reports whether an action exists.
func IsAction(a Action) bool { return slices.Contains(Actions(), a) }

// secretActions are the ones open to put policies.
func secretActions() []Action {
	return []Action{
		Reveal, Inject, Put, List, Versions, Delete, Undelete, Destroy, Open, Lease,
		Watch, Consume, ConsumerList,
	}
}

// grantableActions are the ones a put policy can permit to somebody whom the
// shipped policies do not permit them anyway.
func grantableActions() []Action {
	return []Action{Inject, List, Versions, Lease, Watch, Consume, ConsumerList}
}
