package fsm_test

import (
	"fmt"
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

// federated is a world in which who has the repository org/b from the issuer ci is the workload train.
func federated(t *testing.T, change func(*fsm.Issuer)) *world {
	t.Helper()
	w := newWorld(t)
	issuer := fsmtest.Issuer("ci")
	if change != nil {
		change(&issuer)
	}
	w.ok(
		w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}),
		w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "eval"}}),
		w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: issuer}),
		w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("b", "ci", "train")}),
	)
	return w
}

func body(t *testing.T, c fsm.Command) *fsm.Login {
	t.Helper()
	b, err := fsm.DecodeBody(c.Kind, c.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b.(*fsm.Login)
}

func TestFederatedLogin(t *testing.T) {
	w := federated(t, nil)
	w.ok(w.Federated(w.s, "b", "one", "jwt"), w.Federated(w.s, "b", "two", "jwt")) // a projected token logs in again
	token, ok := w.s.Token(fsmtest.HashOf("one"))
	if !ok || token.Principal != "workload/train" || len(token.Claims) != 1 || token.Claims[0].Value != "org/b" {
		t.Fatalf("token %+v, %t", token, ok)
	}
	for name, spoil := range map[string]func(*fsm.Token){
		"another workload":          func(t *fsm.Token) { t.Principal = "workload/eval" },
		"no issuer":                 func(t *fsm.Token) { t.Issuer = "" },
		"another issuer":            func(t *fsm.Token) { t.Issuer = "other" },
		"another binding":           func(t *fsm.Token) { t.Binding = "other" },
		"no binding":                func(t *fsm.Token) { t.Binding = "" },
		"a former issuer's time":    func(t *fsm.Token) { t.IssuerMade-- },
		"a former binding's time":   func(t *fsm.Token) { t.BindingMade-- },
		"longer than the binding's": func(t *fsm.Token) { t.MaxExpires++ },
		"too many claims":           func(t *fsm.Token) { t.Claims = make([]fsm.Claim, fsm.MaxTokenClaims+1) },
	} {
		c := w.Federated(w.s, "b", "bad", "jwt")
		b := body(t, c)
		b.Token.MaxExpires = w.Now() + 2*hour
		spoil(&b.Token)
		c.Body = fsm.EncodeBody(c.Kind, b)
		if got := w.apply(c); got[0].Code == fsm.CodeOK {
			t.Errorf("%s: logged in", name)
		}
	}
}

// A login ends in the same entry in which what it rests on goes or stops being the same.
func TestFederatedLoginEndsWithItsGround(t *testing.T) {
	for name, end := range map[string]func(w *world) []fsm.Command{
		"binding deleted": func(w *world) []fsm.Command {
			return []fsm.Command{w.do(fsm.KindClaimBindingDelete, fsm.ClaimBindingDelete{Name: "b"})}
		},
		"binding made again": func(w *world) []fsm.Command {
			return []fsm.Command{
				w.do(fsm.KindClaimBindingDelete, fsm.ClaimBindingDelete{Name: "b"}),
				w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("b", "ci", "train")}),
			}
		},
		"binding of another workload": func(w *world) []fsm.Command {
			return []fsm.Command{w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("b", "ci", "eval")})}
		},
		"issuer deleted": func(w *world) []fsm.Command {
			return []fsm.Command{w.do(fsm.KindIssuerDelete, fsm.IssuerDelete{Name: "ci"})}
		},
		"issuer made again": func(w *world) []fsm.Command {
			return []fsm.Command{
				w.do(fsm.KindIssuerDelete, fsm.IssuerDelete{Name: "ci"}),
				w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: fsmtest.Issuer("ci")}),
			}
		},
		"logins ended": func(w *world) []fsm.Command {
			return []fsm.Command{w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: fsmtest.Issuer("ci"), EndLogins: true})}
		},
		"workload disabled": func(w *world) []fsm.Command {
			return []fsm.Command{w.do(fsm.KindUserDisable, fsm.PrincipalDisable{Principal: "workload/train", Disabled: true})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := federated(t, nil)
			w.ok(w.Federated(w.s, "b", "one", "jwt"))
			object := fsm.ObjToken(fsmtest.HashOf("one"))
			read := w.Read("workload/train", fsm.Ref{Vault: "ml", Path: "db"})
			read.Reads = w.reads(object)
			w.want(fsm.CodeOK, read)
			results := w.apply(append(end(w), read)...)
			if got := results[len(results)-1].Code; got != fsm.CodeSuperseded {
				t.Errorf("a read of the same entry: %v", got)
			}
			if _, ok := w.s.Token(fsmtest.HashOf("one")); ok || w.s.Index(object) != 0 {
				t.Error("the token lives")
			}
			w.want(fsm.CodeNotFound, w.do(fsm.KindTokenRenew, fsm.TokenRenew{Hash: fsmtest.HashOf("one"), Expires: w.Now() + hour}))
		})
	}
}

// Changing an issuer's keys or what a binding demands leaves logins to be looked at by their claims.
func TestFederatedLoginOutlivesChanges(t *testing.T) {
	w := federated(t, nil)
	w.ok(w.Federated(w.s, "b", "one", "jwt"))
	issuer, binding := fsmtest.Issuer("ci"), fsmtest.Binding("b", "ci", "train")
	issuer.Keys, binding.Carry = []byte("{}"), []string{"ref"}
	w.ok(w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: issuer}), w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: binding}))
	if _, ok := w.s.Token(fsmtest.HashOf("one")); !ok {
		t.Error("the token is gone")
	}
}

func TestAssertionLogsInOnce(t *testing.T) {
	w := federated(t, func(i *fsm.Issuer) { i.Once = true })
	first := w.Federated(w.s, "b", "one", "jwt")
	w.ok(first)
	w.want(fsm.CodeUsed, w.Federated(w.s, "b", "two", "jwt"))
	w.ok(w.Federated(w.s, "b", "three", "another"))

	// The retry of a login whose answer was lost gets a token, and the first one dies.
	retry := w.Federated(w.s, "b", "four", "jwt")
	retry.Request, retry.Fingerprint = first.Request, first.Fingerprint
	if got := w.apply(retry); got[0].Code != fsm.CodeOK || !got[0].Duplicate {
		t.Fatalf("retry: %+v", got[0])
	}
	if _, ok := w.s.Token(fsmtest.HashOf("one")); ok {
		t.Error("the first token lives")
	}
	stolen := retry
	b := body(t, stolen)
	b.ClientKey, b.Token.Hash = []byte("another"), fsmtest.HashOf("five")
	stolen.Body = fsm.EncodeBody(stolen.Kind, b)
	w.want(fsm.CodeUsed, stolen)

	// What has expired is refused for that, and forgotten.
	late := w.Federated(w.s, "b", "six", "jwt")
	b = body(t, late)
	b.AssertionExpires = w.Now()
	late.Body = fsm.EncodeBody(late.Kind, b)
	w.want(fsm.CodeExpired, late)
	w.later(600_001)
	w.ok(w.Federated(w.s, "b", "seven", "jwt")) // the proposer refuses it by its exp
}

func TestIssuersAndBindings(t *testing.T) {
	w := federated(t, nil)
	other := fsmtest.Issuer("other")
	other.URL = fsmtest.Issuer("ci").URL
	w.want(fsm.CodeExists, w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: other}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindIssuerDelete, fsm.IssuerDelete{Name: "other"}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("c", "other", "train")}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("c", "ci", "nobody")}))
	open := fsmtest.Binding("c", "ci", "train")
	open.Match = nil
	w.want(fsm.CodeInvalid, w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: open}))
	w.want(fsm.CodeNotFound, w.do(fsm.KindClaimBindingDelete, fsm.ClaimBindingDelete{Name: "c"}))

	before := w.s.Index(fsm.ObjClaimBindings)
	w.ok(w.do(fsm.KindClaimBindingPut, fsm.ClaimBindingPut{Binding: fsmtest.Binding("c", "ci", "train")}))
	if w.s.Index(fsm.ObjClaimBindings) == before {
		t.Error("a new binding leaves decisions about the others as they were")
	}
	for n := range fsm.MaxIssuers - 1 {
		w.ok(w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: fsmtest.Issuer(fmt.Sprint("more-", n))}))
	}
	w.want(fsm.CodeLimit, w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: fsmtest.Issuer("last")}))
	w.ok(w.do(fsm.KindIssuerPut, fsm.IssuerPut{Issuer: fsmtest.Issuer("ci")}))
}

// What logged in after a backup was made, or at the end of a log that was lost, nobody knows here: an assertion from
// before the restore or the recovery may have, and logs in no more.
func TestAssertionFromBeforeARestoreIsRefused(t *testing.T) {
	hold := func(t *testing.T, s *fsm.Store, w *world, until int64) {
		t.Helper()
		for _, test := range []struct {
			token  string
			issued int64
			want   fsm.Code
		}{
			{"old", until - 60_000, fsm.CodeExpired},
			{"of that moment", until, fsm.CodeExpired},
			{"new", until + 1, fsm.CodeOK},
		} {
			c := w.Federated(s, "b", test.token, "jwt "+test.token)
			b := body(t, c)
			b.AssertionIssued = test.issued
			c.Body = fsm.EncodeBody(c.Kind, b)
			entry := w.Entry(c)
			entry.Index, entry.Term = s.Position().Index+1, s.Position().Term
			if got := s.Apply(entry).([]fsm.Result)[0]; got.Code != test.want {
				t.Errorf("%s: %+v", test.token, got)
			}
		}
	}
	w := federated(t, func(i *fsm.Issuer) { i.Once = true })
	w.ok(w.Federated(w.s, "b", "before", "jwt"))
	s := restored(t, w.s)
	a := anew(s)
	a.Time = s.Time() + 120_000
	a.Cluster.Restored[0].Time = a.Time
	if err := s.BeginAnew(a); err != nil {
		t.Fatal(err)
	}
	hold(t, s, w, a.Time)

	w = federated(t, func(i *fsm.Issuer) { i.Once = true })
	w.ok(w.Command(fsm.KindRecovered, "node/n1", "recover", "cluster", fsm.Recovered{
		ID: [16]byte{9}, Node: "n1", By: "alice", Reason: "fire", At: w.Now() + 30_000, GivenUp: []string{"n3"},
	}))
	hold(t, w.s, w, w.Now()+30_000)
}
