package target

import (
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"filippo.io/edwards25519"

	"github.com/hizo/hizo/crypto/secret"
)

// MariaDB's own ways to check a password. Both take the stored form in place of the password, which so reaches neither
// the server nor its log.
const (
	myNative  = "mysql_native_password"
	myEd25519 = "ed25519" // since 10.1.22, where the plugin auth_ed25519 is installed
)

// myHash is what the server stores for a password.
func myHash(plugin string, password secret.Bytes) myRule {
	if plugin == myEd25519 {
		return myRule{plugin, ed25519Hash(password)}
	}
	return myRule{plugin, nativeHash(password)}
}

// nativeHash is "*" and SHA-1(SHA-1(password)) in hexadecimal. The inner hash is what logs in, and what is sent is that
// hidden by a hash of the outer one: whoever reads the stored form and a login on the wire can log in. Hence TLS.
func nativeHash(password secret.Bytes) string {
	inner := sha1.Sum(password.Reveal())
	outer := sha1.Sum(inner[:])
	return "*" + strings.ToUpper(hex.EncodeToString(outer[:]))
}

// ed25519Hash is the public key whose secret scalar is made from the password as RFC 8032, section 5.1.5, makes it from
// a seed, in base64 without padding.
func ed25519Hash(password secret.Bytes) string {
	digest := sha512.Sum512(password.Reveal())
	scalar, err := edwards25519.NewScalar().SetBytesWithClamping(digest[:32])
	if err != nil {
		panic(err) // only for another length than 32
	}
	return base64.RawStdEncoding.EncodeToString(new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
}
