package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/hizo/hizo/cluster"
)

// statusInterval is how often the state is looked at that `systemctl status` shows.
const statusInterval = time.Second

// notifier tells the service manager how far this process is: sd_notify(3). Without a manager it does nothing.
type notifier struct {
	conn net.Conn // nil: nobody listens
	log  *slog.Logger
}

// newNotifier takes the socket out of the environment, so that commands of rotations can't speak for hizod.
func newNotifier(log *slog.Logger) *notifier {
	path := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	if path == "" {
		return &notifier{}
	}
	conn, err := net.Dial("unixgram", path) // a name that begins with @ is an abstract socket
	if err != nil {
		log.Warn("the service manager can't be told of this node's state", "error", err)
		return &notifier{}
	}
	return &notifier{conn: conn, log: log}
}

func (n *notifier) send(state string) {
	if n.conn == nil {
		return
	}
	if _, err := n.conn.Write([]byte(state)); err != nil {
		n.log.Warn("the service manager was not told of this node's state", "error", err)
	}
}

// follow reports that the node serves and then, until ctx ends, what it does.
func (n *notifier) follow(ctx context.Context, status func() cluster.Status) {
	if n.conn == nil {
		return
	}
	told := describe(status())
	n.send("READY=1\nSTATUS=" + told)
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if now := describe(status()); now != told {
				told = now
				n.send("STATUS=" + told)
			}
		case <-ctx.Done():
			n.send("STOPPING=1\nSTATUS=Stopping")
			return
		}
	}
}

// describe is one line for `systemctl status`.
func describe(s cluster.Status) string {
	var does string
	switch {
	case !s.Initialised:
		return "Not a member of a cluster yet; the log says what it waits for"
	case s.IsLeader:
		does = "leads"
	case s.Leader.ID != "":
		does = "follows " + s.Leader.ID
	default:
		does = "knows no leader"
	}
	if s.Sealed {
		does += ", sealed"
	}
	return fmt.Sprintf("%s of cluster %s: %s; %d members", s.ID, s.ClusterName, does, len(s.Members))
}
