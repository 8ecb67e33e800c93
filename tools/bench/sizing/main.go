// Program sizing measures what a node needs for a number of secrets and of audit records: `make bench-sizing`.
//
// It feeds the state machine of one node with the records that a cluster would commit, values and audit bodies encrypted
// as they are in production, and without Raft: the log is bounded by itself (docs/sizing.md) and adds nothing that grows.
package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/hizo/hizo/crypto/envelope"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/secret"
	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

type options struct {
	dir, out         string
	secrets, records int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "build/sizing", "working directory; emptied first, and removed")
	flag.StringVar(&o.out, "out", "", "write the table as Markdown to this file too")
	flag.IntVar(&o.secrets, "secrets", 1_000_000, "secrets, of one version each")
	flag.IntVar(&o.records, "records", 10_000_000, "audit records in all")
	flag.Parse()
	if err := measure(o); err != nil {
		fmt.Fprintln(os.Stderr, "sizing:", err)
		os.Exit(1)
	}
}

// world is one node's state and who feeds it.
type world struct {
	fsmtest.Builder
	options
	store   *fsm.Store
	snaps   *fsm.Snapshots
	ring    *keyring.Keyring
	cluster [16]byte
	body    []byte // as long as an audit body is
	rng     *mathrand.Rand
	entry   []fsm.Command
	spent   time.Duration // in Apply
	out     io.Writer
}

// perEntry is how many records a busy cluster commits at a time; an entry every 20 ms is then 3,200 records a second, so that
// the request ids of all puts are still remembered at the end, as they are on a day of heavy use.
const (
	perEntry = 64
	pace     = 20
)

func measure(o options) (err error) {
	if err := errors.Join(os.RemoveAll(o.dir), os.MkdirAll(o.dir, 0o700)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	w := &world{options: o, rng: mathrand.New(mathrand.NewPCG(1, 2)), out: os.Stdout}
	if o.out != "" {
		f, err := os.Create(o.out)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w.out = io.MultiWriter(os.Stdout, f)
	}
	if err := w.begin(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.store.Close()) }()
	fmt.Fprintf(w.out, "%d processors, %s, %s\n\n", runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format("2006-01-02"))
	fmt.Fprintln(w.out, "| state | on disk | memory, running | memory, after a restart | restart | snapshot | a record applies in | a secret is found in (p50, p99) |")
	fmt.Fprintln(w.out, "|---|---:|---:|---:|---:|---:|---:|---:|")
	if err := w.row("empty"); err != nil {
		return err
	}
	if err := w.fill(o.secrets, w.put); err != nil {
		return err
	}
	if err := w.row(fmt.Sprintf("%s secrets, as many audit records", grouped(o.secrets))); err != nil {
		return err
	}
	if err := w.fill(o.records-o.secrets, w.read); err != nil {
		return err
	}
	return w.row(fmt.Sprintf("%s secrets, %s audit records", grouped(o.secrets), grouped(o.records)))
}

func (w *world) open() (err error) {
	if w.store, err = fsm.Open(fsm.Options{Dir: filepath.Join(w.dir, "state")}); err != nil {
		return err
	}
	w.snaps, err = fsm.NewSnapshots(w.store, fsm.SnapshotOptions{Dir: filepath.Join(w.dir, "snapshots"), Keep: 1})
	return err
}

func (w *world) begin() error {
	if err := w.open(); err != nil {
		return err
	}
	genesis := w.Genesis()
	body, err := fsm.DecodeBody(fsm.KindGenesis, genesis.Body)
	if err != nil {
		return err
	}
	w.cluster = body.(*fsm.Genesis).Cluster.ID
	var wrapped []keyring.WrappedKey
	w.ring, err = keyring.Open(keyring.NewRoot(), 1, w.cluster, func(p string, g uint32) (keyring.WrappedKey, error) {
		return keyring.Static(wrapped...)(p, g)
	})
	if err != nil {
		return err
	}
	w.add(genesis)
	w.add(w.Enrol("alice", "t"))
	purposes := []string{keyring.Audit}
	for i := range vaults {
		w.add(w.Vault(vault(i)))
		purposes = append(purposes, keyring.Vault(vault(i)))
	}
	for _, p := range purposes {
		key, err := w.ring.Generate(p, 1)
		if err != nil {
			return err
		}
		wrapped = append(wrapped, key)
	}
	sealed, err := envelope.SealAudit(w.ring, 1, []byte("bind"), make([]byte, 64)) // address, reason, request id
	if err != nil {
		return err
	}
	w.body = sealed
	return w.flush()
}

const vaults = 20

func vault(i int) string { return fmt.Sprintf("team-%d", i%vaults) }

func path(i int) string { return fmt.Sprintf("models/%04d/training/%07d", i%1000, i) }

func (w *world) put(i int) (fsm.Command, error) {
	v, p := vault(i), path(i)
	var password [24]byte
	rand.Read(password[:])
	sealed, err := envelope.SealValue(w.ring, envelope.Bind{Cluster: w.cluster, Vault: v, Path: p, Version: 1}, 1, map[string]secret.Bytes{
		"username": secret.Copy([]byte("training-" + strconv.Itoa(i))), "password": secret.Copy(password[:]),
		"host": secret.Copy([]byte("db-7.internal.example.org")),
	})
	if err != nil {
		return fsm.Command{}, err
	}
	c := w.Command(fsm.KindSecretPut, "user/alice", "put", v+"/"+p, fsm.SecretPut{
		Vault: v, Path: p, Version: 1, CAS: -1, Data: fsm.SealedValue(sealed),
	})
	c.Audits[0].Generation, c.Audits[0].Sealed = 1, w.sealed()
	return c, nil
}

func (w *world) read(int) (fsm.Command, error) {
	i := w.rng.IntN(w.secrets)
	c := w.Read(fmt.Sprintf("workload/train-%d", i%500), fsm.Ref{Vault: vault(i), Path: path(i)})
	c.Audits[0].Sealed = w.sealed()
	return c, nil
}

// sealed is as long as an audit body, and as random as a ciphertext.
func (w *world) sealed() []byte {
	b := slices.Clone(w.body)
	rand.Read(b[6:])
	return b
}

func (w *world) fill(n int, make func(int) (fsm.Command, error)) error {
	w.spent = 0
	for i := range n {
		c, err := make(i)
		if err != nil {
			return err
		}
		w.add(c)
		if len(w.entry) == perEntry {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	err := w.flush()
	w.spent /= time.Duration(max(n, 1))
	return err
}

func (w *world) add(c fsm.Command) { w.entry = append(w.entry, c) }

// flush applies what has gathered.
func (w *world) flush() error {
	if len(w.entry) == 0 {
		return nil
	}
	w.Time = w.Now() + pace
	log := w.Entry(w.entry...)
	w.entry = w.entry[:0]
	begun := time.Now()
	results := w.store.Apply(log).([]fsm.Result)
	w.spent += time.Since(begun)
	for i, r := range results {
		if r.Code != fsm.CodeOK {
			return fmt.Errorf("record %d of entry %d: %v", i, log.Index, r.Code)
		}
	}
	return nil
}

// row measures and prints.
func (w *world) row(what string) error {
	running, err := memory()
	if err != nil {
		return err
	}
	took, err := w.snapshot()
	if err != nil {
		return err
	}
	if err := w.store.Close(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "snapshots")); err != nil { // hard links
		return err
	}
	disk, err := size(filepath.Join(w.dir, "state"))
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := w.open(); err != nil {
		return err
	}
	restart := time.Since(begun)
	after, err := memory()
	if err != nil {
		return err
	}
	p50, p99 := w.find()
	fmt.Fprintf(w.out, "| %s | %s | %s | %s | %v | %v | %v | %v, %v |\n", what, mib(disk), mib(running), mib(after),
		restart.Round(time.Millisecond), took.Round(time.Millisecond), w.spent.Round(100*time.Nanosecond),
		p50.Round(100*time.Nanosecond), p99.Round(100*time.Nanosecond))
	return nil
}

func (w *world) snapshot() (time.Duration, error) {
	begun := time.Now()
	point, err := w.store.Snapshot()
	if err != nil {
		return 0, err
	}
	defer point.Release()
	sink, err := w.snaps.Create(1, w.Index, w.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		return 0, err
	}
	if err := point.Persist(sink); err != nil {
		return 0, err
	}
	return time.Since(begun), nil
}

// find looks random secrets up, most of which are not in any cache.
func (w *world) find() (p50, p99 time.Duration) {
	took := make([]time.Duration, 10_000)
	for n := range took {
		i := w.rng.IntN(max(w.secrets, 1))
		begun := time.Now()
		w.store.VersionData(vault(i), path(i), 1)
		took[n] = time.Since(begun)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// memory is what the operating system counts for this process (proc(5), VmRSS) once the garbage is gone.
func memory() (int64, error) {
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmRSS")
}

func size(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

func mib(n int64) string { return fmt.Sprintf("%s MiB", grouped(int((n+1<<19)>>20))) }

// grouped writes 1000000 as 1,000,000.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
