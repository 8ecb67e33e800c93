package target

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// signRequest signs a request with a shared key, by RFC 9421 (HTTP Message Signatures) with hmac-sha256: the method, the
// whole target URI, the digest of the body (RFC 9530), the attempt and what is asked for. created bounds how long a
// recorded request is of any use.
func signRequest(r *http.Request, body, key []byte, keyID string, now time.Time) {
	digest := sha256.Sum256(body)
	r.Header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest[:])+":")
	covered := []string{"@method", "@target-uri", "content-digest", "content-type", "hizo-attempt", "hizo-action"}
	params := fmt.Sprintf(`;created=%d;keyid="%s";alg="hmac-sha256"`, now.Unix(), keyID)
	signature, input := sign(r, covered, params, key)
	r.Header.Set("Signature-Input", "hizo="+input)
	r.Header.Set("Signature", "hizo=:"+signature+":")
}

// sign makes the signature base of RFC 9421, section 2.5, and its MAC; input is the value of @signature-params.
func sign(r *http.Request, covered []string, params string, key []byte) (signature, input string) {
	var base, list strings.Builder
	for i, name := range covered {
		if i > 0 {
			list.WriteByte(' ')
		}
		fmt.Fprintf(&list, "%q", name)
		fmt.Fprintf(&base, "%q: %s\n", name, component(r, name))
	}
	input = "(" + list.String() + ")" + params
	fmt.Fprintf(&base, "%q: %s", "@signature-params", input)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(base.String()))
	return base64.StdEncoding.EncodeToString(h.Sum(nil)), input
}

// component is the value of one part of a request, by sections 2.1 and 2.2.
func component(r *http.Request, name string) string {
	switch name {
	case "@method":
		return r.Method
	case "@target-uri":
		return r.URL.String()
	case "@authority":
		return strings.ToLower(r.URL.Host)
	}
	return strings.Join(r.Header.Values(name), ", ")
}
