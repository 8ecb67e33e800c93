package cluster

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/cluster/peerpb"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/fsm"
)

// A leader compares its clock with a majority's when its term starts and every clockEvery. One wrong clock
// would expire everything, irreversibly: cluster time never goes back.
const (
	maxClockSkew = 2 * time.Second
	clockEvery   = 10 * time.Second
	clockAnswers = 2 * time.Second // how long to wait for readings
	tickEvery    = time.Minute     // cluster time moves on at least that often, so that things expire while idle
)

// clockState is what Status tells of the last comparison.
type clockState struct{ offset atomic.Int64 }

func clockText(cluster [16]byte, node string, millis int64) []byte {
	b := aad.AppendString(nil, "hizo/clock/v1")
	b = aad.AppendBytes(b, cluster[:])
	b = aad.AppendString(b, node)
	b = aad.AppendUint64(b, uint64(millis))
	digest := sha256.Sum256(b)
	return digest[:]
}

// readClock signs what this node's clock says. A reading kept for later can only be too old, and cluster
// time does not go back.
func (n *Node) readClock() (fsm.ClockReading, error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return fsm.ClockReading{}, ErrNotInitialised
	}
	r := fsm.ClockReading{Node: n.cfg.ID, Time: n.unixMilli()}
	var err error
	r.Signature, err = n.cfg.Seal.Identity().Sign(rand.Reader, clockText(cl.ID, r.Node, r.Time), crypto.SHA256)
	if err != nil {
		return fsm.ClockReading{}, fmt.Errorf("sign the clock reading: %w", err)
	}
	return r, nil
}

func verifyReading(cl fsm.Cluster, m fsm.Member, r fsm.ClockReading) error {
	return verifySignature(m, clockText(cl.ID, m.ID, r.Time), r.Signature)
}

var errSignature = errors.New("the signature does not verify")

func verifySignature(m fsm.Member, digest, signature []byte) error {
	public, err := x509.ParsePKIXPublicKey(m.Key)
	if err != nil {
		return fmt.Errorf("member %s: %w", m.ID, err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, digest, signature) {
		return fmt.Errorf("member %s: %w", m.ID, errSignature)
	}
	return nil
}

// comparison is what one round of asking found.
type comparison struct {
	readings []fsm.ClockReading // verified, this node's included
	offsets  map[string]int64   // of the others' clocks to this one's, milliseconds
	median   int64
	enough   bool // a majority answered
}

func (c comparison) fine() bool {
	return c.enough && abs(c.median) <= maxClockSkew.Milliseconds()
}

func abs(n int64) int64 { return max(n, -n) }

// compareClocks asks every voter at once and ends as soon as a majority agrees with this clock: a dead
// voter does not slow a fail-over down. If a majority has answered and does not agree, the others decide.
func (n *Node) compareClocks(ctx context.Context) (comparison, error) {
	cl, ok := n.store.Cluster()
	if !ok {
		return comparison{enough: true}, nil // before genesis there is nobody to ask
	}
	own, err := n.readClock()
	if err != nil {
		return comparison{}, err
	}
	voters := n.voters()
	c := comparison{readings: []fsm.ClockReading{own}, offsets: map[string]int64{}}
	c.judge(len(voters))
	if c.fine() {
		n.clock.offset.Store(c.median)
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, clockAnswers)
	defer cancel()
	type answer struct {
		reading fsm.ClockReading
		offset  int64
		err     error
	}
	answers := make(chan answer, len(voters))
	asked := 0
	for _, id := range voters {
		m, ok := n.store.Member(id)
		if !ok || id == n.cfg.ID {
			continue
		}
		asked++
		go func() {
			before := n.cfg.Clock()
			start := time.Now()
			reply, err := n.peers.of(id).Clock(ctx, &peerpb.ClockRequest{})
			if err != nil {
				answers <- answer{err: fmt.Errorf("%s: %w", id, peerError(err))}
				return
			}
			r := fsm.ClockReading{Node: id, Time: reply.Time, Signature: reply.Signature}
			// The reading is taken to be from the middle of the round trip.
			answers <- answer{r, reply.Time - before.Add(time.Since(start)/2).UnixMilli(), verifyReading(cl, m, r)}
		}()
	}
	var errs []error
	for range asked {
		a := <-answers
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		c.readings = append(c.readings, a.reading)
		c.offsets[a.reading.Node] = a.offset
		if c.judge(len(voters)); c.fine() {
			break
		}
	}
	n.clock.offset.Store(c.median)
	if !c.enough {
		return c, fmt.Errorf("%d of %d clocks could be read: %w", len(c.readings), len(voters), errors.Join(errs...))
	}
	return c, nil
}

// judge takes the median of what is there, this node's own offset 0 included; of an even number the mean
// of the middle two.
func (c *comparison) judge(voters int) {
	offsets := make([]int64, 1, len(c.offsets)+1)
	for _, o := range c.offsets {
		offsets = append(offsets, o)
	}
	slices.Sort(offsets)
	mid := len(offsets) / 2
	c.median = offsets[mid]
	if len(offsets)%2 == 0 {
		c.median = (offsets[mid-1] + offsets[mid]) / 2
	}
	c.enough = len(offsets)*2 > voters
}

// best is the voter whose clock is nearest to the median, for handing leadership on.
func (c comparison) best() string {
	node, least := "", int64(0)
	for id, o := range c.offsets {
		if d := abs(o - c.median); node == "" || d < least || d == least && id < node {
			node, least = id, d
		}
	}
	return node
}

// voters of the newest configuration.
func (n *Node) voters() []string {
	var ids []string
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	slices.Sort(ids)
	return ids
}

// clockDuty keeps the proposer closed while this clock is not to be trusted, and jumps cluster time where
// a majority's signed readings say that much has passed (a cluster that was off for a year).
type clockDuty struct {
	n    *Node
	term uint64

	recheck chan struct{} // capacity 1
}

func newClockDuty(n *Node, term uint64) *clockDuty {
	return &clockDuty{n: n, term: term, recheck: make(chan struct{}, 1)}
}

// again asks for a check now; the proposer holds until it has been made.
func (d *clockDuty) again() {
	select {
	case d.recheck <- struct{}{}:
	default:
	}
}

// open checks until the clock is confirmed, then opens the proposer. A leader whose clock is off refuses
// records and hands leadership over.
//
// A refused jump leaves a leaf in the audit log, so the tries become rarer.
func (d *clockDuty) open(ctx context.Context) error {
	const first, slowest = 200 * time.Millisecond, 30 * time.Second
	refused := first
	for {
		pause := first
		c, err := d.n.compareClocks(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			d.n.log.Info("no majority of clocks yet", "error", err)
		case !c.fine():
			d.n.log.Error("this node's clock is off a majority's: it proposes nothing and hands leadership over", "offset_ms", c.median)
			d.n.proposer.closeWith(ErrClockSkew)
			d.n.handOver(ctx, "clock skew", c.best())
		default:
			if err := d.jump(ctx, c); err == nil {
				d.n.proposer.openAt(d.n.store.Time(), d.again)
				return nil
			} else if ctx.Err() == nil {
				d.n.log.Warn("cluster time was not moved on", "error", err)
				var code *CodeError
				if errors.As(err, &code) {
					pause, refused = refused, min(2*refused, slowest)
				}
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// jump proposes a ClockJump if cluster time has to move further than one entry may.
func (d *clockDuty) jump(ctx context.Context, c comparison) error {
	n := d.n
	last := n.store.Time()
	to := n.unixMilli()
	if !n.Initialised() || to-last <= fsm.MaxClockStep.Milliseconds() {
		return nil
	}
	cmd := n.dutyCommand(fsm.KindClockJump, &fsm.ClockJump{To: to, Readings: c.readings}, fsm.Audit{
		Action: "clock.jump", Resource: "cluster", Decision: fsm.Allowed,
		Detail: fmt.Sprintf("from=%d to=%d", last, to),
	})
	cmd.Term = d.term
	record, err := encodeRecord(cmd)
	if err != nil {
		return err
	}
	result, err := n.proposer.direct(ctx, record, last)
	if err != nil {
		return err
	}
	if err := codeError(result); err != nil {
		return err
	}
	n.log.Warn("cluster time jumped", "from", time.UnixMilli(last), "to", time.UnixMilli(to))
	return nil
}

// run watches the clock for the rest of the term, and lets cluster time move on while nothing else does.
func (d *clockDuty) run(ctx context.Context) {
	check := time.NewTicker(clockEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.recheck:
			if d.open(ctx) != nil {
				return
			}
			continue
		case <-check.C:
		}
		c, err := d.n.compareClocks(ctx)
		if err != nil || ctx.Err() != nil {
			continue // without a majority nothing commits either, and raft steps down
		}
		if !c.fine() {
			d.n.proposer.closeWith(ErrClockSkew)
			if d.open(ctx) != nil {
				return
			}
		}
		if d.n.Initialised() && d.n.unixMilli()-d.n.store.Time() >= tickEvery.Milliseconds() {
			if d.tick(ctx) != nil {
				return
			}
		}
	}
}

// tick moves cluster time on. Where the clock has gone further than one entry may (all machines were suspended), the
// proposer holds the tick until the clock was looked at, which is this duty's to do meanwhile. It is an error if the term
// is over.
func (d *clockDuty) tick(ctx context.Context) error {
	cmd := d.n.dutyCommand(fsm.KindTick, &fsm.Tick{})
	cmd.Term = d.term
	done := make(chan error, 1)
	go func() {
		_, err := d.n.Propose(ctx, cmd)
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				d.n.log.Info("tick", "error", err)
			}
			return context.Cause(ctx)
		case <-d.recheck:
			if err := d.open(ctx); err != nil {
				return err
			}
		}
	}
}
