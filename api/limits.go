package api

import (
	"cmp"
	"time"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/policy"
)

// Limits bound what clients may send and hold. Zero values take the defaults.
type Limits struct {
	Message  int // bytes of one gRPC message, in both directions
	Value    int // bytes of one version: all names and values of its fields
	Fields   int // fields of one version
	Text     int // bytes of a reason or another free text
	ListPage int // items of one page
	Refs     int // references of one Inject
	Versions int // version numbers of one Delete, Undelete or Destroy
	Policy   int // bytes of one policy

	Streams    uint32        // concurrent calls per connection
	Handshakes int           // HSM signatures for TLS handshakes at a time, all connections together
	Handshake  time.Duration // each handshake must be done by then
	Tails      int           // open audit tails and exports
	Watches    int           // open watches of the health service
	Waits      int           // calls that wait for a leader to be known; the others are refused at once
	Wait       time.Duration // the longest of these waits

	Watchers, WatchersEach int           // open watches of secrets: of the node, and of one principal
	SlowWatch              time.Duration // a client that does not read for so long is let go
	LoneWatch              time.Duration // a node that sees no leader lets its watches go after so long

	Connections, ConnectionsEach int // open connections: together, and from one address
	Strangers, StrangersEach     int // calls under way without a token of this cluster: together, and from one address

	Principal auth.Rate          // requests of one principal
	Self      auth.Rate          // of these, the ones that need no right (selfService)
	Denials   auth.Rate          // denials of one principal that get a record of their own; the rest is counted
	Anonymous auth.LimiterConfig // attempts without a valid token

	Hashing int // argon2id computations at a time
}

// defaultLimits are the ones that docs/limits.md tells.
var defaultLimits = Limits{
	Message:  1 << 20,
	Value:    512 << 10,
	Fields:   64,
	Text:     1 << 10,
	ListPage: 1000,
	Refs:     64,
	Versions: 100,
	Policy:   policy.MaxText,

	Streams:    128,
	Handshakes: 64,
	Handshake:  5 * time.Second,
	Tails:      64,
	Watches:    64,
	Waits:      4096,
	Wait:       time.Second,

	Watchers: 4096, WatchersEach: 1024,
	SlowWatch: 30 * time.Second, LoneWatch: 5 * time.Second,

	Connections: 4096, ConnectionsEach: 1024,
	Strangers: 1024, StrangersEach: 256,

	Principal: auth.Rate{Every: 20 * time.Microsecond, Burst: 20_000},
	Self:      auth.Rate{Every: 100 * time.Millisecond, Burst: 50},
	Denials:   auth.Rate{Every: 200 * time.Millisecond, Burst: 50},
	Anonymous: auth.LimiterConfig{Address: auth.Rate{Every: 100 * time.Millisecond, Burst: 60}},

	Hashing: 2,
}

func (l Limits) withDefaults() Limits {
	d := defaultLimits
	return Limits{
		Message: cmp.Or(l.Message, d.Message), Value: cmp.Or(l.Value, d.Value),
		Fields: cmp.Or(l.Fields, d.Fields), Text: cmp.Or(l.Text, d.Text),
		ListPage: cmp.Or(l.ListPage, d.ListPage), Refs: cmp.Or(l.Refs, d.Refs),
		Versions: cmp.Or(l.Versions, d.Versions), Policy: cmp.Or(l.Policy, d.Policy),
		Streams: cmp.Or(l.Streams, d.Streams), Handshakes: cmp.Or(l.Handshakes, d.Handshakes),
		Handshake: cmp.Or(l.Handshake, d.Handshake), Tails: cmp.Or(l.Tails, d.Tails), Watches: cmp.Or(l.Watches, d.Watches),
		Waits: cmp.Or(l.Waits, d.Waits), Wait: cmp.Or(l.Wait, d.Wait),
		Watchers: cmp.Or(l.Watchers, d.Watchers), WatchersEach: cmp.Or(l.WatchersEach, d.WatchersEach),
		SlowWatch: cmp.Or(l.SlowWatch, d.SlowWatch), LoneWatch: cmp.Or(l.LoneWatch, d.LoneWatch),
		Connections: cmp.Or(l.Connections, d.Connections), ConnectionsEach: cmp.Or(l.ConnectionsEach, d.ConnectionsEach),
		Strangers: cmp.Or(l.Strangers, d.Strangers), StrangersEach: cmp.Or(l.StrangersEach, d.StrangersEach),
		Principal: cmp.Or(l.Principal, d.Principal), Self: cmp.Or(l.Self, d.Self), Denials: cmp.Or(l.Denials, d.Denials),
		Anonymous: anonymous(l.Anonymous, d.Anonymous), Hashing: cmp.Or(l.Hashing, d.Hashing),
	}
}

func anonymous(l, d auth.LimiterConfig) auth.LimiterConfig {
	l.Address = cmp.Or(l.Address, d.Address)
	return l
}
