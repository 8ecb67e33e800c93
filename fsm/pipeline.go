package fsm

import (
	"encoding/hex"
	"slices"
	"strings"
)

// Pipeline names who may run it and which variables a run gets. References and identities are grants: the record is
// under a MAC as a whole, and whoever changes it makes all of it anew.
type Pipeline struct {
	Vault, Name string
	Identities  []string           // "workload/x", sorted; each runs this pipeline and no other
	Variables   []PipelineVariable // sorted by name
	Keys        []PipelineKey      // oldest first; the last one is the one to seal to
	Offline     uint32             // seconds for which a run's machine may keep values, to start while the cluster is away; 0: not at all
	Created     int64
	MAC         []byte
	Changed     uint64
}

// PipelineVariable is one variable of a run. With neither Reference nor Seal its value comes as ciphertext in the
// job's own configuration.
type PipelineVariable struct {
	Name      string
	Reference string // hizo://VAULT/PATH#FIELD, or that of a lease
	Seal      []byte // a sealed value kept here (api/seal)
}

// PipelineKey is a key pair that values are sealed to. Its private half follows from the keyring and Salt.
type PipelineKey struct {
	ID         []byte // the head of the SHA-256 of the public half
	Salt       []byte
	Generation uint32 // of the keyring's purpose "pipeline"
	Created    int64
	Until      int64 // opens nothing from then on; 0: the current key
}

// PipelinePut makes a pipeline (Create) or replaces it. A change rests on the record that it replaces, which its read
// set names.
type PipelinePut struct {
	Pipeline Pipeline
	Create   bool
}

// PipelineDelete removes a pipeline with its keys and revocations: what was sealed for it opens nowhere any more.
type PipelineDelete struct{ Vault, Name string }

// SealRevocation says that one sealed value opens no more. Body of KindSealRevoke too.
type SealRevocation struct {
	Vault, Pipeline string
	Digest          []byte // SHA-256 of the sealed value
	By              string
	Expires         int64 // when the sealed value is refused anyway; 0: not known
	Created         int64
	MAC             []byte
	Changed         uint64
}

// Injection releases ciphertexts of references like ReadVersions, and is the record of sealed values that are opened
// for the same run. It carries an audit for each reference, then one for each sealed value, at least one in all.
type Injection struct {
	Vault, Pipeline string
	Refs            []Ref
	Seals           [][]byte // digests
}

// runner says which pipeline a workload runs.
type runner struct {
	Vault, Name string
	Changed     uint64
}

// Limits of pipelines.
const (
	MaxPipelines          = 2000
	MaxPipelineIdentities = 64
	MaxPipelineVariables  = 64
	MaxPipelineKeys       = 16
	MaxPipelineSealed     = 256 << 10 // bytes of all sealed values that a pipeline keeps
	MaxSealRevocations    = 4096      // of one pipeline
	MaxPipelineOffline    = 24 * 3600 // seconds
)

// ObjPipeline names a pipeline.
func ObjPipeline(vault, name string) string { return "pipeline/" + vault + "/" + name }

// ObjRunner names what pipeline a principal runs.
func ObjRunner(principal string) string { return "runner/" + principal }

// ObjSealRevocation names the revocation of a sealed value.
func ObjSealRevocation(vault, pipeline string, digest []byte) string {
	return revocationPrefix(vault, pipeline) + hex.EncodeToString(digest)
}

func revocationPrefix(vault, pipeline string) string {
	return "sealrevocation/" + vault + "/" + pipeline + "/"
}

func (o *Pipeline) changed() uint64       { return o.Changed }
func (o *runner) changed() uint64         { return o.Changed }
func (o *SealRevocation) changed() uint64 { return o.Changed }

func (o *Pipeline) cost() int {
	n := 256 + 64*len(o.Identities) + 160*len(o.Keys)
	for i := range o.Variables {
		n += 64 + len(o.Variables[i].Reference) + len(o.Variables[i].Seal)
	}
	return n
}
func (o *runner) cost() int         { return 128 }
func (o *SealRevocation) cost() int { return 320 }

// MACDomain of a pipeline.
func (Pipeline) MACDomain() string { return MACDomainPipeline }

// MACBody covers everything that grants or opens.
func (p Pipeline) MACBody() []byte {
	t := tuple(nil).text(p.Vault).text(p.Name).number(uint64(len(p.Identities)))
	for _, id := range p.Identities {
		t = t.text(id)
	}
	t = t.number(uint64(len(p.Variables)))
	for _, v := range p.Variables {
		t = t.text(v.Name).text(v.Reference).bytes(v.Seal)
	}
	t = t.number(uint64(len(p.Keys)))
	for _, k := range p.Keys {
		t = t.bytes(k.ID).bytes(k.Salt).number(uint64(k.Generation)).number(uint64(k.Created)).number(uint64(k.Until))
	}
	return t.number(uint64(p.Offline))
}

// MACDomain of a revocation.
func (SealRevocation) MACDomain() string { return MACDomainSealRevocation }

// MACBody covers what is revoked and by whom.
func (r SealRevocation) MACBody() []byte {
	return tuple(nil).text(r.Vault).text(r.Pipeline).bytes(r.Digest).text(r.By).number(uint64(r.Expires))
}

// valid checks what does not depend on the state.
func (p *Pipeline) valid() bool {
	if !segment(p.Vault) || !segment(p.Name) || len(p.Identities) > MaxPipelineIdentities ||
		p.Offline > MaxPipelineOffline || len(p.Variables) > MaxPipelineVariables || len(p.Keys) == 0 || len(p.Keys) > MaxPipelineKeys {
		return false
	}
	for i, id := range p.Identities {
		if !principal(id) || !strings.HasPrefix(id, "workload/") || i > 0 && p.Identities[i-1] >= id {
			return false
		}
	}
	sealed := 0
	for i := range p.Variables {
		v := &p.Variables[i]
		if sealed += len(v.Seal); !segment(v.Name) || v.Reference != "" && (len(v.Seal) > 0 || !multi(v.Reference)) ||
			i > 0 && p.Variables[i-1].Name >= v.Name {
			return false
		}
	}
	for i := range p.Keys {
		k, last := &p.Keys[i], i == len(p.Keys)-1
		if len(k.ID) != 16 || len(k.Salt) != 16 || k.Generation == 0 || last != (k.Until == 0) {
			return false
		}
	}
	return sealed <= MaxPipelineSealed
}

func (t *tx) pipelinePut(b *PipelinePut) outcome {
	p := b.Pipeline
	if !p.valid() {
		return refuse(CodeInvalid)
	}
	name := ObjPipeline(p.Vault, p.Name)
	have := find[Pipeline](t, name)
	switch {
	case b.Create && have != nil:
		return refuse(CodeExists)
	case !b.Create && have == nil, t.lookup(ObjVault(p.Vault)) == nil:
		return refuse(CodeNotFound)
	}
	if b.Create {
		count := 0
		t.scan("pipeline/", func(string, object) bool {
			count++
			return count < MaxPipelines
		})
		if count >= MaxPipelines {
			return refuse(CodeLimit)
		}
		have = &Pipeline{Created: t.time}
	}
	for _, id := range have.Identities {
		if !slices.Contains(p.Identities, id) {
			t.del(ObjRunner(id))
			t.revokeLeases(LeasesOfPrincipal, id)
		}
	}
	for _, id := range p.Identities {
		if t.lookup(id) == nil {
			return refuse(CodeNotFound)
		}
		r := find[runner](t, ObjRunner(id))
		switch {
		case r == nil:
			t.put(ObjRunner(id), &runner{Vault: p.Vault, Name: p.Name, Changed: t.index})
		case r.Vault != p.Vault || r.Name != p.Name:
			return refuse(CodeExists) // which pipeline a workload runs must have one answer
		}
	}
	p.Created, p.Changed = have.Created, t.index
	t.put(name, &p)
	t.emit(Event{Kind: EventPipelineChanged, Vault: p.Vault, Path: p.Name})
	return done()
}

func (t *tx) pipelineDelete(b *PipelineDelete) outcome {
	have := find[Pipeline](t, ObjPipeline(b.Vault, b.Name))
	if have == nil {
		return refuse(CodeNotFound)
	}
	for _, id := range have.Identities {
		t.del(ObjRunner(id))
	}
	t.revokeLeases(LeasesOfPipeline, b.Vault+"/"+b.Name)
	t.scan(revocationPrefix(b.Vault, b.Name), func(name string, o object) bool {
		t.dropRevocation(name, o.(*SealRevocation))
		return true
	})
	t.del(ObjPipeline(b.Vault, b.Name))
	t.emit(Event{Kind: EventPipelineChanged, Vault: b.Vault, Path: b.Name})
	return done()
}

func (t *tx) dropRevocation(name string, r *SealRevocation) {
	if r.Expires > 0 {
		t.keep(r.Expires, name)
	}
	t.del(name)
}

// sealRevoke is final: a sealed value is not brought back, its sender seals again.
func (t *tx) sealRevoke(b *SealRevocation) outcome {
	if len(b.Digest) != 32 || b.Expires < 0 || b.By == "" {
		return refuse(CodeInvalid)
	}
	if t.lookup(ObjPipeline(b.Vault, b.Pipeline)) == nil {
		return refuse(CodeNotFound)
	}
	name := ObjSealRevocation(b.Vault, b.Pipeline, b.Digest)
	if t.lookup(name) != nil {
		return refuse(CodeExists)
	}
	if b.Expires != 0 && b.Expires <= t.time {
		return refuse(CodeExpired)
	}
	count := 0
	t.scan(revocationPrefix(b.Vault, b.Pipeline), func(string, object) bool {
		count++
		return true
	})
	if count >= MaxSealRevocations {
		return refuse(CodeLimit)
	}
	r := *b
	r.Created, r.Changed = t.time, t.index
	t.put(name, &r)
	if r.Expires != 0 {
		t.expire(r.Expires, name)
	}
	return done()
}

// injection releases all or nothing, as readVersions does.
func (t *tx) injection(cmd *Command, b *Injection) outcome {
	n := len(b.Refs) + len(b.Seals)
	if n == 0 || n > MaxRefs || len(cmd.Audits) != n {
		return refuse(CodeInvalid)
	}
	codes := make([]Code, n)
	for i := range codes {
		codes[i] = CodeOK
	}
	pipeline := t.lookup(ObjPipeline(b.Vault, b.Pipeline)) != nil
	for i, digest := range b.Seals {
		switch {
		case !pipeline:
			codes[len(b.Refs)+i] = CodeNotFound
		case t.lookup(ObjSealRevocation(b.Vault, b.Pipeline, digest)) != nil:
			codes[len(b.Refs)+i] = CodeDenied
		}
	}
	return t.release(b.Refs, codes, t.resolve)
}

// PipelineOf returns the pipeline that a principal runs.
func (s *Store) PipelineOf(principal string) (Pipeline, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := find[runner](s, ObjRunner(principal))
	if r == nil {
		return Pipeline{}, false
	}
	p := find[Pipeline](s, ObjPipeline(r.Vault, r.Name))
	if p == nil {
		return Pipeline{}, false
	}
	return *p, true
}

// Pipeline returns a pipeline.
func (s *Store) Pipeline(vault, name string) (Pipeline, bool) {
	return read[Pipeline](s, ObjPipeline(vault, name))
}

// Pipelines lists the pipelines of a vault, of all vaults where that is empty, in order of VAULT/NAME behind after, at
// most limit.
func (s *Store) Pipelines(vault, after string, limit int) []Pipeline {
	prefix, from := "pipeline/", ""
	if vault != "" {
		prefix = ObjPipeline(vault, "")
	}
	if after != "" {
		from = max("pipeline/"+after+"\x00", prefix)
	}
	var out []Pipeline
	s.scan(prefix, from, func(_ string, o object) bool {
		if len(out) < limit {
			out = append(out, *o.(*Pipeline))
		}
		return len(out) < limit
	})
	return out
}

// SealRevocations lists the revoked sealed values of a pipeline by digest.
func (s *Store) SealRevocations(vault, pipeline string) []SealRevocation {
	return list[SealRevocation](s, revocationPrefix(vault, pipeline))
}

// Key returns the key of an id.
func (p *Pipeline) Key(id []byte) (PipelineKey, bool) {
	for _, k := range p.Keys {
		if slices.Equal(k.ID, id) {
			return k, true
		}
	}
	return PipelineKey{}, false
}

// Variable returns a variable by its name.
func (p *Pipeline) Variable(name string) (PipelineVariable, bool) {
	i, found := slices.BinarySearchFunc(p.Variables, name, func(v PipelineVariable, n string) int { return strings.Compare(v.Name, n) })
	if !found {
		return PipelineVariable{}, false
	}
	return p.Variables[i], true
}
