package target_test

import (
	"fmt"
	"testing"

	"github.com/hizo/hizo/cluster/rotate/servertest"
	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/cluster/rotate/target/targettest"
)

func TestRedis(t *testing.T) {
	t.Parallel()
	db := servertest.StartRedis(t)
	// The least that an administrator needs.
	db.Do(t, "ACL", "SETUSER", "rotator", "on", ">rotator-password",
		"+acl|getuser", "+acl|setuser", "+acl|deluser", "+acl|save", "+client|list", "+client|kill", "+client|setname")
	db.Do(t, "ACL", "SAVE")
	targettest.Target(t, func(t *testing.T) targettest.Subject {
		name := fmt.Sprintf("train'%d\\", accounts.Add(1))
		db.Do(t, "ACL", "SETUSER", name, "on", ">first-password", "~iris:*", "+@read")
		db.Do(t, "ACL", "SAVE")
		return targettest.Subject{
			Kind: "redis", Target: target.NewRedis(), Config: db.Config(),
			Admin: value("rotator", "rotator-password"), First: value(name, "first-password"),
			Login: func(v target.Value) error {
				return db.Login(string(v["username"].Reveal()), string(v["password"].Reveal()))
			},
			Server:  targettest.Server{Port: db.Port, Stop: db.Stop, Start: db.Start, Log: db.Log},
			Overlap: true, External: true,
		}
	})
}
