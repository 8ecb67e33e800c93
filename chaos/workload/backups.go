package workload

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/history"
)

// backups has the cluster make one after the other. Key is the file's name, Value its digest.
func (w *Workload) backups(ctx context.Context) {
	c, err := w.Connect(w.Admin)
	if err != nil {
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		e := w.Record.Begin(history.Event{Client: "backup", Kind: history.Backup})
		call, cancel := context.WithTimeout(ctx, callTimeout)
		r, err := c.Backups().CreateBackup(call, &hizov1.CreateBackupRequest{})
		cancel()
		e = outcome(e, err)
		e.Key, e.Value = r.GetName(), hex.EncodeToString(r.GetSha256())
		w.Record.End(e)
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond): // each holds the whole state
		}
	}
}
