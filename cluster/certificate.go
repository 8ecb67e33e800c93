package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/fsm"
)

// ServerName is the name that every node's certificate for clients carries: a client verifies that it
// talks to the cluster, whichever node a connection ends at.
const ServerName = "cluster.hizo.internal"

// Validity of certificates. A node's is renewed when half of it is over. It is as long as it is because a
// cluster may be off for a year and then need operators, whose client verifies dates, before any node can
// renew: shorter would lock them out of the unsealing itself.
const (
	caLasts   = 20 * 365 * 24 * time.Hour
	nodeLasts = 2 * 365 * 24 * time.Hour
	backdate  = time.Hour // clients' clocks differ
)

// caKey derives the CA's private key from its key in the keyring, so that it is stored nowhere else:
// candidates are 32 bytes each, taken as a scalar if they are one (FIPS 186-5, A.2.2; all but 2^-32 of
// them are).
func caKey(ring *keyring.Keyring, generation uint32) (*ecdsa.PrivateKey, error) {
	for try := range 8 {
		candidate, err := ring.Derive(keyring.CA, generation, fmt.Sprintf("p256/%d", try), 32)
		if err != nil {
			return nil, fmt.Errorf("the CA's key: %w", err)
		}
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), candidate.Reveal())
		candidate.Wipe()
		if err == nil {
			return key, nil
		}
	}
	return nil, errors.New("the CA's key: no candidate is a scalar")
}

func serial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 159)
	s, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return s.Add(s, big.NewInt(1)), nil
}

// makeCA makes the self-signed certificate that clients pin.
func makeCA(ring *keyring.Keyring, generation uint32, cluster [16]byte, name string, now time.Time) ([]byte, error) {
	key, err := caKey(ring, generation)
	if err != nil {
		return nil, err
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "hizo"
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: name + " CA", SerialNumber: fmt.Sprintf("%x", cluster)},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(caLasts),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the CA certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func parseCertificate(pemBytes []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// issue signs a certificate by the cluster's CA.
func (n *Node) issue(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	ring, err := n.Keyring()
	if err != nil {
		return nil, err
	}
	cl, _ := n.store.Cluster()
	return signByCA(ring, cl.CA, template, public)
}

// signByCA signs a leaf with the CA key of ring, whose certificate is ca.
func signByCA(ring *keyring.Keyring, ca []byte, template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	parent, err := parseCertificate(ca)
	if err != nil {
		return nil, fmt.Errorf("the CA certificate in the state: %w", err)
	}
	key, err := caKey(ring, 1)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// SignByCA signs a statement with the CA's key: ECDSA over its SHA-256, deterministic (RFC 6979), so that one statement
// has one signed form. A statement must not be a certificate, so it begins with a zero byte.
func (n *Node) SignByCA(statement []byte) ([]byte, error) {
	if len(statement) == 0 || statement[0] != 0 {
		return nil, errors.New("the CA signs certificates and tuples only")
	}
	ring, err := n.Keyring()
	if err != nil {
		return nil, err
	}
	key, err := caKey(ring, 1)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(statement)
	return key.Sign(nil, sum[:], crypto.SHA256)
}

// ErrCSR says that a certificate request cannot be signed.
var ErrCSR = errors.New("not a usable certificate request")

// IssueClientCertificate signs a client's key, given as PEM or DER of a PKCS#10 request. Only the key is
// taken from the request: names, dates and uses are ours. The certificate admits nobody before the
// returned body has committed as fsm.KindCertificate, which the caller authorises and proposes.
func (n *Node) IssueClientCertificate(principal string, request []byte, ttl time.Duration) ([]byte, fsm.Certificate, error) {
	der := request
	if block, _ := pem.Decode(request); block != nil {
		der = block.Bytes
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fsm.Certificate{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fsm.Certificate{}, fmt.Errorf("%w: its sender does not hold the key: %w", ErrCSR, err)
	}
	public, err := x509.MarshalPKIXPublicKey(csr.PublicKey)
	if err != nil {
		return nil, fsm.Certificate{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	ring, err := n.Keyring()
	if err != nil {
		return nil, fsm.Certificate{}, err
	}
	cl, _ := n.store.Cluster()
	now := time.UnixMilli(max(n.store.Time(), n.unixMilli()))
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: principal},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "hizo", Host: fmt.Sprintf("%x", cl.ID), Path: "/" + principal}},
	}
	cert, err := n.issue(template, csr.PublicKey)
	if err != nil {
		return nil, fsm.Certificate{}, err
	}
	key := sha256.Sum256(public)
	body := fsm.Certificate{Principal: principal, Key: key[:], Serial: template.SerialNumber.Text(16), Expires: now.Add(ttl).UnixMilli()}
	if body.MAC, err = ring.MAC(cl.MACGeneration, body.MACDomain(), body.MACBody()); err != nil {
		return nil, fsm.Certificate{}, err
	}
	return cert, body, nil
}

// issueNodeCertificate signs a member's HSM key for the clients' port.
func (n *Node) issueNodeCertificate(m fsm.Member) ([]byte, error) {
	public, err := x509.ParsePKIXPublicKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m.ID, err)
	}
	return n.issue(nodeTemplate(m, time.UnixMilli(max(n.store.Time(), n.unixMilli()))), public)
}

func nodeTemplate(m fsm.Member, now time.Time) *x509.Certificate {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: m.ID},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(nodeLasts),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	template.DNSNames = nodeNames(m.ID)
	return template
}

// nodeNames are the cluster's name and the node's, which was approved with its key. Addresses are not among
// them: a member announces its own, and would choose whom it may pass for.
func nodeNames(id string) []string {
	if dnsName(id) && id != ServerName {
		return []string{ServerName, id}
	}
	return []string{ServerName}
}

func dnsName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}

// needsCertificate says whether a member's certificate is missing, half over, or for other names.
func (n *Node) needsCertificate(m fsm.Member) bool {
	cert, err := parseCertificate(m.ClientCert)
	if err != nil {
		return true
	}
	if k, ok := n.store.KeyRotation(fsm.RotateCertificates); ok && k.Due != 0 && !issuedSince(m, k.Due) {
		return true
	}
	now := time.UnixMilli(max(n.store.Time(), n.unixMilli()))
	return now.After(cert.NotBefore.Add(nodeLasts/2)) || now.Before(cert.NotBefore) ||
		!slices.Equal(nodeNames(m.ID), cert.DNSNames) || len(cert.IPAddresses) > 0
}

// issuedSince compares in whole seconds, which certificates have.
func issuedSince(m fsm.Member, ms int64) bool {
	cert, err := parseCertificate(m.ClientCert)
	return err == nil && cert.NotBefore.Add(backdate).Unix() >= ms/1000
}

// nodeCertificate caches what the clients' port presents.
type nodeCertificate struct {
	mu   sync.Mutex
	from string // PEM that cert was made from; empty: self-signed
	cert *tls.Certificate
}

// ClientCertificate returns what this node presents to clients now; it fits tls.Config.GetCertificate.
// The private key is the HSM's. Until the CA has signed it, it is self-signed: the bootstrap file pins it.
func (n *Node) ClientCertificate() (*tls.Certificate, error) {
	m, _ := n.store.Member(n.cfg.ID)
	c := &n.cert
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && c.from == string(m.ClientCert) {
		return c.cert, nil
	}
	cert, err := n.makeClientCertificate(m)
	if err != nil {
		return nil, err
	}
	c.from, c.cert = string(m.ClientCert), cert
	return cert, nil
}

func (n *Node) makeClientCertificate(m fsm.Member) (*tls.Certificate, error) {
	signer := n.cfg.Seal.Identity()
	out := &tls.Certificate{PrivateKey: signer, SupportedSignatureAlgorithms: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	for rest := m.ClientCert; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	if len(out.Certificate) > 0 {
		return out, nil
	}
	number, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: n.cfg.ID}, DNSNames: nodeNames(n.cfg.ID),
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("sign this node's certificate with its identity key: %w", err)
	}
	out.Certificate = [][]byte{der}
	return out, nil
}
