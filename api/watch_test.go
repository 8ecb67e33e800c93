package api_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

const mayInject = `permit(principal == Hizo::Workload::"%s", action == Hizo::Action::"inject", resource == Hizo::Secret::"ml/%s");`

// at makes a client of one node with the session's token.
func at(t *testing.T, c *apitest.Cluster, s *apitest.Session, node string) *client.Client {
	t.Helper()
	n, err := s.Node(c.Addr(node))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// opened opens a stream at one node and takes its first message.
func opened(t *testing.T, cl *client.Client, req *hizov1.WatchRequest) (hizov1.WatchService_WatchClient, *hizov1.WatchResponse, error) {
	t.Helper()
	stream, err := cl.Watches().Watch(t.Context(), req)
	if err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	return stream, first, err
}

func secretFilter(path string) *hizov1.WatchRequest {
	return &hizov1.WatchRequest{Filters: []*hizov1.WatchRequest_Filter{{Vault: "ml", Path: path}}}
}

func vaultFilter(prefix string) *hizov1.WatchRequest {
	return &hizov1.WatchRequest{Filters: []*hizov1.WatchRequest_Filter{{Vault: "ml", Path: prefix, Prefix: true}}}
}

func texts(events []*hizov1.WatchResponse_Event) (out []string) {
	for _, e := range events {
		out = append(out, fmt.Sprintf("%s %s/%s@%d", e.GetKind(), e.GetVault(), e.GetPath(), e.GetVersion()))
	}
	return out
}

// take reads events until there are n.
func take(t *testing.T, stream hizov1.WatchService_WatchClient, n int) (out []string) {
	t.Helper()
	for len(out) < n {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		out = append(out, texts(m.GetEvents())...)
	}
	return out
}

func TestWatch(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := apitest.Start(t, apitest.Options{
		// Patient with leaders: floods of events on a busy machine are no reason for elections here.
		Options: clustertest.Options{Clock: clock, Profile: cluster.WAN},
		Limits:  api.Limits{SlowWatch: 300 * time.Millisecond, WatchersEach: 8},
	})
	ctx := t.Context()
	c.Vault("ml")
	c.Vault("hr")
	c.Put("ml", "db", "f", "1")
	leader := c.Leader()
	follower := c.Nodes[0]
	if follower.ID == leader.ID {
		follower = c.Nodes[1]
	}

	t.Run("every node tells everything in order", func(t *testing.T) {
		want := []string{"put ml/db@2", "put ml/train/x@1", "deleted ml/db@1", "undeleted ml/db@1", "destroyed ml/db@1"}
		var streams []hizov1.WatchService_WatchClient
		for _, n := range c.Nodes {
			stream, first, err := opened(t, at(t, c, c.Engineer, n.ID), vaultFilter(""))
			if err != nil || first.GetPosition() == nil || first.GetPosition().GetStartOver() || first.GetCursor() == "" {
				t.Fatalf("%s: %v, %v", n.ID, first, err)
			}
			streams = append(streams, stream)
		}
		c.Put("hr", "db", "f", "other vault")
		c.Put("ml", "db", "f", "2")
		c.Put("ml", "train/x", "f", "1")
		one := &hizov1.ChangeVersionsRequest{Vault: "ml", Path: "db", Versions: []uint32{1}}
		for _, do := range []func() (*hizov1.ChangeVersionsResponse, error){
			func() (*hizov1.ChangeVersionsResponse, error) { return c.Engineer.Secrets().Delete(ctx, one) },
			func() (*hizov1.ChangeVersionsResponse, error) { return c.Engineer.Secrets().Undelete(ctx, one) },
			func() (*hizov1.ChangeVersionsResponse, error) { return c.Engineer.Secrets().Destroy(ctx, one) },
		} {
			if _, err := do(); err != nil {
				t.Fatal(err)
			}
		}
		for i, stream := range streams {
			if got := take(t, stream, len(want)); !slices.Equal(got, want) {
				t.Errorf("node %d: %q", i, got)
			}
		}
	})

	train := c.Workload("train", fmt.Sprintf(mayInject, "train", "db"))

	t.Run("a workload watches what it may have injected", func(t *testing.T) {
		head, _ := leader.Store().Secret("ml", "db")
		for _, n := range c.Nodes {
			before := c.Leader().Store().AuditSize()
			cl := at(t, c, train, n.ID)
			_, first, err := opened(t, cl, secretFilter("db"))
			if err != nil || len(first.GetPosition().GetSecrets()) != 1 || first.GetPosition().GetSecrets()[0].GetVersion() != head.Current {
				t.Fatalf("%s: %v, %v", n.ID, first, err)
			}
			// On record before the first message, with the node that it went through.
			record := watchRecords(t, c, before)
			if len(record) != 1 || !strings.HasPrefix(record[0], "workload/train ml/db allowed") ||
				(n.ID != c.Leader().ID) != strings.HasSuffix(record[0], "via="+n.ID) {
				t.Errorf("%s: on record are %q", n.ID, record)
			}
			for what, req := range map[string]*hizov1.WatchRequest{"another secret": secretFilter("other"), "the vault": vaultFilter("")} {
				before := c.Leader().Store().AuditSize()
				if _, _, err := opened(t, cl, req); why(err) != hizov1.ReasonPermissionDenied {
					t.Errorf("%s at %s: %v", what, n.ID, err)
				}
				if record := watchRecords(t, c, before); len(record) != 1 || !strings.Contains(record[0], "denied") {
					t.Errorf("%s at %s: on record are %q", what, n.ID, record)
				}
			}
		}
		bob := c.User("bob", "Operator", "Auditor")
		if _, _, err := opened(t, bob.Client, secretFilter("db")); why(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("an operator watches: %v", err)
		}
	})

	t.Run("a workload watches what its pipeline refers to, and its pipeline", func(t *testing.T) {
		c.Put("ml", "granted", "f", "1")
		job := c.Workload("job", "")
		if _, _, err := opened(t, at(t, c, job, follower.ID), secretFilter("granted")); why(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("before the grant: %v", err)
		}
		pipelines := c.Engineer.Pipelines()
		if _, err := pipelines.CreatePipeline(ctx, &hizov1.CreatePipelineRequest{Vault: "ml", Name: "nightly", Identities: []string{"job"}}); err != nil {
			t.Fatal(err)
		}
		own, _, err := opened(t, at(t, c, job, follower.ID), &hizov1.WatchRequest{Pipeline: true})
		if err != nil {
			t.Fatal(err)
		}
		set := func(req *hizov1.SetVariablesRequest) {
			t.Helper()
			req.Vault, req.Name = "ml", "nightly"
			if _, err := pipelines.SetVariables(ctx, req); err != nil {
				t.Fatal(err)
			}
			if got := take(t, own, 1); got[0] != "pipeline-changed ml/nightly@0" {
				t.Errorf("told %q", got)
			}
		}
		set(&hizov1.SetVariablesRequest{Set: []*hizov1.PipelineVariable{{Name: "PASSWORD", Reference: "hizo://ml/granted#f"}}})
		secret, _, err := opened(t, at(t, c, job, follower.ID), secretFilter("granted"))
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Consumer(client.ConsumerConfig{}).Use(ctx, map[string]uint32{"ml/granted": 1}); err != nil {
			t.Errorf("consuming what the pipeline refers to: %v", err)
		}
		c.Put("ml", "granted", "f", "2")
		take(t, secret, 1)
		set(&hizov1.SetVariablesRequest{Unset: []string{"PASSWORD"}}) // the grant goes
		c.Put("ml", "granted", "f", "3")
		if m, err := secret.Recv(); why(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("after the grant went: %v, %v", m, err)
		}
		if _, err := pipelines.DeletePipeline(ctx, &hizov1.DeletePipelineRequest{Vault: "ml", Name: "nightly"}); err != nil {
			t.Fatal(err)
		}
		if got := take(t, own, 1); got[0] != "pipeline-changed ml/nightly@0" {
			t.Errorf("the end is told as %q", got)
		}
	})

	t.Run("a policy hides secrets of a watched vault", func(t *testing.T) {
		owner := c.User("olga", "PipelineOwner")
		if _, err := c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{Name: "olga", Text: `
permit(principal == Hizo::User::"olga", action == Hizo::Action::"watch", resource in Hizo::Vault::"ml");
forbid(principal == Hizo::User::"olga", action == Hizo::Action::"watch", resource == Hizo::Secret::"ml/hidden");`}); err != nil {
			t.Fatal(err)
		}
		stream, _, err := opened(t, at(t, c, owner, follower.ID), vaultFilter(""))
		if err != nil {
			t.Fatal(err)
		}
		c.Put("ml", "hidden", "f", "1")
		c.Put("ml", "shown", "f", "1")
		if got := take(t, stream, 1); got[0] != "put ml/shown@1" {
			t.Errorf("got %q", got)
		}
	})

	t.Run("what is revoked sees nothing that comes later", func(t *testing.T) {
		path := 0
		for name, revoke := range map[string]func(workload string) error{
			"tokens": func(w string) error {
				_, err := c.Engineer.Identities().RevokeTokens(ctx, &hizov1.RevokeTokensRequest{Principal: "workload/" + w})
				return err
			},
			"policy": func(w string) error {
				_, err := c.Engineer.Policies().DeletePolicy(ctx, &hizov1.DeletePolicyRequest{Name: "workload-" + w})
				return err
			},
			"forbid": func(w string) error {
				_, err := c.Engineer.Policies().PutPolicy(ctx, &hizov1.PutPolicyRequest{
					Name: "forbid-" + w, Text: fmt.Sprintf(`forbid(principal == Hizo::Workload::"%s", action == Hizo::Action::"watch", resource);`, w),
				})
				return err
			},
			"disabled": func(w string) error {
				_, err := c.Engineer.Identities().DisableWorkload(ctx, &hizov1.DisableRequest{Name: w})
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				path++
				secret, workload := fmt.Sprintf("revoked/%d", path), "w-"+name
				c.Put("ml", secret, "f", "1")
				w := c.Workload(workload, fmt.Sprintf(mayInject, workload, secret))
				var streams []hizov1.WatchService_WatchClient
				for _, n := range c.Nodes {
					stream, _, err := opened(t, at(t, c, w, n.ID), secretFilter(secret))
					if err != nil {
						t.Fatal(err)
					}
					streams = append(streams, stream)
				}
				c.Put("ml", secret, "f", "2")
				for _, stream := range streams {
					take(t, stream, 1)
				}
				if err := revoke(workload); err != nil {
					t.Fatal(err)
				}
				c.Put("ml", secret, "f", "3")
				for i, stream := range streams {
					m, err := stream.Recv()
					if reason := why(err); reason != hizov1.ReasonUnauthenticated && reason != hizov1.ReasonPermissionDenied {
						t.Errorf("node %d: %v, %v", i, m, err)
					}
				}
			})
		}
	})

	t.Run("cursors", func(t *testing.T) {
		cl := at(t, c, c.Engineer, leader.ID)
		_, first, err := opened(t, cl, vaultFilter("cursor/"))
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for v := range 10 {
			c.Put("ml", "cursor/x", "f", "v")
			want = append(want, fmt.Sprintf("put ml/cursor/x@%d", v+1))
		}
		// From any node, from any place.
		cursor, got := first.GetCursor(), []string(nil)
		for i := 0; len(got) < len(want); i++ {
			req := vaultFilter("cursor/")
			req.Cursor = cursor
			_, m, err := opened(t, at(t, c, c.Engineer, c.Nodes[i%3].ID), req)
			if err != nil {
				t.Fatal(err)
			}
			got, cursor = append(got, texts(m.GetEvents())...), m.GetCursor()
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		for what, text := range map[string]string{
			"nonsense": "nonsense", "damaged": cursor[:len(cursor)-1] + "x", "too long": cursor + cursor,
		} {
			req := vaultFilter("")
			req.Cursor = text
			if _, m, err := opened(t, cl, req); why(err) != hizov1.ReasonInvalid {
				t.Errorf("%s: %v, %v", what, m, err)
			}
		}
		req := vaultFilter("")
		req.Cursor = api.CursorText(c.ID, fsm.Cursor{Index: 1 << 40})
		direct := metadata.AppendToOutgoingContext(ctx, hizov1.MetaAuthorization, "Bearer "+c.Engineer.Token)
		stream, err := hizov1.NewWatchServiceClient(raw(t, c.Addr(follower.ID))).Watch(direct, req)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); why(err) != hizov1.ReasonBehind {
			t.Errorf("a cursor that no node has come to: %v, %v", m, err)
		}
		req.Cursor = api.CursorText(c.ID, fsm.Cursor{Epoch: 5, Index: 1})
		if _, m, err := opened(t, cl, req); err != nil || !m.GetPosition().GetStartOver() {
			t.Errorf("a cursor of another history: %v, %v", m, err)
		}
	})

	t.Run("bad requests", func(t *testing.T) {
		many := &hizov1.WatchRequest{}
		for i := range 65 {
			many.Filters = append(many.Filters, &hizov1.WatchRequest_Filter{Vault: "ml", Path: fmt.Sprint("p", i)})
		}
		for what, req := range map[string]*hizov1.WatchRequest{
			"nothing": {}, "too many": many, "path": secretFilter("a//b"), "prefix": vaultFilter(strings.Repeat("x", 600)),
			"vault":             {Filters: []*hizov1.WatchRequest_Filter{{Vault: "ML", Path: "db"}}},
			"pipeline and more": {Pipeline: true, Filters: secretFilter("db").Filters},
		} {
			if _, m, err := opened(t, c.Engineer.Client, req); why(err) != hizov1.ReasonInvalid {
				t.Errorf("%s: %v, %v", what, m, err)
			}
		}
	})

	t.Run("streams are bounded", func(t *testing.T) {
		eve := c.Workload("eve", fmt.Sprintf(mayInject, "eve", "db"))
		watches := hizov1.NewWatchServiceClient(raw(t, c.Addr(follower.ID))) // which does not wait for a place
		open := func(ctx context.Context) error {
			ctx = metadata.AppendToOutgoingContext(ctx, hizov1.MetaAuthorization, "Bearer "+eve.Token)
			stream, err := watches.Watch(ctx, secretFilter("db"))
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}
		first, cancel := context.WithCancel(ctx)
		defer cancel()
		for i := range 8 {
			if err := open(first); err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
		}
		if err := open(ctx); why(err) != hizov1.ReasonOverloaded {
			t.Errorf("one too many: %v", err)
		}
		cancel()
		c.Await("the streams to end", func() bool { return c.Server(follower.ID).OpenWatches("workload/eve") == 0 })
		if err := open(ctx); err != nil {
			t.Errorf("with place again: %v", err)
		}
	})

	t.Run("who does not read is let go, and goes on from there", func(t *testing.T) {
		c.Await("earlier streams to end", func() bool { return c.Server(follower.ID).OpenWatches("user/alice") == 0 })
		slow, first, err := opened(t, at(t, c, c.Engineer, follower.ID), vaultFilter("many"))
		if err != nil {
			t.Fatal(err)
		}
		want := manyEvents(t, c, 30_000)
		c.Await("the stream to be let go", func() bool { return c.Server(follower.ID).OpenWatches("user/alice") == 0 })
		got, cursor := 0, first.GetCursor()
		for {
			m, err := slow.Recv()
			if err != nil {
				if why(err) != hizov1.ReasonOverloaded {
					t.Errorf("let go with %v", err)
				}
				break
			}
			got, cursor = got+len(m.GetEvents()), m.GetCursor()
		}
		if got >= len(want) {
			t.Fatalf("everything fitted into buffers: %d events", got)
		}
		req := vaultFilter("many")
		req.Cursor = cursor
		rest, m, err := opened(t, at(t, c, c.Engineer, leader.ID), req)
		if err != nil {
			t.Fatal(err)
		}
		more := texts(m.GetEvents())
		more = append(more, take(t, rest, len(want)-got-len(more))...)
		if !slices.Equal(more, want[got:]) {
			t.Errorf("after %d of %d events: %d more", got, len(want), len(more))
		}
	})

	t.Run("below the floor one starts over", func(t *testing.T) {
		_, first, err := opened(t, at(t, c, c.Engineer, follower.ID), secretFilter("db"))
		if err != nil {
			t.Fatal(err)
		}
		manyEvents(t, c, fsm.MaxEvents+1)
		c.Put("ml", "db", "f", "behind the flood")
		head, _ := c.Leader().Store().Secret("ml", "db")
		for _, n := range c.Nodes {
			if err := n.Store().WaitApplied(ctx, c.Leader().Store().Position().Index); err != nil {
				t.Fatal(err)
			}
			req := secretFilter("db")
			req.Cursor = first.GetCursor()
			_, m, err := opened(t, at(t, c, c.Engineer, n.ID), req)
			p := m.GetPosition()
			if err != nil || !p.GetStartOver() || len(p.GetSecrets()) != 1 || p.GetSecrets()[0].GetVersion() != head.Current || m.GetCursor() == first.GetCursor() {
				t.Errorf("%s: %v, %v", n.ID, m, err)
			}
		}
	})

	// Last: it moves the clock.
	t.Run("a token that expires ends the stream", func(t *testing.T) {
		stream, _, err := opened(t, at(t, c, train, follower.ID), secretFilter("db"))
		if err != nil {
			t.Fatal(err)
		}
		clock.Advance(2 * time.Hour)
		for {
			_, err := stream.Recv()
			if err == nil {
				continue // a heartbeat
			}
			if why(err) != hizov1.ReasonUnauthenticated {
				t.Errorf("ended with %v", err)
			}
			return
		}
	})
}

// watchRecords are the audit records of watching behind seq, once the leader has them.
func watchRecords(t *testing.T, c *apitest.Cluster, seq uint64) (out []string) {
	t.Helper()
	for rec, err := range c.Leader().Store().AuditRecords(seq, c.Leader().Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Action == "watch" {
			decision := map[fsm.Decision]string{fsm.Allowed: "allowed", fsm.Denied: "denied", fsm.Failed: "failed"}[rec.Decision]
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", rec.Principal, rec.Resource, decision, rec.Detail)))
		}
	}
	return out
}

// manyEvents makes at least n events of ml/many, straight into the log, and returns all that the state has of them now.
// A busy machine may change its leader meanwhile: what then happened is what the state says.
func manyEvents(t *testing.T, c *apitest.Cluster, n int) (all []string) {
	t.Helper()
	from := c.Leader().Store().EventsEnd()
	var numbers []uint32
	for v := range uint32(100) {
		numbers = append(numbers, v+1)
	}
	if _, ok := c.Leader().Store().Secret("ml", "many"); !ok {
		for range numbers {
			c.Put("ml", "many", "f", "v")
		}
	}
	body := fsm.EncodeBody(fsm.KindSecretDelete, &fsm.SecretVersions{Vault: "ml", Path: "many", Versions: numbers})
	const together = 10
	for made := 0; made < n; {
		leader, done := c.Leader(), make(chan bool, together)
		for range together {
			go func() {
				result, err := leader.Propose(t.Context(), fsm.Command{
					Kind: fsm.KindSecretDelete, Principal: "user/alice", Body: body,
					Audits: []fsm.Audit{{Action: "delete", Resource: "ml/many", Decision: fsm.Allowed}},
				})
				done <- err == nil && result.Code == fsm.CodeOK
			}()
		}
		for range together {
			if <-done {
				made += len(numbers)
			}
		}
	}
	store := c.Leader().Store()
	for {
		events, next, ok := store.Events(from, 1000)
		if !ok {
			return nil // more than are kept
		}
		for _, e := range events {
			all = append(all, fmt.Sprintf("%s %s/%s@%d", map[fsm.EventKind]string{fsm.EventPut: "put", fsm.EventDeleted: "deleted"}[e.Kind], e.Vault, e.Path, e.Version))
		}
		if from = next; len(events) == 0 {
			return all
		}
	}
}

// TestWatchSurvivesEverything follows a vault through a killed leader and restarted nodes, by the client that fails over:
// every version of every path is told, in order, and repetitions only repeat what was just told.
func TestWatchSurvivesEverything(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	c.Vault("ml")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, failed := make(chan client.Change), make(chan error, 1)
	go func() {
		for change, err := range c.Engineer.Watch(ctx, client.WatchConfig{Prefixes: []string{"ml/"}}) {
			if err != nil {
				failed <- err
				return
			}
			select {
			case changes <- change:
			case <-ctx.Done():
			}
		}
	}()
	next := func() client.Change {
		select {
		case change := <-changes:
			return change
		case err := <-failed:
			t.Fatalf("the watch ended: %v", err)
		case <-time.After(clustertest.Patience):
			t.Fatal("nothing comes")
		}
		return client.Change{}
	}
	if first := next(); first.Kind != client.ChangeStart {
		t.Fatalf("begins with %+v", first)
	}
	versions := map[string]uint32{}
	put := func(n int) {
		for range n {
			for _, path := range []string{"a", "b"} {
				versions[path] = c.Put("ml", path, "f", "v")
			}
		}
	}
	seen := map[string]uint32{}
	follow := func() {
		for seen["a"] < versions["a"] || seen["b"] < versions["b"] {
			change := next()
			switch {
			case change.Kind == client.ChangeHeartbeat:
			case change.Kind != client.ChangePut:
				t.Fatalf("%+v", change)
			case change.Version > seen[change.Path]+1:
				t.Fatalf("%s: version %d after %d", change.Path, change.Version, seen[change.Path])
			default:
				seen[change.Path] = max(seen[change.Path], change.Version)
			}
		}
	}
	put(5)
	follow()
	for range 2 {
		killed := c.Leader()
		c.Kill(killed)
		put(5)
		c.Restart(killed)
		put(5)
		follow()
	}
	for _, n := range c.Nodes {
		c.Restart(n)
		put(2)
		c.AwaitReady()
	}
	follow()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// TestLoneNodeLetsGo: a node that sees no leader can't tell what happens, and says so.
func TestLoneNodeLetsGo(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{LoneWatch: 100 * time.Millisecond}})
	c.Vault("ml")
	lone := c.Leader()
	ctx := metadata.AppendToOutgoingContext(t.Context(), hizov1.MetaAuthorization, "Bearer "+c.Engineer.Token)
	watches := hizov1.NewWatchServiceClient(raw(t, c.Addr(lone.ID)))
	stream, err := watches.Watch(ctx, vaultFilter(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if n.ID != lone.ID {
			c.Kill(n)
		}
	}
	for err = nil; err == nil; {
		_, err = stream.Recv()
	}
	if why(err) != hizov1.ReasonBehind {
		t.Errorf("ended with %v", err)
	}
	again, err := watches.Watch(ctx, vaultFilter(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Recv(); why(err) != hizov1.ReasonBehind {
		t.Errorf("opened again: %v", err)
	}
}

func TestConsumers(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db", "f", "1")
	c.Put("ml", "other", "f", "1")
	train := c.Workload("train", fmt.Sprintf(mayInject, "train", "db"))
	eval := c.Workload("eval", fmt.Sprintf(mayInject, "eval", "db"))
	list := func() (out []string) {
		t.Helper()
		got, err := c.Engineer.Watches().ListConsumers(ctx, &hizov1.ListConsumersRequest{Vault: "ml", Path: "db"})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range got.GetConsumers() {
			out = append(out, fmt.Sprintf("%s %s %d/%d %t", k.GetPrincipal(), k.GetId(), k.GetVersion(), k.GetCurrent(), k.GetStale()))
		}
		return out
	}
	is := func(want ...string) {
		t.Helper()
		if got := list(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	run := train.Consumer(client.ConsumerConfig{ID: "run-1"})
	if err := run.Use(ctx, map[string]uint32{"ml/db": 1}); err != nil {
		t.Fatal(err)
	}
	is("workload/train run-1 1/1 false")
	c.Put("ml", "db", "f", "2")
	is("workload/train run-1 1/2 false")
	if err := run.Use(ctx, map[string]uint32{"ml/db": 2}); err != nil {
		t.Fatal(err)
	}
	is("workload/train run-1 2/2 false")

	// Nobody registers for what it may not have, or speaks for another; users and roles consume nothing.
	for what, err := range map[string]error{
		"not granted": train.Consumer(client.ConsumerConfig{}).Use(ctx, map[string]uint32{"ml/other": 1}),
		"in part":     train.Consumer(client.ConsumerConfig{}).Use(ctx, map[string]uint32{"ml/db": 1, "ml/other": 1}),
		"a user":      c.Engineer.Consumer(client.ConsumerConfig{}).Use(ctx, map[string]uint32{"ml/db": 1}),
		"a lister":    only(eval.Watches().ListConsumers(ctx, &hizov1.ListConsumersRequest{Vault: "ml"})),
	} {
		if why(err) != hizov1.ReasonPermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	ack := func(s *apitest.Session, id string, uses ...*hizov1.ConsumerUse) error {
		return only(s.Watches().AckConsumer(ctx, &hizov1.AckConsumerRequest{Id: id, Uses: uses}))
	}
	db := func(version uint32) *hizov1.ConsumerUse {
		return &hizov1.ConsumerUse{Vault: "ml", Path: "db", Version: version}
	}
	for what, err := range map[string]error{
		"ack of another":  ack(eval, "run-1", db(2)),
		"beat of another": ack(eval, "run-1"),
		"leave another":   only(eval.Watches().LeaveConsumer(ctx, &hizov1.LeaveConsumerRequest{Id: "run-1"})),
		"to come":         ack(train, "run-1", db(3)),
	} {
		if why(err) != hizov1.ReasonNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"id": ack(train, "run/1"), "twice": ack(train, "run-1", db(1), db(2)),
		"ttl": only(train.Watches().RegisterConsumer(ctx, &hizov1.RegisterConsumerRequest{Id: "x", TtlSeconds: 1, Uses: []*hizov1.ConsumerUse{db(1)}})),
		"no":  only(train.Watches().RegisterConsumer(ctx, &hizov1.RegisterConsumerRequest{Id: "x"})),
	} {
		if why(err) != hizov1.ReasonInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	is("workload/train run-1 2/2 false")

	// Each registration and acknowledgement is on record, with its version.
	var records []string
	for rec, err := range c.Leader().Store().AuditRecords(0, c.Leader().Store().AuditSize()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Action == "consume" && rec.Outcome == fsm.CodeOK {
			records = append(records, fmt.Sprintf("%s %s@%d %s", rec.Principal, rec.Resource, rec.Version, rec.Detail))
		}
	}
	if want := []string{"workload/train ml/db@1 register run-1", "workload/train ml/db@2 use run-1"}; !slices.Equal(records, want) {
		t.Errorf("on record are %q", records)
	}

	ending, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- run.Run(ending) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	is()
}

// TestHeartbeatsAreOneRecord: many consumers that live cost one record for all of them, and go stale without.
func TestHeartbeatsAreOneRecord(t *testing.T) {
	t.Parallel()
	clock := &clustertest.Clock{}
	c := apitest.Start(t, apitest.Options{Options: clustertest.Options{Nodes: 1, Clock: clock}})
	ctx := t.Context()
	c.Vault("ml")
	c.Put("ml", "db", "f", "1")
	train := c.Workload("train", fmt.Sprintf(mayInject, "train", "db"))
	const many = 50
	for i := range many {
		if _, err := train.Watches().RegisterConsumer(ctx, &hizov1.RegisterConsumerRequest{
			Id: fmt.Sprint("run-", i), TtlSeconds: 600, Uses: []*hizov1.ConsumerUse{{Vault: "ml", Path: "db", Version: 1}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	store := c.Leader().Store()
	beat := func(n int) uint64 {
		t.Helper()
		before := store.AuditSize()
		for i := range n {
			if _, err := train.Watches().AckConsumer(ctx, &hizov1.AckConsumerRequest{Id: fmt.Sprint("run-", i)}); err != nil {
				t.Fatal(err)
			}
		}
		c.Server("n1").FlushBeats(ctx)
		var consume uint64
		for rec, err := range store.AuditRecords(before, store.AuditSize()) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Action == "consume" {
				consume++
				if rec.Count != many-1 || rec.Principal != "node/n1" {
					t.Errorf("%+v", rec)
				}
			}
		}
		return consume
	}
	if n := beat(many - 1); n != 0 {
		t.Errorf("%d records of beats that came too early to tell anything", n)
	}
	clock.Advance(4 * time.Minute)
	if n := beat(many - 1); n != 1 {
		t.Errorf("%d records of %d beats", n, many-1)
	}
	for range 2 { // in steps that cluster time allows without a ceremony
		clock.Advance(4 * time.Minute)
		c.Put("ml", "db", "f", "now")
	}
	c.Await("the silent one to go stale", func() bool { return len(store.Lagging("ml", "db", 2)) == many-1 })
	for _, k := range store.Consumers("ml", "db") {
		if stale := k.Expires <= store.Time(); stale != (k.ID == fmt.Sprint("run-", many-1)) {
			t.Errorf("%s is stale: %t", k.ID, stale)
		}
	}
}

// why is the reason of an error, as the server or the client gives it.
func why(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Reason
	}
	return reasonOf(err)
}

func only[T any](_ T, err error) error { return err }
