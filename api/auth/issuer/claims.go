package issuer

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of the claims of one assertion.
const (
	maxDepth  = 6
	maxClaims = 256
	maxName   = 256
)

// Claims are the claims of an assertion as names and texts:
//
//	"sub": "x"                          sub = x
//	"kubernetes.io": {"namespace": "m"} kubernetes.io.namespace = m
//	"ref_protected": true, "n": 1.50    ref_protected = true, n = 1.50
//	"groups": ["a", "b"]                groups = ["a","b"]
//	"none": null                        absent
//
// A name that would mean two claims makes the whole assertion malformed.
type Claims map[string]string

// standard are the claims that decide whether an assertion is believed.
type standard struct {
	issuer, subject, id  string
	audience             []string
	expires, before, iat time.Time // zero: absent
}

// parseClaims reads a JSON object strictly: readers of JSON disagree about names that come twice, and whoever signs a
// token and whoever verifies it must not.
func parseClaims(payload []byte) (Claims, standard, error) {
	r := &claimReader{claims: make(Claims)}
	if !utf8.Valid(payload) {
		return nil, standard{}, refuse(Malformed)
	}
	r.dec = json.NewDecoder(bytes.NewReader(payload))
	r.dec.UseNumber()
	if t, err := r.dec.Token(); err != nil || t != json.Delim('{') {
		return nil, standard{}, refuse(Malformed)
	}
	if !r.object("", 1) {
		return nil, standard{}, refuse(Malformed)
	}
	if _, err := r.dec.Token(); err != io.EOF {
		return nil, standard{}, refuse(Malformed)
	}
	return r.claims, r.standard, nil
}

type claimReader struct {
	dec    *json.Decoder
	claims Claims
	count  int
	standard
}

// object reads the members of an object whose brace has been read.
func (r *claimReader) object(prefix string, depth int) bool {
	if depth > maxDepth {
		return false
	}
	seen := make(map[string]bool)
	for r.dec.More() {
		t, err := r.dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || name == "" || seen[name] || len(prefix)+len(name) > maxName {
			return false
		}
		seen[name] = true
		if r.count++; r.count > maxClaims {
			return false
		}
		if !r.member(prefix+name, depth) {
			return false
		}
	}
	_, err := r.dec.Token()
	return err == nil
}

func (r *claimReader) member(name string, depth int) bool {
	t, err := r.dec.Token()
	if err != nil {
		return false
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return !registered(name) && r.object(name+".", depth+1)
		}
		return r.array(name, depth+1)
	case string:
		switch name {
		case "iss":
			r.issuer = t
		case "sub":
			r.subject = t
		case "jti":
			r.id = t
		case "aud":
			r.audience = []string{t}
		case "exp", "nbf", "iat":
			return false
		}
		return r.set(name, t)
	case json.Number:
		switch name {
		case "exp":
			return r.moment(&r.expires, t) && r.set(name, t.String())
		case "nbf":
			return r.moment(&r.before, t) && r.set(name, t.String())
		case "iat":
			return r.moment(&r.iat, t) && r.set(name, t.String())
		}
		return !registered(name) && r.set(name, t.String())
	case bool:
		return !registered(name) && r.set(name, strconv.FormatBool(t))
	}
	return !registered(name) // null
}

// registered claims (RFC 7519, section 4.1) have types of their own.
func registered(name string) bool {
	switch name {
	case "iss", "sub", "aud", "exp", "nbf", "iat", "jti":
		return true
	}
	return false
}

func (r *claimReader) set(name, value string) bool {
	if _, twice := r.claims[name]; twice {
		return false
	}
	r.claims[name] = value
	return true
}

// moment reads a NumericDate (RFC 7519, section 2). Fractions are cut.
func (r *claimReader) moment(to *time.Time, n json.Number) bool {
	seconds, err := n.Float64()
	if err != nil || seconds < 1 || seconds > 1<<40 {
		return false
	}
	*to = time.Unix(int64(seconds), 0)
	return true
}

// array reads an array whose bracket has been read. As a claim it is compact JSON.
func (r *claimReader) array(name string, depth int) bool {
	var out bytes.Buffer
	if !r.elements(&out, depth) {
		return false
	}
	if name == "aud" {
		if json.Unmarshal(out.Bytes(), &r.audience) != nil || len(r.audience) > MaxAudiences {
			return false
		}
	} else if registered(name) {
		return false
	}
	return r.set(name, out.String())
}

func (r *claimReader) elements(out *bytes.Buffer, depth int) bool {
	if depth > maxDepth {
		return false
	}
	out.WriteByte('[')
	for n := 0; r.dec.More(); n++ {
		if r.count++; r.count > maxClaims {
			return false
		}
		if n > 0 {
			out.WriteByte(',')
		}
		t, err := r.dec.Token()
		if err != nil {
			return false
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || !r.elements(out, depth+1) {
				return false // objects in arrays: no issuer that is known here makes them
			}
		case string:
			out.WriteString(quote(t))
		case json.Number:
			out.WriteString(t.String())
		case bool:
			out.WriteString(strconv.FormatBool(t))
		default:
			out.WriteString("null")
		}
	}
	out.WriteByte(']')
	_, err := r.dec.Token()
	return err == nil
}

// quote writes a string as JSON, without the escapes that are for HTML.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
