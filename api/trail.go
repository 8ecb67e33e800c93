package api

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// auditService shows and exports the audit log. Looking at it is on record as well.
type auditService struct {
	hizov1.UnimplementedAuditServiceServer
	*Server
}

const (
	tailBatch    = 256         // records between two looks at the reader's rights
	searchBudget = 50_000      // records that one Search looks at
	exportChunk  = 128 << 10   // bytes of one message of an export, about
	tailLook     = time.Second // a token that merely expires makes no event
)

// still says whether the caller of a long call may go on: the node leads, the token is good, the policies
// allow. It asks the same mechanism as a new call and makes no record.
func (g *gate) still(a *answer, t target) error {
	foot, err := g.footing()
	if err != nil {
		return err
	}
	r := &round{footing: foot, origin: a.origin, now: g.now(foot.store), targets: []target{t}}
	if r.caller, err = g.authenticate(r); err != nil {
		return err
	}
	if r.now >= r.caller.expires { // no record follows here, whose time would decide
		return g.stranger(a.origin)
	}
	verdicts, err := g.authorise(r)
	if err != nil {
		return err
	}
	if v := firstDenied(verdicts); v != nil {
		return v.denied(g, r)
	}
	return nil
}

// record opens an audit record for its reader.
func (s *Server) record(f footing, rec fsm.AuditRecord) *hizov1.AuditRecord {
	leaf := audit.LeafHash(rec.LeafBytes())
	out := &hizov1.AuditRecord{
		Sequence: rec.Seq, TimeUnixMs: rec.Time, Principal: rec.Principal, Action: rec.Action, Resource: rec.Resource,
		Version: rec.Version, Decision: audit.DecisionText(uint8(rec.Decision)), Policies: rec.Policies,
		Outcome: audit.OutcomeText(uint8(rec.Outcome)), Detail: rec.Detail, Count: max(1, rec.Count), LeafHash: leaf[:],
	}
	part, err := f.open(rec)
	if err != nil {
		// Made by a key that is gone, or tampered with: verify tells which; the reader sees that it is there.
		s.log.Warn("the sealed part of an audit record does not open", "sequence", rec.Seq, "error", err)
		out.Claims = map[string]string{"sealed-part": "unreadable"}
		return out
	}
	if part.Addr.IsValid() {
		out.ClientAddress = part.Addr.String()
	}
	out.Reason, out.Claims = part.Reason, part.Claims
	if part.Request != [16]byte{} {
		out.RequestId = uuid.UUID(part.Request).String()
	}
	return out
}

// Tail streams records, and goes on with new ones if it is to follow. The reader's rights are looked at
// again with every batch: after its records were read, before they are sent.
func (s *auditService) Tail(req *hizov1.TailRequest, stream grpc.ServerStreamingServer[hizov1.AuditRecord]) error {
	if err := hold(s.tails); err != nil {
		return err
	}
	defer unhold(s.tails)
	ctx := stream.Context()
	t := onSystem(policy.AuditRead)
	t.detail = "tail"
	a, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{t}})
	if err != nil {
		return err
	}
	next, size := req.GetFrom(), a.store.AuditSize()
	if last := uint64(req.GetLast()); next == 0 && (last > 0 || req.GetFollow()) {
		next = size - min(size, last)
	}
	look := time.NewTicker(tailLook)
	defer look.Stop()
	for {
		changed := a.store.Changed()
		batch := make([]fsm.AuditRecord, 0, tailBatch)
		for rec, err := range a.store.AuditRecords(next, min(next+tailBatch, a.store.AuditSize())) {
			if err != nil {
				return err
			}
			batch = append(batch, rec)
		}
		if err := s.gate.still(a, t); err != nil {
			return err
		}
		for _, rec := range batch {
			if err := stream.Send(s.record(a.footing, rec)); err != nil {
				return err
			}
			next = rec.Seq + 1
		}
		switch {
		case len(batch) == tailBatch:
			continue
		case !req.GetFollow():
			return nil
		}
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return fault(hizov1.ReasonShutdown)
		}
	}
}

// Search returns records that match, newest first. One call looks at a bounded number of records; the
// answer says where the next one goes on.
func (s *auditService) Search(ctx context.Context, req *hizov1.SearchRequest) (*hizov1.SearchResponse, error) {
	limit, err := s.page(req.GetLimit())
	if err != nil {
		return nil, err
	}
	for _, text := range []string{req.GetPrincipal(), req.GetResource(), req.GetAction(), req.GetDecision()} {
		if len(text) > name.MaxVault+1+name.MaxPath {
			return nil, invalid("filter", "no record holds so long a text")
		}
	}
	t := onSystem(policy.AuditRead)
	t.detail = "search"
	a, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{t}})
	if err != nil {
		return nil, err
	}
	to := a.store.AuditSize()
	if b := req.GetBefore(); b > 0 {
		to = min(to, b)
	}
	from := to - min(to, searchBudget)
	out := &hizov1.SearchResponse{NextBefore: from}
	for rec, err := range a.store.AuditRecordsBackward(from, to) {
		if err != nil {
			return nil, err
		}
		if since := req.GetSinceUnixMs(); since > 0 && rec.Time < since {
			out.NextBefore = 0 // cluster time never goes back: nothing older can match
			break
		}
		if !matches(req, &rec) {
			continue
		}
		out.Records = append(out.Records, s.record(a.footing, rec))
		if len(out.Records) == limit {
			out.NextBefore = rec.Seq
			break
		}
	}
	if !current(a.store, a.reads) {
		if err := s.gate.still(a, t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func matches(req *hizov1.SearchRequest, rec *fsm.AuditRecord) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	resource := is(req.GetResource(), rec.Resource)
	if strings.HasSuffix(req.GetResource(), "/") {
		resource = strings.HasPrefix(rec.Resource, req.GetResource())
	}
	until := req.GetUntilUnixMs()
	return resource && is(req.GetPrincipal(), rec.Principal) && is(req.GetAction(), rec.Action) &&
		is(req.GetDecision(), audit.DecisionText(uint8(rec.Decision))) && (until == 0 || rec.Time < until)
}

// signers knows the keys that nodes had, removed ones too.
type signers map[string][][]byte

// add reads a record of membership.
func (k signers) add(rec *fsm.AuditRecord) {
	if node, key, ok := audit.Member(rec.Action, rec.Detail); ok && rec.Outcome == fsm.CodeOK {
		k[node] = append(k[node], key)
	}
}

// note writes a checkpoint with the signatures whose keys are known. Of several keys that one node had,
// the one is named that made the signature.
func (k signers) note(c fsm.Checkpoint) (string, error) {
	n := audit.Note{Checkpoint: audit.Checkpoint{Origin: c.Origin, Size: c.Size, Time: c.Time}}
	if copy(n.Root[:], c.Root) != len(n.Root) {
		return "", fmt.Errorf("checkpoint over %d records has a root of %d bytes", c.Size, len(c.Root))
	}
	for _, sig := range c.Signatures {
		for _, key := range k[sig.Node] {
			s := audit.Signature{Node: sig.Node, Key: audit.KeyHint(key), Signature: sig.Signature}
			if audit.CheckSignature(key, n.Text(), s) == nil {
				n.Signatures = append(n.Signatures, s)
				break
			}
		}
	}
	return n.Format(), nil
}

// signersBefore reads every record of membership below seq.
func signersBefore(store *fsm.Store, seq uint64) (signers, error) {
	k := make(signers)
	for rec, err := range store.AuditRecords(0, seq) {
		if err != nil {
			return nil, err
		}
		k.add(&rec)
	}
	return k, nil
}

// currentSigners are the members of now: who signed the newest checkpoint, but for one removed since.
func currentSigners(store *fsm.Store) signers {
	k := make(signers)
	for _, m := range store.Members() {
		k[m.ID] = [][]byte{m.Key}
	}
	return k
}

// chunks makes messages of an export's bytes.
type chunks struct {
	buf  bytes.Buffer
	send func([]byte) error
}

func (c *chunks) Write(p []byte) (int, error) {
	c.buf.Write(p)
	if c.buf.Len() < exportChunk {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *chunks) flush() error {
	if c.buf.Len() == 0 {
		return nil
	}
	defer c.buf.Reset()
	return c.send(bytes.Clone(c.buf.Bytes()))
}

// Export streams an export (docs/audit-format.md). The sealed parts stay sealed.
func (s *auditService) Export(req *hizov1.ExportRequest, stream grpc.ServerStreamingServer[hizov1.ExportChunk]) error {
	if err := hold(s.tails); err != nil {
		return err
	}
	defer unhold(s.tails)
	t := onSystem(policy.AuditExport)
	a, err := s.gate.do(stream.Context(), &call{kind: fsm.KindRecord, targets: []target{t}})
	if err != nil {
		return err
	}
	from, to := req.GetFrom(), req.GetTo()
	if to == 0 {
		newest, ok := a.store.LatestCheckpoint()
		if !ok {
			return &Error{Reason: hizov1.ReasonNotFound, Message: "there is no signed checkpoint yet: try again in a few seconds, or name an end with --to"}
		}
		to = newest.Size
	}
	if from > to && req.GetTo() == 0 {
		return invalid("from", "the newest checkpoint covers %d records, and record %d is asked for: if a checkpoint over more was seen, this log was rolled back, as by a restore from a backup", to, from)
	}
	if size := a.store.AuditSize(); to > size || from > to {
		return invalid("to", "the log has %d records: export from at most there, and to at most there", size)
	}
	trust, err := s.trust()
	if err != nil {
		return err
	}
	known, err := signersBefore(a.store, from)
	if err != nil {
		return err
	}
	out := &chunks{send: func(b []byte) error {
		if err := s.gate.still(a, t); err != nil {
			return err
		}
		return stream.Send(&hizov1.ExportChunk{Data: b})
	}}
	w, err := audit.NewWriter(out, trust.Cluster, trust.Genesis, from)
	if err != nil {
		return err
	}
	checkpoints := a.store.Checkpoints(from + 1)
	for rec, err := range a.store.AuditRecords(from, to) {
		if err != nil {
			return err
		}
		known.add(&rec)
		if err := w.Leaf(rec.LeafBytes()); err != nil {
			return err
		}
		for len(checkpoints) > 0 && checkpoints[0].Size <= rec.Seq+1 {
			if checkpoints[0].Size == rec.Seq+1 {
				note, err := known.note(checkpoints[0])
				if err != nil {
					return err
				}
				if err := w.Checkpoint(note); err != nil {
					return err
				}
			}
			checkpoints = checkpoints[1:]
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.flush()
}

// Prove proves that a record is in the log that the newest checkpoint states.
func (s *auditService) Prove(ctx context.Context, req *hizov1.ProveRequest) (*hizov1.ProveResponse, error) {
	t := onSystem(policy.AuditProve)
	t.detail = fmt.Sprintf("record %d", req.GetSequence())
	var out *hizov1.ProveResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{t}}, func(a *answer) (err error) {
		out, err = s.prove(a, req)
		return err
	})
	return sent(out, err)
}

func (s *auditService) prove(a *answer, req *hizov1.ProveRequest) (*hizov1.ProveResponse, error) {
	newest, ok := a.store.LatestCheckpoint()
	if !ok || newest.Size <= req.GetSequence() {
		return nil, &Error{Reason: hizov1.ReasonNotFound, Message: fmt.Sprintf("no checkpoint covers record %d yet (%d records are signed): try again in a few seconds", req.GetSequence(), newest.Size)}
	}
	leaf, err := a.store.AuditLeaf(req.GetSequence())
	if err != nil {
		return nil, err
	}
	rec, err := fsm.ParseLeaf(leaf)
	if err != nil {
		return nil, err
	}
	path, err := a.store.ProveRecord(req.GetSequence(), newest.Size)
	if err != nil {
		return nil, err
	}
	note, err := s.note(a.store, newest)
	if err != nil {
		return nil, err
	}
	out := &hizov1.ProveResponse{Record: s.record(a.footing, rec), Leaf: leaf, Checkpoint: note}
	for _, h := range path {
		out.Path = append(out.Path, h[:])
	}
	return out, nil
}

// note writes a recent checkpoint.
func (s *Server) note(store *fsm.Store, c fsm.Checkpoint) (string, error) {
	known := currentSigners(store)
	for _, sig := range c.Signatures {
		if _, ok := known[sig.Node]; !ok { // removed since
			all, err := signersBefore(store, c.Size)
			if err != nil {
				return "", err
			}
			return all.note(c)
		}
	}
	return known.note(c)
}

// LatestCheckpoint returns the newest signed statement of the log.
func (s *auditService) LatestCheckpoint(ctx context.Context, _ *hizov1.CheckpointRequest) (*hizov1.CheckpointResponse, error) {
	var out *hizov1.CheckpointResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.AuditVerify)}}, func(a *answer) error {
		newest, ok := a.store.LatestCheckpoint()
		if !ok {
			return &Error{Reason: hizov1.ReasonNotFound, Message: "there is no signed checkpoint yet: try again in a few seconds"}
		}
		note, err := s.note(a.store, newest)
		out = &hizov1.CheckpointResponse{Checkpoint: note, Size: newest.Size, TimeUnixMs: newest.Time}
		return err
	})
	return sent(out, err)
}
