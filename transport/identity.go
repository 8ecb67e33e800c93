package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Peer is a node as the membership knows it. On a stream for joiners only Key
// is set, whoever is at the other end. It is an alias, so that other packages can
// be a Directory and use a Mux without importing this one.
type Peer = struct {
	ID   string
	Addr string   // host:port of the peer port
	Key  [32]byte // Fingerprint of the node's identity key
	Raft bool     // may open Raft streams: whoever does not vote only answers them
}

// Directory is the current membership, the only thing that decides who may
// open a Raft or peer stream. Both methods must be cheap, must not block, and
// must be safe for concurrent use: they run on every handshake and dial.
type Directory interface {
	Peer(id string) (Peer, bool)
	ByKey(key [32]byte) (Peer, bool)
}

var (
	// ErrNotMember: the key or the id at the other end is in no membership entry.
	ErrNotMember = errors.New("not a member of this cluster; join it first, or ask whether it was removed (hizo cluster members)")
	// ErrNoRaft: the other end is a member, but may not open Raft streams.
	ErrNoRaft = errors.New("this member has no vote, is not approved, or is quarantined: it opens no Raft streams (hizo cluster members)")
	// ErrWrongKey: the other end proved another key than the one pinned for it.
	ErrWrongKey = errors.New("the node at this address has another identity key than the one pinned for it; check the address, or remove and join the node again if its HSM was replaced")
	// ErrRefused: the other end ended the stream before admitting it.
	ErrRefused = errors.New("the node did not admit this node: it does not know this node's key as a member, or it is overloaded or stopping")
	// ErrUnsupportedKey: identity keys are ECDSA on P-256, what HSMs offer.
	ErrUnsupportedKey = errors.New("identity keys must be ECDSA P-256")
	// ErrProtocol: no ALPN of ours was agreed on.
	ErrProtocol = errors.New("no Hizo protocol was negotiated on this stream")
)

// Fingerprint names a public key: SHA-256 of its PKIX SubjectPublicKeyInfo
// (RFC 5280, section 4.1.2.7). It is computed from the key and not from the
// bytes of a certificate, so one key has one fingerprint however it was
// encoded. An unusable key gives the zero fingerprint, which no directory may
// hold and which is refused at every check.
func Fingerprint(pub crypto.PublicKey) [32]byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(der)
}

// peerKey is the fingerprint of the key that the other end of a TLS 1.3
// handshake proves with its CertificateVerify (RFC 8446, section 4.4.3).
// Nothing else of the certificate is looked at: names can be chosen freely by
// whoever signs his own certificate, and a cluster that was off for a year must
// come up.
func peerKey(state tls.ConnectionState) ([32]byte, error) {
	if state.Version != tls.VersionTLS13 || state.DidResume || len(state.PeerCertificates) == 0 {
		return [32]byte{}, fmt.Errorf("stream without a fresh TLS 1.3 certificate: %w", ErrUnsupportedKey)
	}
	pub, ok := state.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return [32]byte{}, ErrUnsupportedKey
	}
	key := Fingerprint(pub)
	if key == ([32]byte{}) {
		return key, ErrUnsupportedKey
	}
	return key, nil
}

// selfSigned wraps the identity key into the certificate that TLS asks for.
// RFC 5280, section 4.1.2.5: 99991231235959Z says that there is no well-defined
// expiry.
func selfSigned(id string, signer crypto.Signer) (tls.Certificate, error) {
	if pub, ok := signer.Public().(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return tls.Certificate{}, ErrUnsupportedKey
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate serial: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: id},
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign this node's certificate with its identity key: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse this node's certificate: %w", err)
	}
	return tls.Certificate{
		Certificate:                  [][]byte{der},
		Leaf:                         leaf,
		PrivateKey:                   signer,
		SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}, nil
}

// short is a fingerprint for people: enough to compare, short enough to read.
func short(key [32]byte) string { return hex.EncodeToString(key[:8]) }
