package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/crypto/seal"
	"github.com/hizo/hizo/crypto/shares"
)

// shareFiles keeps this node's share of each deal that is still needed:
//
//	DataDir/shares/<epoch>   format(1) deal(8) share wrapped by HSM key share-<deal in hex>
//
// A file is written under a temporary name, synced, renamed, and the folder synced; then it is read back
// and unwrapped. A crash leaves the file whole or not there, and perhaps an HSM key without a file, which
// sweep destroys. A share is destroyed key first: a file without its key opens nothing.
type shareFiles struct {
	dir  string
	seal seal.Seal
	node string
	mu   sync.Mutex // one change at a time

	foundMu sync.Mutex
	found   map[uint64]foundShare // what opens was answered lately
	swept   uint64                // the epoch in force at the last sweep; retireShares'
}

// foundShare is when a share was last opened, and of which file.
type foundShare struct {
	at       time.Time
	modified time.Time
	opens    bool
}

const foundFor = 20 * time.Second // opening a share is work for the HSM

const shareFileFormat = 1

var errShareFile = errors.New("this node's share file is damaged; the next deal replaces it")

// openShareFiles touches no HSM key: an empty folder may be a disk that was not mounted.
func openShareFiles(dir string, s seal.Seal, node string) (*shareFiles, error) {
	f := &shareFiles{dir: dir, seal: s, node: node, found: make(map[uint64]foundShare)}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, name := range left { // a crash before the rename
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("share files: %w", err)
		}
	}
	return f, nil
}

// sweep destroys the HSM keys of deals that neither a file nor keep names: what deals that came to nothing, and
// lost files, have left.
func (f *shareFiles) sweep(ctx context.Context, keep []shares.DealID) (destroyed []seal.Handle, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	used := make(map[seal.Handle]bool)
	for _, deal := range keep {
		used[seal.ShareHandle(deal)] = true
	}
	epochs, err := f.epochs()
	if err != nil {
		return nil, err
	}
	for _, epoch := range epochs {
		deal, _, err := f.read(epoch)
		if errors.Is(err, errShareFile) {
			continue
		}
		if err != nil {
			return nil, err
		}
		used[seal.ShareHandle(deal)] = true
	}
	handles, err := f.seal.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list HSM keys: %w", err)
	}
	for _, h := range handles {
		if strings.HasPrefix(string(h), "share-") && !used[h] {
			if err := f.seal.DestroyKey(ctx, h); err != nil {
				return destroyed, fmt.Errorf("destroy HSM key %s of an abandoned deal: %w", h, err)
			}
			destroyed = append(destroyed, h)
		}
	}
	return destroyed, nil
}

// opens says whether this node's share of a deal is there and can be opened. An HSM that does not answer says
// nothing about the share: then it counts as there.
func (f *shareFiles) opens(ctx context.Context, epoch uint64, deal shares.Deal) bool {
	info, err := os.Stat(f.file(epoch))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	f.foundMu.Lock()
	defer f.foundMu.Unlock()
	known, ok := f.found[epoch]
	if ok && known.modified.Equal(info.ModTime()) && time.Since(known.at) < foundFor {
		return known.opens
	}
	share, err := f.get(ctx, epoch, deal)
	share.Wipe()
	lost := errors.Is(err, fs.ErrNotExist) || errors.Is(err, errShareFile) || errors.Is(err, seal.ErrNoKey) || errors.Is(err, seal.ErrAuth)
	if err != nil && !lost {
		return true
	}
	f.found[epoch] = foundShare{at: time.Now(), modified: info.ModTime(), opens: !lost}
	maps.DeleteFunc(f.found, func(other uint64, s foundShare) bool { return other != epoch && time.Since(s.at) > foundFor })
	return !lost
}

// epochs lists the deals that a file is there for, oldest first.
func (f *shareFiles) epochs() ([]uint64, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("share files: %w", err)
	}
	var list []uint64
	for _, e := range entries {
		if epoch, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			list = append(list, epoch)
		}
	}
	slices.Sort(list)
	return list, nil
}

func (f *shareFiles) file(epoch uint64) string {
	return filepath.Join(f.dir, strconv.FormatUint(epoch, 10))
}

func (f *shareFiles) read(epoch uint64) (deal shares.DealID, wrapped []byte, err error) {
	b, err := os.ReadFile(f.file(epoch))
	if err != nil {
		return deal, nil, err
	}
	if len(b) < 9 || b[0] != shareFileFormat {
		return deal, nil, fmt.Errorf("epoch %d: %w", epoch, errShareFile)
	}
	copy(deal[:], b[1:9])
	return deal, b[9:], nil
}

// put stores a share and reads it back from the disk through the HSM. The share that it returns is the
// one read back: proofs are made from that.
func (f *shareFiles) put(ctx context.Context, epoch uint64, deal shares.Deal, share shares.Share) (shares.Share, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	plain, err := share.MarshalBinary()
	if err != nil {
		return shares.Share{}, err
	}
	defer clear(plain)
	handle := seal.ShareHandle(share.Deal)
	if err := seal.EnsureKey(ctx, f.seal, handle); err != nil {
		return shares.Share{}, fmt.Errorf("HSM key for epoch %d: %w", epoch, err)
	}
	wrapped, err := f.seal.Wrap(ctx, handle, plain, shares.StorageAAD(share.Cluster, share.Deal, f.node))
	if err != nil {
		return shares.Share{}, fmt.Errorf("wrap the share of epoch %d: %w", epoch, err)
	}
	data := append([]byte{shareFileFormat}, share.Deal[:]...)
	if err := writeFile(f.file(epoch), append(data, wrapped...)); err != nil {
		return shares.Share{}, err
	}
	f.foundMu.Lock()
	delete(f.found, epoch)
	f.foundMu.Unlock()
	back, err := f.get(ctx, epoch, deal)
	if err != nil {
		return shares.Share{}, fmt.Errorf("read back: %w", err)
	}
	return back, nil
}

// get returns this node's share of a deal, checked against the deal's commitments. fs.ErrNotExist where
// this node has none.
func (f *shareFiles) get(ctx context.Context, epoch uint64, deal shares.Deal) (shares.Share, error) {
	id, wrapped, err := f.read(epoch)
	if err != nil {
		return shares.Share{}, err
	}
	if id != deal.ID {
		return shares.Share{}, fmt.Errorf("epoch %d holds deal %s instead of %s: %w", epoch, hex.EncodeToString(id[:]), deal.ID, errShareFile)
	}
	plain, err := f.seal.Unwrap(ctx, seal.ShareHandle(id), wrapped, shares.StorageAAD(deal.Cluster, id, f.node))
	if err != nil {
		return shares.Share{}, fmt.Errorf("unwrap the share of epoch %d: %w", epoch, err)
	}
	defer clear(plain)
	var share shares.Share
	if err := share.UnmarshalBinary(plain); err != nil {
		return shares.Share{}, fmt.Errorf("epoch %d: %w", epoch, err)
	}
	if err := deal.Check(share); err != nil {
		share.Wipe()
		return shares.Share{}, fmt.Errorf("epoch %d: %w", epoch, err)
	}
	return share, nil
}

// destroy makes a share unreadable for good.
func (f *shareFiles) destroy(ctx context.Context, epoch uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	deal, _, err := f.read(epoch)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		if err := f.seal.DestroyKey(ctx, seal.ShareHandle(deal)); err != nil {
			return fmt.Errorf("destroy the HSM key of epoch %d: %w", epoch, err)
		}
	case !errors.Is(err, errShareFile):
		return err
	}
	if err := os.Remove(f.file(epoch)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the share file of epoch %d: %w", epoch, err)
	}
	return nil
}
