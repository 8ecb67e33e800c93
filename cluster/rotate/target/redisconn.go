package target

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hizo/hizo/crypto/secret"
)

// redisSession is one connection of one call.
type redisSession struct {
	*redis.Client
	addr address
	stop func() bool
	step
}

var errDialled = errors.New("the connection of this call has ended")

// redisConnect connects and names the connection. Logging in comes with the first command.
func redisConnect(ctx context.Context, s step, a address, l login) (*redisSession, error) {
	var conn net.Conn
	var err error
	if a.tls != nil {
		conn, err = (&tls.Dialer{Config: a.tls}).DialContext(ctx, "tcp", a.String())
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", a.String())
	}
	if err != nil {
		return nil, s.network(ctx, a, err)
	}
	// Connected here, because the client's pool prints what goes wrong to standard error; and once, because a call is
	// made again by the engine, not here.
	once := make(chan net.Conn, 1)
	once <- conn
	c := redis.NewClient(&redis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			select {
			case conn := <-once:
				return conn, nil
			default:
				return nil, errDialled
			}
		},
		Username: l.username, Password: string(l.password.Reveal()),
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, PoolSize: 1,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, ContextTimeoutEnabled: true,
	})
	// The client looks at a context's deadline only.
	return &redisSession{c, a, context.AfterFunc(ctx, func() { _ = conn.Close() }), s}, nil
}

func (r *redisSession) close() {
	r.stop()
	_ = r.Client.Close() // what the session did has been answered
}

func (r *redisSession) do(ctx context.Context, about string, args ...any) (any, error) {
	answer, err := r.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return answer, redisError(ctx, r.step, r.addr, err, about)
}

// redisUser is what the server says of an account.
type redisUser struct {
	passwords []string // SHA-256 in hexadecimal
}

// user reads an account; nil if there is none.
func (r *redisSession) user(ctx context.Context, name string) (*redisUser, error) {
	answer, err := r.do(ctx, name, "ACL", "GETUSER", name)
	if err != nil || answer == nil {
		return nil, err
	}
	// A list of pairs, since the protocol is the second version.
	list, _ := answer.([]any)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i] != "passwords" {
			continue
		}
		hashes, _ := list[i+1].([]any)
		u := &redisUser{}
		for _, h := range hashes {
			text, _ := h.(string)
			u.passwords = append(u.passwords, text)
		}
		return u, nil
	}
	return nil, r.permanent("%s describes its accounts in a way that this program does not know: it needs Redis 6 or later", r.addr)
}

func (u *redisUser) admits(l login) bool {
	return l.given() && slices.Contains(u.passwords, redisHash(l.password))
}

// redisHash is what Redis stores for a password, and takes in its place.
func redisHash(password secret.Bytes) string {
	sum := sha256.Sum256(password.Reveal())
	return hex.EncodeToString(sum[:])
}

// kill ends the connections that have a name, and waits until they are gone.
func (r *redisSession) kill(ctx context.Context, name string) error {
	for {
		answer, err := r.do(ctx, "connections", "CLIENT", "LIST")
		if err != nil {
			return err
		}
		list, _ := answer.(string)
		left := 0
		for line := range strings.Lines(list) {
			attributes := strings.Fields(line)
			if !slices.Contains(attributes, "name="+name) {
				continue
			}
			id, ok := strings.CutPrefix(attributes[0], "id=")
			if !ok {
				continue
			}
			left++
			if _, err := r.do(ctx, "connections", "CLIENT", "KILL", "ID", id); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return r.network(ctx, r.addr, err)
		}
	}
}

// How a change of the accounts survives a restart of the server.
const (
	saveACLFile = "aclfile" // ACL SAVE
	saveConfig  = "config"  // CONFIG REWRITE: the accounts stand in redis.conf
	saveNone    = "none"    // it does not: somebody else sees to that
)

func (r *redisSession) save(ctx context.Context, how string) error {
	var err error
	switch how {
	case saveACLFile:
		_, err = r.do(ctx, "the accounts", "ACL", "SAVE")
	case saveConfig:
		_, err = r.do(ctx, "the configuration", "CONFIG", "REWRITE")
	}
	return err
}

// redisError is what went wrong, in words of our own. Redis tells errors apart by their first word.
func redisError(ctx context.Context, s step, a address, err error, about string) error {
	if err == nil {
		return nil
	}
	var answer redis.Error
	if !errors.As(err, &answer) {
		return s.network(ctx, a, err)
	}
	text := answer.Error()
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "WRONGPASS", "NOAUTH":
		return s.passing(errRefused, "%s refuses the login (%s)", a, word)
	case "NOPERM":
		return s.permanent("the login may not do this to %s (NOPERM): an administrator needs +acl|getuser +acl|setuser +acl|deluser +acl|save +client|list +client|kill +client|setname", about)
	case "READONLY", "MASTERDOWN":
		return s.passing(nil, "%s is a replica (%s): set option host to the primary", a, word)
	case "LOADING", "BUSY", "TRYAGAIN", "OOM", "MISCONF", "CLUSTERDOWN":
		return s.passing(nil, "%s cannot do this now (%s)", a, word)
	case "DENIED":
		return s.permanent("%s is in protected mode (DENIED)", a)
	}
	switch {
	case strings.Contains(text, "not configured to use an ACL file"):
		return s.permanent("%s has no aclfile, so a restart would bring the old password back: give it one, or set option save to config or none", a)
	case strings.Contains(text, "without a config file"):
		return s.permanent("%s runs without a configuration file: set option save to aclfile or none", a)
	case strings.Contains(text, "unknown command"), strings.Contains(text, "unknown subcommand"), strings.Contains(text, "Unknown subcommand"):
		return s.permanent("%s does not know a command: it needs Redis 6 or later", a)
	case strings.HasPrefix(text, "ERR Error in ACL SETUSER modifier"):
		return s.permanent("%s does not accept the rules for %s", a, about)
	}
	return s.passing(nil, "%s answers with an error about %s", a, about)
}
