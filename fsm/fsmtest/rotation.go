package fsmtest

import "github.com/hizo/hizo/fsm"

// rotation makes commands of people and of the engine, which mostly fit how far the attempt of a secret is.
func (r *Random) rotation(who string) fsm.Command {
	all := r.store.Rotations()
	if len(all) == 0 || r.rng.IntN(12) == 0 {
		vault, path := r.name("v", 2), r.name("p", 2)
		return r.Command(fsm.KindRotationSet, who, "rotation.set", vault+"/"+path, fsm.RotationSet{Rotation: fsm.Rotation{
			Vault: vault, Path: path, Target: "generated", Options: []fsm.RotationOption{{Name: "field", Value: "password"}},
			Every: 60_000, Grace: int64(r.rng.IntN(20_000)), Wait: r.rng.IntN(2) == 0, Deadline: 30_000, RevokeIssued: r.rng.IntN(2) == 0,
			By: who, NextRun: r.Time, MAC: []byte("mac"),
		}})
	}
	have := all[r.rng.IntN(len(all))]
	on := have.Vault + "/" + have.Path
	switch r.rng.IntN(30) {
	case 0:
		return r.Command(fsm.KindRotationDelete, who, "rotation.delete", on, fsm.RotationDelete{Vault: have.Vault, Path: have.Path, Force: r.rng.IntN(2) == 0})
	case 1:
		return r.Command(fsm.KindRotationPause, who, "rotation.pause", on, fsm.RotationPause{Vault: have.Vault, Path: have.Path, Paused: r.rng.IntN(2) == 0, NextRun: r.Time})
	case 2, 3:
		return r.Command(fsm.KindRotationRun, who, "rotation.run", on, fsm.RotationRun{Vault: have.Vault, Path: have.Path})
	}
	a := have.Attempt
	duty := func(kind fsm.Kind, body any) fsm.Command {
		c := r.Command(kind, "node/n1", "rotation", on, body)
		c.Request, c.Term = [16]byte{}, max(r.Term, 1)
		return c
	}
	switch r.rng.IntN(8) {
	case 0:
		return duty(fsm.KindRotationFail, fsm.RotationFail{
			Vault: have.Vault, Path: have.Path, ID: a.ID, From: a.State, Message: "no route to the server", RetryAt: r.Time + 1000,
			GiveUp: r.rng.IntN(2) == 0, NextRun: r.Time + 60_000,
		})
	case 1:
		c := duty(fsm.KindRotationUse, fsm.RotationUse{
			Vault: have.Vault, Path: have.Path, ID: a.ID, Refs: []fsm.Ref{{Vault: have.Vault, Path: have.Path, Version: a.Version}},
		})
		return c
	}
	if a.State == fsm.RotationIdle {
		head, _ := r.store.Secret(have.Vault, have.Path)
		v, _ := r.store.Vault(have.Vault)
		body := fsm.RotationStage{
			Vault: have.Vault, Path: have.Path, ID: RequestID(r.Time, r.rng.Uint64()), Version: max(head.Next, 1), Old: head.Current,
			NextRun: r.Time + 60_000, Data: Sealed(have.Vault, have.Path, head.Next),
		}
		body.Data.Generation = v.Generation
		return duty(fsm.KindRotationStage, body)
	}
	to := map[fsm.RotationState][]fsm.RotationState{
		fsm.RotationStaged: {fsm.RotationApplied}, fsm.RotationApplied: {fsm.RotationVerified}, fsm.RotationVerified: {fsm.RotationPromoted},
		fsm.RotationPromoted: {fsm.RotationRetiring}, fsm.RotationRetiring: {fsm.RotationRetired},
		fsm.RotationGivingUp: {fsm.RotationGivenUp, fsm.RotationVerified, fsm.RotationDropped},
	}[a.State]
	return duty(fsm.KindRotationAdvance, fsm.RotationAdvance{
		Vault: have.Vault, Path: have.Path, ID: a.ID, From: a.State, To: to[r.rng.IntN(len(to))],
	})
}
