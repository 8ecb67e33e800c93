package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hizo/hizo/cmd/hizo/internal/values"
	"github.com/hizo/hizo/crypto/aad"
	"github.com/hizo/hizo/crypto/aesgcm"
	"github.com/hizo/hizo/crypto/secret"
)

// The cache file:
//
//	"hizo-agent-cache-1\n"  AES-256-GCM(JSON of stored)  with the AAD tuple of domain and scope
//
// The scope is a hash of the cluster's CA and of all that is asked of the cluster: what was cached for one
// configuration is nothing to another. The key file holds 32 random bytes in hex. Whoever has both files has the values:
// the key protects a copy of the cache file alone (a disk, a backup, a volume that moves on), not against the agent's
// user or root. Nothing but this file's own times bound it, so a clock that is set back prolongs it.
const (
	cacheMagic  = "hizo-agent-cache-1\n"
	cacheDomain = "hizo/agent-cache/v1"
	maxCache    = 64 << 20
)

// cache keeps the newest values on disk.
type cache struct {
	CacheConfig
	key   []byte
	scope []byte
	now   func() time.Time
}

// stored is the plaintext.
type stored struct {
	Fetched int64         `json:"fetched"` // Unix seconds
	Expires int64         `json:"expires"`
	Values  []storedValue `json:"values"`
}

type storedValue struct {
	Name    string `json:"name"`
	Value   []byte `json:"value"`
	Secret  string `json:"secret,omitempty"`
	Version uint32 `json:"version,omitempty"`
	Pinned  bool   `json:"pinned,omitempty"`
}

// Errors of the cache.
var (
	errNoCache   = errors.New("nothing is cached")
	errCacheOver = errors.New("what is cached is too old")
	errCacheBad  = errors.New("the cache file does not open: it was made with another key or for another configuration, or it was changed")
)

// openCache reads the key, or makes it.
func openCache(cfg CacheConfig, job values.Job, ca []byte) (*cache, error) {
	key, err := cacheKey(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cache: key: %w", err)
	}
	// The execution names the agent to people; everything else counts.
	job.Execution = ""
	asked, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(aad.Tuple(cacheDomain+"/scope", ca, asked))
	return &cache{CacheConfig: cfg, key: key, scope: sum[:], now: time.Now}, nil
}

const keySize = 32

func cacheKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		key := make([]byte, keySize)
		rand.Read(key) // never fails
		_, err = f.WriteString(hex.EncodeToString(key) + "\n")
		return key, errors.Join(err, f.Sync(), f.Close())
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read %s (mode %04o): remove it, a new one is made", path, st.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s holds no key: remove it, a new one is made", path)
	}
	return key, nil
}

func (c *cache) aad() []byte { return aad.Tuple(cacheDomain, c.scope) }

// store replaces what is cached. What the pipeline does not allow to be kept is not kept.
func (c *cache) store(set *values.Set) error {
	most := set.Offline
	if age := time.Duration(c.MaxAge); age > 0 {
		most = min(most, age)
	}
	if most <= 0 {
		return c.drop()
	}
	now := c.now()
	s := stored{Fetched: now.Unix(), Expires: now.Add(most).Unix()}
	for _, v := range set.Values {
		if v.Leased {
			continue // it ends with this run
		}
		s.Values = append(s.Values, storedValue{v.Name, v.Bytes.Reveal(), v.Secret, v.Version, v.Pinned})
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return err
	}
	defer clear(plain)
	cipher, err := aesgcm.New(c.key)
	if err != nil {
		return err
	}
	return writePrivate(c.File, append([]byte(cacheMagic), cipher.Seal(plain, c.aad())...))
}

// load returns what is cached and until when it may be used.
func (c *cache) load() (*values.Set, time.Time, error) {
	f, err := os.Open(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, errNoCache
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCache))
	if err != nil {
		return nil, time.Time{}, err
	}
	return c.decode(b)
}

func (c *cache) decode(b []byte) (*values.Set, time.Time, error) {
	sealed, ok := bytes.CutPrefix(b, []byte(cacheMagic))
	if !ok {
		return nil, time.Time{}, errCacheBad
	}
	cipher, err := aesgcm.New(c.key)
	if err != nil {
		return nil, time.Time{}, err
	}
	plain, err := cipher.Open(sealed, c.aad())
	if err != nil {
		return nil, time.Time{}, errCacheBad
	}
	defer clear(plain)
	var s stored
	if err := json.Unmarshal(plain, &s); err != nil {
		return nil, time.Time{}, errCacheBad
	}
	now, expires := c.now(), time.Unix(s.Expires, 0)
	// A cache of the future was made before the clock was set back: its age is not known.
	if !now.Before(expires) || now.Add(time.Minute).Before(time.Unix(s.Fetched, 0)) {
		return nil, time.Time{}, errors.Join(errCacheOver, c.drop())
	}
	set := &values.Set{Offline: time.Duration(s.Expires-s.Fetched) * time.Second}
	for _, v := range s.Values {
		set.Values = append(set.Values, values.Value{
			Name: v.Name, Bytes: secret.New(v.Value), Secret: v.Secret, Version: v.Version, Pinned: v.Pinned,
		})
	}
	return set, expires, nil
}

// drop removes what is cached.
func (c *cache) drop() error {
	if err := os.Remove(c.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writePrivate replaces a file by one of mode 0600, in one step.
func writePrivate(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".hizo-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
