package target

import (
	"context"
	"slices"
	"strings"
)

// redisUsers makes Redis ACL users for leases. Option rules says what they may: key patterns, channels and commands, as
// ACL SETUSER takes them. Redis keeps no bound by itself: a lease ends by the cluster alone. Dropping a user ends its
// connections.
type redisUsers struct{}

// NewRedisUsers makes the users of kind "redis".
func NewRedisUsers() Users { return redisUsers{} }

type redisUserConfig struct {
	address
	rules []string
	save  string
}

func parseRedisUsers(config map[string]string) (redisUserConfig, error) {
	o := read(config)
	c := redisUserConfig{address: o.address(6379), rules: strings.Fields(o.template("rules")), save: o.choice("save", saveACLFile, saveConfig, saveNone)}
	if len(c.rules) == 0 {
		o.fail("option rules is missing: what may the users do? for example rules=~iris:* +@read")
	}
	reserved := []string{"on", "off", "nopass", "reset", "resetpass", "sanitize-payload", "skip-sanitize-payload"}
	for _, r := range c.rules {
		if strings.ContainsAny(r[:1], "><#!") || slices.Contains(reserved, strings.ToLower(r)) {
			o.fail("option rules: whether a user is on, and its password, are not for rules to say")
		}
		if strings.Contains(r, "{{expires}}") {
			o.fail("option rules: Redis has no use for {{expires}}")
		}
	}
	return c, o.done()
}

func (redisUsers) Check(config map[string]string) error {
	_, err := parseRedisUsers(config)
	return err
}

type redisUserCall struct {
	userCall
	redisUserConfig
}

func redisUserBegin(ctx context.Context, u User, stage string) (*redisUserCall, *redisSession, error) {
	call, err := userBegin("redis", stage, u)
	if err != nil {
		return nil, nil, err
	}
	config, err := parseRedisUsers(u.Config)
	if err != nil {
		return nil, nil, call.permanent("%v", err)
	}
	c := &redisUserCall{call, config}
	s, err := redisConnect(ctx, c.step, c.address, c.admin)
	if err != nil {
		return nil, nil, err
	}
	// Ends the connection of a leader that was stopped, before this one takes the name.
	if err = s.kill(ctx, c.session()); err == nil {
		_, err = s.do(ctx, "connections", "CLIENT", "SETNAME", c.session())
	}
	if err != nil {
		s.close()
		return nil, nil, err
	}
	return c, s, nil
}

func (redisUsers) Create(ctx context.Context, u User) error {
	c, s, err := redisUserBegin(ctx, u, "create")
	if err != nil {
		return err
	}
	defer s.close()
	args := []any{"ACL", "SETUSER", u.Name, "reset", "on", "#" + redisHash(u.Password)}
	for _, r := range c.rules {
		args = append(args, fill(r, u.Name, ""))
	}
	if _, err := s.do(ctx, u.Name, args...); err != nil {
		return err
	}
	return s.save(ctx, c.save)
}

func (redisUsers) Renew(ctx context.Context, u User) error {
	c, s, err := redisUserBegin(ctx, u, "renew")
	if err != nil {
		return err
	}
	defer s.close()
	there, err := s.user(ctx, u.Name)
	if err == nil && there == nil {
		return c.permanent("there is no user %s at %s", u.Name, c.address)
	}
	return err
}

func (redisUsers) Drop(ctx context.Context, u User) error {
	c, s, err := redisUserBegin(ctx, u, "drop")
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.do(ctx, u.Name, "ACL", "DELUSER", u.Name); err != nil {
		return err
	}
	return s.save(ctx, c.save)
}
