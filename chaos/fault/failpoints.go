package fault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/chaos/lab"
	"github.com/hizo/hizo/chaos/probe"
	"github.com/hizo/hizo/chaos/workload"
)

// failpoints are kills at named places (package probe): one fault for each part of the program, so that the rarely
// visited places get their turn.
func failpoints() []Fault {
	var list []Fault
	for _, part := range []string{"log", "apply", "propose", "snapshot", "restore", "share", "deal", "root", "rotation"} {
		list = append(list, Fault{Name: "failpoint-" + part, Needs: Probes, Set: func(ctx context.Context, s *Scene) (Lift, error) {
			return failpoint(ctx, s, part)
		}})
	}
	return list
}

// failpoint arms one place at every node, and starts again whoever has died there. Each node dies once at most: what
// comes next on the same way is to be seen too.
func failpoint(ctx context.Context, s *Scene, part string) (Lift, error) {
	var points []string
	for _, p := range probe.Points {
		if strings.HasPrefix(p, part+"/") {
			points = append(points, p)
		}
	}
	point := points[s.Rand.IntN(len(points))]
	pass := 0
	if part == "log" || part == "apply" || part == "propose" { // hundreds a second
		pass = s.Rand.IntN(200)
	}
	s.Log("%s, after %d", point, pass)
	before, killed := make(map[*lab.Node]uint64), make(map[*lab.Node]int)
	for _, n := range s.C.Nodes {
		n.MayDie(true)
		before[n], killed[n] = n.Control.Fired(), n.Killed()
		n.Control.Arm(point, pass)
	}
	watch := background(ctx, func(ctx context.Context) error {
		for sleep(ctx, 20*time.Millisecond) {
			for _, n := range s.C.Nodes {
				if !n.Running() && n.Control.Fired() > before[n] && sleep(ctx, s.between(100*time.Millisecond, time.Second)) {
					if err := n.Start(); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	provoke := background(ctx, func(ctx context.Context) error { return s.provoke(ctx, part) })
	fired := func() bool {
		return slices.ContainsFunc(s.C.Nodes, func(n *lab.Node) bool { return n.Control.Fired() > before[n] })
	}
	rare := part == "share" || part == "deal" || part == "root" || part == "restore" || part == "snapshot"
	return func(ctx context.Context) error {
		for limit := time.Now().Add(6 * time.Second); rare && !fired() && time.Now().Before(limit); {
			if !sleep(ctx, 50*time.Millisecond) {
				break
			}
		}
		for _, n := range s.C.Nodes {
			n.Control.Disarm()
		}
		err := provoke(ctx)
		if err == nil {
			err = watch(ctx)
		}
		for _, n := range s.C.Nodes {
			fired := int(n.Control.Fired() - before[n])
			s.Took(fired, "killed at "+point)
			// The end of one that has just been killed is still to be noticed, unless another fault was asking for
			// its end at the same time and is taken for the cause.
			for limit := time.Now().Add(2 * time.Second); fired > n.Killed()-killed[n] && time.Now().Before(limit) && sleep(ctx, 10*time.Millisecond); {
			}
			if times := n.Killed() - killed[n]; times > fired {
				s.wrong("%s died of SIGKILL %d times, and was killed %d times", n.Name, times, fired)
			}
			n.MayDie(false)
			if err == nil {
				err = n.Start()
			}
		}
		return err
	}, nil
}

// provoke brings the program to places where it would not come by itself, and goes on until the fault is lifted. What
// its calls are answered is nobody's concern: nodes die under them.
func (s *Scene) provoke(ctx context.Context, part string) error {
	switch part {
	case "root":
		s.rotateKeys(ctx, "root")
	case "share", "deal":
		if s.Rand.IntN(2) == 0 {
			s.rotateKeys(ctx, "node-shares")
			return nil
		}
		// A node whose share is gone is dealt a new one, and so are the others. It counts as wrecked, because the shares
		// of two of three would be one too many, and whether the new deal came through is not asked.
		n := s.follower(ctx)
		if !s.C.Wreck(n, "share gone") {
			return nil
		}
		if err := n.End(syscall.SIGKILL); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(n.Data(), "shares")), n.Changed()); err != nil {
			return err
		}
		s.Also(1, "shares lost")
		if err := n.Start(); err != nil {
			return err
		}
		sleep(ctx, 5*time.Second)
	case "restore":
		// A node that was away for longer than the leader's log reaches back is sent a snapshot.
		n := s.follower(ctx)
		rules := s.without(n)
		if err := s.C.Net.Set(s.name, rules...); err != nil {
			return err
		}
		s.fill(ctx, 3<<19)
		if err := s.C.Net.Set(s.name); err != nil {
			return err
		}
		sleep(ctx, 5*time.Second)
	case "snapshot":
		for sleep(ctx, 100*time.Millisecond) {
			s.fill(ctx, 1<<20)
		}
	}
	return nil
}

// rotateKeys asks for new keys of the cluster's own until it has once been promised some.
func (s *Scene) rotateKeys(ctx context.Context, subject string) {
	for {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := s.C.Admin.Keys().Rotate(call, &hizov1.RotateRequest{Subject: subject})
		cancel()
		if err == nil {
			s.Also(1, "rotations of "+subject)
			sleep(ctx, 5*time.Second)
			return
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return
		}
	}
}

// fill writes values until the log has grown by about this many bytes.
func (s *Scene) fill(ctx context.Context, size int) {
	value := slices.Repeat([]byte("0123456789abcdef"), 4096-16)
	for ; size > 0 && ctx.Err() == nil; size -= len(value) {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, _ = s.C.Admin.Secrets().Put(call, &hizov1.PutRequest{Vault: workload.Vault, Path: "fill", Fields: map[string][]byte{"f": value}})
		cancel()
	}
}
