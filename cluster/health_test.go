package cluster_test

import (
	"context"
	"crypto"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/seal/software"
)

// pulled is a seal whose HSM can be pulled out.
type pulled struct {
	seal.Seal
	out *atomic.Bool
}

func (p pulled) Healthy(ctx context.Context) error {
	if p.out.Load() {
		return seal.ErrDevice
	}
	return p.Seal.Healthy(ctx)
}

func (p pulled) Identity() crypto.Signer { return pulledKey{p.Seal.Identity(), p.out} }

type pulledKey struct {
	crypto.Signer
	out *atomic.Bool
}

func (k pulledKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.out.Load() {
		return nil, seal.ErrDevice
	}
	return k.Signer.Sign(rand, digest, opts)
}

// A node whose HSM is out may be elected over the streams it has. It can sign no clock reading, so its term never
// opens: it has to let another one lead all the same.
func TestLeaderWithoutHSMDoesNotBlock(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	out := map[string]*atomic.Bool{}
	c := clustertest.Start(t, clustertest.Options{OpenSeal: func(t testing.TB, dir, id string) seal.Seal {
		s, err := software.Open(filepath.Join(dir, "seal"))
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		out[id] = &atomic.Bool{}
		return pulled{s, out[id]}
	}})
	from := c.Leader()
	to := c.Nodes[1]
	if to == from {
		to = c.Nodes[2]
	}
	mu.Lock()
	dead := out[to.ID]
	mu.Unlock()
	dead.Store(true)
	c.Transfer(from, to)
	c.Await("a node with an HSM to lead", func() bool {
		for _, n := range c.Nodes {
			if n != to && n.Leading() {
				return true
			}
		}
		return false
	})
	c.Must(record("list"))
}
