package main

import (
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/cmd/hizo/internal/child"
	"github.com/hizo/hizo/cmd/hizo/internal/mask"
	"github.com/hizo/hizo/crypto/secret"
)

// masked runs the command as a child whose output passes through masks, and returns its exit code.
func (s *session) masked(cmd child.Command, values map[name.Reference]secret.Bytes) (int, error) {
	var plain [][]byte
	for _, v := range values {
		if v.Len() > 0 && v.Len() < 4 {
			s.note("warning: a value of %d bytes is masked wherever these bytes occur", v.Len())
		}
		plain = append(plain, v.Reveal())
	}
	cmd.Masks = mask.New(plain...)
	wipe(values)

	k := child.NewKeeper(child.Streams{In: s.stdin, Out: s.stdout, Err: s.stderr})
	defer k.Close()
	c, err := k.Start(cmd)
	for _, f := range cmd.Files {
		f.Close()
	}
	if err != nil {
		return 0, err
	}
	for {
		select {
		case sig := <-k.Signals():
			k.Forward(sig)
		case <-c.Done():
			return c.Status().ExitCode(), nil
		}
	}
}
