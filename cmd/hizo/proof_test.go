package main

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/api/hizov1"
)

// proof of one record in a tree of n.
func proof(t *testing.T, sequence, n uint64) *hizov1.ProveResponse {
	t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	var leaf []byte
	for i := range n {
		r := audit.Record{Seq: i, Principal: fmt.Sprintf("user/%d", i), Action: "reveal"}
		more, err := tlog.StoredHashes(int64(i), r.Leaf(), reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
		if i == sequence {
			leaf = r.Leaf()
		}
	}
	root, err := tlog.TreeHash(int64(n), reader)
	if err != nil {
		t.Fatal(err)
	}
	path, err := tlog.ProveRecord(int64(n), int64(sequence), reader)
	if err != nil {
		t.Fatal(err)
	}
	note := audit.Note{
		Checkpoint: audit.Checkpoint{Origin: audit.Origin("ab"), Size: n, Root: root, Time: 1},
		Signatures: []audit.Signature{{Node: "n1", Signature: []byte{1}}},
	}
	p := &hizov1.ProveResponse{Leaf: leaf, Checkpoint: note.Format()}
	for _, h := range path {
		p.Path = append(p.Path, bytes.Clone(h[:]))
	}
	return p
}

func TestCheckProof(t *testing.T) {
	const n = 11
	for i := range uint64(n) {
		if _, err := checkProof(i, proof(t, i, n)); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
	for what, change := range map[string]func(*hizov1.ProveResponse){
		"another record": func(p *hizov1.ProveResponse) { p.Leaf = proof(t, 4, n).GetLeaf() },
		"changed record": func(p *hizov1.ProveResponse) {
			p.Leaf = bytes.Replace(p.GetLeaf(), []byte("user/3"), []byte("user/9"), 1)
		},
		"changed hash":    func(p *hizov1.ProveResponse) { p.Path[1][0] ^= 1 },
		"short hash":      func(p *hizov1.ProveResponse) { p.Path[1] = p.GetPath()[1][:31] },
		"path cut":        func(p *hizov1.ProveResponse) { p.Path = p.GetPath()[1:] },
		"another tree":    func(p *hizov1.ProveResponse) { p.Checkpoint = proof(t, 3, n+1).GetCheckpoint() },
		"no checkpoint":   func(p *hizov1.ProveResponse) { p.Checkpoint = "" },
		"nothing at all":  func(p *hizov1.ProveResponse) { p.Leaf = nil },
		"smaller tree":    func(p *hizov1.ProveResponse) { p.Checkpoint = proof(t, 1, 2).GetCheckpoint() },
		"trailing leaf":   func(p *hizov1.ProveResponse) { p.Leaf = append(p.GetLeaf(), 0) },
		"path with extra": func(p *hizov1.ProveResponse) { p.Path = append(p.GetPath(), make([]byte, 32)) },
	} {
		p := proof(t, 3, n)
		change(p)
		if _, err := checkProof(3, p); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
