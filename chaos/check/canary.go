// Package check holds the checkers that tests and chaos runs end with: each looks at what a run left behind
// and names every violation of a promise.
package check

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Needle is a secret that must not be found, with the name findings call it by.
type Needle struct {
	Name  string
	Value []byte // at least MinNeedle bytes, random, so that nothing matches by chance
}

// MinNeedle is the shortest secret worth searching for.
const MinNeedle = 16

// Finding is a place where a needle was found.
type Finding struct {
	Needle   string
	Encoding string // plain, hex or base64
	Where    string // file, or the name of a stream
	Offset   int
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s (%s) at byte %d", f.Where, f.Needle, f.Encoding, f.Offset)
}

// Scanner searches bytes for needles in plain, hexadecimal and base64 at each of its three alignments,
// standard and URL alphabet.
type Scanner struct{ patterns []pattern }

type pattern struct {
	needle, encoding string
	bytes            []byte
	fold             bool // case does not matter
}

// NewScanner prepares the patterns.
func NewScanner(needles ...Needle) (*Scanner, error) {
	s := &Scanner{}
	for _, n := range needles {
		if len(n.Value) < MinNeedle {
			return nil, fmt.Errorf("canary %s: %d bytes are too few to search for; take at least %d", n.Name, len(n.Value), MinNeedle)
		}
		s.patterns = append(s.patterns,
			pattern{n.Name, "plain", n.Value, false},
			pattern{n.Name, "hex", []byte(hex.EncodeToString(n.Value)), true})
		for shift := range 3 {
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				s.patterns = append(s.patterns, pattern{n.Name, "base64", aligned(enc, n.Value, shift), false})
			}
		}
	}
	return s, nil
}

// aligned is the part of a base64 text that does not depend on the neighbours of value, which begins
// shift bytes after a multiple of three.
func aligned(enc *base64.Encoding, value []byte, shift int) []byte {
	text := enc.EncodeToString(append(make([]byte, shift), value...))
	first := (shift*8 + 5) / 6           // characters that carry bits of what comes before
	last := (shift + len(value)) * 8 / 6 // the character after may carry bits of what follows
	return []byte(text[first:last])
}

// Bytes searches one stream.
func (s *Scanner) Bytes(where string, data []byte) []Finding {
	var found []Finding
	var lower []byte
	for _, p := range s.patterns {
		hay := data
		if p.fold {
			if lower == nil {
				lower = bytes.ToLower(data)
			}
			hay = lower
		}
		if i := bytes.Index(hay, p.bytes); i >= 0 {
			found = append(found, Finding{p.needle, p.encoding, where, i})
		}
	}
	return found
}

// Tree searches every regular file below root, names of files too. Skip names files (by path below root) that
// may hold a secret, such as a development cluster's own operators' shares.
func (s *Scanner) Tree(root string, skip func(rel string) bool) (found []Finding, files int, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		found = append(found, s.Bytes("name of "+rel, []byte(strings.ReplaceAll(rel, string(filepath.Separator), "/")))...)
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		found = append(found, s.Bytes(rel, data)...)
		return nil
	})
	return found, files, err
}
