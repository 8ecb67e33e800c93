package target

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/text/secure/precis"

	"github.com/hizo/hizo/crypto/secret"
)

// PostgreSQL stores a SCRAM-SHA-256 verifier (RFC 5802, RFC 7677) and takes one in place of a password, so neither the
// password nor anything that logs in by itself reaches the server's log.
//
// The salt is ours to choose, and the server tells it to whoever begins to log in. So it also says which attempt set the
// password: the only note about a password that needs no privilege to read, and that changes with it in one statement.
//
//	salt: first 12 bytes of the attempt's id (UUIDv7: 6 of time, 42 random bits) ‖ mark ‖ first 3 of SHA-256(label ‖ those 13)

// scramIterations is PostgreSQL's own number; passwords made here have 190 bits.
const scramIterations = 4096

// mark says how an attempt left a password.
type mark byte

const (
	markNone    mark = 0   // somebody else set it
	markApplied mark = 'a' // the attempt's new value
	markUndone  mark = 'u' // what was valid before the attempt, which has been given up
	markRetired mark = 'r' // a password that nobody knows
)

const saltIDLen = 12

// markedSalt is the salt that an attempt leaves.
func markedSalt(id [16]byte, m mark) []byte {
	salt := append(bytes.Clone(id[:saltIDLen]), byte(m))
	sum := sha256.Sum256(append([]byte("hizo/scram-salt/1"), salt...))
	return append(salt, sum[:3]...)
}

// readSalt is the reverse of markedSalt; markNone for the salts of others.
func readSalt(salt []byte) (id [saltIDLen]byte, m mark) {
	if len(salt) != 16 {
		return id, markNone
	}
	var full [16]byte
	copy(full[:], salt[:saltIDLen])
	if m = mark(salt[saltIDLen]); !bytes.Equal(salt, markedSalt(full, m)) {
		return id, markNone
	}
	return [saltIDLen]byte(salt), m
}

// verifier is what PostgreSQL stores in pg_authid.rolpassword for a password.
func verifier(password secret.Bytes, salt []byte) (string, error) {
	text := string(password.Reveal())
	// PostgreSQL uses a password as it is where RFC 4013 does not allow it, and so does pgx when it logs in.
	if prepared, err := precis.OpaqueString.String(text); err == nil {
		text = prepared
	}
	salted, err := pbkdf2.Key(sha256.New, text, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", err
	}
	client := mac(salted, "Client Key")
	stored := sha256.Sum256(client)
	encode := base64.StdEncoding.EncodeToString
	return "SCRAM-SHA-256$4096:" + encode(salt) + "$" + encode(stored[:]) + ":" + encode(mac(salted, "Server Key")), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

var errNotScram = errors.New("the server does not ask this role for a SCRAM password")

// saltOf asks a server for the salt of a role's password, by beginning to log in and hanging up. A role without a
// password has one too, that the server makes up.
func saltOf(ctx context.Context, conn net.Conn, config *tls.Config, role, database string) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // it ends the reads and writes below
	defer stop()
	if config != nil {
		if _, err := conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
			return nil, err
		}
		var answer [1]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return nil, err
		}
		if answer[0] != 'S' {
			return nil, errors.New("the server does not speak TLS")
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secured
	}
	nonce := rand.Text()
	front := pgproto3.NewFrontend(conn, conn)
	front.SetMaxBodyLen(pgMaxMessage)
	front.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": role, "database": database},
	})
	if err := front.Flush(); err != nil {
		return nil, err
	}
	if m, err := front.Receive(); err != nil {
		return nil, err
	} else if sasl, ok := m.(*pgproto3.AuthenticationSASL); !ok || !strings.Contains(strings.Join(sasl.AuthMechanisms, " "), "SCRAM-SHA-256") {
		return nil, errNotScram
	}
	front.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: []byte("n,,n=,r=" + nonce)})
	if err := front.Flush(); err != nil {
		return nil, err
	}
	m, err := front.Receive()
	if err != nil {
		return nil, err
	}
	first, ok := m.(*pgproto3.AuthenticationSASLContinue)
	if !ok {
		return nil, errNotScram
	}
	for _, attribute := range strings.Split(string(first.Data), ",") {
		if salt, ok := strings.CutPrefix(attribute, "s="); ok {
			return base64.StdEncoding.DecodeString(salt)
		}
	}
	return nil, errNotScram
}
