package servertest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Redis is a Redis server that speaks TLS only, has an aclfile, and logs at its most talkative.
type Redis struct {
	server
	User, Password string // who may do everything
}

var redisTemplate = sync.OnceValues(func() (*template, error) {
	daemon, err := program("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	a, err := accountFor("redis")
	if err != nil {
		return nil, err
	}
	return newTemplate("redis", a, func(t *template) error {
		t.bin, t.password = daemon, rand.Text()
		hash := sha256.Sum256([]byte(t.password))
		acl := "user default off\nuser admin on #" + hex.EncodeToString(hash[:]) + " ~* &* +@all\n"
		return a.write(in(t.dir, "users.acl"), []byte(acl))
	})
})

// StartRedis starts a server for one test.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	tpl, err := redisTemplate()
	need(t, err)
	s := &Redis{User: "admin", Password: tpl.password}
	s.CA = tpl.ca
	inner, err := tpl.launch("redis", "TERM", func(dir string, port int) []string {
		return []string{
			tpl.bin, "--port", "0", "--tls-port", strconv.Itoa(port), "--bind", Host, "--dir", dir, "--aclfile", in(dir, "users.acl"),
			"--tls-cert-file", in(dir, "server.crt"), "--tls-key-file", in(dir, "server.key"), "--tls-auth-clients", "no",
			"--save", "", "--loglevel", "debug", "--daemonize", "no",
		}
	}, func(port int) error {
		return s.do(context.Background(), port, s.User, s.Password, func(ctx context.Context, c *redis.Client) error {
			return c.Ping(ctx).Err()
		})
	})
	need(t, err)
	s.server = *inner
	s.closeAfter(t)
	return s
}

// Config is what a target needs to reach the server.
func (s *Redis) Config() map[string]string {
	return map[string]string{"host": Host, "port": strconv.Itoa(s.Port), "tls": "verify-full", "ca": s.CA}
}

// Do runs one command as the administrator.
func (s *Redis) Do(t testing.TB, args ...any) any {
	t.Helper()
	var got any
	err := s.do(t.Context(), s.Port, s.User, s.Password, func(ctx context.Context, c *redis.Client) (err error) {
		got, err = c.Do(ctx, args...).Result()
		return err
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return got
}

// Login says whether a user gets in: nil, or the server's refusal.
func (s *Redis) Login(user, password string) error {
	return s.do(context.Background(), s.Port, user, password, func(ctx context.Context, c *redis.Client) error {
		// What a user may do is another question, asked after the login.
		if err := c.Ping(ctx).Err(); err != nil && !strings.HasPrefix(err.Error(), "NOPERM") {
			return err
		}
		return nil
	})
}

// Try runs one command as a user.
func (s *Redis) Try(user, password string, args ...any) error {
	return s.do(context.Background(), s.Port, user, password, func(ctx context.Context, c *redis.Client) error {
		if err := c.Do(ctx, args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		return nil
	})
}

// Hold opens a connection that stays, and returns how to see whether it still works.
func (s *Redis) Hold(t testing.TB, user, password string) func() error {
	t.Helper()
	c, err := s.dial(t.Context(), s.Port, user, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the server may have closed it before
	return func() error { return c.Ping(t.Context()).Err() }
}

// do runs f on one connection.
func (s *Redis) do(ctx context.Context, port int, user, password string, f func(context.Context, *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	c, err := s.dial(ctx, port, user, password)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, c), c.Close())
}

// dial makes a client of one connection. That is opened here, because the client's pool would print to standard error
// that a server is down.
func (s *Redis) dial(ctx context.Context, port int, user, password string) (*redis.Client, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.CA))
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: Name}}
	conn, err := dialer.DialContext(ctx, "tcp4", Host+":"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	return redis.NewClient(&redis.Options{
		Dialer:   func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Username: user, Password: password, MaxRetries: -1, PoolSize: 1, Protocol: 2, DisableIdentity: true,
		ContextTimeoutEnabled: true,
	}), nil
}
