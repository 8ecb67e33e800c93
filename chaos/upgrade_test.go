package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/chaos/overlay"
)

// nextLevel is the next release, as far as an upgrade can tell: it knows one more level, with a command that nobody else
// knows, and its leaders propose it all the time.
var nextLevel = []overlay.Edit{
	{File: "fsm/level.go", Old: "const HighestLevel = 1", New: "const HighestLevel = 2"},
	{File: "fsm/level.go", Old: "func (k Kind) Since() uint32 { return 1 }", New: `func (k Kind) Since() uint32 {
	if k == KindLevelTest {
		return 2
	}
	return 1
}

const KindLevelTest Kind = 179

type LevelTest struct{ N uint64 }`},
	{File: "fsm/codec.go", Old: "	case KindLevelRaise:\n", New: "	case KindLevelTest:\n		return new(LevelTest), true\n	case KindLevelRaise:\n"},
	{File: "fsm/apply.go", Old: "	case *LevelRaise:\n", New: "	case *LevelTest:\n		return done()\n	case *LevelRaise:\n"},
	{File: "cluster/leader.go", Old: "	wg.Go(func() { n.levelDuty(ctx, term) })\n", New: `	wg.Go(func() { n.levelDuty(ctx, term) })
	wg.Go(func() {
		for said := ""; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			err := n.proposeDuty(ctx, term, fsm.KindLevelTest, &fsm.LevelTest{N: term}, fsm.Audit{
				Action: "level.test", Resource: "cluster", Decision: fsm.Allowed,
			})
			if text := fmt.Sprint(err); text != said {
				said = text
				n.log.Info("level test", "outcome", text)
			}
		}
	})
`},
	{File: "cluster/leader.go", Old: "import (\n", New: "import (\n	\"fmt\"\n	\"github.com/hizo/hizo/fsm\"\n"},
}

// TestRollingUpgrade replaces hizod on one node after the other by a build that knows more, while clients write. No write
// fails or is lost, no node of the old build ever sees a command that it does not know, and the old build does not start
// any more once the last node was upgraded.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	next := filepath.Join(t.TempDir(), "hizod-next")
	dir := filepath.Dir(next)
	file, err := overlay.Write("..", dir, nextLevel)
	if err != nil {
		t.Fatal(err)
	}
	if err := overlay.Build(t.Context(), "..", file, "./cmd/hizod", next); err != nil {
		t.Fatal(err)
	}
	l.must("", "vault", "create", "ml")

	var count, attempts atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(client.WithRequestID(context.Background(), client.NewRequestID()), patience)
				version, err := l.putUntilKnown(ctx, fmt.Sprintf("w%d/%d", w, i/40), fmt.Sprint(i), &attempts)
				cancel()
				if err != nil || version != uint32(i%40+1) {
					t.Errorf("write %d of %d is version %d: %v", i, w, version, err)
					return
				}
				count.Add(1)
			}
		})
	}
	finish := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer finish()
	progress := func(what string) {
		t.Helper()
		since := count.Load()
		l.await(what, func() error {
			if now := count.Load(); now < since+20 {
				return fmt.Errorf("%d writes", now-since)
			}
			return nil
		})
	}
	records := func(action string) int {
		return strings.Count(l.must("", "audit", "search", "--action", action), action)
	}
	levels := func() string { return l.must("", "cluster", "members") }

	progress("writes come in")
	// The leader first, so that a leader of the new build has followers of the old one.
	leader, others := l.leader()
	for i, n := range append([]*node{leader}, others...) {
		if i == 2 { // one of the old build is left: a leader of the new one proposes and is refused
			l.await("a leader of the new build is refused", func() error {
				if now, _ := l.leader(); now == n {
					l.must("", "cluster", "transfer-leader")
				}
				return within(leader.log()+others[0].log(), "this needs feature level 2, and the cluster is at 1: upgrade hizod on "+n.name)
			})
			progress("writes go on with mixed builds")
			if got := records("level.raise"); got != 0 {
				t.Errorf("the level rose while %s was of the old build", n.name)
			}
			if got := records("level.test"); got != 0 {
				t.Errorf("%d commands of the new level while %s was of the old build", got, n.name)
			}
		}
		n.end(syscall.SIGTERM)
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with code %d", n.name, code)
		}
		n.program = next
		n.start()
		l.awaitUnsealed(n)
		progress("writes go on after the upgrade of " + n.name)
	}
	l.await("the new level's command", func() error {
		if records("level.test") == 0 {
			return errors.New("none is on record")
		}
		return nil
	})
	if got := records("level.raise"); got != 1 {
		t.Errorf("the level rose %d times\n%s", got, levels())
	}
	for _, n := range l.nodes {
		if strings.Contains(n.log(), "written by another version") || !n.running() {
			t.Errorf("%s met what it does not know:\n%s", n.name, tail(n.log(), 12))
		}
	}
	finish()

	last := others[1]
	last.end(syscall.SIGTERM)
	last.program = ""
	last.failsToStart("the cluster is at feature level 2, and this hizod knows levels up to 1", "install the hizod that the other nodes run")
	last.program = next
	last.start()
	l.awaitUnsealed(last)
	l.must("", "audit", "verify")
	t.Logf("%d writes while three nodes were upgraded", count.Load())
	_ = os.Remove(next)
}
