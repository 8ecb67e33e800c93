package target

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/hizo/hizo/crypto/secret"
)

// Generated is a value that is valid because Hizo says so: an API key that a service checks against Hizo, a signing key
// whose public half is published from here. Nothing outside has to change.
//
// Options: field (default "value"); then either length and alphabet, or key, the kind of a key pair. A key pair's
// private half goes to field, its public half to field + "_public". The other fields of the secret stay as they are.
type Generated struct{}

// NewGenerated makes the target.
func NewGenerated() *Generated { return &Generated{} }

// genAlphabets are the characters that values are made of.
var genAlphabets = map[string]string{
	"alphanumeric": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
	"hex":          "0123456789abcdef",
	"base64url":    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
	"digits":       "0123456789",
	"printable":    "!#$%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~",
}

// Bounds of generated values.
const (
	genMinBits   = 64
	genMaxLength = 4096
)

// genKeys make key pairs: private and public half, as text.
var genKeys = map[string]func() (private, public []byte, err error){
	"ed25519": func() ([]byte, []byte, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return genPEM(key, err)
	},
	"ecdsa-p256": func() ([]byte, []byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return genPEM(key, err)
	},
	"rsa-3072": func() ([]byte, []byte, error) {
		key, err := rsa.GenerateKey(rand.Reader, 3072)
		return genPEM(key, err)
	},
	"ssh-ed25519": func() ([]byte, []byte, error) {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, nil, err
		}
		pub, err := ssh.NewPublicKey(public)
		if err != nil {
			return nil, nil, err
		}
		return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(pub), nil
	},
	"age": func() ([]byte, []byte, error) {
		key, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, nil, err
		}
		return []byte(key.String() + "\n"), []byte(key.Recipient().String() + "\n"), nil
	},
}

// genPEM encodes as PKCS #8 (RFC 5958) and PKIX (RFC 5280).
func genPEM(key crypto.Signer, err error) (private, public []byte, _ error) {
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	defer clear(der)
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), nil
}

// genOptions are the options, read.
type genOptions struct {
	field    string
	key      string
	length   int
	alphabet string
}

func genWrong(format string, args ...any) error {
	return &Error{Kind: "generated", Stage: "check", Message: fmt.Sprintf(format, args...), Err: ErrPermanent}
}

// genRead reads the options of a generated value; others are for the target that embeds it.
func genRead(config map[string]string, others ...string) (o genOptions, err error) {
	o = genOptions{field: "value", length: 32, alphabet: "alphanumeric", key: config["key"]}
	for _, name := range slices.Sorted(maps.Keys(config)) {
		if !slices.Contains([]string{"field", "length", "alphabet", "key"}, name) && !slices.Contains(others, name) {
			return o, genWrong("there is no option %q: field, length, alphabet and key are possible", name)
		}
	}
	if f, ok := config["field"]; ok {
		o.field = f
	}
	if o.field == "" || strings.ContainsAny(o.field, "/#@ ") {
		return o, genWrong("field: %q is no name of a field", o.field)
	}
	if o.key != "" {
		if genKeys[o.key] == nil {
			return o, genWrong("key: %q is not one of %s", o.key, strings.Join(slices.Sorted(maps.Keys(genKeys)), ", "))
		}
		if config["length"] != "" || config["alphabet"] != "" {
			return o, genWrong("a key has no length or alphabet: leave them out")
		}
		return o, nil
	}
	if a, ok := config["alphabet"]; ok {
		o.alphabet = a
	}
	characters, ok := genAlphabets[o.alphabet]
	if !ok {
		return o, genWrong("alphabet: %q is not one of %s", o.alphabet, strings.Join(slices.Sorted(maps.Keys(genAlphabets)), ", "))
	}
	if l, ok := config["length"]; ok {
		if o.length, err = strconv.Atoi(l); err != nil {
			return o, genWrong("length: %q is not a number", l)
		}
	}
	// log2 of the alphabet, rounded down to an eighth or less: a bound, not an estimate.
	if strength := o.length * (bits.Len(uint(len(characters)))*8 - 8) / 8; o.length > genMaxLength || strength < genMinBits {
		return o, genWrong("length: %d characters of %s can be guessed or are too many: take from %d to %d",
			o.length, o.alphabet, (genMinBits+bits.Len(uint(len(characters)))-2)/(bits.Len(uint(len(characters)))-1), genMaxLength)
	}
	return o, nil
}

// Check reads the options.
func (*Generated) Check(config map[string]string) error {
	_, err := genRead(config)
	return err
}

// Stage makes the value.
func (*Generated) Stage(_ context.Context, a Attempt) (Value, error) {
	o, err := genRead(a.Config)
	if err != nil {
		return nil, err
	}
	return o.value(a.Old)
}

// value is old with a new value in its field.
func (o *genOptions) value(old Value) (Value, error) {
	next := make(Value, len(old)+2)
	maps.Copy(next, old)
	if o.key == "" {
		next[o.field] = genText(o.length, genAlphabets[o.alphabet])
		return next, nil
	}
	private, public, err := genKeys[o.key]()
	if err != nil {
		return nil, &Error{Kind: "generated", Stage: "stage", Message: "no key pair could be made", Err: nil}
	}
	next[o.field], next[o.field+"_public"] = secret.New(private), secret.New(public)
	return next, nil
}

// genText draws characters evenly: bytes above the largest multiple of the alphabet's size are thrown away.
func genText(length int, alphabet string) secret.Bytes {
	out := make([]byte, 0, length)
	limit := 256 - 256%len(alphabet)
	var pool [64]byte
	defer clear(pool[:])
	for len(out) < length {
		rand.Read(pool[:])
		for _, b := range pool {
			if int(b) < limit && len(out) < length {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return secret.New(out)
}

// Apply has nothing to change.
func (*Generated) Apply(context.Context, Attempt) error { return nil }

// Verify checks that the value is there.
func (*Generated) Verify(_ context.Context, a Attempt) error {
	o, err := genRead(a.Config)
	if err != nil {
		return err
	}
	if b, ok := a.New[o.field]; !ok || len(bytes.TrimSpace(b.Reveal())) == 0 {
		return &Error{Kind: "generated", Stage: "verify", Message: "the value has no field " + o.field, Err: ErrPermanent}
	}
	return nil
}

// Retire has nothing to end: the old version is no longer given out once it is retired.
func (*Generated) Retire(context.Context, Attempt) error { return nil }

// Fence has nothing to end.
func (*Generated) Fence(context.Context, Attempt) error { return nil }
