package target

import (
	"crypto/rand"

	"github.com/hizo/hizo/crypto/secret"
)

// DefaultLength of generated passwords: 190 bits.
const DefaultLength = 32

// alphanumeric needs no quoting in any connection string, shell or configuration file.
const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// password makes n characters, each equally likely.
func password(n int) secret.Bytes {
	const even = 256 - 256%len(alphanumeric) // bytes from here on would make the first characters likelier
	out := make([]byte, 0, n)
	var pool [64]byte
	for len(out) < n {
		rand.Read(pool[:])
		for _, b := range pool {
			if int(b) < even && len(out) < n {
				out = append(out, alphanumeric[int(b)%len(alphanumeric)])
			}
		}
	}
	clear(pool[:])
	return secret.New(out)
}

func (o *options) length() int { return o.number("length", DefaultLength, 16, 128) }

// next is the value after an old one: all its fields, with another password.
func (f fields) next(old Value, username string, length int) Value {
	v := make(Value, len(old)+2)
	for name, b := range old {
		v[name] = b.Clone()
	}
	v[f.username] = secret.Copy([]byte(username))
	v[f.password] = password(length)
	return v
}

// login is a name with its password.
type login struct {
	username string
	password secret.Bytes
}

func (l login) given() bool { return l.username != "" && l.password.Len() > 0 }

// of reads a login; the zero login if the value has none.
func (f fields) of(v Value) login {
	return login{string(v[f.username].Reveal()), v[f.password]}
}

// adminOf reads the administrator's login, whose fields have fixed names.
func adminOf(v Value) login { return fields{"username", "password"}.of(v) }

// turn is the account of the next value: of two the one whose turn it is, else the one there has been.
func (f fields) turn(s step, alternating []string, configured, old string) (string, error) {
	switch {
	case alternating != nil && old == alternating[0]:
		return alternating[1], nil
	case alternating != nil:
		return alternating[0], nil
	case old != "":
		return old, nil
	case configured != "":
		return configured, nil
	}
	return "", s.permanent("whose password? the secret has no field %s: write one, or set option username", f.username)
}
