package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/fsm"
)

// fakeRaft answers entries as a test says. It stands in for raft where the real one cannot be made to fail
// at a given point.
type fakeRaft struct {
	mu      sync.Mutex
	entries []fsm.Entry
	took    chan *fakeFuture
}

type fakeFuture struct {
	entry  fsm.Entry
	answer chan error
	once   sync.Once
	err    error
}

func newFakeRaft() *fakeRaft { return &fakeRaft{took: make(chan *fakeFuture, 1024)} }

func (r *fakeRaft) ApplyLog(l raft.Log, _ time.Duration) raft.ApplyFuture {
	entry, err := fsm.DecodeEntry(l.Data)
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	r.entries = append(r.entries, entry)
	r.mu.Unlock()
	f := &fakeFuture{entry: entry, answer: make(chan error, 1)}
	r.took <- f
	return f
}

func (f *fakeFuture) Error() error {
	f.once.Do(func() { f.err = <-f.answer })
	return f.err
}

func (f *fakeFuture) Response() any {
	results := make([]fsm.Result, len(f.entry.Records))
	for i, r := range f.entry.Records {
		cmd, err := fsm.DecodeCommand(r)
		if err != nil {
			panic(err)
		}
		results[i] = fsm.Result{Code: fsm.CodeOK, Changed: cmd.Audits[0].Action, Time: f.entry.Time}
	}
	return results
}

func (f *fakeFuture) Index() uint64 { return 1 }

func nobodyLeads() bool { return false }

func testProposer(t *testing.T) (*proposer, *fakeRaft) {
	r := newFakeRaft()
	p := newProposer(r, func() int64 { return 1000 }, func() LeaderInfo { return LeaderInfo{ID: "n9"} }, nobodyLeads)
	t.Cleanup(p.shutdown)
	return p, r
}

func auditOf(action string) fsm.Command {
	return fsm.Command{Kind: fsm.KindRecord, Principal: "user/test", Audits: []fsm.Audit{{Action: action, Decision: fsm.Allowed}}}
}

func mustEncode(t *testing.T, cmd fsm.Command) []byte {
	t.Helper()
	b, err := encodeRecord(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type answer struct {
	result fsm.Result
	err    error
}

func (p *proposer) ask(t *testing.T, ctx context.Context, action string) <-chan answer {
	t.Helper()
	record := mustEncode(t, auditOf(action))
	out := make(chan answer, 1)
	placed := make(chan struct{})
	go func() {
		result, err := p.propose(ctx, record, func() { close(placed) })
		out <- answer{result, err}
	}()
	<-placed
	return out
}

// What the caller learns for everything that can become of an entry. "persisted" stands for a write that
// failed and is in the log all the same: it must never be called a failure.
func TestProposalOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		unknown bool
		definit bool
	}{
		"committed":                 {nil, false, false},
		"not the leader":            {raft.ErrNotLeader, false, true},
		"transfer":                  {raft.ErrLeadershipTransferInProgress, false, true},
		"not enqueued":              {raft.ErrEnqueueTimeout, false, true},
		"lost while committing":     {raft.ErrLeadershipLost, true, false},
		"shut down":                 {raft.ErrRaftShutdown, true, false},
		"aborted by a restore":      {raft.ErrAbortedByRestore, true, false},
		"log store failed":          {errors.New("no space left on device"), true, false},
		"failed, but was persisted": {fmt.Errorf("sync: %w", context.DeadlineExceeded), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := testProposer(t)
			p.openAt(1, nil)
			first, second := p.ask(t, t.Context(), "a"), p.ask(t, t.Context(), "b")
			for served := 0; served < 2; {
				f := <-r.took
				served += len(f.entry.Records)
				f.answer <- c.err
			}
			for want, got := range map[string]answer{"a": <-first, "b": <-second} {
				var unknown *UnknownOutcomeError
				var not *NotLeaderError
				if errors.As(got.err, &unknown) != c.unknown || errors.As(got.err, &not) != c.definit || (got.err == nil) != (c.err == nil) {
					t.Errorf("%s: %v", want, got.err)
				}
				if c.err == nil && got.result.Changed != want {
					t.Errorf("%s got the result of %s", want, got.result.Changed)
				}
			}
		})
	}
}

// Records that arrive while entries are in flight share the next one.
func TestGroupCommit(t *testing.T) {
	p, r := testProposer(t)
	p.openAt(1, nil)
	var waiting []<-chan answer
	var flights []*fakeFuture
	for i := range entriesAtOnce {
		waiting = append(waiting, p.ask(t, t.Context(), fmt.Sprint(i)))
		flights = append(flights, <-r.took)
	}
	for i := range 100 {
		waiting = append(waiting, p.ask(t, t.Context(), fmt.Sprint(entriesAtOnce+i)))
	}
	select {
	case <-r.took:
		t.Fatal("one entry more than may be in flight")
	default:
	}
	flights[0].answer <- nil
	group := <-r.took
	if got := len(group.entry.Records); got != 100 {
		t.Fatalf("the next entry holds %d records, want all 100", got)
	}
	for _, f := range append(flights[1:], group) {
		f.answer <- nil
	}
	for i, w := range waiting {
		if a := <-w; a.err != nil || a.result.Changed != fmt.Sprint(i) {
			t.Fatalf("record %d: %+v", i, a)
		}
	}
}

// A leader that has not passed its barrier takes records and proposes none; if the term ends first, they
// are a definite no.
func TestHolding(t *testing.T) {
	p, r := testProposer(t)
	p.hold()
	w := p.ask(t, t.Context(), "a")
	p.closeWith(errNotLeading)
	var not *NotLeaderError
	if a := <-w; !errors.As(a.err, &not) || not.Leader.ID != "n9" {
		t.Fatalf("answer %+v, want NotLeader with a hint", a)
	}
	if _, err := p.propose(t.Context(), mustEncode(t, auditOf("b")), nil); !errors.As(err, &not) {
		t.Fatalf("closed: %v", err)
	}
	p.hold()
	w = p.ask(t, t.Context(), "c")
	p.openAt(1, nil)
	(<-r.took).answer <- nil
	if a := <-w; a.err != nil {
		t.Fatal(a.err)
	}
}

// A caller that gives up: nothing was proposed if the record was still waiting, unknown if not.
func TestGiveUp(t *testing.T) {
	p, r := testProposer(t)
	p.hold()
	ctx, cancel := context.WithCancel(t.Context())
	w := p.ask(t, ctx, "waiting")
	cancel()
	var unknown *UnknownOutcomeError
	if a := <-w; errors.As(a.err, &unknown) || !errors.Is(a.err, context.Canceled) {
		t.Fatalf("withdrawn: %v", a.err)
	}
	p.openAt(1, nil)
	ctx, cancel = context.WithCancel(t.Context())
	w = p.ask(t, ctx, "flying")
	f := <-r.took
	cancel()
	if a := <-w; !errors.As(a.err, &unknown) {
		t.Fatalf("in flight: %v", a.err)
	}
	f.answer <- nil
	if len(r.entries) != 1 || len(r.entries[0].Records) != 1 {
		t.Fatalf("entries %+v: the withdrawn record was proposed", r.entries)
	}
}

// Shutdown answers everything, although raft never answers some futures.
func TestShutdownAnswers(t *testing.T) {
	p, r := testProposer(t)
	p.openAt(1, nil)
	var flying, waiting []<-chan answer
	for range entriesAtOnce {
		flying = append(flying, p.ask(t, t.Context(), "flying"))
		<-r.took
	}
	for range 10 {
		waiting = append(waiting, p.ask(t, t.Context(), "waiting"))
	}
	p.shutdown()
	var unknown *UnknownOutcomeError
	for _, w := range flying {
		if a := <-w; !errors.As(a.err, &unknown) {
			t.Errorf("in flight: %v", a.err)
		}
	}
	for _, w := range waiting {
		if a := <-w; !errors.Is(a.err, ErrShutdown) || errors.As(a.err, &unknown) {
			t.Errorf("waiting: %v", a.err)
		}
	}
	if _, err := p.propose(t.Context(), mustEncode(t, auditOf("late")), nil); !errors.Is(err, ErrShutdown) {
		t.Errorf("late: %v", err)
	}
}

func TestProposerLimits(t *testing.T) {
	p, r := testProposer(t)
	if _, err := p.propose(t.Context(), make([]byte, fsm.MaxRecord+1), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	p.hold()
	big := auditOf("big")
	big.Audits[0].Sealed = make([]byte, 200<<10)
	record := mustEncode(t, big)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	overloaded := 0
	for n := 0; overloaded == 0 && n < 1000; n++ {
		placed := make(chan error, 1)
		wg.Go(func() {
			_, err := p.propose(ctx, record, func() { placed <- nil })
			select {
			case placed <- err:
			default:
			}
		})
		if err := <-placed; errors.Is(err, ErrOverloaded) {
			overloaded++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if overloaded == 0 {
		t.Error("the queue has no bound")
	}
	p.openAt(1, nil)
	f := <-r.took
	if n := len(f.entry.Records); n != 1 {
		t.Errorf("%d records of 200 KiB in one entry", n)
	}
	cancel()
	p.shutdown()
	wg.Wait()
}

// What a leader with a wrong clock proposed in an earlier term does not leak into its next one.
func TestEntryTimeOfAnEarlierTerm(t *testing.T) {
	r := newFakeRaft()
	now := int64(1_000_000)
	p := newProposer(r, func() int64 { return now }, func() LeaderInfo { return LeaderInfo{} }, nobodyLeads)
	defer p.shutdown()
	p.openAt(900_000, nil)
	w := p.ask(t, t.Context(), "ahead")
	(<-r.took).answer <- raft.ErrLeadershipLost
	<-w
	p.closeWith(errNotLeading)
	now = 901_000
	p.hold()
	p.openAt(900_000, nil)
	w = p.ask(t, t.Context(), "right")
	f := <-r.took
	f.answer <- nil
	<-w
	if f.entry.Time != now {
		t.Errorf("entry time %d, want %d", f.entry.Time, now)
	}
}

// Cluster time in entries never goes back, and never runs ahead without a jump.
func TestEntryTime(t *testing.T) {
	r := newFakeRaft()
	now := int64(1000)
	var mu sync.Mutex
	p := newProposer(r, func() int64 { mu.Lock(); defer mu.Unlock(); return now }, func() LeaderInfo { return LeaderInfo{} }, nobodyLeads)
	defer p.shutdown()
	jumped := make(chan struct{}, 1)
	p.openAt(900, func() { jumped <- struct{}{} })
	var times []int64
	for _, at := range []int64{1000, 500, 1500, 1499} {
		mu.Lock()
		now = at
		mu.Unlock()
		w := p.ask(t, t.Context(), "x")
		f := <-r.took
		times = append(times, f.entry.Time)
		f.answer <- nil
		<-w
	}
	if want := []int64{1000, 1000, 1500, 1500}; !slices.Equal(times, want) {
		t.Errorf("times %v, want %v", times, want)
	}
	mu.Lock()
	now = 1500 + fsm.MaxClockStep.Milliseconds() + 1
	mu.Unlock()
	w := p.ask(t, t.Context(), "late")
	<-jumped
	select {
	case f := <-r.took:
		t.Fatalf("proposed at %d without a jump", f.entry.Time)
	default:
	}
	p.openAt(now, nil)
	f := <-r.took
	f.answer <- nil
	if a := <-w; a.err != nil || a.result.Time != now {
		t.Fatalf("after the jump: %+v", a)
	}
}

// Raft says that this node leads a moment before the term's begin is handled: what comes in between waits, and is
// answered whichever way the term goes.
func TestRecordsBeforeATermIsHandled(t *testing.T) {
	r := newFakeRaft()
	var leads atomic.Bool
	p := newProposer(r, func() int64 { return 1000 }, func() LeaderInfo { return LeaderInfo{ID: "n9"} }, leads.Load)
	t.Cleanup(p.shutdown)
	leads.Store(true)
	waits := p.ask(t, t.Context(), "early")
	p.hold()
	p.openAt(0, nil)
	f := <-r.took
	f.answer <- nil
	if got := <-waits; got.err != nil {
		t.Errorf("a term that began: %v", got.err)
	}
	p.closeWith(errNotLeading)
	waits = p.ask(t, t.Context(), "early")
	leads.Store(false)
	p.closeWith(errNotLeading) // lost again at once
	var moved *NotLeaderError
	if got := <-waits; !errors.As(got.err, &moved) || moved.Leader.ID != "n9" {
		t.Errorf("a term that did not begin: %v", got.err)
	}
}
