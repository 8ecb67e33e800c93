package main

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/fsm"
)

// finished counts what is carried out; cluster.Offline.Finish has its own test.
type finished int

func (f *finished) Finish(context.Context, string) error {
	*f++
	return nil
}

// A recovery that was interrupted asks again: for the code, and whether the others are gone.
func TestUnfinishedRecoveryAsksAgain(t *testing.T) {
	t.Parallel()
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := down.Addr().String()
	if err := down.Close(); err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	begun := fsm.Recovered{By: "alice", Reason: "fire", GivenUp: []string{"n2", "n3"}}
	for name, test := range map[string]struct {
		addr, confirm string
		want          string // in the output or the error
		carried       finished
	}{
		"nothing said":        {address, "", "--confirm c0de", 0},
		"another code":        {address, "beef", "another plan", 0},
		"one came back":       {back.Addr().String(), "c0de", "something answers", 0},
		"confirmed, all gone": {address, "c0de", "is finished", 1},
	} {
		plan := &cluster.Plan{Code: "c0de", Lost: []fsm.Member{{ID: "n2", PeerAddr: test.addr}, {ID: "n3"}}}
		var out strings.Builder
		var carried finished
		err := (&recoverCmd{Confirm: test.confirm}).finish(t.Context(), &carried, plan, begun, &out)
		text := out.String()
		if err != nil {
			text += err.Error()
		}
		if !strings.Contains(text, test.want) || carried != test.carried {
			t.Errorf("%s: %s; carried out %d times", name, text, carried)
		}
	}
}
