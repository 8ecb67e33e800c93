package fsmtest

import (
	"fmt"
	"slices"

	"github.com/hizo/hizo/fsm"
)

// Pipeline is one with a key of its own, run by the workloads of these names.
func Pipeline(vault, name string, workloads ...string) fsm.Pipeline {
	p := fsm.Pipeline{
		Vault: vault, Name: name, MAC: []byte("mac"),
		Keys: []fsm.PipelineKey{{ID: HashOf(vault + name)[:16], Salt: HashOf("salt")[:16], Generation: 1}},
	}
	for _, w := range workloads {
		p.Identities = append(p.Identities, fsm.ObjWorkload(w))
	}
	slices.Sort(p.Identities)
	return p
}

// pipeline makes a command about pipelines.
func (r *Random) pipeline(who string) fsm.Command {
	vault, name := r.name("v", 3), r.name("job", 3)
	where := vault + "/" + name
	have, exists := r.store.Pipeline(vault, name)
	switch r.rng.IntN(12) {
	case 0:
		return r.Command(fsm.KindPipelineDelete, who, "pipeline.delete", where, fsm.PipelineDelete{Vault: vault, Name: name})
	case 1, 2, 3:
		body := fsm.SealRevocation{Vault: vault, Pipeline: name, Digest: HashOf(r.name("seal", 9)), By: who, MAC: []byte("mac")}
		if r.rng.IntN(3) > 0 {
			body.Expires = r.expires()
		}
		return r.Command(fsm.KindSealRevoke, who, "pipeline.revoke-seal", where, body)
	case 4, 5, 6:
		body := fsm.Injection{Vault: vault, Pipeline: name}
		for range r.rng.IntN(3) {
			body.Refs = append(body.Refs, fsm.Ref{Vault: r.name("v", 3), Path: r.name("p", 5)})
		}
		for range r.rng.IntN(3) {
			body.Seals = append(body.Seals, HashOf(r.name("seal", 9)))
		}
		c := r.Command(fsm.KindInject, who, "open", where, body)
		for len(c.Audits) < len(body.Refs)+len(body.Seals) {
			c.Audits = append(c.Audits, c.Audits[0])
		}
		return c
	}
	next := Pipeline(vault, name)
	next.Offline = uint32(r.rng.IntN(3)) * fsm.MaxPipelineOffline / 2
	for n := range 3 {
		if r.rng.IntN(3) == 0 {
			next.Identities = append(next.Identities, fmt.Sprintf("workload/w%d", n))
		}
		switch v := (fsm.PipelineVariable{Name: fmt.Sprintf("V%d", n)}); r.rng.IntN(4) {
		case 0:
			v.Reference = "hizo://" + vault + "/" + r.name("p", 5) + "#f"
			next.Variables = append(next.Variables, v)
		case 1:
			v.Seal = HashOf(r.name("seal", 9))
			next.Variables = append(next.Variables, v)
		case 2:
			next.Variables = append(next.Variables, v)
		}
	}
	if exists && r.rng.IntN(3) == 0 && len(have.Keys) < fsm.MaxPipelineKeys+1 {
		next.Keys = append(slices.Clone(have.Keys), next.Keys...)
		next.Keys[len(have.Keys)-1].Until = r.expires()
	}
	c := r.Command(fsm.KindPipelinePut, who, "pipeline.set", where, fsm.PipelinePut{Pipeline: next, Create: !exists})
	if r.rng.IntN(2) == 0 {
		c.Reads = append(c.Reads, fsm.Read{Object: fsm.ObjPipeline(vault, name), Index: have.Changed})
	}
	return c
}
