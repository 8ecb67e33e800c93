package transport

import (
	"io"
	"net"
	"testing"
	"time"
)

// answer reads one byte and sends it back, as long as the stream lasts.
func answer(c net.Conn) {
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func ask(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A stream that lay in raft's pool while the other end was restarted is as good as a new one; a member that was removed
// gets none that way.
func TestPooledStreamsOutliveRestarts(t *testing.T) {
	dir := &members{}
	a, b := listen(t, "a", dir), listen(t, "b", dir)
	streams := make(chan net.Conn, 4)
	serve := func(m *Mux) {
		go func() {
			for {
				c, err := m.Raft().Accept()
				if err != nil {
					return
				}
				streams <- c
				go answer(c)
			}
		}()
	}
	serve(b)
	conn, err := a.Raft().Dial("b", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask(t, conn, "at first")
	ask(t, conn, "again")
	first := <-streams
	for range 2 {
		_ = b.Close()
		ended(t, "the old stream", first)
		b = listen(t, "b", dir) // with another key, elsewhere
		serve(b)
		ask(t, conn, "after a restart")
		first = <-streams
	}
	if len(streams) != 0 {
		t.Error("a stream was dialled that nobody needed")
	}
	_ = b.Close()
	ended(t, "the last stream", first)
	dir.remove("b")
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("a stream to a member that was removed was made anew")
	}
}
