package seal

import (
	"encoding/binary"

	"github.com/hizo/hizo/crypto/secret"
)

// Sizes that a value with its length is padded to: 256, 512, 1024, 2048, 4096, then multiples of 4096. A password and a
// token of any usual length look the same.
const (
	minPadded  = 256
	padStep    = 4096
	lengthSize = 4
	maxPadded  = (MaxValue + lengthSize + padStep - 1) / padStep * padStep
)

func padded(n int) int {
	size := minPadded
	for size < n && size < padStep {
		size *= 2
	}
	if size >= n {
		return size
	}
	return (n + padStep - 1) / padStep * padStep
}

// pad makes the plaintext: info, then the value behind its length and before zeros.
func pad(info []byte, value secret.Bytes) secret.Bytes {
	b := make([]byte, len(info)+padded(lengthSize+value.Len()))
	n := copy(b, info)
	binary.BigEndian.PutUint32(b[n:], uint32(value.Len()))
	copy(b[n+lengthSize:], value.Reveal())
	return secret.New(b)
}

// unpad takes the value out of what follows info. Only what pad makes is accepted.
func unpad(b []byte) (secret.Bytes, error) {
	if len(b) < lengthSize {
		return secret.Bytes{}, ErrOpen
	}
	n := binary.BigEndian.Uint32(b)
	if n > MaxValue || len(b) != padded(lengthSize+int(n)) {
		return secret.Bytes{}, ErrOpen
	}
	end := lengthSize + int(n)
	for _, zero := range b[end:] {
		if zero != 0 {
			return secret.Bytes{}, ErrOpen
		}
	}
	return secret.Copy(b[lengthSize:end]), nil
}
