package fsm_test

import (
	"testing"

	"github.com/hizo/hizo/fsm"
	"github.com/hizo/hizo/fsm/fsmtest"
)

const hour = 3_600_000

func TestTokenExpiresByClusterTime(t *testing.T) {
	w := newWorld(t)
	w.ok(w.user("bob"), w.login("user/bob", "b"))
	object := fsm.ObjToken(fsmtest.HashOf("b"))
	read := w.Read("user/bob", fsm.Ref{Vault: "ml", Path: "db"})
	read.Reads = w.reads(object)
	w.later(hour - 1)
	w.want(fsm.CodeOK, read)
	w.later(1)
	w.want(fsm.CodeExpired, read)
	w.want(fsm.CodeExpired, w.do(fsm.KindTokenRenew, fsm.TokenRenew{Hash: fsmtest.HashOf("b"), Expires: w.Now() + hour}))
	if token, ok := w.s.Token(fsmtest.HashOf("b")); !ok || token.Expires > w.s.Time() {
		t.Errorf("an expired token is not to be told from an unknown one: %+v", token)
	}
	w.later(fsm.TokenMemory.Milliseconds())
	if _, ok := w.s.Token(fsmtest.HashOf("b")); ok {
		t.Error("an expired token stayed")
	}
	w.want(fsm.CodeSuperseded, read)
}

func TestTokenRenewal(t *testing.T) {
	w := newWorld(t)
	w.ok(w.user("bob"), w.login("user/bob", "b"))
	renew := func(expires int64) fsm.Command {
		return w.do(fsm.KindTokenRenew, fsm.TokenRenew{Hash: fsmtest.HashOf("b"), Expires: expires, MAC: []byte("new")})
	}
	most := w.Now() + 24*hour
	w.want(fsm.CodeInvalid, renew(most+1))
	w.want(fsm.CodeExpired, renew(w.Now()))
	w.want(fsm.CodeOK, renew(w.Now()+3*hour))
	w.later(2*hour + 1) // the first expiry and its memory are past
	if token, ok := w.s.Token(fsmtest.HashOf("b")); !ok || string(token.MAC) != "new" {
		t.Errorf("a renewed token went at its first expiry: %+v", token)
	}
	w.want(fsm.CodeOK, w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Hash: fsmtest.HashOf("b")}))
	w.want(fsm.CodeNotFound, renew(w.Now()+hour))
	w.want(fsm.CodeNotFound, w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Hash: fsmtest.HashOf("b")}))
}

func TestRevokingAllTokensAtOnce(t *testing.T) {
	for name, revoke := range map[string]func(*world) fsm.Command{
		"revoke": func(w *world) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "user/bob"})
		},
		"credentials": func(w *world) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "user/bob", Credentials: true})
		},
		"password": func(w *world) fsm.Command {
			return w.do(fsm.KindUserPut, fsm.UserPut{User: fsm.User{Name: "bob"}, Update: true, EndLogins: true})
		},
		"disable": func(w *world) fsm.Command { return w.disable("user/bob", true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ok(w.user("bob"), w.user("carol"), w.login("user/bob", "b1"), w.login("user/bob", "b2"), w.login("user/carol", "c"))
			w.ok(revoke(w))
			for token, want := range map[string]bool{"b1": false, "b2": false, "c": true, "t": true} {
				if _, ok := w.s.Token(fsmtest.HashOf(token)); ok != want {
					t.Errorf("token %s lives: %t", token, ok)
				}
				if index := w.s.Index(fsm.ObjToken(fsmtest.HashOf(token))); (index != 0) != want {
					t.Errorf("token %s has index %d", token, index)
				}
			}
			if name == "disable" {
				w.want(fsm.CodeDenied, w.login("user/bob", "b3"))
				w.ok(w.disable("user/bob", false))
			}
			// What was revoked stays revoked, what comes after lives.
			w.ok(w.login("user/bob", "b4"))
			if _, ok := w.s.Token(fsmtest.HashOf("b1")); ok {
				t.Error("a revoked token came back")
			}
			if _, ok := w.s.Token(fsmtest.HashOf("b4")); !ok {
				t.Error("a new token is dead")
			}
			w.want(fsm.CodeExists, w.login("user/bob", "b4"))
		})
	}
	w := newWorld(t)
	w.want(fsm.CodeNotFound, w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "user/none"}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: "cluster/x"}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Hash: fsmtest.HashOf("t"), Credentials: true}))
	w.want(fsm.CodeNotFound, w.login("user/none", "x"))
}

// A one-time login whose answer was lost is retried with the same request id and client key: the token of the first
// attempt dies, and there is one.
func TestLoginRetry(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		w := newWorld(t)
		id := fsmtest.HashOf("id")
		w.ok(w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}),
			w.do(fsm.KindSecretIDPut, fsm.SecretIDPut{SecretID: fsm.SecretID{Hash: id, Workload: "train", Expires: w.Now() + hour}}))
		login := func(token, client string, request [16]byte) fsm.Command {
			body := fsm.Login{Token: w.Token("workload/train", token), ClientKey: []byte(client)}
			if oneTime {
				body.SecretID = id
			}
			c := w.Command(fsm.KindLogin, "workload/train", "login", "", body)
			c.Request, c.Fingerprint = request, []byte("login")
			return c
		}
		request := w.RequestID()
		w.want(fsm.CodeOK, login("first", "client", request))
		if r := w.want(fsm.CodeOK, login("second", "client", request)); !r.Duplicate {
			t.Errorf("%+v", r)
		}
		w.want(fsm.CodeOK, login("third", "client", request))
		for token, want := range map[string]bool{"first": false, "second": false, "third": true} {
			if _, ok := w.s.Token(fsmtest.HashOf(token)); ok != want {
				t.Errorf("one-time %t: token %s lives: %t", oneTime, token, ok)
			}
		}
		// Whoever replays it with another key gets nothing, and takes nothing away.
		w.want(fsm.CodeUsed, login("thief", "other", request))
		if oneTime {
			w.want(fsm.CodeUsed, login("thief", "client", w.RequestID()))
			w.want(fsm.CodeUsed, login("thief", "client", [16]byte{}))
			// The secret id itself knows who used it, under whatever name the request came.
			disguised := login("thief", "other", request)
			disguised.Principal = "anonymous"
			w.want(fsm.CodeUsed, disguised)
		}
		if _, ok := w.s.Token(fsmtest.HashOf("third")); !ok {
			t.Error("a replay revoked the token")
		}
	}
}

func TestSecretIDRules(t *testing.T) {
	w := newWorld(t)
	id := fsmtest.HashOf("id")
	put := func(workload string, expires int64) fsm.Command {
		return w.do(fsm.KindSecretIDPut, fsm.SecretIDPut{SecretID: fsm.SecretID{Hash: id, Workload: workload, Expires: expires}})
	}
	login := func(principal string) fsm.Command {
		return w.Command(fsm.KindLogin, principal, "login", "", fsm.Login{Token: w.Token(principal, "x"), SecretID: id})
	}
	w.want(fsm.CodeNotFound, put("train", w.Now()+hour))
	w.ok(w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}),
		w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "other"}}))
	w.want(fsm.CodeExists, w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}))
	w.want(fsm.CodeNotFound, login("workload/train"))
	w.want(fsm.CodeExpired, put("train", w.Now()))
	w.ok(put("train", w.Now()+hour))
	w.want(fsm.CodeExists, put("train", w.Now()+hour))
	w.want(fsm.CodeDenied, login("workload/other"))
	w.later(hour)
	w.want(fsm.CodeExpired, login("workload/train"))
	w.ok(w.disable("workload/train", true))
	id = fsmtest.HashOf("id2")
	w.want(fsm.CodeDenied, put("train", w.Now()+hour))
}

func TestEnrolment(t *testing.T) {
	w := emptyWorld(t)
	w.ok(w.Genesis())
	wrong := w.Enrol("alice", "t")
	wrong.Body = fsm.EncodeBody(fsm.KindEnrol, fsm.Enrol{
		Hash: fsmtest.HashOf("enrolment"), User: fsm.User{Name: "alice"}, Token: w.Token("user/alice", "t"),
		Roles: []fsm.RoleBinding{{Role: "Operator", Principal: "user/alice"}},
	})
	w.want(fsm.CodeInvalid, wrong)
	if _, ok := w.s.User("alice"); ok {
		t.Error("a refused enrolment made a user")
	}
	enrol := w.Enrol("alice", "t1")
	w.want(fsm.CodeOK, enrol)
	if roles := w.s.Roles("user/alice"); len(roles) != 1 || roles[0].Role != fsm.RoleSecurityEngineer {
		t.Errorf("%+v", roles)
	}
	retry := w.Enrol("alice", "t2")
	retry.Request, retry.Fingerprint = enrol.Request, enrol.Fingerprint
	if r := w.want(fsm.CodeOK, retry); !r.Duplicate {
		t.Errorf("%+v", r)
	}
	_, first := w.s.Token(fsmtest.HashOf("t1"))
	_, second := w.s.Token(fsmtest.HashOf("t2"))
	if first || !second {
		t.Errorf("after the retry the first token lives: %t, the second: %t", first, second)
	}
	w.want(fsm.CodeUsed, w.Enrol("mallory", "m"))
	put := func(expires int64) fsm.Command {
		return w.do(fsm.KindEnrolmentPut, fsm.EnrolmentPut{Enrolment: fsm.Enrolment{Hash: fsmtest.HashOf("e2"), Expires: expires}})
	}
	w.want(fsm.CodeExpired, put(w.Now()))
	w.ok(put(w.Now() + hour))
	w.want(fsm.CodeExists, put(w.Now()+hour))
	late := func() fsm.Command {
		return w.Command(fsm.KindEnrol, "anonymous", "enrol", "", fsm.Enrol{
			Hash: fsmtest.HashOf("e2"), User: fsm.User{Name: "late"}, Token: w.Token("user/late", "l"),
		})
	}
	w.later(hour)
	w.want(fsm.CodeExpired, late())
	w.later(fsm.OneTimeMemory.Milliseconds())
	w.want(fsm.CodeNotFound, late())
}

func TestLastSecurityEngineerStays(t *testing.T) {
	w := newWorld(t)
	w.ok(w.user("bob"))
	revoke := func(principal string) fsm.Command {
		return w.do(fsm.KindRoleRevoke, fsm.RoleRevoke{Role: fsm.RoleSecurityEngineer, Principal: principal})
	}
	w.want(fsm.CodeLastSecurityEngineer, revoke("user/alice"))
	w.want(fsm.CodeLastSecurityEngineer, w.disable("user/alice", true))
	w.ok(w.grant(fsm.RoleSecurityEngineer, "user/bob"), w.disable("user/bob", true))
	w.want(fsm.CodeLastSecurityEngineer, revoke("user/alice")) // a disabled holder does not count
	w.want(fsm.CodeOK, revoke("user/bob"))                     // and may go
	w.ok(w.disable("user/bob", false), w.grant(fsm.RoleSecurityEngineer, "user/bob"))
	// Both at once, in one entry: the second sees the first.
	results := w.apply(revoke("user/alice"), w.disable("user/bob", true), revoke("user/bob"))
	for i, want := range []fsm.Code{fsm.CodeOK, fsm.CodeLastSecurityEngineer, fsm.CodeLastSecurityEngineer} {
		if results[i].Code != want {
			t.Errorf("record %d: %+v", i, results[i])
		}
	}
	if _, ok := w.s.User("bob"); !ok || len(w.s.Bindings()) != 1 {
		t.Errorf("bindings %+v", w.s.Bindings())
	}
}

func TestUsersAndRoles(t *testing.T) {
	w := newWorld(t)
	w.want(fsm.CodeOK, w.user("bob"))
	w.want(fsm.CodeExists, w.user("bob"))
	w.want(fsm.CodeInvalid, w.user("a/b"))
	update := func(u fsm.User) fsm.Command { return w.do(fsm.KindUserPut, fsm.UserPut{User: u, Update: true}) }
	w.want(fsm.CodeNotFound, update(fsm.User{Name: "none"}))
	// Disabling has a command of its own, which revokes tokens and keeps the last engineer.
	w.want(fsm.CodeInvalid, update(fsm.User{Name: "alice", Disabled: true}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindUserPut, fsm.UserPut{User: fsm.User{Name: "new", Disabled: true}}))
	w.want(fsm.CodeOK, update(fsm.User{Name: "bob", Password: []byte("sealed")}))
	if u, _ := w.s.User("bob"); string(u.Password) != "sealed" || u.Created == 0 {
		t.Errorf("%+v", u)
	}
	w.want(fsm.CodeNotFound, w.grant("Auditor", "user/none"))
	w.want(fsm.CodeInvalid, w.grant("Auditor", "bob"))
	w.want(fsm.CodeOK, w.grant("Operator", "user/bob"))
	w.want(fsm.CodeOK, w.grant("Auditor", "user/bob"))
	w.want(fsm.CodeExists, w.grant("Auditor", "user/bob"))
	if roles := w.s.Roles("user/bob"); len(roles) != 2 || roles[0].Role != "Auditor" || roles[0].By != "user/alice" {
		t.Errorf("%+v", roles)
	}
	revoke := func(role string) fsm.Command {
		return w.do(fsm.KindRoleRevoke, fsm.RoleRevoke{Role: role, Principal: "user/bob"})
	}
	w.want(fsm.CodeNotFound, revoke("PipelineOwner"))
	w.want(fsm.CodeOK, revoke("Auditor"))
	w.want(fsm.CodeOK, revoke("Operator"))
	w.want(fsm.CodeNotFound, revoke("Operator"))
	if w.s.Index(fsm.ObjRoles("user/bob")) != 0 {
		t.Error("no role is not absent")
	}
	w.want(fsm.CodeNotFound, w.disable("user/none", true))
	w.want(fsm.CodeInvalid, w.disable("vault/ml", true))
	w.want(fsm.CodeNotFound, w.do(fsm.KindPolicyDelete, fsm.PolicyDelete{Name: "none"}))
	w.want(fsm.CodeInvalid, w.do(fsm.KindPolicyPut, fsm.PolicyPut{Policy: fsm.Policy{Name: "p"}}))
}

func TestCertificates(t *testing.T) {
	w := newWorld(t)
	key := fsmtest.HashOf("cert")
	certificate := func(principal string, expires int64) fsm.Command {
		return w.do(fsm.KindCertificate, fsm.Certificate{Principal: principal, Key: key, Serial: "1", Expires: expires})
	}
	w.want(fsm.CodeNotFound, certificate("user/none", w.Now()+hour))
	w.want(fsm.CodeExpired, certificate("user/alice", w.Now()))
	w.want(fsm.CodeOK, certificate("user/alice", w.Now()+hour))
	w.want(fsm.CodeOK, certificate("user/alice", w.Now()+2*hour)) // renewed over the same key
	w.ok(w.user("bob"))
	w.want(fsm.CodeExists, certificate("user/bob", w.Now()+hour))
	w.later(hour + 1)
	if _, ok := w.s.Certificate(key); !ok {
		t.Error("a renewed certificate went at its first expiry")
	}
	w.later(hour)
	if _, ok := w.s.Certificate(key); ok {
		t.Error("an expired certificate stayed")
	}
}

// What lets a principal log in again dies with its tokens, where it is told to; what comes after lives.
func TestCredentialsAreRevoked(t *testing.T) {
	for name, revoke := range map[string]func(w *world, principal string) fsm.Command{
		"tokens alone": func(w *world, principal string) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: principal})
		},
		"revoke": func(w *world, principal string) fsm.Command {
			return w.do(fsm.KindTokenRevoke, fsm.TokenRevoke{Principal: principal, Credentials: true})
		},
		"disable": func(w *world, principal string) fsm.Command { return w.disable(principal, true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key, id := fsmtest.HashOf("cert"), fsmtest.HashOf("id")
			certificate := func() fsm.Command {
				return w.do(fsm.KindCertificate, fsm.Certificate{Principal: "user/bob", Key: key, Serial: "1", Expires: w.Now() + 2*hour, Generation: 7})
			}
			secretID := func(h []byte) fsm.Command {
				return w.do(fsm.KindSecretIDPut, fsm.SecretIDPut{SecretID: fsm.SecretID{Hash: h, Workload: "train", Expires: w.Now() + hour, Generation: 7}})
			}
			w.ok(w.user("bob"), w.do(fsm.KindWorkloadPut, fsm.WorkloadPut{Workload: fsm.Workload{Name: "train"}}),
				certificate(), secretID(id))
			rests := w.reads(fsm.ObjCertificate(key), fsm.ObjSecretID(id))
			w.ok(revoke(w, "user/bob"), revoke(w, "workload/train"))
			dead := name != "tokens alone"
			_, lives1 := w.s.Certificate(key)
			_, lives2 := w.s.SecretID(id)
			if lives1 == dead || lives2 == dead {
				t.Errorf("the certificate lives: %t, the secret id: %t", lives1, lives2)
			}
			for _, read := range rests {
				c := w.Command(fsm.KindRecord, "anonymous", "login", "", nil)
				c.Reads = []fsm.Read{read}
				want := fsm.CodeOK
				if dead {
					want = fsm.CodeSuperseded
				}
				w.want(want, c)
			}
			if !dead {
				return
			}
			if name == "disable" {
				w.ok(w.disable("user/bob", false), w.disable("workload/train", false))
			}
			login := func(principal, token string, body fsm.Login) fsm.Command {
				body.Token = w.Token(principal, token)
				body.Token.Expires, body.Token.MaxExpires = w.Now()+1, w.Now()+1
				return w.Command(fsm.KindLogin, principal, "login", "", body)
			}
			w.want(fsm.CodeNotFound, login("user/bob", "x", fsm.Login{Certificate: key}))
			w.want(fsm.CodeNotFound, login("workload/train", "y", fsm.Login{SecretID: id}))
			id = fsmtest.HashOf("id2")
			w.ok(certificate(), secretID(id), login("user/bob", "x", fsm.Login{Certificate: key}), login("workload/train", "y", fsm.Login{SecretID: id}))
		})
	}
}

func TestCertificateLoginEndsWithTheCertificate(t *testing.T) {
	w := newWorld(t)
	key := fsmtest.HashOf("cert")
	w.ok(w.user("bob"), w.do(fsm.KindCertificate, fsm.Certificate{Principal: "user/bob", Key: key, Serial: "1", Expires: w.Now() + hour}))
	login := func(principal string, most int64) fsm.Command {
		token := w.Token(principal, "x")
		token.Expires, token.MaxExpires = min(token.Expires, most), most
		return w.Command(fsm.KindLogin, principal, "login", "", fsm.Login{Token: token, Certificate: key})
	}
	end := w.Now() + hour
	w.want(fsm.CodeInvalid, login("user/bob", end+1))
	w.want(fsm.CodeDenied, login("user/alice", end))
	w.want(fsm.CodeOK, login("user/bob", end))
	w.ok(w.user("carol"))
	w.want(fsm.CodeNotFound, w.Command(fsm.KindLogin, "user/carol", "login", "", fsm.Login{Token: w.Token("user/carol", "c"), Certificate: fsmtest.HashOf("none")}))
}

func TestPasswordChangeKeepsOneLogin(t *testing.T) {
	w := newWorld(t)
	w.ok(w.user("bob"), w.login("user/bob", "b1"), w.login("user/bob", "b2"))
	rest := w.reads(fsm.ObjToken(fsmtest.HashOf("b1")))
	change := func(keep string) fsm.Command {
		return w.do(fsm.KindUserPut, fsm.UserPut{User: fsm.User{Name: "bob", Password: []byte("new")}, Update: true, EndLogins: true, Keep: fsmtest.HashOf(keep)})
	}
	lives := func(want map[string]bool) {
		t.Helper()
		for token, live := range want {
			if _, ok := w.s.Token(fsmtest.HashOf(token)); ok != live {
				t.Errorf("token %s lives: %t", token, ok)
			}
		}
	}
	w.ok(change("b1"))
	lives(map[string]bool{"b1": true, "b2": false, "t": true})
	still := w.Read("user/bob", fsm.Ref{Vault: "ml", Path: "db"})
	still.Reads = rest
	w.want(fsm.CodeOK, still) // a decision that rests on the kept one stands
	w.ok(change("b2"))        // brings no dead one back
	lives(map[string]bool{"b1": false, "b2": false})
	w.ok(w.login("user/bob", "b3"))
	w.ok(change("t")) // nor spares another's
	lives(map[string]bool{"b3": false, "t": true})
}
