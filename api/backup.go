package api

import (
	"context"
	"errors"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster/backup/keeper"
	"github.com/hizo/hizo/fsm"
)

// Backups makes backups and lists them. What it makes is sealed to the operators' shares: whoever may ask for one reads
// nothing by it.
type Backups interface {
	Create(ctx context.Context) (fsm.Backup, error)
	List(ctx context.Context) ([]keeper.Kept, error)
	Place() string
}

// backupService serves BackupService.
type backupService struct {
	hizov1.UnimplementedBackupServiceServer
	*Server
}

var errNoPlace = &Error{Reason: hizov1.ReasonInvalid, Message: "this node has no place for backups: set backup.directory or backup.s3 in the configuration of every node"}

// CreateBackup makes a backup. The audit log says who asked, and then that it was made.
func (s *backupService) CreateBackup(ctx context.Context, _ *hizov1.CreateBackupRequest) (*hizov1.Backup, error) {
	if err := s.asked(ctx, policy.BackupCreate); err != nil {
		return nil, err
	}
	made, err := s.conf.Backups.Create(ctx)
	if err != nil {
		return nil, ofPlace(err)
	}
	return &hizov1.Backup{
		Name: made.Name, CreatedUnixMs: made.Time, AuditRecords: made.Records, Index: made.Index, Sha256: made.Digest, Place: s.conf.Backups.Place(),
	}, nil
}

// ListBackups lists backups by what their files say; nothing of that is verified.
func (s *backupService) ListBackups(ctx context.Context, _ *hizov1.ListBackupsRequest) (*hizov1.ListBackupsResponse, error) {
	if err := s.asked(ctx, policy.BackupList); err != nil {
		return nil, err
	}
	list, err := s.conf.Backups.List(ctx)
	if err != nil {
		return nil, ofPlace(err)
	}
	out := &hizov1.ListBackupsResponse{Place: s.conf.Backups.Place()}
	for _, k := range list {
		b := &hizov1.Backup{
			Name: k.Name, Size: k.Size, CreatedUnixMs: k.Header.Created, AuditRecords: k.Header.Records, Index: k.Header.Index,
			Cluster: k.Header.Cluster, OperatorsNeeded: uint32(k.Header.Threshold), Operators: uint32(k.Header.Operators),
		}
		if k.Err != nil {
			b.Problem = k.Err.Error()
		}
		out.Backups = append(out.Backups, b)
	}
	return out, nil
}

// ofPlace passes on what went wrong where backups are kept.
func ofPlace(err error) error {
	if place, ok := errors.AsType[*keeper.PlaceError](err); ok {
		return &Error{Reason: hizov1.ReasonTarget, Message: place.Error()}
	}
	return err
}

// asked authorises and records a call before anything is done for it.
func (s *backupService) asked(ctx context.Context, action policy.Action) error {
	_, err := s.gate.do(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(action)}})
	if err == nil && s.conf.Backups == nil {
		return errNoPlace
	}
	return err
}
