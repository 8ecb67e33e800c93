package values

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/crypto/secret"
)

// Cluster is the Source that asks a cluster.
type Cluster struct {
	job     Job
	cluster *client.Client
	leases  *leased
	life    context.Context // of its streams
	end     context.CancelFunc

	// What the last Fetch got, owned by the goroutine that fetches.
	have     map[string]uint32 // versions by secret, for the references that follow the current one
	leased   bool
	pipeline string
	stream   *stream // nil: none is open

	// Owned by the goroutine that acknowledges.
	consumer *client.Consumer
	leave    context.CancelFunc
	left     chan struct{}
}

// NewCluster makes a source. The client may be nil where the job wants nothing; it stays the caller's to close. note
// tells a person of what goes wrong meanwhile.
func NewCluster(job Job, cluster *client.Client, note func(format string, args ...any)) *Cluster {
	c := &Cluster{job: job, cluster: cluster}
	if cluster != nil {
		c.leases = newLeased(cluster.Leases(), job.Execution, note)
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Leased reports whether the last Fetch got a lease.
func (c *Cluster) Leased() bool { return c.leased }

// MissingError names the variables that a pipeline declares as sealed and that the job did not bring.
type MissingError struct {
	Pipeline  string
	Variables []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("the pipeline %s declares sealed variables that this job does not bring: %s: put them into its environment or an --env-file as they came from `hizo seal`",
		e.Pipeline, strings.Join(e.Variables, ", "))
}

// Fetch implements Source.
func (c *Cluster) Fetch(ctx context.Context) (*Set, error) {
	set := &Set{}
	ok := false
	defer func() {
		if !ok {
			set.Wipe()
		}
	}()
	c.have, c.leased = map[string]uint32{}, false
	request, at := c.job.request()
	got := &inject.Values{}
	if len(request.References)+len(request.Sealed) > 0 || request.Pipeline {
		var err error
		if got, err = inject.Fetch(ctx, c.cluster.Secrets(), request); err != nil {
			return nil, err
		}
	}
	defer got.Wipe() // the set has copies: two variables of one reference are wiped apart
	c.pipeline, set.Offline = got.Pipeline, got.Offline
	for i, w := range c.job.Wants {
		var err error
		switch {
		case w.Ref != nil:
			v := got.Values[at[i]]
			c.add(set, w.Name, *w.Ref, v.Value, v.Version)
		case w.Sealed != "":
			v := got.Variables[at[i]]
			set.Values = append(set.Values, Value{Name: w.Name, Bytes: v.Value.Clone(), Text: v.Source})
		default:
			err = c.lease(ctx, set, w.Name, *w.Lease)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := c.addPipeline(ctx, set, got.Variables[len(request.Sealed):]); err != nil {
		return nil, err
	}
	if missing := c.missing(got.Missing); len(missing) > 0 {
		return nil, &MissingError{Pipeline: got.Pipeline, Variables: missing}
	}
	ok = true
	return set, nil
}

// missing leaves out what the job gives in another way.
func (c *Cluster) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), c.wanted)
}

func (c *Cluster) wanted(variable string) bool {
	return slices.ContainsFunc(c.job.Wants, func(w Want) bool { return w.Name == variable })
}

// addPipeline adds the pipeline's own variables, behind those of the job.
func (c *Cluster) addPipeline(ctx context.Context, set *Set, variables []inject.Variable) error {
	for _, v := range variables {
		if c.wanted(v.Name) {
			continue
		}
		var err error
		switch {
		case v.Lease:
			var ref name.LeaseReference
			if ref, err = name.ParseLeaseReference(v.Source); err == nil {
				err = c.lease(ctx, set, v.Name, ref)
			}
		case name.IsReference(v.Source):
			var ref name.Reference
			if ref, err = name.ParseReference(v.Source); err == nil {
				c.add(set, v.Name, ref, v.Value, v.Version)
			}
		default:
			set.Values = append(set.Values, Value{Name: v.Name, Bytes: v.Value.Clone(), Text: v.Source})
		}
		if err != nil {
			return fmt.Errorf("variable %s of the pipeline: %w", v.Name, err)
		}
	}
	return nil
}

func (c *Cluster) add(set *Set, variable string, ref name.Reference, value secret.Bytes, version uint32) {
	set.Values = append(set.Values, Value{
		Name: variable, Bytes: value.Clone(), Secret: ref.Resource.String(), Version: version, Pinned: ref.Version != 0, Text: ref.String(),
	})
	if ref.Version == 0 {
		c.have[ref.Resource.String()] = version
	}
}

func (c *Cluster) lease(ctx context.Context, set *Set, variable string, ref name.LeaseReference) error {
	v, err := c.leases.credential(ctx, ref)
	if err != nil {
		return err
	}
	set.Values = append(set.Values, Value{Name: variable, Bytes: v, Text: ref.String(), Leased: true})
	c.leased = true
	return nil
}
