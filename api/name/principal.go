package name

import "strings"

// Kind of a principal.
type Kind string

// The kinds of principals.
const (
	KindUser     Kind = "user"
	KindWorkload Kind = "workload"
	KindNode     Kind = "node"
)

// Principal is who acts, written "user/alice", "workload/train", "node/n1".
type Principal struct {
	Kind Kind
	Name string
}

func (p Principal) String() string { return string(p.Kind) + "/" + p.Name }

// IsZero reports whether p names nobody.
func (p Principal) IsZero() bool { return p == Principal{} }

// ParsePrincipal reads KIND/NAME.
func ParsePrincipal(s string) (Principal, error) {
	kind, rest, ok := strings.Cut(s, "/")
	if !ok {
		return Principal{}, &Error{What: "principal", Input: s, Reason: "must be user/NAME, workload/NAME or node/NAME"}
	}
	var err error
	switch Kind(kind) {
	case KindUser:
		_, err = User(rest)
	case KindWorkload:
		_, err = Workload(rest)
	case KindNode:
		_, err = Node(rest)
	default:
		err = &Error{What: "principal", Input: s, Reason: "must be user/NAME, workload/NAME or node/NAME"}
	}
	if err != nil {
		return Principal{}, err
	}
	return Principal{Kind: Kind(kind), Name: rest}, nil
}
