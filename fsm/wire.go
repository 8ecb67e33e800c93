package fsm

import (
	"encoding/binary"
	"math"
)

// The hot path of Apply decodes one command for every request on every node, so what reads go through (Entry, Command,
// ReadVersions) has its msgpack written out here. It is the same format: whatever these readers don't expect is left to
// the library, and tests hold both to the same results, byte for byte.

// wireReader reads msgpack. After the first thing it does not expect, ok is false and it reads nothing more.
type wireReader struct {
	data []byte
	text string // data as one string, so that texts of small records cost one allocation together; or ""
	at   int
	ok   bool
}

func newWireReader(data []byte) wireReader {
	r := wireReader{data: data, ok: true}
	if len(data) <= 4096 {
		r.text = string(data)
	}
	return r
}

func (r *wireReader) take(n int) []byte {
	if !r.ok || n < 0 || n > len(r.data)-r.at {
		r.ok = false
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at : r.at]
}

func (r *wireReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *wireReader) sized(width int) uint64 {
	b := r.take(width)
	if b == nil {
		return 0
	}
	switch width {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	}
	return binary.BigEndian.Uint64(b)
}

// array reads the header of a list and refuses a length that the rest can't hold.
func (r *wireReader) array() (n int, null bool) {
	var length uint64
	switch c := r.byte(); {
	case c == 0xc0:
		return 0, true
	case c&0xf0 == 0x90:
		length = uint64(c & 0x0f)
	case c == 0xdc:
		length = r.sized(2)
	case c == 0xdd:
		length = r.sized(4)
	default:
		r.ok = false
	}
	if length > uint64(len(r.data)-r.at) {
		r.ok = false
	}
	if !r.ok {
		return 0, false
	}
	return int(length), false
}

// fields reads the header of a struct with n fields.
func (r *wireReader) fields(n int) {
	if got, null := r.array(); null || got != n {
		r.ok = false
	}
}

func (r *wireReader) uint(most uint64) uint64 {
	var n uint64
	switch c := r.byte(); {
	case c < 0x80:
		n = uint64(c)
	case c >= 0xcc && c <= 0xcf:
		n = r.sized(1 << (c - 0xcc))
	default:
		r.ok = false
	}
	if n > most {
		r.ok = false
	}
	return n
}

func (r *wireReader) bytes() []byte {
	switch c := r.byte(); c {
	case 0xc0:
		return nil
	case 0xc4, 0xc5, 0xc6:
		n := r.sized(1 << (c - 0xc4))
		if n > uint64(len(r.data)-r.at) {
			r.ok = false
			return nil
		}
		if n == 0 {
			return []byte{}
		}
		return r.take(int(n))
	}
	r.ok = false
	return nil
}

func (r *wireReader) string() string {
	var n uint64
	switch c := r.byte(); {
	case c&0xe0 == 0xa0:
		n = uint64(c & 0x1f)
	case c >= 0xd9 && c <= 0xdb:
		n = r.sized(1 << (c - 0xd9))
	default:
		r.ok = false
	}
	if !r.ok || n > uint64(len(r.data)-r.at) {
		r.ok = false
		return ""
	}
	r.at += int(n)
	if r.text != "" {
		return r.text[r.at-int(n) : r.at]
	}
	return string(r.data[r.at-int(n) : r.at])
}

func (r *wireReader) end() bool { return r.ok && r.at == len(r.data) }

// readEntry reads an Entry whose records share memory with data.
func readEntry(data []byte, e *Entry) bool {
	r := wireReader{data: data, ok: true}
	r.fields(2)
	e.Time = int64(r.uint(math.MaxInt64))
	if n, null := r.array(); !null && r.ok {
		e.Records = make([][]byte, n)
		for i := range e.Records {
			e.Records[i] = r.bytes()
		}
	}
	return r.end()
}

// readCommand reads a Command whose byte slices share memory with data.
func readCommand(data []byte, c *Command) bool {
	r := newWireReader(data)
	r.fields(8)
	c.Kind = Kind(r.uint(math.MaxUint16))
	c.Principal = r.string()
	id := r.bytes()
	if len(id) != len(c.Request) {
		return false
	}
	copy(c.Request[:], id)
	c.Fingerprint = r.bytes()
	c.Term = r.uint(math.MaxUint64)
	if n, null := r.array(); !null && r.ok {
		c.Reads = make([]Read, n)
		for i := range c.Reads {
			r.fields(2)
			c.Reads[i] = Read{Object: r.string(), Index: r.uint(math.MaxUint64)}
		}
	}
	if n, null := r.array(); !null && r.ok {
		c.Audits = make([]Audit, n)
		for i := range c.Audits {
			r.audit(&c.Audits[i])
		}
	}
	c.Body = r.bytes()
	return r.end()
}

func (r *wireReader) audit(a *Audit) {
	r.fields(8)
	a.Action, a.Resource = r.string(), r.string()
	a.Decision = Decision(r.uint(math.MaxUint8))
	if n, null := r.array(); !null && r.ok {
		a.Policies = make([]string, n)
		for i := range a.Policies {
			a.Policies[i] = r.string()
		}
	}
	a.Detail = r.string()
	a.Count = uint32(r.uint(math.MaxUint32))
	a.Generation = uint32(r.uint(math.MaxUint32))
	a.Sealed = r.bytes()
}

func readReadVersions(data []byte, b *ReadVersions) bool {
	r := newWireReader(data)
	r.fields(1)
	if n, null := r.array(); !null && r.ok {
		b.Refs = make([]Ref, n)
		for i := range b.Refs {
			r.fields(3)
			b.Refs[i] = Ref{Vault: r.string(), Path: r.string(), Version: uint32(r.uint(math.MaxUint32))}
		}
	}
	return r.end()
}

// wireWriter is the other direction: the shortest form of everything, as the library writes it.
type wireWriter []byte

func (w wireWriter) sized(c byte, n int) wireWriter {
	switch {
	case n <= math.MaxUint8:
		return append(w, c, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(w, c+1), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(w, c+2), uint32(n))
}

func (w wireWriter) array(n int) wireWriter {
	switch {
	case n < 16:
		return append(w, 0x90|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(w, 0xdc), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(w, 0xdd), uint32(n))
}

func (w wireWriter) uint(n uint64) wireWriter {
	switch {
	case n < 0x80:
		return append(w, byte(n))
	case n <= math.MaxUint8:
		return append(w, 0xcc, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(w, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(w, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(w, 0xcf), n)
}

func (w wireWriter) bytes(b []byte) wireWriter {
	if b == nil {
		return append(w, 0xc0)
	}
	return append(w.sized(0xc4, len(b)), b...)
}

func (w wireWriter) string(s string) wireWriter {
	if len(s) < 32 {
		w = append(w, 0xa0|byte(len(s)))
	} else {
		w = w.sized(0xd9, len(s))
	}
	return append(w, s...)
}

func (w wireWriter) strings(list []string) wireWriter {
	if list == nil {
		return append(w, 0xc0)
	}
	w = w.array(len(list))
	for _, s := range list {
		w = w.string(s)
	}
	return w
}

func writeEntry(e *Entry) []byte {
	size := 32
	for _, r := range e.Records {
		size += len(r) + 5
	}
	w := wireWriter(make([]byte, 0, size))
	w = append(w, EntryFormat).array(2).uint(uint64(e.Time))
	if e.Records == nil {
		return append(w, 0xc0)
	}
	w = w.array(len(e.Records))
	for _, r := range e.Records {
		w = w.bytes(r)
	}
	return w
}

func writeCommand(c *Command) []byte {
	size := 64 + len(c.Principal) + len(c.Fingerprint) + len(c.Body)
	for i := range c.Reads {
		size += len(c.Reads[i].Object) + 16
	}
	for i := range c.Audits {
		size += 96 + len(c.Audits[i].Resource) + len(c.Audits[i].Detail) + len(c.Audits[i].Sealed)
	}
	w := wireWriter(make([]byte, 0, size))
	w = append(w, CommandFormat).array(8).uint(uint64(c.Kind)).string(c.Principal).bytes(c.Request[:]).
		bytes(c.Fingerprint).uint(c.Term)
	if c.Reads == nil {
		w = append(w, 0xc0)
	} else {
		w = w.array(len(c.Reads))
		for i := range c.Reads {
			w = w.array(2).string(c.Reads[i].Object).uint(c.Reads[i].Index)
		}
	}
	if c.Audits == nil {
		w = append(w, 0xc0)
	} else {
		w = w.array(len(c.Audits))
		for i := range c.Audits {
			a := &c.Audits[i]
			w = w.array(8).string(a.Action).string(a.Resource).uint(uint64(a.Decision)).strings(a.Policies).
				string(a.Detail).uint(uint64(a.Count)).uint(uint64(a.Generation)).bytes(a.Sealed)
		}
	}
	return w.bytes(c.Body)
}
