package api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/hizo/hizo/fsm"
)

// Cursors go to clients as text that only the cluster reads:
//
//	base64url( format(1) be64(epoch) be64(index) be32(ordinal) be32(CRC-32C of the cluster's id and of all before) )
//
// The checksum finds damage and cursors of another cluster. It is no protection: a cursor gives no right, and one that
// was made up only leads to a place in the log.
const (
	cursorFormat = 1
	cursorSize   = 1 + 8 + 8 + 4 + 4
)

var cursorCRC = crc32.MakeTable(crc32.Castagnoli)

func cursorText(cluster [16]byte, c fsm.Cursor) string {
	b := append(make([]byte, 0, cursorSize), cursorFormat)
	b = binary.BigEndian.AppendUint64(b, c.Epoch)
	b = binary.BigEndian.AppendUint64(b, c.Index)
	b = binary.BigEndian.AppendUint32(b, c.Ordinal)
	b = binary.BigEndian.AppendUint32(b, cursorSum(cluster, b))
	return base64.RawURLEncoding.EncodeToString(b)
}

func cursorSum(cluster [16]byte, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(cluster[:], cursorCRC), cursorCRC, b)
}

func parseCursor(cluster [16]byte, text string) (fsm.Cursor, error) {
	no := func() (fsm.Cursor, error) {
		return fsm.Cursor{}, invalid("cursor", "this is no cursor of this cluster: leave it out to begin from now")
	}
	if len(text) != base64.RawURLEncoding.EncodedLen(cursorSize) {
		return no()
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != cursorSize || b[0] != cursorFormat ||
		binary.BigEndian.Uint32(b[cursorSize-4:]) != cursorSum(cluster, b[:cursorSize-4]) {
		return no()
	}
	return fsm.Cursor{
		Epoch: binary.BigEndian.Uint64(b[1:]), Index: binary.BigEndian.Uint64(b[9:]), Ordinal: binary.BigEndian.Uint32(b[17:]),
	}, nil
}
