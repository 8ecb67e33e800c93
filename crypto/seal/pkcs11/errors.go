package pkcs11

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	p11 "github.com/miekg/pkcs11"

	"github.com/hizo/hizo/crypto/seal"
)

// code finds the PKCS#11 return value in an error. crypto11's AEAD formats its errors with %v and so
// drops the type; the number in the text is all that is left then.
func code(err error) (uint, bool) {
	if e, ok := errors.AsType[p11.Error](err); ok {
		return uint(e), true
	}
	if m := codeText.FindStringSubmatch(err.Error()); m != nil {
		if v, err := strconv.ParseUint(m[1], 16, 32); err == nil {
			return uint(v), true
		}
	}
	return 0, false
}

// ckrAEADDecryptFailed is CKR_AEAD_DECRYPT_FAILED of PKCS#11 3.0, which miekg/pkcs11 (2.40) lacks.
const ckrAEADDecryptFailed = 0x42

var codeText = regexp.MustCompile(`\bpkcs11: 0x([0-9A-Fa-f]+): `)

// classify turns what came out of crypto11 into one of the seal's errors. Whatever is not known to be
// the caller's fault is the device's: then the context is thrown away, which is always safe.
func classify(err error) error {
	if err == nil || isSealError(err) {
		return err
	}
	c, ok := code(err)
	if !ok {
		return fmt.Errorf("%w (%w)", seal.ErrDevice, err) // pool timeout, closed context, module not loadable
	}
	switch c {
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED,
		p11.CKR_PIN_LOCKED, p11.CKR_USER_PIN_NOT_INITIALIZED:
		return fmt.Errorf("%w (%w)", seal.ErrPIN, err)
	case p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE, ckrAEADDecryptFailed:
		return fmt.Errorf("%w (%w)", seal.ErrAuth, err)
	}
	return fmt.Errorf("%w (%w)", seal.ErrDevice, err)
}

func isSealError(err error) bool {
	for _, e := range []error{
		seal.ErrNoKey, seal.ErrKeyExists, seal.ErrAuth, seal.ErrDevice, seal.ErrPIN, seal.ErrNoToken,
		seal.ErrExtractable, seal.ErrAmbiguous, seal.ErrIdentity, seal.ErrClosed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// vague tells return values that tokens give for a failed tag as well as for trouble of their own.
func vague(err error) bool {
	c, ok := code(err)
	return ok && (c == p11.CKR_GENERAL_ERROR || c == p11.CKR_FUNCTION_FAILED || c == p11.CKR_DATA_INVALID)
}
