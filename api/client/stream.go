package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/hizov1"
)

// NewStream implements grpc.ClientConnInterface for streams of answers to one request. Until the first answer
// has come, attempts fail over as for other calls; a stream that breaks later ends, and the caller knows from
// where to continue.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if desc.ClientStreams {
		return nil, status.Error(codes.Unimplemented, "streams of requests are not part of this API")
	}
	return &stream{c: c, ctx: ctx, desc: desc, opts: opts, call: c.newCall(ctx, method)}, nil
}

// stream opens the real stream when the first answer is wanted. As grpc.ClientStream demands, only one goroutine
// receives.
type stream struct {
	c    *Client
	ctx  context.Context
	desc *grpc.StreamDesc
	opts []grpc.CallOption
	call *call

	request any
	inner   grpc.ClientStream
	begun   bool // an answer has come
	done    error
	attempt context.Context // of inner
	look    *time.Timer     // watches inner until its first answer
}

func (s *stream) SendMsg(m any) error { s.request = m; return nil }
func (s *stream) CloseSend() error    { return nil }

func (s *stream) RecvMsg(m any) error {
	if s.done != nil {
		return s.done
	}
	for {
		if s.inner == nil {
			if err := s.open(); err != nil {
				s.done = err
				return err
			}
		}
		err := s.inner.RecvMsg(m)
		s.look.Stop()
		switch {
		case err == nil:
			if !s.begun {
				s.begun = true
				s.arrived()
			}
			return nil
		case errors.Is(err, io.EOF):
			s.done = io.EOF
			return io.EOF
		case s.begun:
			s.done = fromStatus(err, "")
			return s.done
		}
		addr := s.call.current
		s.inner = nil
		s.call.movedBy(s.attempt)
		if err := s.call.failed(s.ctx, addr, true, err); err != nil {
			s.done = err
			return err
		}
	}
}

// open tries nodes until one has taken the request. Config.Timeout bounds how long, as a context does for
// other calls; the stream itself may last.
func (s *stream) open() error {
	limit, cancel := context.WithDeadline(s.ctx, s.call.started.Add(s.c.cfg.Timeout))
	defer cancel()
	for {
		addr, err := s.call.next(limit)
		if err != nil {
			return err
		}
		sent, err := s.try(limit, addr)
		if err == nil {
			return nil
		}
		if err := s.call.failed(limit, addr, sent, err); err != nil {
			return err
		}
	}
}

func (s *stream) try(limit context.Context, addr string) (sent bool, err error) {
	out, err := s.call.outgoing(s.ctx)
	if err != nil {
		return false, err
	}
	n, err := s.c.conn(addr)
	if err != nil {
		return false, err
	}
	attempt, cancel := context.WithTimeout(limit, s.c.cfg.AttemptTimeout)
	defer cancel()
	if err := n.connected(attempt, s.call.patience()); err != nil {
		s.c.release(n)
		s.c.drop(n)
		return false, err
	}
	out, giveUp := context.WithCancelCause(out)
	inner, err := n.grpc.NewStream(out, s.desc, s.call.method, s.opts...)
	if err != nil {
		giveUp(nil)
		s.c.release(n)
		return true, err
	}
	context.AfterFunc(inner.Context(), func() { // when the stream has ended, however it did
		giveUp(nil)
		s.c.release(n)
	})
	if err := inner.SendMsg(s.request); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg tells why
		giveUp(nil)
		return true, err
	}
	if err := inner.CloseSend(); err != nil {
		giveUp(nil)
		return true, err
	}
	s.inner, s.attempt, s.look = inner, out, s.lookout(out, addr, giveUp)
	return true, nil
}

// lookout is that of a call where the leader is wanted. Elsewhere it gives up a node that does not answer at all.
func (s *stream) lookout(ctx context.Context, addr string, giveUp context.CancelCauseFunc) *time.Timer {
	if s.call.place == nil {
		return s.c.lookout(ctx, addr, giveUp)
	}
	return time.AfterFunc(s.c.cfg.SuspectAfter, func() {
		check, cancel := context.WithTimeout(ctx, s.c.cfg.SuspectAfter)
		defer cancel()
		if !s.c.serving(check, addr, hizov1.HealthLive) {
			giveUp(errors.New("the node hangs"))
		}
	})
}

// arrived notes where the first answer came from.
func (s *stream) arrived() {
	s.call.back(s.call.current)
	if s.call.place != nil {
		s.call.place.set(s.call.current)
	} else {
		s.c.setLeader(s.call.current)
	}
}

func (s *stream) Header() (metadata.MD, error) {
	if s.inner == nil {
		return nil, nil
	}
	return s.inner.Header()
}

func (s *stream) Trailer() metadata.MD {
	if s.inner == nil {
		return nil
	}
	return s.inner.Trailer()
}

func (s *stream) Context() context.Context { return s.ctx }
