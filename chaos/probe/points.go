package probe

// Points are the places of a chaos build, by what the process has just done, or is about to do. The edits that put them
// in are in package probed.
var Points = []string{
	// Raft's log.
	"log/before-store", "log/stored",
	// The one batch of an entry.
	"apply/before-batch", "apply/after-batch",
	// A commit on its way to those who wait for it.
	"propose/before-raft", "propose/committed",
	// A node's own snapshot.
	"snapshot/before-checkpoint", "snapshot/checkpointed", "snapshot/before-rename", "snapshot/renamed", "snapshot/published",
	// A snapshot from another node.
	"restore/before-current", "restore/current-moved", "restore/adopted",
	// A share on its way to the disk, and from it.
	"share/before-write", "share/written", "share/key-destroyed",
	// The leader's part of a deal.
	"deal/proposed", "deal/proven", "deal/committed",
	// A new root key.
	"root/before-commit", "root/committed",
	// Stages of a rotation: before each, after the call at the target, after its record.
	"rotation/before stage", "rotation/called stage", "rotation/recorded stage",
	"rotation/before apply", "rotation/called apply", "rotation/recorded apply",
	"rotation/before verify", "rotation/called verify", "rotation/recorded verify",
	"rotation/before promote", "rotation/recorded promote",
	"rotation/before grace", "rotation/recorded grace",
	"rotation/before retire", "rotation/called retire", "rotation/recorded retire",
}
