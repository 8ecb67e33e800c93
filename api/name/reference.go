package name

import (
	"strconv"
	"strings"
)

// Scheme begins every reference.
const Scheme = "hizo://"

// MaxReference bounds what the parsers below look at, in bytes.
const MaxReference = len(Scheme) + MaxVault + 1 + MaxPath + 1 + MaxField + 1 + 20

// Resource names a secret: VAULT/PATH.
type Resource struct {
	Vault string
	Path  string
}

func (r Resource) String() string { return r.Vault + "/" + r.Path }

// ParseResource reads "VAULT/PATH".
func ParseResource(s string) (Resource, error) {
	if len(s) > MaxReference {
		return Resource{}, &Error{What: "secret", Input: s, Reason: "is too long"}
	}
	vault, path, ok := strings.Cut(s, "/")
	if !ok {
		return Resource{}, &Error{What: "secret", Input: s, Reason: "must be VAULT/PATH"}
	}
	if _, err := Vault(vault); err != nil {
		return Resource{}, err
	}
	if _, err := Path(path); err != nil {
		return Resource{}, err
	}
	return Resource{Vault: vault, Path: path}, nil
}

// Reference names one field of a secret: hizo://VAULT/PATH#FIELD, with
// @VERSION when it is pinned to a version.
type Reference struct {
	Resource
	Field   string
	Version uint64 // 0: the current version
}

func (r Reference) String() string {
	s := Scheme + r.Resource.String() + "#" + r.Field
	if r.Version != 0 {
		s += "@" + strconv.FormatUint(r.Version, 10)
	}
	return s
}

// IsReference tells a reference from a plain value, as an environment file
// holds both. It promises nothing about the rest.
func IsReference(s string) bool { return strings.HasPrefix(s, Scheme) }

// ParseReference reads hizo://VAULT/PATH#FIELD[@VERSION].
func ParseReference(s string) (Reference, error) {
	refuse := func(reason string) (Reference, error) {
		return Reference{}, &Error{What: "reference", Input: s, Reason: reason}
	}
	rest, ok := strings.CutPrefix(s, Scheme)
	switch {
	case len(s) > MaxReference:
		return refuse("is too long")
	case !ok:
		return refuse("must be hizo://VAULT/PATH#FIELD")
	}
	where, field, ok := strings.Cut(rest, "#")
	if !ok {
		return refuse("names no field: write hizo://VAULT/PATH#FIELD")
	}
	resource, err := ParseResource(where)
	if err != nil {
		return Reference{}, err
	}
	field, version, pinned := strings.Cut(field, "@")
	if _, err := Field(field); err != nil {
		return Reference{}, err
	}
	ref := Reference{Resource: resource, Field: field}
	if pinned {
		ref.Version, err = strconv.ParseUint(version, 10, 64)
		// One spelling per number: no sign, no leading zero, and 0 stands
		// for "no version".
		if err != nil || ref.Version == 0 || strconv.FormatUint(ref.Version, 10) != version {
			return refuse("has a version that is not a plain number from 1")
		}
	}
	return ref, nil
}

// LeaseScheme begins every reference to a lease.
const LeaseScheme = "hizo-lease://"

// LeaseRole names a role that leases are issued of: VAULT/ROLE.
type LeaseRole struct {
	Vault string
	Role  string
}

func (r LeaseRole) String() string { return r.Vault + "/" + r.Role }

// ParseLeaseRole reads "VAULT/ROLE".
func ParseLeaseRole(s string) (LeaseRole, error) {
	vault, role, ok := strings.Cut(s, "/")
	if !ok {
		return LeaseRole{}, &Error{What: "lease role", Input: s, Reason: "must be VAULT/ROLE"}
	}
	if _, err := Vault(vault); err != nil {
		return LeaseRole{}, err
	}
	if _, err := Lease(role); err != nil {
		return LeaseRole{}, err
	}
	return LeaseRole{Vault: vault, Role: role}, nil
}

// LeaseReference names one half of a credential that is made for one run: hizo-lease://VAULT/ROLE#username or #password.
// All references of a run to one role share one lease.
type LeaseReference struct {
	LeaseRole
	Field string
}

// The fields of a lease.
const (
	LeaseUsername = "username"
	LeasePassword = "password"
)

func (r LeaseReference) String() string { return LeaseScheme + r.LeaseRole.String() + "#" + r.Field }

// IsLeaseReference tells a lease reference from everything else. It promises nothing about the rest.
func IsLeaseReference(s string) bool { return strings.HasPrefix(s, LeaseScheme) }

// ParseLeaseReference reads hizo-lease://VAULT/ROLE#username or #password.
func ParseLeaseReference(s string) (LeaseReference, error) {
	const form = "hizo-lease://VAULT/ROLE#username or #password"
	rest, ok := strings.CutPrefix(s, LeaseScheme)
	if !ok {
		return LeaseReference{}, &Error{What: "lease reference", Input: s, Reason: "must be " + form}
	}
	where, field, ok := strings.Cut(rest, "#")
	if !ok || field != LeaseUsername && field != LeasePassword {
		return LeaseReference{}, &Error{What: "lease reference", Input: s, Reason: "names no field: write " + form}
	}
	role, err := ParseLeaseRole(where)
	if err != nil {
		return LeaseReference{}, err
	}
	return LeaseReference{LeaseRole: role, Field: field}, nil
}
