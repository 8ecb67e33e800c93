package api_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
)

func followers(c *apitest.Cluster) (leader *clustertest.Node, others []*clustertest.Node) {
	leader = c.Leader()
	for _, n := range c.Nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	return leader, others
}

// One call to one follower is enough, although it believes in the dead leader for a while: it waits for the next one.
func TestFollowersHoldCallsDuringAnElection(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{Wait: 20 * time.Second}})
	leader, others := followers(c)
	gone := c.Addr(leader.ID)
	c.Kill(leader)
	var wg sync.WaitGroup
	for _, n := range others {
		wg.Go(func() {
			users := hizov1.NewAuthServiceClient(dial(t, c, n.ID))
			ctx := metadata.AppendToOutgoingContext(bearer(t.Context(), c.Engineer.Token), hizov1.MetaLeaderGone, gone)
			_, err := users.WhoAmI(ctx, &hizov1.WhoAmIRequest{})
			if err == nil {
				return // it leads now
			}
			info := infoOf(err)
			if reasonOf(err) != hizov1.ReasonNotLeader || info[hizov1.InfoLeaderAddr] == "" || info[hizov1.InfoLeaderAddr] == gone {
				t.Errorf("%s answered %v, %v", n.ID, err, info)
			}
		})
	}
	wg.Wait()
}

// Waiting is bounded: by time and by number.
func TestHeldCallsAreBounded(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{Wait: 50 * time.Millisecond, Waits: 1}})
	leader, others := followers(c)
	users := hizov1.NewAuthServiceClient(dial(t, c, others[0].ID))
	// The leader lives, and the client says that it does not: the answer is still where it is.
	ctx := metadata.AppendToOutgoingContext(bearer(t.Context(), c.Engineer.Token), hizov1.MetaLeaderGone, c.Addr(leader.ID))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := users.WhoAmI(ctx, &hizov1.WhoAmIRequest{}); reasonOf(err) != hizov1.ReasonNotLeader {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

// young is a node whose term has not begun: raft calls it the leader, and its state may lack what was committed last.
type young struct {
	api.Node
	is *atomic.Bool
}

func (y *young) TermBegun() bool { return !y.is.Load() && y.Node.TermBegun() }

// A login that was given out just before a fail-over may not be in the state of the new leader when its term begins: it
// says that it does not lead yet, not that the token is wrong. Calls that come then wait and are answered as soon as it has.
func TestTokensAreJudgedByWholeStatesOnly(t *testing.T) {
	t.Parallel()
	var is atomic.Bool
	opts := apitest.Options{Wrap: func(_ string, n api.Node) api.Node { return &young{n, &is} }, Limits: api.Limits{Wait: 50 * time.Millisecond}}
	opts.Nodes, opts.Development = 1, true
	c := apitest.Start(t, opts)
	users := hizov1.NewAuthServiceClient(dial(t, c, c.Nodes[0].ID))
	unknown := auth.NewToken(auth.AccessToken).Reveal()
	is.Store(true)
	if _, err := users.WhoAmI(bearer(t.Context(), unknown), &hizov1.WhoAmIRequest{}); reasonOf(err) != hizov1.ReasonNotLeader {
		t.Errorf("before the term has begun: %v", err)
	}
	if healthy(t, c, c.Nodes[0].ID, hizov1.HealthLeader) {
		t.Error("it is called the leader before its term has begun")
	}
	is.Store(false)
	if _, err := users.WhoAmI(bearer(t.Context(), unknown), &hizov1.WhoAmIRequest{}); reasonOf(err) != hizov1.ReasonUnauthenticated {
		t.Errorf("afterwards: %v", err)
	}
}

// Load balancers and clients find the leader by the health service.
func TestHealthTellsTheLeader(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{})
	for range 2 {
		c.Await("one leader by the health service", func() bool {
			leading := 0
			for _, n := range c.Nodes {
				if says := healthy(t, c, n.ID, hizov1.HealthLeader); says != n.IsLeader() {
					return false
				} else if says {
					leading++
				}
			}
			return leading == 1
		})
		if err := c.Leader().TransferLeadership(t.Context(), ""); err != nil {
			t.Log(err)
		}
	}
}

// A call that needs no leader is not held up by the want of one.
func TestStatusDoesNotWait(t *testing.T) {
	t.Parallel()
	c := apitest.Start(t, apitest.Options{Limits: api.Limits{Wait: time.Hour}})
	leader, others := followers(c)
	c.Kill(leader)
	c.Kill(others[0])
	c.Await("no leader", func() bool { _, known := others[1].Leader(); return !known })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	one, err := client.New(client.Config{Addrs: []string{c.Addr(others[1].ID)}, CA: c.CA})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if _, err := one.Cluster().Status(ctx, &hizov1.StatusRequest{}); err != nil {
		t.Error(err)
	}
}

func healthy(t *testing.T, c *apitest.Cluster, id, service string) bool {
	r, err := grpc_health_v1.NewHealthClient(dial(t, c, id)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	return err == nil && r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
}
