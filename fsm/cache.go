package fsm

import (
	"strings"
	"sync"
)

// object is a decoded record of the store. Objects are immutable once staged: whoever changes one copies it first.
type object interface {
	changed() uint64 // Raft index of the last change
	cost() int       // rough bytes in memory
}

// cache holds decoded objects of the committed state, absent ones too, the least recently used leaving first. Its
// content is always what the store would answer: see Store.mu for how writers keep it so.
type cache struct {
	mu     sync.Mutex
	byName map[string]*cached
	root   cached // ring: root.next is the most recently used
	used   int
	limit  int
}

type cached struct {
	name       string
	object     object // nil: known to be absent
	cost       int
	prev, next *cached
}

func newCache(limit int) *cache {
	c := &cache{byName: make(map[string]*cached), limit: limit}
	c.root.prev, c.root.next = &c.root, &c.root
	return c
}

func (c *cache) get(name string) (o object, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byName[name]
	if e == nil {
		return nil, false
	}
	if c.root.next != e {
		e.unlink()
		c.push(e)
	}
	return e.object, true
}

func (c *cache) put(name string, o object) {
	const overhead = 160 // entry, map slot
	cost := len(name) + overhead
	if o != nil {
		cost += o.cost()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byName[name]; e != nil {
		c.used += cost - e.cost
		e.object, e.cost = o, cost
		e.unlink()
		c.push(e)
	} else {
		name = strings.Clone(name) // it may be part of a whole log record
		e := &cached{name: name, object: o, cost: cost}
		c.byName[name] = e
		c.push(e)
		c.used += cost
	}
	for c.used > c.limit && c.root.prev != &c.root {
		e := c.root.prev
		e.unlink()
		delete(c.byName, e.name)
		c.used -= e.cost
	}
}

// size is how many bytes are in use, about.
func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func (c *cache) push(e *cached) {
	e.prev, e.next = &c.root, c.root.next
	e.prev.next, e.next.prev = e, e
}

func (e *cached) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
