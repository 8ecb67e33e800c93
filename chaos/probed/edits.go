package main

import "github.com/hizo/hizo/chaos/overlay"

// hit is the call that a point is made of.
func hit(point string) string { return "probe.Hit(\"" + point + "\")" }

// imports lets a file call the probes.
func imports(file string) overlay.Edit {
	return overlay.Edit{File: file, Old: "import (\n", New: "import (\n\t\"github.com/hizo/hizo/chaos/probe\"\n"}
}

// edits are what a build with probes differs in: the points of package probe, the clock, and a log that is cut so early
// that a node which was away for seconds is sent a snapshot.
var edits = []overlay.Edit{
	imports("cluster/logstore/store.go"),
	{
		File: "cluster/logstore/store.go",
		Old:  "		err := s.cache.StoreLogs(seal(entries))\n",
		New:  "		" + hit("log/before-store") + "\n		err := s.cache.StoreLogs(seal(entries))\n		" + hit("log/stored") + "\n",
	},

	imports("fsm/tx.go"),
	{
		File: "fsm/tx.go",
		Old:  "	s.mu.Lock()\n	t.must(s.db.Apply(t.batch, pebble.NoSync))\n",
		New:  "	" + hit("apply/before-batch") + "\n	s.mu.Lock()\n	t.must(s.db.Apply(t.batch, pebble.NoSync))\n	" + hit("apply/after-batch") + "\n",
	},

	imports("cluster/propose.go"),
	{
		File: "cluster/propose.go",
		Old:  "	future := p.raft.ApplyLog(raft.Log{Data: data}, 0)\n	go p.await(f, future)\n",
		New:  "	" + hit("propose/before-raft") + "\n	future := p.raft.ApplyLog(raft.Log{Data: data}, 0)\n	go p.await(f, future)\n",
	},
	{
		File: "cluster/propose.go",
		Old:  "	err := future.Error()\n	p.land(f)\n",
		New:  "	err := future.Error()\n	" + hit("propose/committed") + "\n	p.land(f)\n",
	},

	imports("fsm/persist.go"),
	{
		File: "fsm/persist.go",
		Old:  "	dir := k.snaps.fs.PathJoin(k.tmp, filesDir)\n	if err := db.Checkpoint(dir); err != nil {\n		return fmt.Errorf(\"snapshot %s: %w\", k.snap.ID, err)\n	}\n",
		New:  "	dir := k.snaps.fs.PathJoin(k.tmp, filesDir)\n	" + hit("snapshot/before-checkpoint") + "\n	if err := db.Checkpoint(dir); err != nil {\n		return fmt.Errorf(\"snapshot %s: %w\", k.snap.ID, err)\n	}\n	" + hit("snapshot/checkpointed") + "\n",
	},
	imports("fsm/snapshot.go"),
	{
		File: "fsm/snapshot.go",
		Old:  "	if err := s.fs.Rename(k.tmp, s.fs.PathJoin(s.dir, k.snap.ID)); err != nil {\n		return err\n	}\n",
		New:  "	" + hit("snapshot/before-rename") + "\n	if err := s.fs.Rename(k.tmp, s.fs.PathJoin(s.dir, k.snap.ID)); err != nil {\n		return err\n	}\n	" + hit("snapshot/renamed") + "\n",
	},
	{
		File: "fsm/snapshot.go",
		Old:  "		// It is there, but may be gone after a crash: Raft must not truncate its log because of it.\n		return err\n	}\n",
		New:  "		// It is there, but may be gone after a crash: Raft must not truncate its log because of it.\n		return err\n	}\n	" + hit("snapshot/published") + "\n",
	},

	imports("fsm/recover.go"),
	{
		File: "fsm/recover.go",
		Old:  "	if err := s.setCurrent(name); err != nil {\n",
		New:  "	" + hit("restore/before-current") + "\n	if err := s.setCurrent(name); err != nil {\n",
	},
	{
		File: "fsm/recover.go",
		Old:  "	db, err := s.openDatabase(name)\n	if err != nil {\n		s.fatal(err)\n	}\n",
		New:  "	" + hit("restore/current-moved") + "\n	db, err := s.openDatabase(name)\n	if err != nil {\n		s.fatal(err)\n	}\n",
	},
	{
		File: "fsm/recover.go",
		Old:  "	old.retire()\n",
		New:  "	" + hit("restore/adopted") + "\n	old.retire()\n",
	},

	imports("cluster/sharefile.go"),
	{
		File: "cluster/sharefile.go",
		Old:  "	if err := writeFile(f.file(epoch), append(data, wrapped...)); err != nil {\n		return shares.Share{}, err\n	}\n",
		New:  "	" + hit("share/before-write") + "\n	if err := writeFile(f.file(epoch), append(data, wrapped...)); err != nil {\n		return shares.Share{}, err\n	}\n	" + hit("share/written") + "\n",
	},
	{
		File: "cluster/sharefile.go",
		Old:  "	if err := os.Remove(f.file(epoch)); err != nil && !errors.Is(err, fs.ErrNotExist) {\n		return fmt.Errorf(\"remove the share file",
		New:  "	" + hit("share/key-destroyed") + "\n	if err := os.Remove(f.file(epoch)); err != nil && !errors.Is(err, fs.ErrNotExist) {\n		return fmt.Errorf(\"remove the share file",
	},

	imports("cluster/deal.go"),
	{
		File: "cluster/deal.go",
		Old:  "	epoch := result.Index\n	provers, why := n.giveShares(ctx, cl, epoch, deal, ids, list)\n",
		New:  "	epoch := result.Index\n	" + hit("deal/proposed") + "\n	provers, why := n.giveShares(ctx, cl, epoch, deal, ids, list)\n	" + hit("deal/proven") + "\n",
	},
	{
		File: "cluster/deal.go",
		Old:  "	n.log.Info(\"dealt node shares\",",
		New:  "	" + hit("deal/committed") + "\n	n.log.Info(\"dealt node shares\",",
	},

	imports("cluster/rotation.go"),
	{
		File: "cluster/rotation.go",
		Old:  "	cmd.Reads = []fsm.Read{{Object: fsm.ObjCluster, Index: n.store.Index(fsm.ObjCluster)}}\n	result, err := n.Propose(ctx, cmd)\n",
		New:  "	cmd.Reads = []fsm.Read{{Object: fsm.ObjCluster, Index: n.store.Index(fsm.ObjCluster)}}\n	" + hit("root/before-commit") + "\n	result, err := n.Propose(ctx, cmd)\n",
	},
	{
		File: "cluster/rotation.go",
		Old:  "	now, _ := n.store.Cluster()\n	n.rootRotated(now)\n",
		New:  "	" + hit("root/committed") + "\n	now, _ := n.store.Cluster()\n	n.rootRotated(now)\n",
	},

	imports("cluster/rotate/engine.go"),
	{
		File: "cluster/rotate/engine.go",
		Old:  "hook: func(string) {},",
		New:  "hook: func(at string) { probe.Hit(\"rotation/\" + at) },",
	},

	// The clock.
	{File: "cluster/rotate/engine.go", Old: "		cfg.Clock = time.Now\n", New: "		cfg.Clock = probe.Now\n"},
	imports("cluster/lease/lease.go"),
	{File: "cluster/lease/lease.go", Old: "		cfg.Clock = time.Now\n", New: "		cfg.Clock = probe.Now\n"},
	imports("cluster/node.go"),
	{File: "cluster/node.go", Old: "		cfg.Clock = time.Now\n", New: "		cfg.Clock = probe.Now\n"},
	imports("api/server.go"),
	{File: "api/server.go", Old: "		c.Clock = time.Now\n", New: "		c.Clock = probe.Now\n"},

	// Little log is kept behind a snapshot.
	{File: "cluster/raft.go", Old: "	trailingBytes = 32 << 20\n", New: "	trailingBytes = 256 << 10\n"},
	{File: "cluster/raft.go", Old: "	maxTrailing   = 10240\n", New: "	maxTrailing   = 128\n"},
}
