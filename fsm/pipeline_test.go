package fsm_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

func (w *world) workload(name string) fsm.Command {
	return w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: name}})
}

func (w *world) pipeline(p fsm.Pipeline, create bool) fsm.Command {
	return w.do(fsm.KindPipelinePut, fsm.PipelinePut{Pipeline: p, Create: create})
}

func (w *world) revokeSeal(pipeline, seal string, expires int64) fsm.Command {
	return w.do(fsm.KindSealRevoke, fsm.SealRevocation{
		Vault: "ml", Pipeline: pipeline, Digest: fsmtest.HashOf(seal), By: "user/alice", Expires: expires,
	})
}

func (w *world) inject(pipeline string, refs []fsm.Ref, seals ...string) fsm.Command {
	body := fsm.Injection{Vault: "ml", Pipeline: pipeline, Refs: refs}
	for _, s := range seals {
		body.Seals = append(body.Seals, fsmtest.HashOf(s))
	}
	c := w.Command(fsm.KindInject, "workload/train", "inject", "ml/db", body)
	c.Audits = nil
	for range len(refs) + len(seals) {
		c.Audits = append(c.Audits, fsm.Audit{Action: "inject", Resource: "ml/db", Decision: fsm.Allowed})
	}
	return c
}

func TestPipelineOfAnIdentityHasOneAnswer(t *testing.T) {
	w := newWorld(t)
	start := w.s.EventsEnd()
	w.want(fsm.CodeNotFound, w.pipeline(fsmtest.Pipeline("ml", "train", "train"), true)) // no such workload
	w.ok(w.workload("train"), w.workload("eval"))
	w.want(fsm.CodeNotFound, w.pipeline(fsmtest.Pipeline("hr", "train", "train"), true)) // no such vault
	w.want(fsm.CodeNotFound, w.pipeline(fsmtest.Pipeline("ml", "train", "train"), false))
	w.ok(w.pipeline(fsmtest.Pipeline("ml", "train", "train"), true))
	w.want(fsm.CodeExists, w.pipeline(fsmtest.Pipeline("ml", "train", "train"), true))
	w.want(fsm.CodeExists, w.pipeline(fsmtest.Pipeline("ml", "other", "eval", "train"), true))
	if _, ok := w.s.PipelineOf("workload/eval"); ok {
		t.Error("a refused pipeline left a runner behind")
	}
	if p, ok := w.s.PipelineOf("workload/train"); !ok || p.Name != "train" {
		t.Errorf("workload/train runs %+v", p)
	}
	before := w.s.Index(fsm.ObjRunner("workload/train"))
	stale := w.inject("train", []fsm.Ref{{Vault: "ml", Path: "db"}})
	stale.Reads = w.reads(fsm.ObjRunner("workload/train"), fsm.ObjPipeline("ml", "train"))
	w.ok(w.pipeline(fsmtest.Pipeline("ml", "train", "eval"), false), w.pipeline(fsmtest.Pipeline("ml", "other", "train"), true))
	if p, ok := w.s.PipelineOf("workload/train"); !ok || p.Name != "other" || w.s.Index(fsm.ObjRunner("workload/train")) == before {
		t.Errorf("workload/train runs %+v after it moved", p)
	}
	w.want(fsm.CodeSuperseded, stale)
	w.ok(w.do(fsm.KindPipelineDelete, fsm.PipelineDelete{Vault: "ml", Name: "other"}))
	if _, ok := w.s.PipelineOf("workload/train"); ok {
		t.Error("a deleted pipeline is still run")
	}
	w.want(fsm.CodeNotFound, w.do(fsm.KindPipelineDelete, fsm.PipelineDelete{Vault: "ml", Name: "other"}))
	if told := w.events(start); !slices.Equal(told, []string{"9 ml/train@0", "9 ml/train@0", "9 ml/other@0", "9 ml/other@0"}) {
		t.Errorf("watchers were told of %v", told)
	}
}

func TestMalformedPipelines(t *testing.T) {
	w := newWorld(t)
	w.ok(w.workload("train"), w.workload("eval"))
	many := func(n int) (list []fsm.PipelineVariable) {
		for i := range n {
			list = append(list, fsm.PipelineVariable{Name: fmt.Sprintf("V%03d", i)})
		}
		return list
	}
	for what, spoil := range map[string]func(*fsm.Pipeline){
		"no key":           func(p *fsm.Pipeline) { p.Keys = nil },
		"no current key":   func(p *fsm.Pipeline) { p.Keys[0].Until = 1 },
		"two current keys": func(p *fsm.Pipeline) { p.Keys = append(p.Keys, p.Keys[0]) },
		"short key id":     func(p *fsm.Pipeline) { p.Keys[0].ID = p.Keys[0].ID[:8] },
		"a user":           func(p *fsm.Pipeline) { p.Identities = []string{"user/alice"} },
		"twice":            func(p *fsm.Pipeline) { p.Identities = []string{"workload/eval", "workload/eval"} },
		"unsorted":         func(p *fsm.Pipeline) { p.Identities = []string{"workload/train", "workload/eval"} },
		"slash":            func(p *fsm.Pipeline) { p.Name = "a/b" },
		"nul":              func(p *fsm.Pipeline) { p.Vault = "ml\x00" },
		"two variables":    func(p *fsm.Pipeline) { p.Variables = []fsm.PipelineVariable{{Name: "A"}, {Name: "A"}} },
		"nameless":         func(p *fsm.Pipeline) { p.Variables = []fsm.PipelineVariable{{}} },
		"both kinds": func(p *fsm.Pipeline) {
			p.Variables = []fsm.PipelineVariable{{Name: "A", Reference: "hizo://", Seal: []byte("x")}}
		},
		"offline for long":   func(p *fsm.Pipeline) { p.Offline = fsm.MaxPipelineOffline + 1 },
		"too many variables": func(p *fsm.Pipeline) { p.Variables = many(fsm.MaxPipelineVariables + 1) },
		"too much sealed": func(p *fsm.Pipeline) {
			p.Variables = []fsm.PipelineVariable{{Name: "A", Seal: make([]byte, fsm.MaxPipelineSealed+1)}}
		},
	} {
		p := fsmtest.Pipeline("ml", "train", "train")
		spoil(&p)
		t.Log(what)
		w.want(fsm.CodeInvalid, w.pipeline(p, true))
	}
	p := fsmtest.Pipeline("ml", "train", "train")
	p.Variables = many(fsm.MaxPipelineVariables)
	w.ok(w.pipeline(p, true))
}

func TestRevokedSealsAreNotReleased(t *testing.T) {
	w := newWorld(t)
	w.ok(w.workload("train"), w.pipeline(fsmtest.Pipeline("ml", "train", "train"), true))
	db := []fsm.Ref{{Vault: "ml", Path: "db"}}
	if r := w.want(fsm.CodeOK, w.inject("train", db, "a", "b")); len(r.Value.([]fsm.VersionData)) != 1 {
		t.Errorf("released %v", r.Value)
	}
	if w.leaf(w.s.AuditSize()-3).Version != 1 {
		t.Error("the record does not name the version")
	}
	checked := w.inject("train", nil, "a")
	checked.Reads = w.reads(fsm.ObjSealRevocation("ml", "train", fsmtest.HashOf("a")))
	w.ok(w.revokeSeal("train", "a", w.Now()+1000))
	w.want(fsm.CodeSuperseded, checked)
	w.want(fsm.CodeDenied, w.inject("train", nil, "a"))
	if r := w.want(fsm.CodeDenied, w.inject("train", db, "b", "a")); r.Value != nil {
		t.Error("a value was released beside a revoked one")
	}
	if d := w.leaf(w.s.AuditSize() - 3).Detail; d != "withheld: another reference of the request was refused" {
		t.Errorf("the reference's record says %q", d)
	}
	w.want(fsm.CodeOK, w.inject("train", nil, "b"))
	w.want(fsm.CodeExists, w.revokeSeal("train", "a", 0))
	w.want(fsm.CodeNotFound, w.revokeSeal("other", "a", 0))
	w.want(fsm.CodeNotFound, w.inject("other", nil, "a"))
	w.want(fsm.CodeInvalid, w.inject("train", nil))
	w.want(fsm.CodeExpired, w.revokeSeal("train", "c", w.Now()-1))
	w.ok(w.revokeSeal("train", "b", 0))
	if n := len(w.s.SealRevocations("ml", "train")); n != 2 {
		t.Errorf("%d revocations", n)
	}
	w.later(3_000) // what has expired is refused without its revocation
	if n := len(w.s.SealRevocations("ml", "train")); n != 1 {
		t.Errorf("%d revocations after one has expired", n)
	}
	w.ok(w.do(fsm.KindPipelineDelete, fsm.PipelineDelete{Vault: "ml", Name: "train"}))
	if n := len(w.s.SealRevocations("ml", "train")); n != 0 {
		t.Errorf("%d revocations of a pipeline that is gone", n)
	}
}
