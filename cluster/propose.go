package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/meter"
	"github.com/hizo/hizo/fsm"
)

// Bounds of what waits. A record that does not fit is refused at once rather than late.
const (
	maxQueueBytes = 16 << 20
	maxQueueCount = 16384
	// entriesAtOnce in flight. Two commit more where the processor is idle while disks sync; on a busy machine the
	// larger entries that one makes cost less and answer sooner (docs/bench.md).
	entriesAtOnce = 1
)

// applier is the part of raft.Raft that the proposer needs.
type applier interface {
	ApplyLog(raft.Log, time.Duration) raft.ApplyFuture
}

// proposer commits records in groups: while entries are in flight the next one gathers everything that
// arrives. There are no timers in it.
//
// It is closed (not the leader, or its clock is off), holding (leader, but the term's barrier or its
// clock check is not through: records queue up and are not proposed), or open. One goroutine makes
// entries; one per entry in flight waits for its future and answers its records.
//
// While leadership is being handed on it drains beside that: nothing is proposed, and what arrives waits
// until the transfer has ended one way or the other.
//
// Every record is answered exactly once, in one of three ways: a result, after Apply on this node; a
// definite no, nothing was proposed; or *UnknownOutcomeError. Shutdown answers everything, because a
// future that waits for Apply is never answered once raft has shut down (raft.go, runFSM).
type proposer struct {
	raft   applier
	now    func() int64 // local clock, Unix milliseconds
	leader func() LeaderInfo
	leads  func() bool // raft's own word, which comes before followLeadership's

	wake  chan struct{} // capacity 1: the queue may hold something to send
	slots chan struct{} // capacity entriesAtOnce: entries in flight
	stop  chan struct{}
	wg    sync.WaitGroup
	pool  sync.Pool
	meter *proposerMeter

	mu     sync.Mutex
	state  proposerState
	why    error // while closed
	queue  []*proposal
	bytes  int
	flying map[*flight]struct{}
	last   int64  // cluster time of the newest entry proposed
	jump   func() // called (once per term) when the clock is too far ahead of last
	ended  bool   // shut down

	draining bool
	parting  bool          // closed for want of leadership while draining: the queue is answered at the end
	landed   chan struct{} // closed when an entry has landed; nil while nobody waits for it
}

// proposerMeter counts records by what became of them, and measures.
type proposerMeter struct {
	committed, refused, overloaded, unknown meter.Counter

	latency *meter.Histogram // ns from the queue to the answer, of committed records
	records *meter.Histogram // of one entry
	bytes   *meter.Histogram // of one entry
}

func newProposerMeter() *proposerMeter {
	return &proposerMeter{
		latency: meter.NewDurations(),
		records: meter.NewHistogram(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
		bytes:   meter.NewHistogram(1<<10, 4<<10, 16<<10, 64<<10, 128<<10, 256<<10, 1<<20),
	}
}

type proposerState uint8

const (
	proposerClosed proposerState = iota
	proposerHolding
	proposerOpen
)

// proposal is one waiting record. It belongs to its caller until it is queued, then to the proposer until
// done is signalled; after a withdrawal by timeout nobody reuses it.
type proposal struct {
	record []byte
	since  time.Time     // in the queue
	done   chan struct{} // capacity 1
	result fsm.Result
	err    error
}

// flight is one entry that was handed to raft.
type flight struct {
	meter   *proposerMeter
	batch   []*proposal
	records [][]byte // copied from batch: once shutdown has answered a proposal, its caller reuses it
	once    sync.Once
}

func newProposer(r applier, now func() int64, leader func() LeaderInfo, leads func() bool) *proposer {
	p := &proposer{
		raft: r, now: now, leader: leader, leads: leads,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, entriesAtOnce), stop: make(chan struct{}),
		flying: make(map[*flight]struct{}),
		why:    errNotLeading,
		meter:  newProposerMeter(),
	}
	p.pool.New = func() any { return &proposal{done: make(chan struct{}, 1)} }
	p.wg.Go(p.run)
	return p
}

// errNotLeading stands for *NotLeaderError with whoever leads when it is asked.
var errNotLeading = errors.New("not leading")

func (p *proposer) reason(why error) error {
	if why == errNotLeading {
		return &NotLeaderError{Leader: p.leader()}
	}
	return why
}

// hold starts a term: records are accepted and wait.
func (p *proposer) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.parting = proposerHolding, false
}

// openAt starts to propose. since is the cluster time that has been applied: what this node proposed in an
// earlier term may have come from a wrong clock and counts no more (Apply never lets time go back); jump is called once when the
// local clock is more than fsm.MaxClockStep ahead, after which the proposer holds again.
func (p *proposer) openAt(since int64, jump func()) {
	p.mu.Lock()
	p.state, p.last, p.jump, p.parting = proposerOpen, since, jump, false
	p.mu.Unlock()
	p.signal()
}

// closeWith refuses what waits and what comes with why: a definite no. Leadership that ends while it is being handed on
// refuses nothing yet: undrain does, when it is known who leads.
func (p *proposer) closeWith(why error) {
	p.mu.Lock()
	p.state, p.why = proposerClosed, why
	p.parting = p.draining && why == errNotLeading
	if p.parting {
		p.mu.Unlock()
		return
	}
	refused := p.queue
	p.queue, p.bytes = nil, 0
	p.mu.Unlock()
	p.refuse(refused, why)
}

// shutdown answers everything that waits and ends the proposer. Call it after raft's shutdown began.
func (p *proposer) shutdown() {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	p.mu.Unlock()
	p.closeWith(ErrShutdown)
	close(p.stop)
	p.mu.Lock()
	flights := make([]*flight, 0, len(p.flying))
	for f := range p.flying {
		flights = append(flights, f)
	}
	p.mu.Unlock()
	for _, f := range flights {
		f.fail(&UnknownOutcomeError{Err: ErrShutdown})
	}
	p.wg.Wait()
}

func (p *proposer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// propose commits one encoded record and waits for its result. enqueued, if any, is called as soon as the
// record has its place: records commit in the order of their places.
func (p *proposer) propose(ctx context.Context, record []byte, enqueued func()) (fsm.Result, error) {
	if len(record) > fsm.MaxRecord {
		return fsm.Result{}, ErrTooLarge
	}
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, fmt.Errorf("nothing was proposed: %w", err)
	}
	it := p.pool.Get().(*proposal)
	it.record, it.since = record, time.Now()
	if err := p.enqueue(it); err != nil {
		p.recycle(it)
		return fsm.Result{}, err
	}
	if enqueued != nil {
		enqueued()
	}
	select {
	case <-it.done:
		result, err := it.result, it.err
		p.recycle(it)
		return result, err
	case <-ctx.Done():
	}
	if p.withdraw(it) {
		p.recycle(it)
		return fsm.Result{}, fmt.Errorf("nothing was proposed: %w", ctx.Err())
	}
	select {
	case <-it.done: // answered meanwhile
		result, err := it.result, it.err
		p.recycle(it)
		return result, err
	default:
		return fsm.Result{}, &UnknownOutcomeError{Err: ctx.Err()}
	}
}

func (p *proposer) recycle(it *proposal) {
	it.record, it.result, it.err = nil, fsm.Result{}, nil
	p.pool.Put(it)
}

func (p *proposer) enqueue(it *proposal) error {
	p.mu.Lock()
	if p.state == proposerClosed && !p.expected() {
		why := p.why
		p.mu.Unlock()
		p.meter.refused.Add(1)
		return p.reason(why)
	}
	if len(p.queue) >= maxQueueCount || p.bytes+len(it.record) > maxQueueBytes {
		p.mu.Unlock()
		p.meter.overloaded.Add(1)
		return ErrOverloaded
	}
	p.queue = append(p.queue, it)
	p.bytes += len(it.record)
	first := len(p.queue) == 1
	p.mu.Unlock()
	if first {
		p.signal()
	}
	return nil
}

// expected says whether a closed proposer takes records all the same, because what becomes of them will be known soon: at
// the end of a hand-over, or because raft has won an election that followLeadership has not heard of yet. Raft tells
// it of every term's end after that term's state has gone, so that what is queued here is always answered. mu is held.
func (p *proposer) expected() bool {
	return !p.ended && p.why == errNotLeading && (p.parting || p.leads())
}

// drain stops proposing and waits until nothing is in flight. The queue goes on to fill, and undrain has to follow.
func (p *proposer) drain(ctx context.Context) error {
	p.mu.Lock()
	p.draining = true
	for len(p.flying) > 0 && !p.ended {
		if p.landed == nil {
			p.landed = make(chan struct{})
		}
		landed := p.landed
		p.mu.Unlock()
		select {
		case <-landed:
		case <-p.stop:
		case <-ctx.Done():
			return ctx.Err()
		}
		p.mu.Lock()
	}
	p.mu.Unlock()
	return nil
}

// undrain goes on where drain stopped: with proposing, or with refusing what waits.
func (p *proposer) undrain() {
	p.mu.Lock()
	p.draining = false
	var refused []*proposal
	if p.parting && !p.leads() {
		refused = p.queue
		p.queue, p.bytes = nil, 0
	}
	why := p.why
	p.parting = false
	p.mu.Unlock()
	p.refuse(refused, why)
	p.signal()
}

func (p *proposer) refuse(refused []*proposal, why error) {
	if len(refused) == 0 {
		return
	}
	p.meter.refused.Add(len(refused))
	err := p.reason(why)
	for _, it := range refused {
		it.err = err
		it.done <- struct{}{}
	}
}

// withdraw takes a record back that was not proposed yet.
func (p *proposer) withdraw(it *proposal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.queue {
		if other == it {
			p.queue = append(p.queue[:i:i], p.queue[i+1:]...)
			p.bytes -= len(it.record)
			return true
		}
	}
	return false
}

func (p *proposer) run() {
	for {
		select {
		case <-p.wake:
		case <-p.stop:
			return
		}
		for {
			select {
			case p.slots <- struct{}{}:
			case <-p.stop:
				return
			}
			f, at := p.take()
			if f == nil {
				<-p.slots
				break
			}
			p.send(f, at)
		}
	}
}

// take makes an entry of what waits, up to fsm.MaxEntry but at least one record.
func (p *proposer) take() (*flight, int64) {
	p.mu.Lock()
	if p.state != proposerOpen || p.draining || len(p.queue) == 0 {
		p.mu.Unlock()
		return nil, 0
	}
	at := max(p.last, p.now())
	if p.last != 0 && at-p.last > fsm.MaxClockStep.Milliseconds() {
		// The process was stopped for long, or the clock was set: hold until a majority confirms it.
		p.state = proposerHolding
		jump := p.jump
		p.mu.Unlock()
		if jump != nil {
			jump()
		}
		return nil, 0
	}
	n, size := 0, 0
	for n < min(len(p.queue), fsm.MaxRecords) {
		size += len(p.queue[n].record) + 8
		if n > 0 && size > fsm.MaxEntry {
			break
		}
		n++
	}
	f := &flight{meter: p.meter, batch: make([]*proposal, n), records: make([][]byte, n)}
	copy(f.batch, p.queue)
	for i, it := range f.batch {
		f.records[i] = it.record
		p.bytes -= len(it.record)
	}
	left := copy(p.queue, p.queue[n:])
	clear(p.queue[left:])
	p.queue = p.queue[:left]
	p.last = at
	p.flying[f] = struct{}{}
	p.mu.Unlock()
	return f, at
}

// send hands an entry to raft. Its slot is given back by whoever answers it.
func (p *proposer) send(f *flight, at int64) {
	data, err := encodeEntry(fsm.Entry{Time: at, Records: f.records})
	if err != nil {
		p.land(f)
		f.fail(err)
		return
	}
	p.meter.records.Observe(int64(len(f.records)))
	p.meter.bytes.Observe(int64(len(data)))
	// No timeout: raft's main loop takes it, or answers ErrRaftShutdown. Callers wait under their own
	// contexts. Entries must be handed over in order, so this is not done by the waiting goroutine.
	future := p.raft.ApplyLog(raft.Log{Data: data}, 0)
	go p.await(f, future)
}

// await answers an entry's records. Shutdown may have answered them before: raft does not answer a future
// that was committed and not applied when it shut down, and then this goroutine ends with the process.
func (p *proposer) await(f *flight, future raft.ApplyFuture) {
	err := future.Error()
	p.land(f)
	if err != nil {
		f.fail(proposalError(err, p.leader))
		return
	}
	f.finish(future.Response())
}

// land gives an entry's slot back.
func (p *proposer) land(f *flight) {
	p.mu.Lock()
	delete(p.flying, f)
	if p.landed != nil {
		close(p.landed)
		p.landed = nil
	}
	p.mu.Unlock()
	<-p.slots
}

func (f *flight) fail(err error) {
	f.once.Do(func() {
		if _, unknown := errors.AsType[*UnknownOutcomeError](err); unknown {
			f.meter.unknown.Add(len(f.batch))
		} else {
			f.meter.refused.Add(len(f.batch))
		}
		for _, it := range f.batch {
			it.err = err
			it.done <- struct{}{}
		}
	})
}

// finish hands out what Apply returned.
func (f *flight) finish(response any) {
	results, ok := response.([]fsm.Result)
	if !ok || len(results) != len(f.batch) {
		err, isErr := response.(error)
		if !isErr {
			err = fmt.Errorf("apply answered %T for %d records", response, len(f.batch))
		}
		f.fail(&UnknownOutcomeError{Err: err})
		return
	}
	f.once.Do(func() {
		f.meter.committed.Add(len(f.batch))
		now := time.Now() // once for the entry: asking costs as much as counting
		for i, it := range f.batch {
			f.meter.latency.Observe(int64(now.Sub(it.since)))
			it.result = results[i]
			it.done <- struct{}{}
		}
	})
}

// direct commits one record in an entry of its own with a given cluster time, past the queue. Only the
// clock duty does that, while the proposer holds.
func (p *proposer) direct(ctx context.Context, record []byte, at int64) (fsm.Result, error) {
	data, err := encodeEntry(fsm.Entry{Time: at, Records: [][]byte{record}})
	if err != nil {
		return fsm.Result{}, err
	}
	it := &proposal{record: record, since: time.Now(), done: make(chan struct{}, 1)}
	f := &flight{meter: p.meter, batch: []*proposal{it}}
	future := p.raft.ApplyLog(raft.Log{Data: data}, 0)
	go func() {
		if err := future.Error(); err != nil {
			f.fail(proposalError(err, p.leader))
			return
		}
		f.finish(future.Response())
	}()
	select {
	case <-it.done:
		return it.result, it.err
	case <-ctx.Done():
		return fsm.Result{}, &UnknownOutcomeError{Err: ctx.Err()}
	case <-p.stop:
		return fsm.Result{}, &UnknownOutcomeError{Err: ErrShutdown}
	}
}

// encodeRecord encodes a command and reads it back, so that a command that replicas could not decode
// stays here.
func encodeRecord(cmd fsm.Command) ([]byte, error) {
	record := fsm.EncodeCommand(cmd)
	if len(record) > fsm.MaxRecord {
		return nil, ErrTooLarge
	}
	if _, err := fsm.DecodeCommand(record); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return record, nil
}

// encodeEntry does the same for what surrounds the records.
func encodeEntry(entry fsm.Entry) ([]byte, error) {
	data := fsm.EncodeEntry(entry)
	back, err := fsm.DecodeEntry(data)
	if err != nil || len(back.Records) != len(entry.Records) || back.Time != entry.Time {
		return nil, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	return data, nil
}

// accepts says whether records are being proposed.
func (p *proposer) accepts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == proposerOpen && !p.draining
}
