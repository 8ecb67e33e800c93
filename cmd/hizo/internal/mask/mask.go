// Package mask hides known values in a stream.
//
// A Masker matches all values at once (Aho and Corasick, 1975) and replaces the union of all occurrences, so
// overlapping values hide each other's remains and the result does not depend on how the stream is cut into
// writes. It holds back what may be the beginning of a value until the next bytes decide, however long that
// takes: letting a half go by after a pause would let the whole go by in two halves.
package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strconv"
	"sync"
)

// Replacement stands in the output for one or more adjoining values.
const Replacement = "****"

// minDerived is the least length of what is hidden beside a value itself: its lines and encodings. A line "}" of
// a key file would otherwise hide every brace.
const minDerived = 4

// piece bounds a pattern. Longer values are hidden piece by piece, which bounds what is held back.
const piece = 4 << 10

// Patterns are the byte strings to hide. They hold values: Wipe them after use.
type Patterns struct {
	nodes []node
	root  [256]int32
}

// node of the trie. Children are linked lists: values are many bytes and few branches.
type node struct {
	child, sibling int32 // 0: none (node 0 is the root, nobody's child)
	fail           int32
	depth          int32
	match          int32 // length of the longest pattern that ends here, 0: none
	b              byte
}

// New makes the patterns that hide these values: themselves, with line ends as a terminal writes them, their
// single lines, and their base64, URL, hexadecimal, JSON and Go encodings.
func New(values ...[]byte) *Patterns {
	p := &Patterns{nodes: make([]node, 1)}
	for _, v := range values {
		if len(v) == 0 {
			continue
		}
		p.add(v)
		for _, d := range derived(v) {
			if len(d) >= minDerived {
				p.add(d)
			}
			clear(d)
		}
	}
	p.link()
	return p
}

func derived(v []byte) [][]byte {
	out := [][]byte{
		bytes.ReplaceAll(v, []byte("\n"), []byte("\r\n")),
		[]byte(url.QueryEscape(string(v))),
		[]byte(url.PathEscape(string(v))),
		[]byte(hex.EncodeToString(v)),
		bytes.ToUpper([]byte(hex.EncodeToString(v))),
	}
	out = append(out, base64Forms(v)...)
	if quoted, err := json.Marshal(string(v)); err == nil { // never fails for a string
		out = append(out, quoted[1:len(quoted)-1])
	}
	plain := bytes.NewBuffer(nil)
	e := json.NewEncoder(plain)
	e.SetEscapeHTML(false)
	if err := e.Encode(string(v)); err == nil {
		quoted := bytes.TrimSuffix(plain.Bytes(), []byte("\n"))
		out = append(out, quoted[1:len(quoted)-1])
	}
	quoted := strconv.AppendQuote(nil, string(v))
	out = append(out, quoted[1:len(quoted)-1])
	if bytes.ContainsAny(v, "\r\n") {
		for line := range bytes.FieldsFuncSeq(v, func(r rune) bool { return r == '\n' || r == '\r' }) {
			out = append(out, bytes.Clone(bytes.TrimSpace(line)))
			if line := bytes.TrimSpace(line); len(line) >= minDerived {
				out = append(out, base64Forms(line)...)
			}
		}
	}
	return out
}

// base64Forms returns v in both alphabets with and without padding, and the characters that v alone decides when
// it stands inside a longer text, at each of the three alignments ("user:" before a password, for example).
func base64Forms(v []byte) [][]byte {
	var out [][]byte
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		out = append(out, e.AppendEncode(nil, v))
		for shift := range 3 {
			padded := append(make([]byte, shift), v...)
			text := e.WithPadding(base64.NoPadding).AppendEncode(nil, padded)
			clear(padded)
			// 6 bits a character: leave out those that carry bits of a neighbour.
			first, last := (shift*8+5)/6, (shift+len(v))*8/6
			if first < last {
				out = append(out, bytes.Clone(text[first:last]))
			}
			clear(text)
		}
	}
	return out
}

func (p *Patterns) add(pattern []byte) {
	if len(pattern) > piece {
		// Even pieces, so that the last is no scrap that would hide ordinary text.
		n := (len(pattern) + piece - 1) / piece
		for part := range slices.Chunk(pattern, (len(pattern)+n-1)/n) {
			p.add(part)
		}
		return
	}
	at := int32(0)
	for _, b := range pattern {
		next := p.step(at, b)
		if next == 0 {
			next = int32(len(p.nodes))
			p.nodes = append(p.nodes, node{sibling: p.nodes[at].child, depth: p.nodes[at].depth + 1, b: b})
			p.nodes[at].child = next
			if at == 0 {
				p.root[b] = next
			}
		}
		at = next
	}
	p.nodes[at].match = int32(len(pattern))
}

// step follows an edge of the trie; 0: there is none.
func (p *Patterns) step(at int32, b byte) int32 {
	if at == 0 {
		return p.root[b]
	}
	for n := p.nodes[at].child; n != 0; n = p.nodes[n].sibling {
		if p.nodes[n].b == b {
			return n
		}
	}
	return 0
}

// next follows an edge, or that of the longest suffix that has one.
func (p *Patterns) next(at int32, b byte) int32 {
	for {
		if n := p.step(at, b); n != 0 || at == 0 {
			return n
		}
		at = p.nodes[at].fail
	}
}

// link computes the failure links in order of depth.
func (p *Patterns) link() {
	queue := []int32{0}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for n := p.nodes[at].child; n != 0; n = p.nodes[n].sibling {
			if at != 0 {
				p.nodes[n].fail = p.next(p.nodes[at].fail, p.nodes[n].b)
			}
			p.nodes[n].match = max(p.nodes[n].match, p.nodes[p.nodes[n].fail].match)
			queue = append(queue, n)
		}
	}
}

// Wipe overwrites the patterns. Maskers that use them must have been closed.
func (p *Patterns) Wipe() {
	clear(p.nodes[:cap(p.nodes)])
	p.nodes = make([]node, 1)
	p.root = [256]int32{}
}

// Masker is an io.WriteCloser that writes to another writer with all patterns replaced. It may be used by
// several goroutines.
type Masker struct {
	p *Patterns
	w io.Writer

	mu      sync.Mutex
	at      int32
	pending []byte // not yet written; its length is at most the depth of the state between writes
	hidden  []bool // for each byte of pending
	open    bool   // the last byte written belonged to a replacement
	out     []byte
}

// Masker makes a Masker that writes to w.
func (p *Patterns) Masker(w io.Writer) *Masker { return &Masker{p: p, w: w} }

// Write masks b and writes what is decided.
func (m *Masker) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range b {
		m.at = m.p.next(m.at, c)
		m.pending = append(m.pending, c)
		m.hidden = append(m.hidden, false)
		state := &m.p.nodes[m.at]
		// A match of length L ends here, so one byte ago the state was at least L-1 deep and all its bytes are
		// still pending.
		for i := len(m.hidden) - int(state.match); i < len(m.hidden); i++ {
			m.hidden[i] = true
		}
		m.release(len(m.pending) - int(state.depth))
	}
	return len(b), m.flush()
}

// Close writes what was held back: a beginning without its end is no value. It does not close the writer.
func (m *Masker) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(len(m.pending))
	m.at = 0
	return m.flush()
}

// release moves the first n pending bytes to the output.
func (m *Masker) release(n int) {
	if n <= 0 {
		return
	}
	for i, c := range m.pending[:n] {
		switch {
		case !m.hidden[i]:
			m.out = append(m.out, c)
			m.open = false
		case !m.open:
			m.out = append(m.out, Replacement...)
			m.open = true
		}
	}
	rest := copy(m.pending, m.pending[n:])
	copy(m.hidden, m.hidden[n:])
	clear(m.pending[rest:])
	m.pending, m.hidden = m.pending[:rest], m.hidden[:rest]
}

func (m *Masker) flush() error {
	if len(m.out) == 0 {
		return nil
	}
	_, err := m.w.Write(m.out)
	m.out = m.out[:0]
	return err
}
