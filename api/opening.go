package api

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
)

// opened is a sealed value that opened. It must not leave before its record has committed.
type opened struct {
	sealed *seal.Sealed
	digest []byte
	value  secret.Bytes
	old    bool // sealed to a key that is no longer the current one
}

// unseal opens the sealed value that stood in a variable of a pipeline, by the pipeline's rules: the key's deadline, the
// value's expiry, its revocation, and the place that it was made for. It is for bodies: what it decides on is part of
// what the command rests on. Refusals are denials, so that they are recorded as such.
func (s *Server) unseal(r *round, p *fsm.Pipeline, variable, text string) (*opened, error) {
	refuse := func(format string, args ...any) (*opened, error) {
		return nil, &denial{why: "variable " + variable + ": " + fmt.Sprintf(format, args...)}
	}
	sealed, err := seal.Parse(text)
	if err != nil {
		return nil, invalid(variable, "variable %s: %v", variable, err)
	}
	k, ok := p.Key(sealed.KeyID[:])
	if !ok {
		return refuse("the value was not sealed to a key of the pipeline %s/%s: seal it for this pipeline (`hizo pipeline key %s/%s`)", p.Vault, p.Name, p.Vault, p.Name)
	}
	if k.Until != 0 && r.now >= k.Until {
		return refuse("the value was sealed to the key %x, which opens nothing since %s: seal it anew (`hizo pipeline key %s/%s`)", k.ID, day(k.Until), p.Vault, p.Name)
	}
	if r.now >= sealed.Expires*1000 {
		return refuse("the sealed value has expired at %s: seal it anew", day(sealed.Expires*1000))
	}
	if sealed.Expires*1000 > r.now+(seal.MaxLifetime+24*time.Hour).Milliseconds() { // a day for clocks that differ
		return refuse("the sealed value expires in more than %d days: seal it anew with an earlier expiry", int(seal.MaxLifetime/(24*time.Hour)))
	}
	digest := sealed.Digest()
	revocation := fsm.ObjSealRevocation(p.Vault, p.Name, digest[:])
	r.rest(revocation)
	if r.store.Index(revocation) != 0 {
		return refuse("the sealed value was revoked: seal a new one")
	}
	key, err := r.pipelineKey(p, &k)
	if err != nil {
		return nil, err
	}
	value, err := sealed.Open(key, seal.Place{Cluster: r.cluster.ID, Vault: p.Vault, Pipeline: p.Name, Variable: variable})
	switch {
	case errors.Is(err, seal.ErrOpen):
		return refuse("%v", err)
	case err != nil:
		return nil, err
	}
	return &opened{sealed: sealed, digest: digest[:], value: value, old: k.Until != 0}, nil
}

// pipelineKey derives a key pair of a pipeline.
func (f footing) pipelineKey(p *fsm.Pipeline, k *fsm.PipelineKey) (*hybrid.Key, error) {
	key, err := f.keys.PipelineKey(k.Generation, p.Vault, p.Name, k.Salt)
	if err != nil {
		return nil, err
	}
	if id := seal.KeyID(key.Public()); string(id[:]) != string(k.ID) {
		return nil, fmt.Errorf("the key %x of the pipeline %s/%s is another one than when it was made", k.ID, p.Vault, p.Name)
	}
	return key, nil
}

func day(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// sealSource names a sealed value in records and answers.
func sealSource(digest []byte) string { return "seal:" + hex.EncodeToString(digest) }
