package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/audit"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/backup/keeper"
	"github.com/hizo/hizo/cluster/backup/s3"
	"github.com/hizo/hizo/cluster/rotate/schedule"
	"github.com/hizo/hizo/fsm"
)

// BackupConfig says where backups are kept, when they are made, and how long. Whichever node leads makes them: keep it
// the same on all.
type BackupConfig struct {
	Directory string    `yaml:"directory"` // absolute, and there
	S3        *S3Config `yaml:"s3"`

	Every    time.Duration `yaml:"every"` // or cron; neither: only when asked
	Cron     string        `yaml:"cron"`
	TimeZone string        `yaml:"time_zone"` // of cron; default UTC

	// A backup is dropped when keep newer ones are there and it is older than keep_for. Neither: never.
	Keep    int           `yaml:"keep"`
	KeepFor time.Duration `yaml:"keep_for"`
}

// S3Config is a bucket of an S3-compatible store.
type S3Config struct {
	Endpoint        string `yaml:"endpoint"` // https://HOST[:PORT]
	Region          string `yaml:"region"`
	Bucket          string `yaml:"bucket"`
	Prefix          string `yaml:"prefix"`
	CredentialsFile string `yaml:"credentials_file"` // form of AWS's shared credentials, mode 0600
	CAFile          string `yaml:"ca_file"`
	HostStyle       bool   `yaml:"host_style"` // BUCKET.HOST instead of HOST/BUCKET
}

func (c BackupConfig) schedule() schedule.Spec {
	return schedule.Spec{Every: c.Every, Cron: c.Cron, Zone: c.TimeZone}
}

// check says what is wrong without looking at the place.
func (c BackupConfig) check() error {
	var errs []error
	if c.Directory != "" && c.S3 != nil {
		errs = append(errs, errors.New("backup: set directory or s3, not both"))
	}
	scheduled := c.schedule() != schedule.Spec{}
	if c.Directory == "" && c.S3 == nil && (scheduled || c.Keep != 0 || c.KeepFor != 0) {
		errs = append(errs, errors.New("backup: set directory or s3, where backups are kept"))
	}
	if c.S3 != nil {
		if _, err := s3.Open(c.S3.place()); err != nil && c.S3.CAFile == "" {
			errs = append(errs, fmt.Errorf("backup.%w", err))
		}
	}
	if scheduled {
		if _, err := schedule.Parse(c.schedule()); err != nil {
			errs = append(errs, fmt.Errorf("backup: %w", err))
		}
	}
	if c.Keep < 0 || c.KeepFor < 0 {
		errs = append(errs, errors.New("backup: keep and keep_for are not negative"))
	}
	return errors.Join(errs...)
}

func (c S3Config) place() s3.Config {
	return s3.Config{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, Prefix: c.Prefix, Credentials: c.CredentialsFile, CA: c.CAFile, HostStyle: c.HostStyle,
	}
}

// openPlace opens where backups are kept, nil where nothing is configured.
func openPlace(c BackupConfig) (backup.Place, error) {
	switch {
	case c.Directory != "":
		return backup.OpenDir(c.Directory)
	case c.S3 != nil:
		return s3.Open(c.S3.place())
	}
	return nil, nil
}

// newBackups makes what makes backups, nil where there is no place for them.
func newBackups(c BackupConfig, log *slog.Logger) (*keeper.Keeper, error) {
	place, err := openPlace(c)
	if err != nil || place == nil {
		return nil, err
	}
	return keeper.New(keeper.Config{
		Place: place, Schedule: c.schedule(), Keep: c.Keep, KeepFor: c.KeepFor, Version: version(), Logger: log,
		Check: func(r io.Reader, store *fsm.Store) error {
			trust, err := api.TrustOf(store)
			if err != nil {
				return err
			}
			_, err = audit.VerifyBackup(r, trust)
			return err
		},
	})
}

// backupsOf is what the API asks of a node's backups.
type backupsOf struct {
	*keeper.Keeper
	node *cluster.Node
}

func (b backupsOf) Create(ctx context.Context) (fsm.Backup, error) {
	return b.Keeper.Create(ctx, b.node)
}
