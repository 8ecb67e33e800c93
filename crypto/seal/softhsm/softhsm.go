// Package softhsm provisions SoftHSM2 tokens for development and tests. Its keys lie in files, protected
// by the PIN alone: a software token with a PKCS#11 interface, not hardware.
package softhsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/hizo/hizo/crypto/internal/durable"
	"github.com/hizo/hizo/crypto/secret"
)

// ConfEnv is the environment variable by which SoftHSM2 finds its configuration. It is read when a
// process initialises the module.
const ConfEnv = "SOFTHSM2_CONF"

var (
	// ErrNotInstalled says that there is no SoftHSM2 on this machine.
	ErrNotInstalled = errors.New("SoftHSM2 is not installed (Debian: apt-get install softhsm2)")
	// ErrBusy says that this process already uses the module with another configuration.
	ErrBusy = errors.New("this process already uses SoftHSM2 with another configuration; provision tokens before opening seals")
	// ErrPIN says that a PIN is too short or too long for SoftHSM2.
	ErrPIN = errors.New("a PIN has 4 to 255 characters")
	// ErrLabel says that a token label is not usable here.
	ErrLabel = errors.New("a token label has 1 to 32 characters of a-z, A-Z, 0-9, '-' and '_'")
)

// Token says how to reach a token.
type Token struct {
	Module  string // path of the PKCS#11 library
	Conf    string // path of softhsm2.conf; a process that uses the token needs Env
	Label   string
	Serial  string
	PINFile string // mode 0600; empty where the PIN was given
}

// Env returns the variable that a process using the token needs, as "SOFTHSM2_CONF=path".
func (t Token) Env() string { return ConfEnv + "=" + t.Conf }

// Module finds the PKCS#11 library of SoftHSM2, or returns ErrNotInstalled.
func Module() (string, error) {
	patterns := []string{
		"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
	}
	for _, p := range patterns {
		if found, err := filepath.Glob(p); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", ErrNotInstalled
}

// SoftHSM2's MIN_PIN_LEN and MAX_PIN_LEN.
const minPIN, maxPIN = 4, 255

var labelText = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// mu guards the environment variable and the module's initialisation, both state of the process.
var mu sync.Mutex

// Provision makes a token in dir, with a random PIN in a file of mode 0600 beside it. Tokens of one dir
// share a configuration, so that one process can use several. A label that exists already, with its PIN
// file, is returned as it is.
//
//	dir/softhsm2.conf  dir/tokens/  dir/<label>.pin
//
// The PIN is passed in memory: softhsm2-util would show it in the list of processes. The security
// officer's PIN is random and kept nowhere, so nobody can set another. A crash on the way leaves a PIN file
// that the next call replaces, or a token without PIN that the next call reports.
func Provision(dir, label string) (Token, error) {
	return provision(dir, label, nil)
}

// ProvisionPIN is Provision for a PIN that is kept elsewhere: it writes none, and Token.PINFile stays empty. A token
// that is there already is returned as it is, whatever its PIN.
func ProvisionPIN(dir, label string, pin secret.Bytes) (Token, error) {
	if pin.Len() < minPIN || pin.Len() > maxPIN {
		return Token{}, fmt.Errorf("provision SoftHSM2 token %s: %w", label, ErrPIN)
	}
	text := string(pin.Reveal())
	return provision(dir, label, &text)
}

// provision makes the token with the given PIN, or (nil) with one that it makes and writes to a file.
func provision(dir, label string, given *string) (_ Token, err error) {
	if !labelText.MatchString(label) {
		return Token{}, fmt.Errorf("%q: %w", label, ErrLabel)
	}
	module, err := Module()
	if err != nil {
		return Token{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Token{}, err
	}
	t := Token{Module: module, Conf: filepath.Join(dir, "softhsm2.conf"), Label: label}
	if given == nil {
		t.PINFile = filepath.Join(dir, label+".pin")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("provision SoftHSM2 token %s in %s: %w", label, dir, err)
		}
	}()
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return Token{}, err
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nobjectstore.umask = 0077\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if old, err := os.ReadFile(t.Conf); err != nil || string(old) != conf {
		if err := durable.WriteFile(t.Conf, []byte(conf)); err != nil {
			return Token{}, err
		}
	}

	mu.Lock()
	defer mu.Unlock()
	ctx, done, err := load(module, t.Conf)
	if err != nil {
		return Token{}, err
	}
	defer done()

	slots, err := list(ctx)
	if err != nil {
		return Token{}, err
	}
	if old, ok := slots[label]; ok {
		if given == nil {
			if _, err := os.Stat(t.PINFile); err != nil {
				return Token{}, fmt.Errorf("the token exists but its PIN file does not: %w", err)
			}
		}
		if !old.pinSet {
			return Token{}, errors.New("the token has no PIN: an earlier run was interrupted; remove the directory and start over")
		}
		t.Serial = old.serial
		return t, nil
	}
	free, ok := slots[""]
	if !ok {
		return Token{}, errors.New("SoftHSM2 offers no free slot")
	}
	before, err := os.ReadDir(tokens)
	if err != nil {
		return Token{}, err
	}
	pin, soPIN := rand.Text(), rand.Text()
	if given != nil {
		pin = *given
	} else if err := durable.WriteFile(t.PINFile, []byte(pin+"\n")); err != nil {
		// The PIN is on disk before the token is: a crash in between costs a PIN file that is written again.
		return Token{}, err
	}
	if err := ctx.InitToken(free.id, soPIN, label); err != nil {
		return Token{}, err
	}
	after, err := os.ReadDir(tokens)
	if err != nil {
		return Token{}, err
	}
	if len(after) != len(before)+1 {
		return Token{}, ErrBusy // the module was initialised with another configuration
	}
	if slots, err = list(ctx); err != nil {
		return Token{}, err
	}
	made, ok := slots[label]
	if !ok {
		return Token{}, errors.New("the token is not there after C_InitToken")
	}
	if err := initPIN(ctx, made.id, soPIN, pin); err != nil {
		return Token{}, err
	}
	t.Serial = made.serial
	return t, nil
}

// load initialises the module with a configuration, unless this process has done so already.
func load(module, conf string) (*pkcs11.Ctx, func(), error) {
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, nil, fmt.Errorf("load %s: %w", module, ErrNotInstalled)
	}
	old, had := os.LookupEnv(ConfEnv)
	if err := os.Setenv(ConfEnv, conf); err != nil {
		ctx.Destroy()
		return nil, nil, err
	}
	restore := func() {
		if had {
			_ = os.Setenv(ConfEnv, old) // it was set to this before
		} else {
			_ = os.Unsetenv(ConfEnv)
		}
	}
	switch err := ctx.Initialize(); err {
	case nil:
		return ctx, func() {
			_ = ctx.Finalize() // the module is unloaded next
			ctx.Destroy()
			restore()
		}, nil
	case pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED):
		restore()
		if old != conf {
			ctx.Destroy()
			return nil, nil, ErrBusy
		}
		return ctx, ctx.Destroy, nil
	default:
		ctx.Destroy()
		restore()
		return nil, nil, err
	}
}

type slot struct {
	id     uint
	serial string
	pinSet bool
}

// list returns the slots by label; the one to be initialised next has none.
func list(ctx *pkcs11.Ctx) (map[string]slot, error) {
	ids, err := ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	slots := make(map[string]slot)
	for _, id := range ids {
		info, err := ctx.GetTokenInfo(id)
		if err != nil {
			return nil, err
		}
		label := ""
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			label = strings.TrimRight(info.Label, " \x00")
		}
		slots[label] = slot{id: id, serial: info.SerialNumber, pinSet: info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0}
	}
	return slots, nil
}

func initPIN(ctx *pkcs11.Ctx, id uint, soPIN, pin string) error {
	session, err := ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	err = ctx.Login(session, pkcs11.CKU_SO, soPIN)
	if err == nil {
		err = errors.Join(ctx.InitPIN(session, pin), ctx.Logout(session))
	}
	return errors.Join(err, ctx.CloseSession(session))
}
