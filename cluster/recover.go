package cluster

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/fsm"
)

// Recovery from a lost quorum. Where most voters are gone for good nothing can commit any more, their removal least of
// all. So one survivor is made the only voter while it does not run, and goes on with its log to the last entry; the other
// survivors come back to it as members do, and whoever was given up is removed.
//
//	look     each survivor prints a report: how far its log goes, signed by its HSM key
//	decide   on one of them, with the reports of all others: the one whose log is newest (last term, then last
//	         index; Raft's own rule, sections 5.4.1 and 5.4.3) holds everything that any survivor knows to be committed
//	rewrite  raft.RecoverCluster: apply the log to its end, snapshot with the new configuration, drop the log
//	record   the first record of its first term says who did it, when, why, who was given up and where the log
//	         ended (recordRecovery), and the given up are removed; operators unseal; then the root is rotated as
//	         after every removal
//
// A crash before the rewrite's snapshot is published leaves the file "recovery" in stage begun: the node refuses to start
// and the command goes on where it was, once it was confirmed again: it may be days later. After it, stage done, until the record has committed.

// Errors of a recovery.
var (
	// ErrRecoveryBegun says that a recovery of this node did not come to its end.
	ErrRecoveryBegun = errors.New("a recovery of this node was begun and not finished: run hizod recover --config FILE, which says how to finish it")
	// ErrQuorumThere says that there is nothing to recover.
	ErrQuorumThere = errors.New("the nodes that are left are a majority: start them, and remove the lost ones with hizo cluster remove")
	// ErrNotNewest says that another survivor has to be the one.
	ErrNotNewest = errors.New("another survivor's log is newer than this one's: recover there")
	// ErrReport says that a report is not what it should be.
	ErrReport = errors.New("not a report of hizod recover on another member of this cluster")
	// ErrRecoveryPlan says that the answers do not fit together.
	ErrRecoveryPlan = errors.New("recovery refused, nothing was changed")
)

// reportAge is how old the report of another survivor may be, by this node's clock. A node that was started since may have
// more than it says, and nobody would notice.
const reportAge = time.Hour

const (
	recoveryName  = "recovery"
	recoveryBegun = "begun"
	recoveryDone  = "done"
)

// recoveryFile is what the node remembers until its recovery is in the log.
type recoveryFile struct {
	Stage  string
	Record fsm.Recovered
}

// Offline is a node that does not run, open for hizod recover.
type Offline struct {
	n      *Node
	pubkey []byte
	undo   []func()

	// Found is what the disk says, as of OpenOffline.
	Found Finding
}

// Finding is how far a node came.
type Finding struct {
	Node, ClusterName   string
	Cluster             [16]byte
	LastIndex, LastTerm uint64 // of the log
	Applied             uint64 // what the state has reached; the rest is applied when the node starts, or here
	Voters, NonVoters   []string
	Members             []fsm.Member
	Level               uint32
	Begun               *fsm.Recovered // a recovery that was not finished
}

// OpenOffline opens a node's data directory, which no process may use.
func OpenOffline(ctx context.Context, id, dataDir string, s seal.Seal, log *slog.Logger) (_ *Offline, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o := &Offline{n: &Node{cfg: Config{ID: id, DataDir: dataDir, Seal: s, Logger: log}, log: log, meter: newNodeMeter()}}
	o.n.cfg.Exit = func(code int, why error) {
		log.Error("stopped", "error", why)
		os.Exit(code)
	}
	defer func() {
		if err != nil {
			_ = o.Close()
		}
	}()
	if _, err := os.Stat(filepath.Join(dataDir, "raft.db")); err != nil {
		return nil, fmt.Errorf("%s holds no data of a node: %w", dataDir, err)
	}
	if err := seal.EnsureKey(ctx, s, seal.Local); err != nil {
		return nil, fmt.Errorf("this node's own HSM key: %w", err)
	}
	var rc raft.Config
	if err := o.n.openStorage(&rc, &o.undo); err != nil {
		return nil, fmt.Errorf("%w (is hizod still running here? stop it first)", err)
	}
	return o, o.look(ctx)
}

// Close closes what was opened.
func (o *Offline) Close() error {
	for i := len(o.undo) - 1; i >= 0; i-- {
		o.undo[i]()
	}
	o.undo = nil
	return nil
}

func (o *Offline) look(ctx context.Context) error {
	n := o.n
	cl, ok := n.store.Cluster()
	if !ok {
		return ErrNotInitialised
	}
	me, ok := n.store.Member(n.cfg.ID)
	if !ok {
		return fmt.Errorf("%s is no member in its own state: %w", n.cfg.ID, ErrRecoveryPlan)
	}
	o.pubkey = me.Key
	f := Finding{
		Node: n.cfg.ID, Cluster: cl.ID, ClusterName: cl.Name, Applied: n.store.Position().Index,
		Members: n.store.Members(), Level: n.store.Level(),
	}
	configuration, err := o.lastEntry(&f)
	if err != nil {
		return err
	}
	for _, s := range configuration.Servers {
		if s.Suffrage == raft.Voter {
			f.Voters = append(f.Voters, string(s.ID))
		} else {
			f.NonVoters = append(f.NonVoters, string(s.ID))
		}
	}
	pending, err := n.readRecovery(ctx)
	if err != nil {
		return err
	}
	if pending != nil && pending.Stage == recoveryBegun {
		f.Begun = &pending.Record
	}
	o.Found = f
	return nil
}

// lastEntry finds the end of the log, and the newest configuration in it: committed or not, it is what Raft goes by.
func (o *Offline) lastEntry(f *Finding) (configuration raft.Configuration, err error) {
	from := uint64(1)
	list, err := o.n.snaps.List()
	if err != nil {
		return configuration, err
	}
	if len(list) > 0 {
		f.LastIndex, f.LastTerm, configuration = list[0].Index, list[0].Term, list[0].Configuration
		from = list[0].Index + 1
	}
	last, err := o.n.logs.LastIndex()
	if err != nil {
		return configuration, fmt.Errorf("read the log: %w", err)
	}
	for i := from; i <= last; i++ {
		var entry raft.Log
		if err := o.n.logs.GetLog(i, &entry); err != nil {
			return configuration, fmt.Errorf("read log entry %d: %w", i, err)
		}
		if entry.Type == raft.LogConfiguration {
			configuration = raft.DecodeConfiguration(entry.Data)
		}
		f.LastIndex, f.LastTerm = entry.Index, entry.Term
	}
	return configuration, nil
}

// report is what a survivor says of itself, in the text that people carry from one node to the other.
type report struct {
	Node                string
	Cluster             []byte
	LastIndex, LastTerm uint64
	At                  int64
	Signature           []byte // ECDSA by the node's HSM identity
}

const reportPrefix = "hizorecover1_"

func (r report) digest() []byte {
	sum := sha256.Sum256(aad.Tuple("hizo/recover/report/v1", r.Cluster, []byte(r.Node),
		binary.BigEndian.AppendUint64(nil, r.LastIndex), binary.BigEndian.AppendUint64(nil, r.LastTerm),
		binary.BigEndian.AppendUint64(nil, uint64(r.At))))
	return sum[:]
}

// Report is this node's, for the survivor that may have the newest log.
func (o *Offline) Report(now time.Time) (string, error) {
	r := report{Node: o.Found.Node, Cluster: o.Found.Cluster[:], LastIndex: o.Found.LastIndex, LastTerm: o.Found.LastTerm, At: now.UnixMilli()}
	var err error
	if r.Signature, err = o.n.cfg.Seal.Identity().Sign(rand.Reader, r.digest(), crypto.SHA256); err != nil {
		return "", fmt.Errorf("sign the report: %w", err)
	}
	b, err := json.Marshal(r)
	return reportPrefix + base64.RawURLEncoding.EncodeToString(b), err
}

func parseReport(text string) (r report, err error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), reportPrefix)
	if !ok || len(encoded) > 4096 {
		return r, ErrReport
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return r, ErrReport
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, ErrReport
	}
	return r, nil
}

// RecoverRequest is what an operator decides.
type RecoverRequest struct {
	Reports []string // of all other survivors
	GiveUp  []string // every other member: lost for good
	By      string
	Reason  string
	Now     time.Time // the reports are of the last hour
}

// Plan is a request that may be carried out.
type Plan struct {
	record fsm.Recovered
	// Code is to be repeated by whoever wants it carried out: it stands for this node, the end of its log and who is
	// given up.
	Code      string
	Survivors []Survivor
	Lost      []fsm.Member // given up
}

// Survivor is another node that is left.
type Survivor struct {
	ID                  string
	LastIndex, LastTerm uint64
	At                  time.Time // of its report
}

// Plan checks a request. It changes nothing.
func (o *Offline) Plan(req RecoverRequest) (*Plan, error) {
	f := o.Found
	no := func(format string, args ...any) (*Plan, error) {
		return nil, fmt.Errorf("%w: %s", ErrRecoveryPlan, fmt.Sprintf(format, args...))
	}
	members := make(map[string]fsm.Member)
	for _, m := range f.Members {
		members[m.ID] = m
	}
	if me := members[f.Node]; !trusted(me) {
		return no("%s is not approved or is quarantined", f.Node)
	}
	p := &Plan{record: fsm.Recovered{
		Node: f.Node, By: req.By, Reason: req.Reason, LastIndex: f.LastIndex, LastTerm: f.LastTerm,
	}}
	settled := map[string]bool{f.Node: true}
	for _, text := range req.Reports {
		r, err := parseReport(text)
		if err != nil {
			return nil, err
		}
		m, known := members[r.Node]
		switch {
		case !known || !bytes.Equal(r.Cluster, f.Cluster[:]) || r.Node == f.Node || verifySignature(m, r.digest(), r.Signature) != nil:
			return nil, fmt.Errorf("report of %q: %w", r.Node, ErrReport)
		case settled[r.Node]:
			return no("there are two reports of %s", r.Node)
		case req.Now.Sub(time.UnixMilli(r.At)).Abs() > reportAge:
			return no("the report of %s is of %s, and this node's clock says %s: it may have run since and have more. Run hizod recover --config FILE "+
				"there again", r.Node, time.UnixMilli(r.At).UTC().Format(time.RFC3339), req.Now.UTC().Format(time.RFC3339))
		case r.LastTerm > f.LastTerm || r.LastTerm == f.LastTerm && r.LastIndex > f.LastIndex:
			return nil, fmt.Errorf("%w (%s: entry %d of term %d; here: entry %d of term %d)", ErrNotNewest, r.Node,
				r.LastIndex, r.LastTerm, f.LastIndex, f.LastTerm)
		}
		settled[r.Node] = true
		p.Survivors = append(p.Survivors, Survivor{r.Node, r.LastIndex, r.LastTerm, time.UnixMilli(r.At)})
		p.record.Survivors = append(p.record.Survivors, r.Node)
	}
	for _, id := range req.GiveUp {
		m, known := members[id]
		switch {
		case !known:
			return no("%q is no member", id)
		case settled[id]:
			return no("%s is named twice, or is a node that is left", id)
		}
		settled[id] = true
		p.Lost = append(p.Lost, m)
		p.record.GivenUp = append(p.record.GivenUp, id)
	}
	left := 0
	for _, id := range f.Voters {
		if settled[id] && !slices.Contains(req.GiveUp, id) {
			left++
		}
	}
	var open []string
	for _, m := range f.Members {
		if !settled[m.ID] {
			open = append(open, m.ID)
		}
	}
	for _, id := range append(slices.Clone(f.Voters), f.NonVoters...) {
		if _, known := members[id]; !known {
			return no("%s is in Raft's configuration and not in the state yet: start this node once, let it come to the end of its log, and stop it", id)
		}
	}
	switch {
	case len(open) > 0:
		return no("nothing is said of %s: give each up, or bring its report (hizod recover --config FILE there)", strings.Join(open, ", "))
	case left > len(f.Voters)/2: // on a node without a vote too: those who have one would go on beside it
		return nil, ErrQuorumThere
	case len(p.Lost) == 0:
		return no("no node is given up")
	case req.By == "" || req.Reason == "":
		return no("say who does this and why: it goes into the audit log")
	case len(req.By) > 200 || len(req.Reason) > 200:
		return no("who and why have 200 bytes each at most")
	}
	slices.Sort(p.record.Survivors)
	slices.Sort(p.record.GivenUp)
	p.Code = planCode(f.Cluster, p.record)
	return p, nil
}

func planCode(cluster [16]byte, r fsm.Recovered) string {
	sum := sha256.Sum256(aad.Tuple("hizo/recover/plan/v1", cluster[:], []byte(r.Node), []byte(strings.Join(r.GivenUp, ",")),
		binary.BigEndian.AppendUint64(nil, r.LastIndex), binary.BigEndian.AppendUint64(nil, r.LastTerm)))
	return hex.EncodeToString(sum[:4])
}

// Unfinished is the plan of a recovery that was begun here and did not come to its end, nil if there is none.
func (o *Offline) Unfinished() *Plan {
	if o.Found.Begun == nil {
		return nil
	}
	p := &Plan{record: *o.Found.Begun, Code: planCode(o.Found.Cluster, *o.Found.Begun)}
	for _, id := range p.record.GivenUp {
		lost := fsm.Member{ID: id}
		for _, m := range o.Found.Members {
			if m.ID == id {
				lost = m
			}
		}
		p.Lost = append(p.Lost, lost)
	}
	return p
}

// Carry carries a plan out.
func (o *Offline) Carry(ctx context.Context, p *Plan, now time.Time) error {
	if err := o.begin(ctx, p, now); err != nil {
		return err
	}
	return o.Finish(ctx, p.Code)
}

// begin is the point from which on there is no way back.
func (o *Offline) begin(ctx context.Context, p *Plan, now time.Time) error {
	record := p.record
	rand.Read(record.ID[:])
	record.At = now.UnixMilli()
	if err := o.n.writeRecovery(ctx, recoveryFile{Stage: recoveryBegun, Record: record}); err != nil {
		return err
	}
	o.Found.Begun = &record
	return nil
}

// Finish goes on with a recovery that was begun. It takes the code of its plan again: who was given up then may be back.
func (o *Offline) Finish(ctx context.Context, code string) error {
	p := o.Unfinished()
	if p == nil {
		return fmt.Errorf("%w: none was begun", ErrRecoveryPlan)
	}
	if code != p.Code {
		return fmt.Errorf("%w: the code is of another plan than the one that was begun", ErrRecoveryPlan)
	}
	return o.rewrite(ctx, recoveryFile{Stage: recoveryBegun, Record: *o.Found.Begun})
}

func (o *Offline) rewrite(ctx context.Context, rec recoveryFile) error {
	n := o.n
	rc, err := raftConfig(n.cfg, make(chan bool, 1))
	if err != nil {
		return err
	}
	id := raft.ServerID(n.cfg.ID)
	err = raft.RecoverCluster(rc, n.store, n.logs, n.logs, n.snaps, nil, raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)},
	}})
	if err != nil {
		return fmt.Errorf("rewrite raft's configuration: %w (run hizod recover --config FILE again to go on)", err)
	}
	rec.Stage = recoveryDone
	return n.writeRecovery(ctx, rec)
}

func (n *Node) readRecovery(ctx context.Context) (*recoveryFile, error) {
	b, err := seal.ReadFile(ctx, n.cfg.Seal, n.path(recoveryName), recoveryName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	rec := new(recoveryFile)
	if err == nil {
		err = json.Unmarshal(b, rec)
	}
	if err != nil {
		return nil, fmt.Errorf("the file of a recovery, %s: %w", n.path(recoveryName), err)
	}
	return rec, nil
}

func (n *Node) writeRecovery(ctx context.Context, rec recoveryFile) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return seal.WriteFile(ctx, n.cfg.Seal, n.path(recoveryName), recoveryName, b)
}

// loadRecovery refuses to start on half a recovery, and keeps what a whole one has to say until this node leads.
func (n *Node) loadRecovery() error {
	rec, err := n.readRecovery(n.ctx)
	if err != nil {
		return err
	}
	if rec != nil && rec.Stage != recoveryDone {
		return ErrRecoveryBegun
	}
	n.recovery = rec
	return nil
}

// recordRecovery puts the recovery into the log and removes who was given up, before anything else of the term.
// Every step can be repeated: Apply knows the recovery by its id, and members that are gone are gone.
func (n *Node) recordRecovery(ctx context.Context, term uint64) {
	if n.recovery == nil {
		return
	}
	record := n.recovery.Record
	step := func(kind fsm.Kind, body any, settled fsm.Code, audit fsm.Audit) error {
		cmd := n.dutyCommand(kind, body, audit)
		cmd.Term = term
		encoded, err := encodeRecord(cmd)
		if err != nil {
			return err
		}
		// Past ProposeAfter: the cluster is sealed as yet, and its operators unseal what this makes of it.
		result, err := n.proposer.propose(ctx, encoded, nil)
		if err == nil && result.Code != settled {
			err = codeError(result)
		}
		return err
	}
	const first, slowest = 200 * time.Millisecond, 30 * time.Second
	for pause := first; ; pause = min(2*pause, slowest) { // a refusal is a leaf of the audit log
		err := step(fsm.KindRecovered, &record, fsm.CodeExists, fsm.Audit{Action: fsm.ActionRecover, Resource: "cluster", Decision: fsm.Allowed})
		for _, id := range record.GivenUp {
			if err == nil {
				err = step(fsm.KindMemberRemove, &fsm.MemberRemove{ID: id}, fsm.CodeNotFound,
					fsm.Audit{Action: fsm.ActionRemove, Resource: "node/" + id, Decision: fsm.Allowed})
			}
		}
		if err == nil {
			err = os.Remove(n.path(recoveryName))
		}
		if err == nil {
			n.recovery = nil
			n.log.Warn("the recovery from a lost quorum is in the audit log; operators have to unseal",
				"last_index", record.LastIndex, "last_term", record.LastTerm, "gave_up", record.GivenUp, "survivors", record.Survivors, "by", record.By)
			return
		}
		n.log.Error("the recovery is not in the audit log yet", "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
