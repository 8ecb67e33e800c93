package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

// Limits of a join token.
const (
	MaxJoinNodes  = 16
	maxJoinAddr   = 255
	maxJoinBinary = 1 + 16 + 32 + 32 + 1 + MaxJoinNodes*(1+maxJoinAddr+32) + 4
	joinPrefix    = "hizoj_"
	joinFormat    = 1
)

// ErrJoinToken means that a text is no join token, or one of a
// format that this version does not know. It never quotes the text.
var ErrJoinToken = errors.New("malformed join token: it is cut, mistyped, or made by another version")

// JoinNode is a member that a joining node can turn to.
type JoinNode struct {
	Addr string   // host:port of its peer port
	Key  [32]byte // fingerprint of its identity key, as transport.Fingerprint makes it
}

// JoinToken lets one node ask to join. The node learns from it whom to trust:
// it speaks to the listed keys only and to no other cluster.
//
// Layout, before unpadded base64url:
//
//	format  1 byte, 1
//	cluster 16 bytes
//	secret  32 bytes
//	joiner  32 bytes: fingerprint of the key that may join
//	count   1 byte
//	count × { length 1 byte, address, key 32 bytes }
//	crc     4 bytes, big-endian CRC-32 (IEEE) of prefix and all bytes above
type JoinToken struct {
	Cluster [16]byte
	Joiner  [32]byte
	Nodes   []JoinNode
	secret  [32]byte
}

// NewJoinToken makes a token with a fresh secret.
func NewJoinToken(cluster [16]byte, joiner [32]byte, nodes []JoinNode) (JoinToken, error) {
	t := JoinToken{Cluster: cluster, Joiner: joiner, Nodes: nodes}
	rand.Read(t.secret[:])
	return t, t.check()
}

func (t JoinToken) check() error {
	if len(t.Nodes) == 0 || len(t.Nodes) > MaxJoinNodes {
		return fmt.Errorf("a join token names 1 to %d nodes, not %d", MaxJoinNodes, len(t.Nodes))
	}
	for _, n := range t.Nodes {
		if err := checkAddr(n.Addr); err != nil {
			return err
		}
	}
	return nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("join token: address %q is not host:port", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || len(addr) > maxJoinAddr || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("join token: address %q is not host:port", addr)
	}
	for i := range len(addr) {
		if addr[i] <= ' ' || addr[i] >= 0x7f {
			return fmt.Errorf("join token: address %q is not plain ASCII", addr)
		}
	}
	return nil
}

// Reveal gives the token's text, for the operator who asked for it.
func (t JoinToken) Reveal() string {
	b := []byte{joinFormat}
	b = append(b, t.Cluster[:]...)
	b = append(b, t.secret[:]...)
	b = append(b, t.Joiner[:]...)
	b = append(b, byte(len(t.Nodes)))
	for _, n := range t.Nodes {
		b = append(b, byte(len(n.Addr)))
		b = append(b, n.Addr...)
		b = append(b, n.Key[:]...)
	}
	b = binary.BigEndian.AppendUint32(b, joinChecksum(b))
	return joinPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func joinChecksum(b []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(joinPrefix)), crc32.IEEETable, b)
}

// ParseJoinToken reads a token's text.
func ParseJoinToken(text string) (JoinToken, error) {
	body, ok := strings.CutPrefix(text, joinPrefix)
	if !ok || len(body) > base64.RawURLEncoding.EncodedLen(maxJoinBinary) || strings.ContainsAny(body, "\r\n") {
		return JoinToken{}, ErrJoinToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < 1+16+32+32+1+4 || b[0] != joinFormat {
		return JoinToken{}, ErrJoinToken
	}
	b, sum := b[:len(b)-4], b[len(b)-4:]
	if binary.BigEndian.Uint32(sum) != joinChecksum(b) {
		return JoinToken{}, ErrJoinToken
	}
	var t JoinToken
	b = b[1:]
	b = b[copy(t.Cluster[:], b):]
	b = b[copy(t.secret[:], b):]
	b = b[copy(t.Joiner[:], b):]
	count := int(b[0])
	b = b[1:]
	if count > MaxJoinNodes {
		return JoinToken{}, ErrJoinToken
	}
	for range count {
		if len(b) < 1 || len(b) < 1+int(b[0])+32 {
			return JoinToken{}, ErrJoinToken
		}
		n := JoinNode{Addr: string(b[1 : 1+int(b[0])])}
		b = b[1+int(b[0]):]
		b = b[copy(n.Key[:], b):]
		t.Nodes = append(t.Nodes, n)
	}
	if len(b) != 0 || t.check() != nil {
		return JoinToken{}, ErrJoinToken
	}
	return t, nil
}

// Secret is what the joining node shows to a member, over a connection to a
// key that the token lists.
func (t JoinToken) Secret() [32]byte { return t.secret }

// Hash is what the cluster stores of the secret.
func (t JoinToken) Hash() [sha256.Size]byte { return HashJoinSecret(t.secret) }

// HashJoinSecret is the hash of the secret that a joining node shows.
func HashJoinSecret(secret [32]byte) [sha256.Size]byte {
	return hashText("hizo/join-token/v1", string(secret[:]))
}

func (JoinToken) String() string               { return redactedText }
func (JoinToken) GoString() string             { return redactedText }
func (JoinToken) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redactedText)) }
func (JoinToken) LogValue() slog.Value         { return slog.StringValue(redactedText) }
func (JoinToken) MarshalText() ([]byte, error) { return []byte(redactedText), nil }
func (JoinToken) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }
