// Package lease makes and drops the users that leases are: it is what stands between the records of fsm/lease.go and the
// database servers.
//
// What a crash leaves behind. Making a user is between two records, creating and active; whoever stops in between leaves
// a lease that ends at its deadline, and the user is dropped then, whether or not it was made. Dropping one is repeated
// until its outcome is on record, by whichever node leads. A call that was under way when its leader stopped may reach
// the server late: users whose making was never confirmed are dropped a second time, minutes later.
package lease

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// Node is what the engine needs of the node that leads; *cluster.Node is one.
type Node interface {
	ID() string
	Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error)
	Store() *fsm.Store
	Keyring() (*keyring.Keyring, error)
}

// Action of the audit records that the engine leaves.
const (
	ActionAdmin = "lease.admin" // the credential for making users was read
	ActionDrop  = "lease.drop"  // a user was dropped, or could not be
)

// ErrAdmin says that the credential for making users can't be had.
var ErrAdmin = errors.New("the secret with the credential for making users cannot be read")

// ErrKind says that this node has no such target.
var ErrKind = errors.New("no such kind of target")

// Config of an Engine.
type Config struct {
	Users   map[string]target.Users // by kind
	Clock   func() time.Time        // the node's; default time.Now
	Logger  *slog.Logger
	Timeout time.Duration // of dropping one user; default 10 s
	Making  time.Duration // of making one; default 4 s, which is less than clients wait for an answer
	Workers int           // calls at one target at a time; default 4
	Batch   int           // outcomes in one record; default 64, at most fsm.MaxLeaseBatch
	Pause   time.Duration // the least between two looks at what is due; default 200 ms
}

// Engine makes and drops users. It keeps nothing but places in line: any node that leads goes on where the last stopped.
type Engine struct {
	cfg Config
	log *slog.Logger

	mu    sync.Mutex
	slots map[string]chan struct{} // by target: held by users being made
}

// New makes an engine.
func New(cfg Config) *Engine {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Making <= 0 {
		cfg.Making = 4 * time.Second
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	if cfg.Batch <= 0 || cfg.Batch > fsm.MaxLeaseBatch {
		cfg.Batch = 64
	}
	if cfg.Pause <= 0 {
		cfg.Pause = 200 * time.Millisecond
	}
	return &Engine{cfg: cfg, log: cfg.Logger.With("component", "lease"), slots: map[string]chan struct{}{}}
}

// Kinds lists the kinds of target.
func (e *Engine) Kinds() []string { return slices.Sorted(maps.Keys(e.cfg.Users)) }

func (e *Engine) users(kind string) (target.Users, error) {
	users, ok := e.cfg.Users[kind]
	if !ok {
		return nil, fmt.Errorf("%w: %q: there are %s", ErrKind, kind, strings.Join(e.Kinds(), ", "))
	}
	return users, nil
}

// Check says what is wrong with the configuration of a role, before it is stored.
func (e *Engine) Check(kind string, config map[string]string) error {
	users, err := e.users(kind)
	if err != nil {
		return err
	}
	return users.Check(config)
}

// Server names the server of a role: revocations of all roles with the same one wait in one line.
func Server(kind string, config map[string]string) string {
	if socket := config["socket"]; socket != "" {
		return kind + " " + socket
	}
	return kind + " " + net.JoinHostPort(config["host"], config["port"])
}

// NewUser makes a name and a password for the user of a lease. The name follows from the id, so that whoever knows the
// lease knows whom to drop; it has 31 characters, which every server takes.
func NewUser(id [16]byte) (username string, password secret.Bytes) {
	var random [25]byte
	rand.Read(random[:])
	defer clear(random[:])
	text := make([]byte, encoding.EncodedLen(len(random)))
	encoding.Encode(text, random[:])
	return Username(id), secret.New(text)
}

// Username is the name of the user of a lease.
func Username(id [16]byte) string { return "hizo_" + encoding.EncodeToString(id[:]) }

// encoding uses letters and digits only: no server, shell or URL gives them a meaning.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Options are the configuration of a role as the state has it.
func Options(config map[string]string) []fsm.LeaseOption {
	var out []fsm.LeaseOption
	for _, k := range slices.Sorted(maps.Keys(config)) {
		out = append(out, fsm.LeaseOption{Key: k, Value: config[k]})
	}
	return out
}

func configOf(role fsm.LeaseRole) map[string]string {
	out := make(map[string]string, len(role.Config))
	for _, o := range role.Config {
		out[o.Key] = o.Value
	}
	return out
}

// Admin is the credential for making and dropping users of a role.
type Admin struct {
	Value   target.Value
	Version uint32
}

// Wipe forgets it.
func (a Admin) Wipe() { envelope.WipeValue(a.Value) }

// Admin reads the credential as it is now, after the record of that has committed: rotating it breaks no lease. why goes
// into the record.
func (e *Engine) Admin(ctx context.Context, n Node, role fsm.LeaseRole, why string) (Admin, error) {
	where := role.AdminVault + "/" + role.AdminPath
	result, err := n.Propose(ctx, fsm.Command{
		Kind: fsm.KindRead, Principal: "node/" + n.ID(),
		Audits: []fsm.Audit{{Action: ActionAdmin, Resource: where, Decision: fsm.Allowed, Detail: why}},
		Body:   fsm.EncodeBody(fsm.KindRead, &fsm.ReadVersions{Refs: []fsm.Ref{{Vault: role.AdminVault, Path: role.AdminPath}}}),
	})
	if err != nil {
		return Admin{}, err
	}
	data, ok := result.Value.([]fsm.VersionData)
	if result.Code != fsm.CodeOK || !ok || len(data) != 1 {
		return Admin{}, fmt.Errorf("%w: %s: store its fields username and password with `hizo secret put`", ErrAdmin, where)
	}
	keys, err := n.Keyring()
	if err != nil {
		return Admin{}, err
	}
	d := data[0]
	value, err := envelope.OpenValue(keys, envelope.Bind{
		Cluster: keys.Cluster(), Vault: d.Ref.Vault, Path: d.Ref.Path, Version: uint64(d.Ref.Version),
	}, envelope.Sealed(d.Data))
	if err != nil {
		return Admin{}, err
	}
	return Admin{Value: value, Version: d.Ref.Version}, nil
}

// slack is how much longer than the lease the server keeps a user by itself: its clock is not the cluster's.
const slack = time.Minute

func userOf(role fsm.LeaseRole, l fsm.Lease, admin Admin) target.User {
	return target.User{
		Name: l.Username, Expires: time.UnixMilli(l.Expires).Add(slack), Config: configOf(role), Admin: admin.Value,
	}
}

// Create makes the user of a lease. When it returns an error, the user may have been made all the same.
func (e *Engine) Create(ctx context.Context, role fsm.LeaseRole, l fsm.Lease, password secret.Bytes, admin Admin) error {
	user := userOf(role, l, admin)
	user.Password = password
	return e.call(ctx, role, func(ctx context.Context, users target.Users) error { return users.Create(ctx, user) })
}

// Renew moves the server's own bound to the lease's expiry.
func (e *Engine) Renew(ctx context.Context, role fsm.LeaseRole, l fsm.Lease, admin Admin) error {
	return e.call(ctx, role, func(ctx context.Context, users target.Users) error {
		return users.Renew(ctx, userOf(role, l, admin))
	})
}

// Drop drops the user of a lease at once: for who has made it and can't record what became of it.
func (e *Engine) Drop(ctx context.Context, role fsm.LeaseRole, l fsm.Lease, admin Admin) error {
	return e.call(ctx, role, func(ctx context.Context, users target.Users) error {
		return users.Drop(ctx, userOf(role, l, admin))
	})
}

// call makes one call at a target for a client. Only so many wait at one server, so that one that hangs holds up few.
func (e *Engine) call(ctx context.Context, role fsm.LeaseRole, do func(context.Context, target.Users) error) error {
	users, err := e.users(role.Kind)
	if err != nil {
		return err
	}
	e.mu.Lock()
	slots, ok := e.slots[role.Target]
	if !ok {
		slots = make(chan struct{}, 2*e.cfg.Workers)
		e.slots[role.Target] = slots
	}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Making)
	defer cancel()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return do(ctx, users)
}

// told is what may be said and stored of an error at a target: never the text of a server.
func (e *Engine) told(err error) string {
	if t, ok := errors.AsType[*target.Error](err); ok {
		return t.Error()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the server gave no answer in time"
	case errors.Is(err, ErrAdmin), errors.Is(err, ErrKind), errors.Is(err, errChanged):
		return err.Error()
	}
	return "the call failed: the log of the leading node says more"
}

// Told is the part of an error of Create or Renew that may be shown to clients.
func (e *Engine) Told(err error) string { return e.told(err) }
