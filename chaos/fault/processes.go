package fault

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hizo/hizo/chaos/lab"
)

// processes are the faults of the programs themselves.
func processes() []Fault {
	return []Fault{
		{Name: "kill-leader", Set: func(ctx context.Context, s *Scene) (Lift, error) { return s.end(syscall.SIGKILL, s.leader(ctx)) }},
		{Name: "kill-one", Set: func(_ context.Context, s *Scene) (Lift, error) { return s.end(syscall.SIGKILL, s.any()) }},
		{Name: "kill-all", Set: func(_ context.Context, s *Scene) (Lift, error) { return s.end(syscall.SIGKILL, s.C.Nodes...) }},
		{Name: "stop-one", Set: func(_ context.Context, s *Scene) (Lift, error) { return s.end(syscall.SIGTERM, s.any()) }},
		{Name: "pause-leader", Set: pauseLeader},
		{Name: "restart-storm", Set: restartStorm},
	}
}

// kill ends a process and counts it if there was one.
func (s *Scene) kill(sig syscall.Signal, n *lab.Node) error {
	ran := n.Running()
	err := n.End(sig)
	if ran && err == nil {
		s.Took(1, "processes ended")
	}
	return err
}

// end ends processes until the fault is lifted.
func (s *Scene) end(sig syscall.Signal, nodes ...*lab.Node) (Lift, error) {
	var errs []error
	for _, n := range nodes {
		errs = append(errs, s.kill(sig, n))
	}
	return func(context.Context) error {
		var errs []error
		for _, n := range nodes {
			errs = append(errs, n.Start())
		}
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

// pauseLeader stops it for longer than an election takes; it wakes up and believes that it leads.
func pauseLeader(ctx context.Context, s *Scene) (Lift, error) {
	n := s.leader(ctx)
	return func(context.Context) error {
		if n.Stopped() {
			s.Took(1, "processes stopped")
		}
		return n.Pause(false)
	}, n.Pause(true)
}

// restartStorm kills and starts node after node.
func restartStorm(ctx context.Context, s *Scene) (Lift, error) {
	return background(ctx, func(ctx context.Context) error {
		for ctx.Err() == nil {
			n := s.any()
			if err := s.kill(syscall.SIGKILL, n); err != nil {
				return err
			}
			if err := n.Start(); err != nil {
				return err
			}
			sleep(ctx, s.between(200*time.Millisecond, 800*time.Millisecond))
		}
		return nil
	}), nil
}
