package client

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/hizo/hizo/api/hizov1"
)

// Whoever stops after any change and goes on from its cursor sees everything behind it: inside a message the cursor is
// the one before the message.
func TestCursorsOfChanges(t *testing.T) {
	event := func(version uint32) *hizov1.WatchResponse_Event {
		return &hizov1.WatchResponse_Event{Kind: "put", Vault: "ml", Path: "db", Version: version}
	}
	position := func(over bool) *hizov1.WatchResponse_Position {
		return &hizov1.WatchResponse_Position{StartOver: over, Secrets: []*hizov1.WatchResponse_Position_Secret{{Vault: "ml", Path: "db", Version: 4}}}
	}
	for what, c := range map[string]struct {
		message *hizov1.WatchResponse
		want    []string
	}{
		"events":    {&hizov1.WatchResponse{Cursor: "c2", Events: []*hizov1.WatchResponse_Event{event(1), event(2), event(3)}}, []string{"put 1 c1", "put 2 c1", "put 3 c2"}},
		"start":     {&hizov1.WatchResponse{Cursor: "c2", Position: position(false)}, []string{"start 0 c2"}},
		"reset":     {&hizov1.WatchResponse{Cursor: "c2", Position: position(true)}, []string{"start-over 0 c2"}},
		"heartbeat": {&hizov1.WatchResponse{Cursor: "c2"}, []string{"heartbeat 0 c2"}},
	} {
		var got []string
		for _, change := range changes(c.message, "c1") {
			got = append(got, fmt.Sprintf("%s %d %s", change.Kind, change.Version, change.Cursor))
			if (change.Kind == ChangeStart || change.Kind == ChangeReset) && change.Current["ml/db"] != 4 {
				t.Errorf("%s: at %v", what, change.Current)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// What is worth opening a stream again for, and what is not.
func TestWatchGivesUp(t *testing.T) {
	w := &watcher{}
	for reason, lasting := range map[string]bool{
		hizov1.ReasonPermissionDenied: true, hizov1.ReasonUnauthenticated: true, hizov1.ReasonInvalid: true,
		hizov1.ReasonBehind: false, hizov1.ReasonNotLeader: false, hizov1.ReasonShutdown: false, hizov1.ReasonSealed: false,
		hizov1.ReasonOverloaded: false, hizov1.ReasonRateLimited: false, hizov1.ReasonUnknownOutcome: false,
		ReasonUnreachable: false, ReasonTimeout: false,
	} {
		if got := w.lasting(&Error{Reason: reason, Code: codes.Unavailable}); got != lasting {
			t.Errorf("%s lasts: %t", reason, got)
		}
	}
	if !w.lasting(ErrNoToken) {
		t.Error("without a token nothing is opened, however often")
	}
}
