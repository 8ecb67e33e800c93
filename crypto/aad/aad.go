// Package aad encodes what a ciphertext, a MAC or a commitment is bound to.
//
// A tuple is a domain and any number of fields, each preceded by its length as 4 bytes, big endian.
// Two different tuples therefore never encode to the same bytes: no field can grow into its neighbour.
//
//	tuple  = item(domain) item(field 1) … item(field n)
//	item x = uint32(len(x)) x
package aad

import "encoding/binary"

// Tuple encodes a domain and fields.
func Tuple(domain string, fields ...[]byte) []byte {
	n := 4 + len(domain)
	for _, f := range fields {
		n += 4 + len(f)
	}
	b := AppendString(make([]byte, 0, n), domain)
	for _, f := range fields {
		b = AppendBytes(b, f)
	}
	return b
}

// AppendBytes appends one field. Start a tuple with AppendString(buf, domain).
func AppendBytes(b, field []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// AppendString appends one field.
func AppendString(b []byte, field string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// AppendUint64 appends a number as a field of 8 bytes.
func AppendUint64(b []byte, v uint64) []byte {
	b = binary.BigEndian.AppendUint32(b, 8)
	return binary.BigEndian.AppendUint64(b, v)
}

// AppendUint32 appends a number as a field of 4 bytes.
func AppendUint32(b []byte, v uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, 4)
	return binary.BigEndian.AppendUint32(b, v)
}

// AppendByte appends a number as a field of 1 byte.
func AppendByte(b []byte, v byte) []byte {
	b = binary.BigEndian.AppendUint32(b, 1)
	return append(b, v)
}
