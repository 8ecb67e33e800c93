package transport

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Meta is what a node says about itself.
//
//	byte  format, 1
//	byte  flags, bit 0 Sealed
//	      Applied, uvarint
//	      length (uvarint) and bytes of PeerAddr
//	      length (uvarint) and bytes of ClientAddr
type Meta struct {
	PeerAddr   string
	ClientAddr string
	Sealed     bool
	Applied    uint64 // Raft index
}

const (
	metaFormat  = 1
	metaSealed  = 1 << 0
	maxMetaAddr = 200 // bytes; two of them and the rest stay below memberlist's 512
)

// ErrMeta: the bytes are no Meta of a format this version knows.
var ErrMeta = errors.New("gossip metadata is malformed or too long")

func encodeMeta(m Meta) ([]byte, error) {
	if !validAddr(m.PeerAddr) || !validAddr(m.ClientAddr) {
		return nil, ErrMeta
	}
	b := []byte{metaFormat, 0}
	if m.Sealed {
		b[1] |= metaSealed
	}
	b = binary.AppendUvarint(b, m.Applied)
	b = append(binary.AppendUvarint(b, uint64(len(m.PeerAddr))), m.PeerAddr...)
	b = append(binary.AppendUvarint(b, uint64(len(m.ClientAddr))), m.ClientAddr...)
	return b, nil
}

func decodeMeta(b []byte) (Meta, error) {
	if len(b) < 2 || b[0] != metaFormat || b[1]&^metaSealed != 0 {
		return Meta{}, ErrMeta
	}
	m := Meta{Sealed: b[1]&metaSealed != 0}
	var n int
	if m.Applied, n = binary.Uvarint(b[2:]); n <= 0 {
		return Meta{}, ErrMeta
	}
	b = b[2+n:]
	for _, addr := range []*string{&m.PeerAddr, &m.ClientAddr} {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > maxMetaAddr || size > uint64(len(b)-n) {
			return Meta{}, ErrMeta
		}
		*addr = string(b[n : n+int(size)])
		if !validAddr(*addr) {
			return Meta{}, ErrMeta
		}
		b = b[n+int(size):]
	}
	if len(b) != 0 {
		return Meta{}, ErrMeta
	}
	return m, nil
}

// validAddr keeps control characters out of tables and logs that show hints.
func validAddr(s string) bool {
	if len(s) > maxMetaAddr || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r > 0x7e {
			return false
		}
	}
	return true
}
