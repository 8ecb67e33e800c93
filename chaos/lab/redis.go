package lab

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Redis is a server outside the cluster, whose passwords the cluster rotates. It lives where the clients live, so every
// node reaches it over the bridge and no fault cuts it off.
type Redis struct {
	Password string // of the user admin
	cmd      *exec.Cmd
}

// Addresses of Redis on the bridge.
const (
	RedisHost = "10.77.0.254"
	RedisPort = "6379"
)

// StartRedis starts it. A *MissingError says that the program is not installed.
func StartRedis(ctx context.Context, dir string) (*Redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, &MissingError{"redis-server (Debian's package redis-server)"}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	r := &Redis{Password: rand.Text()}
	hash := sha256.Sum256([]byte(r.Password))
	acl := filepath.Join(dir, "users.acl")
	if err := os.WriteFile(acl, []byte("user default off\nuser admin on #"+hex.EncodeToString(hash[:])+" ~* &* +@all\n"), 0o600); err != nil {
		return nil, err
	}
	r.cmd = exec.Command(program, "--bind", RedisHost, "--port", RedisPort, "--dir", dir, "--aclfile", acl, "--save", "", "--daemonize", "no",
		"--logfile", filepath.Join(dir, "log"))
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	return r, Await(ctx, "Redis answers", func(ctx context.Context) error { return r.Do(ctx, "PING").Err() })
}

func (r *Redis) client(user, password string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: RedisHost + ":" + RedisPort, Username: user, Password: password, MaxRetries: -1, Protocol: 2, DisableIdentity: true})
}

// Do runs a command as the administrator.
func (r *Redis) Do(ctx context.Context, args ...any) *redis.Cmd {
	c := r.client("admin", r.Password)
	defer c.Close()
	return c.Do(ctx, args...)
}

// Login says whether a user gets in with a password.
func (r *Redis) Login(ctx context.Context, user, password string) error {
	c := r.client(user, password)
	defer c.Close()
	return c.Ping(ctx).Err()
}

// Passwords are the hashes that a user's passwords are kept as.
func (r *Redis) Passwords(ctx context.Context, user string) ([]string, error) {
	got, err := r.Do(ctx, "ACL", "GETUSER", user).Slice()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(got, func(v any) bool { return v == "passwords" })
	if at < 0 || at+1 >= len(got) {
		return nil, fmt.Errorf("ACL GETUSER %s told no passwords", user)
	}
	list, ok := got[at+1].([]any)
	if !ok {
		return nil, errors.New("ACL GETUSER: passwords are no list")
	}
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out, nil
}

// Close ends it.
func (r *Redis) Close() error {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it says that it was killed
	return nil
}
