package fsm

import (
	"slices"
	"strings"
)

// Consumers say which versions they use, so that an old value is retired when nobody uses it any more. A consumer is one
// running process of a principal; it lives while it is heard of, by cluster time, and one that was not heard of for its
// time to live is stale: it holds nothing up.
//
// On disk:
//
//	consumer/ PRINCIPAL / ID                   consumer: what it uses
//	using/ VAULT / PATH NUL PRINCIPAL / ID     marker: who uses a secret
//	consumers, consumers/ PRINCIPAL            consumerCount: of all, of one principal
//
// An entry in the expiry index, ConsumerMemory behind its time to live, drops it with its markers.
//
// What a consumer costs: one record when it comes, one for each version it acknowledges, one when it leaves. That it
// lives it says by heartbeats, which the leader gathers into one record for many (KindConsumerSeen).

// Use is one secret that a consumer uses. Version 0: none of it yet.
type Use struct {
	Vault, Path string
	Version     uint32
	Since       int64 // cluster time at which it said so; set by Apply
}

// ConsumerPut registers a consumer of the command's principal, or replaces what it uses.
type ConsumerPut struct {
	ID   string
	TTL  int64 // ms
	Uses []Use
}

// ConsumerAck changes versions of secrets that the consumer uses.
type ConsumerAck struct {
	ID   string
	Uses []Use
}

// ConsumerLeave removes a consumer of the command's principal.
type ConsumerLeave struct{ ID string }

// ConsumerName names a consumer.
type ConsumerName struct{ Principal, ID string }

// ConsumerSeen is a leader's record of many heartbeats. Those who left in the meantime are passed over.
type ConsumerSeen struct{ Consumers []ConsumerName }

// Consumer is one use of one secret by one consumer. It is stale when Expires has come (Store.Time).
type Consumer struct {
	ID, Principal string
	Vault, Path   string
	Version       uint32 // 0: none yet
	Since         int64  // it uses that version since
	Seen          int64  // it was heard of last
	Expires       int64
}

// consumer is what is stored of one.
type consumer struct {
	ID, Principal string
	TTL           int64
	Seen          int64
	Uses          []Use // by vault and path
	Changed       uint64
}

// consumerCount bounds them.
type consumerCount struct{ Count uint32 }

func (o *consumer) changed() uint64      { return o.Changed }
func (o *consumerCount) changed() uint64 { return 0 }
func (o *consumer) cost() int            { return 160 + 128*len(o.Uses) }
func (o *consumerCount) cost() int       { return 8 }

func (o *consumer) expires() int64 { return o.Seen + o.TTL }

func (o *consumer) name() string { return ObjConsumer(o.Principal, o.ID) }

// ObjConsumer names a consumer of a principal.
func ObjConsumer(principal, id string) string { return prefixConsumer + principal + "/" + id }

func usingPrefix(vault, path string) string { return prefixUsing + vault + "/" + path + "\x00" }

func objUsing(u *Use, c *consumer) string {
	return usingPrefix(u.Vault, u.Path) + c.name()[len(prefixConsumer):]
}

func compareUses(a, b Use) int {
	if c := strings.Compare(a.Vault, b.Vault); c != 0 {
		return c
	}
	return strings.Compare(a.Path, b.Path)
}

// uses checks and sorts what a consumer says it uses.
func (t *tx) uses(list []Use) ([]Use, Code) {
	if len(list) == 0 || len(list) > MaxUses {
		return nil, CodeInvalid
	}
	out := make([]Use, len(list))
	for i, u := range list {
		if !segment(u.Vault) || !multi(u.Path) {
			return nil, CodeInvalid
		}
		head := find[Secret](t, ObjSecret(u.Vault, u.Path))
		if head == nil || u.Version > head.Current {
			return nil, CodeNotFound // who claims a version to come would never hold its predecessor up
		}
		out[i] = Use{Vault: strings.Clone(u.Vault), Path: strings.Clone(u.Path), Version: u.Version, Since: t.time}
	}
	slices.SortFunc(out, compareUses)
	for i := 1; i < len(out); i++ {
		if compareUses(out[i-1], out[i]) == 0 {
			return nil, CodeInvalid
		}
	}
	return out, CodeOK
}

// acked keeps how long a version has been in use.
func acked(before []Use, now Use) Use {
	if i, found := slices.BinarySearchFunc(before, now, compareUses); found && before[i].Version == now.Version {
		return before[i]
	}
	return now
}

func (t *tx) consumerPut(cmd *Command, b *ConsumerPut) outcome {
	if !identity(cmd.Principal) || !segment(b.ID) || len(b.ID) > MaxConsumerID ||
		b.TTL < millis(MinConsumerTTL) || b.TTL > millis(MaxConsumerTTL) {
		return refuse(CodeInvalid)
	}
	uses, code := t.uses(b.Uses)
	if code != CodeOK {
		return refuse(code)
	}
	next := consumer{
		ID: strings.Clone(b.ID), Principal: strings.Clone(cmd.Principal), TTL: b.TTL, Seen: t.time, Uses: uses, Changed: t.index,
	}
	if have := find[consumer](t, next.name()); have != nil {
		for i := range uses {
			uses[i] = acked(have.Uses, uses[i])
		}
		t.dropUses(have)
	} else if !t.countConsumer(next.Principal) {
		return refuse(CodeLimit)
	}
	for i := range uses {
		t.put(objUsing(&uses[i], &next), &marker{})
	}
	t.putConsumer(&next)
	return using(b.Uses)
}

// using names the versions for the audit leaves, one for each use as the command has them.
func using(uses []Use) outcome {
	out := done()
	for i := range uses {
		out.versions = append(out.versions, uses[i].Version)
	}
	return out
}

// countConsumer makes room for one more of a principal, by those of its own that are stale.
func (t *tx) countConsumer(principal string) bool {
	all, own := t.consumerCount(keyConsumers), t.consumerCount(objConsumerCount(principal))
	if own >= MaxConsumersEach {
		var stale []*consumer
		t.scan(prefixConsumer+principal+"/", func(_ string, o object) bool {
			if c := o.(*consumer); c.expires() <= t.time {
				stale = append(stale, c)
			}
			return true
		})
		for _, c := range stale {
			t.dropConsumer(c)
		}
		all, own = all-uint32(len(stale)), own-uint32(len(stale))
	}
	if all >= MaxConsumers || own >= MaxConsumersEach {
		return false
	}
	t.put(keyConsumers, &consumerCount{all + 1})
	t.put(objConsumerCount(principal), &consumerCount{own + 1})
	return true
}

func (t *tx) consumerCount(name string) uint32 {
	if c := find[consumerCount](t, name); c != nil {
		return c.Count
	}
	return 0
}

func (t *tx) putConsumer(c *consumer) {
	t.put(c.name(), c)
	t.expire(c.expires()+millis(ConsumerMemory), c.name())
}

// dropUses takes out what leads to a consumer, not the consumer.
func (t *tx) dropUses(c *consumer) {
	for i := range c.Uses {
		t.del(objUsing(&c.Uses[i], c))
	}
	t.keep(c.expires()+millis(ConsumerMemory), c.name())
}

func (t *tx) dropConsumer(c *consumer) {
	t.dropUses(c)
	t.del(c.name())
	for _, name := range []string{keyConsumers, objConsumerCount(c.Principal)} {
		if n := t.consumerCount(name); n > 1 {
			t.put(name, &consumerCount{n - 1})
		} else {
			t.del(name)
		}
	}
}

func (t *tx) consumerAck(cmd *Command, b *ConsumerAck) outcome {
	have := find[consumer](t, ObjConsumer(cmd.Principal, b.ID))
	if have == nil {
		return refuse(CodeNotFound)
	}
	uses, code := t.uses(b.Uses)
	if code != CodeOK {
		return refuse(code)
	}
	next := *have
	next.Uses = slices.Clone(have.Uses)
	for _, u := range uses {
		i, found := slices.BinarySearchFunc(next.Uses, u, compareUses)
		if !found {
			return refuse(CodeNotFound)
		}
		next.Uses[i] = acked(have.Uses, u)
	}
	t.seen(have, &next)
	return using(b.Uses)
}

// seen stores a consumer that was heard of now.
func (t *tx) seen(have, next *consumer) {
	next.Seen, next.Changed = t.time, t.index
	if next.Seen != have.Seen {
		t.keep(have.expires()+millis(ConsumerMemory), have.name())
		t.putConsumer(next)
		return
	}
	t.put(next.name(), next)
}

func (t *tx) consumerLeave(cmd *Command, b *ConsumerLeave) outcome {
	have := find[consumer](t, ObjConsumer(cmd.Principal, b.ID))
	if have == nil {
		return refuse(CodeNotFound)
	}
	t.dropConsumer(have)
	return done()
}

func (t *tx) consumerSeen(b *ConsumerSeen) outcome {
	if len(b.Consumers) > MaxSeen {
		return refuse(CodeLimit)
	}
	for i := range b.Consumers {
		if have := find[consumer](t, ObjConsumer(b.Consumers[i].Principal, b.Consumers[i].ID)); have != nil {
			next := *have
			t.seen(have, &next)
		}
	}
	return done()
}

// lagging is how many live consumers use an older version of a secret.
func (t *tx) lagging(vault, path string, version uint32) int {
	return len(t.laggingConsumers(vault, path, version))
}

// laggingConsumers are these, by principal and id. It scans: for rare commands.
func (t *tx) laggingConsumers(vault, path string, version uint32) (list []*consumer) {
	prefix := usingPrefix(vault, path)
	t.scan(prefix, func(name string, _ object) bool {
		c := find[consumer](t, prefixConsumer+name[len(prefix):])
		if c != nil && c.expires() > t.time && c.lags(vault, path, version) {
			list = append(list, c)
		}
		return true
	})
	return list
}

func (o *consumer) lags(vault, path string, version uint32) bool {
	i, found := slices.BinarySearchFunc(o.Uses, Use{Vault: vault, Path: path}, compareUses)
	return found && o.Uses[i].Version != 0 && o.Uses[i].Version < version
}

func (o *consumer) of(u *Use) Consumer {
	return Consumer{
		ID: o.ID, Principal: o.Principal, Vault: u.Vault, Path: u.Path, Version: u.Version, Since: u.Since,
		Seen: o.Seen, Expires: o.expires(),
	}
}

// Consumers lists who uses a secret, stale ones too, by principal and id.
func (s *Store) Consumers(vault, path string) []Consumer {
	prefix := usingPrefix(vault, path)
	var names []string
	s.scan(prefix, "", func(name string, _ object) bool {
		names = append(names, prefixConsumer+name[len(prefix):])
		return true
	})
	var out []Consumer
	for _, name := range names {
		c, ok := read[consumer](s, name)
		if !ok {
			continue // left in between
		}
		if i, found := slices.BinarySearchFunc(c.Uses, Use{Vault: vault, Path: path}, compareUses); found {
			out = append(out, c.of(&c.Uses[i]))
		}
	}
	return out
}

// VaultConsumers lists who uses the secrets of a vault whose paths begin with prefix, by path, principal and id, at most
// limit from behind a place in that order, and the place to go on from; "" is the beginning, and the end.
func (s *Store) VaultConsumers(vault, prefix, after string, limit int) (out []Consumer, next string) {
	type place struct{ path, name string }
	var places []place
	root, from := prefixUsing+vault+"/", ""
	if after != "" {
		from = root + after + "\x00"
	}
	s.scan(root+prefix, from, func(name string, _ object) bool {
		path, who, _ := strings.Cut(name[len(root):], "\x00")
		if len(places) == limit {
			next = places[limit-1].path + "\x00" + places[limit-1].name[len(prefixConsumer):]
			return false
		}
		places = append(places, place{path, prefixConsumer + who})
		return true
	})
	for _, p := range places {
		c, ok := read[consumer](s, p.name)
		if !ok {
			continue // left in between
		}
		if i, found := slices.BinarySearchFunc(c.Uses, Use{Vault: vault, Path: p.path}, compareUses); found {
			out = append(out, c.of(&c.Uses[i]))
		}
	}
	return out, next
}

// Lagging lists the live consumers that use an older version of a secret.
func (s *Store) Lagging(vault, path string, version uint32) []Consumer {
	now := s.Time()
	return slices.DeleteFunc(s.Consumers(vault, path), func(c Consumer) bool {
		return c.Expires <= now || c.Version == 0 || c.Version >= version
	})
}

// Consumer says when a consumer was heard of, and what it uses; false if it is not registered.
func (s *Store) Consumer(principal, id string) ([]Consumer, bool) {
	c, ok := read[consumer](s, ObjConsumer(principal, id))
	if !ok {
		return nil, false
	}
	out := make([]Consumer, len(c.Uses))
	for i := range c.Uses {
		out[i] = c.of(&c.Uses[i])
	}
	return out, true
}
