package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// MaxToken bounds a token in bytes.
const MaxToken = 16 << 10

// tokenAlphabet is base64url (RFC 4648, section 5) and the dot.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// maxCandidates bounds the keys that one token is tried with, where an issuer gave several the same kid.
const maxCandidates = 4

// Token is a JWT that has been read and not believed.
type Token struct {
	jws       *jose.JSONWebSignature
	signed    string // header ‖ "." ‖ payload: what the signature covers
	kid       string
	algorithm string
	standard  standard
	claims    Claims
}

// Parse reads a JWT (RFC 7519) in compact serialization. Nothing of it is to be believed before Verify.
func Parse(text string) (*Token, error) {
	if len(text) > MaxToken {
		return nil, refuse(Oversize)
	}
	// Readers of base64 skip line breaks, and then one token has many texts.
	if strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune(tokenAlphabet, r) }) {
		return nil, refuse(Malformed)
	}
	header, rest, ok := strings.Cut(text, ".")
	if !ok {
		return nil, refuse(Malformed)
	}
	fields, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	last := strings.LastIndexByte(rest, '.')
	if last < 0 {
		return nil, refuse(Malformed)
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(rest[:last]); err != nil {
		return nil, refuse(Malformed) // go-jose verifies over what it has written again: one signature, many texts
	}
	jws, err := jose.ParseSignedCompact(text, allAlgorithms)
	if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		return nil, refuse(Algorithm)
	}
	if err != nil || len(jws.Signatures) != 1 {
		return nil, refuse(Malformed)
	}
	t := &Token{
		jws: jws, signed: text[:len(header)+1+last], kid: jws.Signatures[0].Header.KeyID,
		algorithm: jws.Signatures[0].Header.Algorithm,
	}
	if t.kid != fields["kid"] || t.algorithm != fields["alg"] {
		return nil, refuse(Malformed) // two readers, two headers
	}
	if t.claims, t.standard, err = parseClaims(jws.UnsafePayloadWithoutVerification()); err != nil {
		return nil, err
	}
	return t, nil
}

var allAlgorithms = func() (all []jose.SignatureAlgorithm) {
	for _, a := range Algorithms() {
		all = append(all, jose.SignatureAlgorithm(a))
	}
	return all
}()

// parseHeader reads a header (RFC 7515, section 4) as strictly as claims. What it says about keys (jwk, jku, x5u, x5c)
// is not looked at by anybody; what must be understood (crit) is not understood.
func parseHeader(encoded string) (Claims, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, refuse(Malformed)
	}
	fields, _, err := parseClaims(raw)
	if err != nil {
		return nil, err
	}
	if _, ok := fields["crit"]; ok {
		return nil, refuse(Malformed)
	}
	switch strings.ToLower(fields["typ"]) {
	case "", "jwt", "jose", "at+jwt":
		return fields, nil
	}
	return nil, refuse(Malformed) // a token made for something else than saying who somebody is
}

// From is who the token says it is from, as issuers' URLs: the trust domain where it may be a JWT-SVID, whose iss means
// nothing (SPIFFE JWT-SVID, section 3), and iss. Either may be empty.
func (t *Token) From() (domain, iss string) {
	domain, _ = trustDomainOf(t.standard.subject)
	return domain, t.standard.issuer
}

// Unverified are the claims as they stand there, for people to look at.
func (t *Token) Unverified() Claims { return t.claims }

// Subject is who the token says it is about.
func (t *Token) Subject() string { return t.standard.subject }

// Verify believes a token or says why not. now is cluster time.
func (i *Issuer) Verify(ctx context.Context, t *Token, now time.Time) (*Assertion, error) {
	from, iss := t.From()
	if i.conf.Kind == OIDC {
		from = iss
	}
	if from != i.conf.URL {
		return nil, refuse(OtherIssuer)
	}
	if !slices.Contains(i.conf.Algorithms, t.algorithm) {
		return nil, refuse(Algorithm)
	}
	if err := i.signature(ctx, t); err != nil {
		return nil, err
	}
	if err := i.times(&t.standard, now); err != nil {
		return nil, err
	}
	// A token for others as well could be presented here by any of them.
	if len(t.standard.audience) == 0 || slices.ContainsFunc(t.standard.audience, func(a string) bool {
		return !slices.Contains(i.conf.Audiences, a)
	}) {
		return nil, refuse(OtherAudience)
	}
	if t.standard.subject == "" {
		return nil, refuse(NoSubject)
	}
	claims := maps.Clone(t.claims)
	if i.conf.Kind == SPIFFE {
		withSPIFFE(claims)
	}
	return &Assertion{Claims: claims, Expires: t.standard.expires.Add(Leeway), Issued: i.issued(&t.standard), ID: i.id(t)}, nil
}

func (i *Issuer) signature(ctx context.Context, t *Token) error {
	keys, err := i.keys.find(ctx, t.kid)
	if err != nil {
		return err
	}
	tried := 0
	for _, k := range keys {
		if k.Algorithm != "" && k.Algorithm != t.algorithm || !fits(k.Key, t.algorithm) {
			continue
		}
		if tried++; tried > maxCandidates {
			break
		}
		if _, err := t.jws.Verify(k.Key); err == nil {
			return nil
		}
	}
	if tried == 0 {
		return refuse(UnknownKey)
	}
	return refuse(Signature)
}

// fits says whether a key is of the kind that an algorithm takes. The verifier checks that too: a key that is taken for
// another kind of key is the oldest way around signatures of JWTs.
func fits(key any, algorithm string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		switch algorithm {
		case "ES256":
			return k.Curve == elliptic.P256()
		case "ES384":
			return k.Curve == elliptic.P384()
		case "ES512":
			return k.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

func (i *Issuer) times(s *standard, now time.Time) error {
	switch {
	case s.expires.IsZero():
		return refuse(Malformed)
	case !now.Before(s.expires.Add(Leeway)):
		return refuse(Expired)
	case now.Add(Leeway).Before(s.before), now.Add(Leeway).Before(s.iat):
		return refuse(NotYet)
	case !s.iat.IsZero() && now.Sub(s.iat) > i.conf.MaxAge+Leeway,
		s.iat.IsZero() && s.expires.Sub(now) > i.conf.MaxAge+Leeway:
		return refuse(TooOld)
	}
	return nil
}

// issued goes by iat, less what the issuer's clock may be ahead. Without iat it is the earliest time at which a token that
// expires then would have been taken.
func (i *Issuer) issued(s *standard) time.Time {
	at := s.iat
	if at.IsZero() {
		at = s.expires.Add(-i.conf.MaxAge)
	}
	return at.Add(-Leeway)
}

// id is made of jti where there is one, and otherwise of what is signed: the signature itself could be written in
// another way and still verify.
func (i *Issuer) id(t *Token) [sha256.Size]byte {
	what, text := "jti", t.standard.id
	if text == "" {
		what, text = "signed", t.signed
	}
	b := []byte("hizo/assertion/v1")
	for _, part := range []string{i.conf.URL, what, text} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return sha256.Sum256(b)
}
