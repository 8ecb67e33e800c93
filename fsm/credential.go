package fsm

import "bytes"

// Credentials expire by cluster time. Apply decides expiry again, whatever the proposer saw.

// putToken stores a token of an enabled principal.
func (t *tx) putToken(token Token) Code {
	if !hashed(token.Hash) || !identity(token.Principal) || token.MaxExpires < token.Expires {
		return CodeInvalid
	}
	if token.Expires <= t.time {
		return CodeExpired
	}
	if code := t.enabled(token.Principal); code != CodeOK {
		return code
	}
	name := ObjToken(token.Hash)
	if t.lookup(name) != nil {
		return CodeExists
	}
	token.Changed = t.index
	t.put(name, &storedToken{Token: token, Generation: generationOf(t, token.Principal).Count})
	t.expire(token.Expires+millis(TokenMemory), name)
	return CodeOK
}

// dropToken revokes one token; one that is gone already is fine.
func (t *tx) dropToken(hash []byte) bool {
	name := ObjToken(hash)
	have := find[storedToken](t, name)
	if have == nil {
		return false
	}
	live := alive(t, have)
	t.del(name)
	t.keep(have.Token.Expires+millis(TokenMemory), name)
	return live
}

// login stores a token. A retry of the same login (request id, client key) revokes the token of the first attempt: its
// answer may never have arrived, and nobody should hold two.
func (t *tx) login(cmd *Command, b *Login, before *request) outcome {
	out := done()
	if before != nil {
		if !bytes.Equal(before.ClientKey, b.ClientKey) {
			return refuse(CodeUsed)
		}
		t.dropToken(before.Token)
		out.Duplicate, out.replaced = true, true
	}
	if len(b.SecretID) > 0 {
		name := ObjSecretID(b.SecretID)
		have := find[SecretID](t, name)
		switch {
		case have == nil || !alive(t, have):
			return refuse(CodeNotFound)
		case ObjWorkload(have.Workload) != b.Token.Principal:
			return refuse(CodeDenied)
		case have.Expires <= t.time:
			return refuse(CodeExpired)
		case have.Used && (have.UsedRequest != cmd.Request || cmd.Request == [16]byte{} ||
			!bytes.Equal(have.UsedClient, b.ClientKey)):
			return refuse(CodeUsed)
		}
		if have.Used {
			t.dropToken(have.UsedToken)
			out.Duplicate, out.replaced = true, true
		}
		used := *have
		used.Used, used.UsedRequest, used.UsedClient, used.UsedToken = true, cmd.Request, b.ClientKey, b.Token.Hash
		used.Changed = t.index
		t.put(name, &used)
	}
	if len(b.Certificate) > 0 {
		have := find[Certificate](t, ObjCertificate(b.Certificate))
		switch {
		case have == nil || !alive(t, have):
			return refuse(CodeNotFound)
		case have.Principal != b.Token.Principal:
			return refuse(CodeDenied)
		case have.Expires <= t.time:
			return refuse(CodeExpired)
		case b.Token.MaxExpires > have.Expires:
			return refuse(CodeInvalid)
		}
	}
	if b.Token.Binding != "" || b.Token.Issuer != "" {
		first := t.federated(cmd, b)
		if first.Code != CodeOK {
			return first
		}
		out.Duplicate, out.replaced = out.Duplicate || first.Duplicate, out.replaced || first.replaced
	}
	if code := t.putToken(b.Token); code != CodeOK {
		return refuse(code)
	}
	return out
}

func (t *tx) tokenRevoke(b *TokenRevoke) outcome {
	switch {
	case len(b.Hash) > 0 && (b.Principal != "" || b.Credentials):
		return refuse(CodeInvalid)
	case len(b.Hash) > 0:
		if !t.dropToken(b.Hash) {
			return refuse(CodeNotFound)
		}
		return done()
	case !identity(b.Principal):
		return refuse(CodeInvalid)
	case t.lookup(b.Principal) == nil:
		return refuse(CodeNotFound)
	}
	t.revokeAll(b.Principal, b.Credentials)
	return done()
}

func (t *tx) tokenRenew(b *TokenRenew) outcome {
	name := ObjToken(b.Hash)
	have := find[storedToken](t, name)
	switch {
	case have == nil || !alive(t, have):
		return refuse(CodeNotFound)
	case have.Token.Expires <= t.time || b.Expires <= t.time:
		return refuse(CodeExpired)
	case b.Expires > have.Token.MaxExpires:
		return refuse(CodeInvalid)
	}
	next := *have
	next.Token.Expires, next.Token.MAC, next.Token.Changed = b.Expires, b.MAC, t.index
	t.put(name, &next)
	t.keep(have.Token.Expires+millis(TokenMemory), name)
	t.expire(b.Expires+millis(TokenMemory), name)
	return done()
}

func (t *tx) secretIDPut(b *SecretIDPut) outcome {
	id := b.SecretID
	if !hashed(id.Hash) || !segment(id.Workload) || id.Used {
		return refuse(CodeInvalid)
	}
	if id.Expires <= t.time {
		return refuse(CodeExpired)
	}
	if code := t.enabled(ObjWorkload(id.Workload)); code != CodeOK {
		return refuse(code)
	}
	name := ObjSecretID(id.Hash)
	if t.lookup(name) != nil {
		return refuse(CodeExists)
	}
	id.UsedRequest, id.UsedClient, id.UsedToken, id.Changed = [16]byte{}, nil, nil, t.index
	id.Generation = generationOf(t, ObjWorkload(id.Workload)).Credentials
	t.put(name, &id)
	t.expire(id.Expires+millis(OneTimeMemory), name)
	return done()
}

func (t *tx) enrolmentPut(b *EnrolmentPut) outcome {
	return refuse(t.putEnrolment(b.Enrolment))
}

func (t *tx) putEnrolment(e Enrolment) Code {
	if !hashed(e.Hash) || e.Used || len(e.Roles) > 16 {
		return CodeInvalid
	}
	if e.Expires <= t.time {
		return CodeExpired
	}
	name := ObjEnrolment(e.Hash)
	if t.lookup(name) != nil {
		return CodeExists
	}
	e.Changed = t.index
	t.put(name, &e)
	t.expire(e.Expires+millis(OneTimeMemory), name)
	return CodeOK
}

// enrol makes a user out of a one-time enrolment. A retry (same request id and fingerprint) only gets another token.
func (t *tx) enrol(b *Enrol, before *request) outcome {
	name := "user/" + b.User.Name
	if b.Token.Principal != name {
		return refuse(CodeInvalid)
	}
	if before != nil {
		t.dropToken(before.Token)
		if code := t.putToken(b.Token); code != CodeOK {
			return refuse(code)
		}
		out := done()
		out.Duplicate, out.replaced = true, true
		return out
	}
	have := find[Enrolment](t, ObjEnrolment(b.Hash))
	switch {
	case have == nil:
		return refuse(CodeNotFound)
	case have.Used:
		return refuse(CodeUsed)
	case have.Expires <= t.time:
		return refuse(CodeExpired)
	case len(b.Roles) != len(have.Roles):
		return refuse(CodeInvalid)
	}
	if out := t.userPut(&UserPut{User: b.User}); out.Code != CodeOK {
		return out
	}
	for i, role := range have.Roles {
		if b.Roles[i].Role != role || b.Roles[i].Principal != name || !segment(role) || !t.bind(b.Roles[i]) {
			return refuse(CodeInvalid)
		}
	}
	if code := t.putToken(b.Token); code != CodeOK {
		return refuse(code)
	}
	used := *have
	used.Used, used.Changed = true, t.index
	t.put(ObjEnrolment(b.Hash), &used)
	return done()
}

func (t *tx) certificate(b *Certificate) outcome {
	if !hashed(b.Key) || !identity(b.Principal) {
		return refuse(CodeInvalid)
	}
	if b.Expires <= t.time {
		return refuse(CodeExpired)
	}
	if code := t.enabled(b.Principal); code != CodeOK {
		return refuse(code)
	}
	name := ObjCertificate(b.Key)
	if have := find[Certificate](t, name); have != nil {
		if have.Principal != b.Principal {
			return refuse(CodeExists)
		}
		t.keep(have.Expires, name)
	}
	c := *b
	c.Generation, c.Changed = generationOf(t, b.Principal).Credentials, t.index
	t.put(name, &c)
	t.expire(c.Expires, name)
	return done()
}
