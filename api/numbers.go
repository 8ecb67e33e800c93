package api

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster/meter"
)

// meters count what this node's clients ask for. Every name is from the code, none from a client: what is asked for, by
// whom and from where is the audit log's business.
type meters struct {
	calls   map[string]*callMeter // by full method; read-only once the server is made
	logins  map[string]*loginMeter
	denials map[policy.Action]*meter.Counter
	limited meter.Counter // stopped by a rate limit
	forged  meter.Counter // not decided, because a stored record was changed outside the cluster
}

// lastCode is the highest status code of gRPC.
const lastCode = codes.Unauthenticated

type callMeter struct {
	stream  bool
	latency *meter.Histogram // ns; of calls that are no streams
	codes   [lastCode + 1]meter.Counter
}

type loginMeter struct{ admitted, refused meter.Counter }

func newMeters() *meters {
	m := &meters{
		calls: make(map[string]*callMeter), logins: make(map[string]*loginMeter), denials: make(map[policy.Action]*meter.Counter),
	}
	for _, method := range []string{methodPassword, methodSecretID, methodCertificate, methodEnrolment, methodOIDC, methodSPIFFE} {
		m.logins[method] = new(loginMeter)
	}
	for _, a := range policy.Actions() {
		m.denials[a] = new(meter.Counter)
	}
	return m
}

// register makes a meter for each method that is served.
func (m *meters) register(services map[string]grpc.ServiceInfo) {
	for service, info := range services {
		for _, method := range info.Methods {
			c := &callMeter{stream: method.IsServerStream || method.IsClientStream}
			if !c.stream {
				c.latency = meter.NewDurations()
			}
			m.calls["/"+service+"/"+method.Name] = c
		}
	}
}

// called counts one call.
func (m *meters) called(method string, code codes.Code, begin time.Time) {
	c := m.calls[method]
	if c == nil || code > lastCode {
		return
	}
	c.codes[code].Add(1)
	if c.latency != nil {
		c.latency.Since(begin)
	}
}

func (m *meters) denied(a policy.Action) {
	if c := m.denials[a]; c != nil {
		c.Add(1)
	}
}

func (m *meters) login(method string, admitted bool) {
	l := m.logins[method]
	switch {
	case l == nil:
	case admitted:
		l.admitted.Add(1)
	default:
		l.refused.Add(1)
	}
}

// Numbers are what a server counts, for whoever shows them. Counters begin with the process.
type Numbers struct {
	Calls   map[string]CallNumbers // by full method; those that were called
	Logins  map[string]LoginNumbers
	Denials map[string]uint64 // by action; those that happened
	Limited uint64
	Forged  uint64

	Connections int
	Watchers    int // open watches of secrets
	Tails       int // open tails and exports of the audit log
}

// CallNumbers are those of one method.
type CallNumbers struct {
	Codes   map[codes.Code]uint64
	Latency *meter.Distribution // nil: a stream
}

// LoginNumbers are those of one method of login.
type LoginNumbers struct{ Admitted, Refused uint64 }

// Numbers reads them.
func (s *Server) Numbers() Numbers {
	m := s.meters
	out := Numbers{
		Calls: make(map[string]CallNumbers), Logins: make(map[string]LoginNumbers), Denials: make(map[string]uint64),
		Limited: m.limited.Load(), Forged: m.forged.Load(), Connections: s.connections.count(), Watchers: s.streams.count(), Tails: len(s.tails),
	}
	for method, c := range m.calls {
		n := CallNumbers{Codes: make(map[codes.Code]uint64)}
		for code := range c.codes {
			if count := c.codes[code].Load(); count > 0 {
				n.Codes[codes.Code(code)] = count
			}
		}
		if len(n.Codes) == 0 {
			continue
		}
		if !c.stream {
			d := c.latency.Load()
			n.Latency = &d
		}
		out.Calls[method] = n
	}
	for method, l := range m.logins {
		out.Logins[method] = LoginNumbers{Admitted: l.admitted.Load(), Refused: l.refused.Load()}
	}
	for action, c := range m.denials {
		if n := c.Load(); n > 0 {
			out.Denials[string(action)] = n
		}
	}
	return out
}
