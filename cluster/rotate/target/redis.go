package target

import (
	"context"
	"encoding/hex"
	"strings"
)

// redisTarget rotates the password of a Redis ACL user, who holds the old and the new one until the old one is retired.
// Passwords go as SHA-256 hashes, as Redis stores them, so they are in no log; Redis has no slower hash, which is one
// more reason for random ones. Adding one and taking one away may come twice or late without undoing one another.
// Apply also wants the old one to be valid, so a call that comes after another rotation brings no password back.
type redisTarget struct{}

// NewRedis makes the target of kind "redis".
func NewRedis() Target { return redisTarget{} }

type redisConfig struct {
	address
	fields
	username string
	length   int
	save     string
}

func parseRedis(config map[string]string) (redisConfig, error) {
	o := read(config)
	c := redisConfig{
		address: o.address(6379), fields: o.fields(), username: o.text("username", ""), length: o.length(),
		save: o.choice("save", saveACLFile, saveConfig, saveNone),
	}
	if strings.ContainsAny(c.username, " \t\r\n\x00") {
		o.fail("option username: Redis allows no blanks")
	}
	return c, o.done()
}

func (redisTarget) Check(config map[string]string) error {
	_, err := parseRedis(config)
	return err
}

// redisCall is one call.
type redisCall struct {
	redisConfig
	step
	a        Attempt
	old, new login
}

func redisBegin(a Attempt, stage string) (*redisCall, error) {
	s := step{"redis", stage}
	c, err := parseRedis(a.Config)
	if err != nil {
		return nil, s.permanent("%v", err)
	}
	return &redisCall{c, s, a, c.fields.of(a.Old), c.fields.of(a.New)}, nil
}

func (redisTarget) Stage(_ context.Context, a Attempt) (Value, error) {
	c, err := redisBegin(a, "stage")
	if err != nil {
		return nil, err
	}
	username, err := c.turn(c.step, nil, c.username, c.old.username)
	if err != nil {
		return nil, err
	}
	return c.next(a.Old, username, c.length), nil
}

func (redisTarget) Apply(ctx context.Context, a Attempt) error {
	return redisChange(ctx, a, "apply", func(c *redisCall, s *redisSession, u *redisUser) ([]any, error) {
		switch {
		case u.admits(c.new):
			return nil, nil
		case c.old.given() && !u.admits(c.old):
			return nil, c.permanent("the current value of the secret is not the password of %s: write the one that is", c.new.username)
		}
		return []any{"#" + redisHash(c.new.password)}, nil
	})
}

func (redisTarget) Verify(ctx context.Context, a Attempt) error {
	c, err := redisBegin(a, "verify")
	if err != nil {
		return err
	}
	s, err := redisConnect(ctx, c.step, c.address, c.new)
	if err != nil {
		return err
	}
	defer s.close()
	// Whether the user may run this is another question: the answer comes after the login.
	_, err = s.Do(ctx, "PING").Result()
	if err != nil && strings.HasPrefix(err.Error(), "NOPERM") {
		return nil
	}
	return final(redisError(ctx, c.step, c.address, err, c.new.username))
}

func (redisTarget) Retire(ctx context.Context, a Attempt) error {
	return redisChange(ctx, a, "retire", func(c *redisCall, _ *redisSession, u *redisUser) ([]any, error) {
		switch {
		case !u.admits(c.new):
			return nil, c.permanent("the new value is not the password of %s, so the old one stays", c.new.username)
		case !u.admits(c.old):
			return nil, nil
		}
		return []any{"!" + redisHash(c.old.password)}, nil
	})
}

// Fence ends the attempt's connections and takes the new password away, unless that would lock everybody out.
func (redisTarget) Fence(ctx context.Context, a Attempt) error {
	return redisChange(ctx, a, "fence", func(c *redisCall, s *redisSession, _ *redisUser) ([]any, error) {
		if err := s.kill(ctx, c.name()); err != nil {
			return nil, err
		}
		// What it did before it ended is seen only now.
		u, err := s.user(ctx, c.new.username)
		if err != nil || u == nil || !u.admits(c.new) || !u.admits(c.old) {
			return nil, err
		}
		return []any{"!" + redisHash(c.new.password)}, nil
	})
}

// redisChange logs in, reads the account and gives it the rules that f returns.
func redisChange(ctx context.Context, a Attempt, stage string, f func(*redisCall, *redisSession, *redisUser) ([]any, error)) error {
	c, err := redisBegin(a, stage)
	if err != nil {
		return err
	}
	admin := adminOf(a.Admin)
	if !admin.given() {
		return c.permanent("in Redis only an administrator changes passwords: set option admin to a secret with the fields username and password")
	}
	s, err := redisConnect(ctx, c.step, c.address, admin)
	if err != nil {
		return err
	}
	defer s.close()
	if stage != "fence" {
		if _, err := s.do(ctx, "connections", "CLIENT", "SETNAME", c.name()); err != nil {
			return err
		}
	}
	name := c.new.username
	if name == "" {
		return s.kill(ctx, c.name()) // Fence before anything was staged
	}
	u, err := s.user(ctx, name)
	if err != nil {
		return err
	}
	if u == nil {
		return c.permanent("there is no user %s at %s", name, c.address)
	}
	rules, err := f(c, s, u)
	if err != nil {
		return err
	}
	if len(rules) > 0 {
		if _, err := s.do(ctx, name, append([]any{"ACL", "SETUSER", name}, rules...)...); err != nil {
			return err
		}
	}
	// Also where nothing was left to change: an earlier call may have ended just before this.
	return s.save(ctx, c.save)
}

func (c *redisCall) name() string { return "hizo/" + hex.EncodeToString(c.a.ID[:]) }
