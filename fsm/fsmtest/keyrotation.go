package fsmtest

import (
	"crypto/sha256"

	"github.com/hizo/hizo/fsm"
)

// Operators is a set of operators' shares whose codes are "code-1", "code-2", …
func Operators(deal string, threshold int, recipients ...string) fsm.OperatorSet {
	s := fsm.OperatorSet{Deal: []byte(deal), Key: []byte("key"), Recipients: recipients, Threshold: threshold, MAC: []byte("mac")}
	for i := range recipients {
		code := sha256.Sum256(OperatorCode(i + 1))
		s.Files, s.Proofs = append(s.Files, []byte("file")), append(s.Proofs, code[:])
	}
	return s
}

// OperatorCode is what operator i confirms with.
func OperatorCode(i int) []byte { return []byte{'c', 'o', 'd', 'e', byte(i)} }

// keys makes a command about the cluster's own keys.
func (r *Random) keys(who, vault string) fsm.Command {
	subject := []string{
		fsm.RotateRoot, fsm.RotateNodeShares, fsm.RotateOperators, fsm.RotateCertificates, fsm.RotateVaults,
		fsm.RotateVault(vault), "nothing",
	}[r.rng.IntN(7)]
	purpose := "vault/" + vault
	newest := r.store.KeyGeneration(purpose)
	switch r.rng.IntN(12) {
	case 0:
		body := fsm.KeySchedule{Subject: subject, Every: 60_000, Zone: "UTC", Next: r.Time + 60_000}
		if r.rng.IntN(3) == 0 {
			body = fsm.KeySchedule{Subject: subject}
		}
		return r.Command(fsm.KindKeySchedule, who, "keys.schedule", subject, body)
	case 1:
		return r.Command(fsm.KindKeyRotationBegin, who, "keys.rotate", subject, fsm.KeyRotationBegin{
			Subject: subject, Next: int64(r.rng.IntN(2)) * (r.Time + 60_000), Skip: r.rng.IntN(4) == 0,
		})
	case 2:
		return r.Command(fsm.KindKeyRotationBegin, who, "keys.rotate", subject, fsm.KeyRotationBegin{Subject: subject, Done: true})
	case 3, 4:
		return r.Command(fsm.KindKeyRetire, who, "keys.retire", purpose, fsm.KeyRetire{
			Purpose: purpose, Generation: 1 + uint32(r.rng.IntN(int(newest)+1)),
		})
	case 5:
		return r.Command(fsm.KindOperatorsPropose, who, "keys.operators", "", fsm.OperatorsPropose{
			Set: Operators("deal", 1+r.rng.IntN(2), "age1a", "age1b", "age1c"),
		})
	case 6, 7:
		body := fsm.OperatorsConfirm{Index: 1 + r.rng.IntN(3)}
		body.Code = OperatorCode(body.Index)
		if r.rng.IntN(3) == 0 {
			body.Code = OperatorCode(1 + r.rng.IntN(3))
		}
		return r.Command(fsm.KindOperatorsConfirm, who, "keys.operators", "", body)
	case 8:
		return r.Command(fsm.KindOperatorsCommit, who, "keys.operators", "", fsm.OperatorsCommit{
			Deal: []byte("deal"), OperatorRoot: []byte("root"), MAC: []byte("mac"),
		})
	case 9:
		switch r.rng.IntN(4) {
		case 0:
			last, _ := r.store.LastBackup()
			kept := r.Command(fsm.KindBackupKept, who, "", "", fsm.BackupKept{Seq: last.Seq})
			kept.Audits = nil
			return kept
		case 1:
			return r.Command(fsm.KindBackup, who, "", "", fsm.Backup{
				Name: r.name("backup", 4), Digest: make([]byte, sha256.Size), MAC: make([]byte, sha256.Size), Bytes: 7,
				Records: uint64(r.rng.IntN(int(r.store.AuditSize()) + 2)), Index: r.store.Position().Index,
			})
		}
		return r.Command(fsm.KindOperatorsAbort, who, "keys.operators", "", fsm.OperatorsAbort{Deal: []byte("deal")})
	default:
		body := fsm.KeyRewrap{Vault: vault, Generation: newest}
		list, _ := r.store.StaleData(vault, newest, "", 1+r.rng.IntN(4))
		for _, stale := range list {
			from := stale.Data.Generation
			if r.rng.IntN(8) == 0 {
				from++ // moved meanwhile
			}
			body.Items = append(body.Items, fsm.RewrappedKey{Path: stale.Path, Version: stale.Version, From: from, WrappedKey: []byte("rewrapped")})
		}
		cmd := r.Command(fsm.KindKeyRewrap, who, "", "", body)
		cmd.Audits = nil
		return cmd
	}
}
