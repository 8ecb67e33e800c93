package check

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/chaos/history"
	"github.com/hizo/hizo/cluster/backup"
)

// Backups verifies every file that lies under a backup's name, acknowledged or not, by the trust file of the cluster's
// beginning, and demands those that were acknowledged. Nothing drops backups in a run.
func Backups(dir, trust string, events []history.Event) (verified int, violations []string) {
	from, err := audit.ParseTrust(trust)
	if err != nil {
		return 0, []string{fmt.Sprintf("backup: %v", err)}
	}
	place, err := backup.OpenDir(dir)
	if err != nil {
		return 0, []string{fmt.Sprintf("backup: %v", err)}
	}
	kept, err := place.List(context.Background())
	if err != nil {
		return 0, []string{fmt.Sprintf("backup: %v", err)}
	}
	digests := map[string]string{}
	for _, e := range kept {
		report, err := verifyBackup(place, e.Name, from)
		if err != nil {
			violations = append(violations, fmt.Sprintf("backup: %s does not verify: %v", e.Name, err))
			continue
		}
		digests[e.Name] = hex.EncodeToString(report.Digest[:])
		verified++
	}
	for _, e := range events {
		if e.Kind == history.Backup && e.Outcome == history.OK && digests[e.Key] != e.Value {
			violations = append(violations, fmt.Sprintf("backup: call %d was told of %s with digest %s, and that file has %q", e.ID, e.Key, e.Value, digests[e.Key]))
		}
	}
	return verified, violations
}

func verifyBackup(place backup.Dir, name string, trust audit.Trust) (report audit.BackupReport, err error) {
	r, err := place.Open(context.Background(), name)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return audit.VerifyBackup(r, trust)
}
