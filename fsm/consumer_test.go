package fsm

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// consumers is a store with a vault, and the principals that the tests speak as.
type consumers struct {
	t     *testing.T
	s     *Store
	index uint64
	time  int64
}

func newConsumers(t *testing.T) *consumers {
	t.Helper()
	s, err := Open(Options{Dir: "state", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Verify(); err != nil && !t.Failed() {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &consumers{t: t, s: s, time: 1_750_000_000_000}
	c.ok("user/a", KindGenesis, Genesis{Cluster: Cluster{ID: [16]byte{1}}, Member: Member{ID: "n", Key: []byte("k")}})
	c.ok("user/a", KindVaultCreate, VaultCreate{Vault: Vault{Name: "ml", Generation: 1}, Key: WrappedKey{Purpose: "vault/ml", Generation: 1, Ciphertext: []byte("k")}})
	for _, path := range []string{"db", "db/x", "other"} {
		for v := uint32(1); v <= 3; v++ {
			c.ok("user/a", KindSecretPut, SecretPut{Vault: "ml", Path: path, Version: v, CAS: -1, Data: SealedValue{Generation: 1, WrappedKey: []byte("k"), Ciphertext: []byte("c")}})
		}
	}
	return c
}

func (c *consumers) apply(principal string, kind Kind, bodies ...any) []Code {
	c.t.Helper()
	e := Entry{Time: c.time}
	for _, body := range bodies {
		cmd := Command{Kind: kind, Principal: principal, Body: EncodeBody(kind, body)}
		if !unaudited(kind) {
			cmd.Audits = []Audit{{Action: "test", Decision: Allowed}}
		}
		e.Records = append(e.Records, EncodeCommand(cmd))
	}
	c.index++
	var codes []Code
	for _, r := range c.s.Apply(&raft.Log{Index: c.index, Term: 1, Data: EncodeEntry(e)}).([]Result) {
		codes = append(codes, r.Code)
	}
	return codes
}

func (c *consumers) want(code Code, principal string, kind Kind, body any) {
	c.t.Helper()
	if got := c.apply(principal, kind, body); got[0] != code {
		c.t.Fatalf("code %d, want %d", got[0], code)
	}
}

func (c *consumers) ok(principal string, kind Kind, body any) {
	c.t.Helper()
	c.want(CodeOK, principal, kind, body)
}

// later moves cluster time on, in steps that it allows.
func (c *consumers) later(ms int64) {
	c.t.Helper()
	for ms > 0 {
		step := min(ms, millis(MaxClockStep))
		ms -= step
		c.time += step
		c.ok("node/n", KindTick, Tick{})
	}
}

// using is everything that the store says of a path.
func (c *consumers) using(path string) (out []string) {
	for _, k := range c.s.Consumers("ml", path) {
		out = append(out, fmt.Sprintf("%s/%s@%d", k.Principal, k.ID, k.Version))
	}
	return out
}

func (c *consumers) lagging(path string, version uint32) int {
	c.t.Helper()
	n := newTx(c.s, c.index+1, 1).lagging("ml", path, version)
	if m := len(c.s.Lagging("ml", path, version)); m != n {
		c.t.Errorf("Apply counts %d that lag, readers %d", n, m)
	}
	return n
}

func use(path string, version uint32) Use { return Use{Vault: "ml", Path: path, Version: version} }

const minute = 60_000

func TestConsumersSayWhatTheyUse(t *testing.T) {
	c := newConsumers(t)
	c.ok("workload/train", KindConsumerPut, ConsumerPut{ID: "run-1", TTL: minute, Uses: []Use{use("other", 3), use("db", 1)}})
	c.ok("workload/train", KindConsumerPut, ConsumerPut{ID: "run-2", TTL: minute, Uses: []Use{use("db", 2)}})
	c.ok("workload/eval", KindConsumerPut, ConsumerPut{ID: "run-1", TTL: minute, Uses: []Use{use("db", 0), use("db/x", 1)}})
	if got, want := c.using("db"), []string{"workload/eval/run-1@0", "workload/train/run-1@1", "workload/train/run-2@2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.using("db/x"); len(got) != 1 {
		t.Errorf("db/x is used by %q: not by those of db", got)
	}
	if all, next := c.s.VaultConsumers("ml", "", "", 5); next != "" || len(all) != 5 {
		t.Errorf("in the vault: %+v", all)
	}
	var paged []Consumer
	for after, more := "", true; more; more = after != "" {
		var page []Consumer
		page, after = c.s.VaultConsumers("ml", "db", after, 2)
		paged = append(paged, page...)
	}
	if len(paged) != 4 || paged[3].Path != "db/x" {
		t.Errorf("in pages: %+v", paged)
	}
	// Those without a version hold nothing up.
	if n := c.lagging("db", 2); n != 1 {
		t.Errorf("%d use less than version 2", n)
	}
	if n := c.lagging("db", 3); n != 2 {
		t.Errorf("%d use less than version 3", n)
	}

	// Acknowledging: only what one registered for, only as oneself, no version that is not there yet.
	since := c.s.Consumers("ml", "db")[1].Since
	c.time += 1000
	c.want(CodeNotFound, "workload/eval", KindConsumerAck, ConsumerAck{ID: "run-2", Uses: []Use{use("db", 3)}})
	c.want(CodeNotFound, "workload/train", KindConsumerAck, ConsumerAck{ID: "run-2", Uses: []Use{use("other", 3)}})
	c.want(CodeNotFound, "workload/train", KindConsumerAck, ConsumerAck{ID: "run-1", Uses: []Use{use("db", 4)}})
	c.want(CodeInvalid, "workload/train", KindConsumerAck, ConsumerAck{ID: "run-1", Uses: []Use{use("db", 3), use("db", 2)}})
	c.want(CodeInvalid, "workload/train", KindConsumerAck, ConsumerAck{ID: "run-1"})
	if n := c.lagging("db", 3); n != 2 {
		t.Errorf("refused acknowledgements moved somebody: %d", n)
	}
	c.ok("workload/train", KindConsumerAck, ConsumerAck{ID: "run-1", Uses: []Use{use("db", 3), use("other", 3)}})
	if n := c.lagging("db", 3); n != 1 {
		t.Errorf("%d use less than version 3 after an acknowledgement", n)
	}
	own, _ := c.s.Consumer("workload/train", "run-1")
	if own[0].Path != "db" || own[0].Since != c.time || own[1].Since != since || own[0].Seen != c.time {
		t.Errorf("the new version since now, the other as before: %+v", own)
	}

	// Registering again replaces; leaving removes; nobody leaves for another.
	c.ok("workload/train", KindConsumerPut, ConsumerPut{ID: "run-1", TTL: minute, Uses: []Use{use("db/x", 3)}})
	c.want(CodeNotFound, "workload/eval", KindConsumerLeave, ConsumerLeave{ID: "run-2"})
	c.ok("workload/train", KindConsumerLeave, ConsumerLeave{ID: "run-2"})
	if got, want := c.using("db"), []string{"workload/eval/run-1@0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.using("other"); len(got) != 0 {
		t.Errorf("other is used by %q", got)
	}
}

func TestConsumersRefusals(t *testing.T) {
	c := newConsumers(t)
	many := make([]Use, MaxUses+1)
	for i := range many {
		many[i] = use("db", 1)
	}
	for name, b := range map[string]ConsumerPut{
		"no id":          {TTL: minute, Uses: []Use{use("db", 1)}},
		"id of parts":    {ID: "a/b", TTL: minute, Uses: []Use{use("db", 1)}},
		"too short":      {ID: "a", TTL: millis(MinConsumerTTL) - 1, Uses: []Use{use("db", 1)}},
		"too long":       {ID: "a", TTL: millis(MaxConsumerTTL) + 1, Uses: []Use{use("db", 1)}},
		"no use":         {ID: "a", TTL: minute},
		"too many uses":  {ID: "a", TTL: minute, Uses: many},
		"one use twice":  {ID: "a", TTL: minute, Uses: []Use{use("db", 1), use("db", 1)}},
		"no such vault":  {ID: "a", TTL: minute, Uses: []Use{{Vault: "none", Path: "db"}}},
		"no such secret": {ID: "a", TTL: minute, Uses: []Use{use("none", 0)}},
		"not there yet":  {ID: "a", TTL: minute, Uses: []Use{use("db", 4)}},
	} {
		if code := c.apply("workload/train", KindConsumerPut, b)[0]; code != CodeInvalid && code != CodeNotFound {
			t.Errorf("%s: code %d", name, code)
		}
	}
	c.want(CodeInvalid, "anonymous", KindConsumerPut, ConsumerPut{ID: "a", TTL: minute, Uses: []Use{use("db", 1)}})
	c.want(CodeInvalid, "node/n", KindConsumerPut, ConsumerPut{ID: "a", TTL: minute, Uses: []Use{use("db", 1)}})
	c.want(CodeLimit, "node/n", KindConsumerSeen, ConsumerSeen{Consumers: make([]ConsumerName, MaxSeen+1)})
	if all, _ := c.s.VaultConsumers("ml", "", "", 10); len(all) != 0 {
		t.Errorf("%d were registered", len(all))
	}
}

// TestConsumersGoStale: by cluster time; a heartbeat keeps one alive, a stale one holds nothing up, is shown for a while
// and then gone with everything that led to it.
func TestConsumersGoStale(t *testing.T) {
	c := newConsumers(t)
	for _, id := range []string{"quiet", "beating"} {
		c.ok("workload/train", KindConsumerPut, ConsumerPut{ID: id, TTL: 10 * minute, Uses: []Use{use("db", 1)}})
	}
	for range 3 {
		c.later(5 * minute)
		c.ok("node/n", KindConsumerSeen, ConsumerSeen{Consumers: []ConsumerName{
			{"workload/train", "beating"}, {"workload/train", "gone"}, {"workload/train", "beating"},
		}})
	}
	if n := c.lagging("db", 3); n != 1 {
		t.Errorf("%d lag: one is stale", n)
	}
	if all := c.s.Consumers("ml", "db"); len(all) != 2 || all[0].Expires <= c.s.Time() || all[1].Expires > c.s.Time() {
		t.Errorf("the stale one is still shown, as stale: %+v", all)
	}
	// A stale one that is heard of again lives.
	c.ok("workload/train", KindConsumerAck, ConsumerAck{ID: "quiet", Uses: []Use{use("db", 1)}})
	if n := c.lagging("db", 3); n != 2 {
		t.Errorf("%d lag: both live", n)
	}
	c.later(10*minute + millis(ConsumerMemory) - 1)
	if n := len(c.using("db")); n != 2 || c.lagging("db", 3) != 0 {
		t.Errorf("%d are shown until their memory ends", n)
	}
	c.later(1)
	if got := c.using("db"); len(got) != 0 {
		t.Errorf("%q are shown for ever", got)
	}
	if n := newTx(c.s, c.index+1, 1).consumerCount(keyConsumers); n != 0 {
		t.Errorf("%d are counted", n)
	}
}

// TestConsumersAreBounded: of one principal, where stale ones make room, and of all.
func TestConsumersAreBounded(t *testing.T) {
	c := newConsumers(t)
	fill := func(principal string, from, to int) {
		t.Helper()
		for from < to {
			var bodies []any
			for ; from < to && len(bodies) < 1000; from++ {
				bodies = append(bodies, ConsumerPut{ID: fmt.Sprintf("c%d", from), TTL: minute, Uses: []Use{use("db", 1)}})
			}
			if codes := c.apply(principal, KindConsumerPut, bodies...); slices.Max(codes) != CodeOK {
				t.Fatalf("%s: %v", principal, slices.Max(codes))
			}
		}
	}
	more := ConsumerPut{ID: "more", TTL: minute, Uses: []Use{use("db", 1)}}
	fill("workload/w0", 0, MaxConsumersEach)
	c.want(CodeLimit, "workload/w0", KindConsumerPut, more)
	c.ok("workload/w0", KindConsumerPut, ConsumerPut{ID: "c7", TTL: minute, Uses: []Use{use("db", 2)}}) // is one of them
	for w := 1; w < MaxConsumers/MaxConsumersEach; w++ {
		fill(fmt.Sprintf("workload/w%d", w), 0, MaxConsumersEach)
	}
	c.want(CodeLimit, "workload/late", KindConsumerPut, more)
	c.ok("workload/w1", KindConsumerLeave, ConsumerLeave{ID: "c0"})
	c.ok("workload/late", KindConsumerPut, more)
	c.time += minute // all but these are stale, and still there
	c.ok("workload/w0", KindConsumerPut, more)
	if n := newTx(c.s, c.index+1, 1).consumerCount(objConsumerCount("workload/w0")); n != 1 {
		t.Errorf("%d of w0 are left: the stale ones made room", n)
	}
}
