package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/hizo/hizo/api/auth/issuer"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/fsm"
)

// issuerService manages whose word is taken for who a machine is, and which workload it then is.
type issuerService struct {
	hizov1.UnimplementedIssuerServiceServer
	*Server
}

// onIssuer and onBinding are what the actions are asked on.
func onIssuer(action policy.Action, n string) target {
	return target{action: action, resource: policy.System(), name: "issuer/" + n}
}

func onBinding(action policy.Action, n string) target {
	return target{action: action, resource: policy.System(), name: "binding/" + n}
}

// defaultAudience is what tokens for this cluster are for, unless an issuer is put with other audiences. The client makes
// it from the serial number in the subject of the cluster's CA.
func defaultAudience(id [16]byte) string { return hizov1.AudiencePrefix + hex.EncodeToString(id[:]) }

// PutIssuer makes or changes an issuer.
func (s *issuerService) PutIssuer(ctx context.Context, req *hizov1.PutIssuerRequest) (*hizov1.Issuer, error) {
	in := req.GetIssuer()
	if _, err := name.Issuer(in.GetName()); err != nil {
		return nil, err
	}
	if in.GetOnce() && in.GetKind() == issuer.SPIFFE {
		return nil, invalid("once", "an SVID is shown at every connection: leave it out for a trust domain")
	}
	if most := int64(issuer.MaxAge / time.Second); in.GetMaxAgeSeconds() < 0 || in.GetMaxAgeSeconds() > most {
		return nil, invalid("max_age_seconds", "an age is between 1 and %d seconds", most)
	}
	record := fsm.Issuer{
		Name: in.GetName(), Kind: in.GetKind(), URL: in.GetUrl(), Audiences: in.GetAudiences(), Algorithms: in.GetAlgorithms(),
		Keys: in.GetKeys(), KeysURL: in.GetKeysUrl(), CA: in.GetCa(), Local: in.GetAllowLocal(), Once: in.GetOnce(),
		MaxAge: in.GetMaxAgeSeconds() * 1000,
	}
	if record.Kind == "" {
		record.Kind = issuer.OIDC
	}
	if len(record.Algorithms) == 0 {
		record.Algorithms = issuer.DefaultAlgorithms()
	}
	if record.MaxAge == 0 {
		record.MaxAge = issuer.DefaultMaxAge.Milliseconds()
	}
	t := onIssuer(policy.IssuerPut, record.Name)
	t.detail = issuerDetail(&record)
	valid := sync.OnceValue(func() error { // only those who may put issuers can have keys parsed
		_, err := issuer.New(issuerConfig(record), s.gate.federation.fetcher)
		return err
	})
	var stored fsm.Issuer
	answer, err := s.gate.do(ctx, &call{
		method: "IssuerService/PutIssuer", kind: fsm.KindIssuerPut, message: req, targets: []target{t},
		body: func(r *round) (any, error) {
			if len(record.Audiences) == 0 {
				record.Audiences = []string{defaultAudience(r.cluster.ID)}
			}
			if err := valid(); err != nil {
				return nil, err
			}
			record.By, record.Created = r.caller.text, r.now
			var err error
			record.MAC, err = r.mac(record)
			stored = record
			return &fsm.IssuerPut{Issuer: record, EndLogins: req.GetEndLogins()}, err
		},
	})
	if err != nil {
		return nil, err
	}
	if now, ok := answer.store.Issuer(record.Name); ok {
		stored = now
	}
	return issuerOut(stored), nil
}

// issuerDetail is what the record of a put tells readably: whose word is taken, by which keys.
func issuerDetail(i *fsm.Issuer) string {
	keys := "by discovery"
	switch {
	case len(i.Keys) > 0:
		keys = fmt.Sprintf("sha256:%x", sha256.Sum256(i.Keys))
	case i.KeysURL != "":
		keys = "from " + shorten(i.KeysURL, issuer.MaxURL)
	}
	return fmt.Sprintf("%s %s, keys %s", shorten(i.Kind, 16), shorten(i.URL, issuer.MaxURL), keys)
}

func issuerOut(i fsm.Issuer) *hizov1.Issuer {
	return &hizov1.Issuer{
		Name: i.Name, Kind: i.Kind, Url: i.URL, Audiences: i.Audiences, Algorithms: i.Algorithms, Keys: i.Keys,
		KeysUrl: i.KeysURL, Ca: i.CA, AllowLocal: i.Local, Once: i.Once, MaxAgeSeconds: i.MaxAge / 1000,
		By: i.By, CreatedUnix: i.Created / 1000,
	}
}

// ListIssuers lists the issuers by name.
func (s *issuerService) ListIssuers(ctx context.Context, _ *hizov1.ListIssuersRequest) (*hizov1.ListIssuersResponse, error) {
	var out *hizov1.ListIssuersResponse
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onSystem(policy.IssuerList)}}, func(answer *answer) error {
		out = &hizov1.ListIssuersResponse{}
		for _, i := range answer.store.Issuers() {
			one := issuerOut(i)
			one.Keys, one.Ca = nil, nil // up to 64 of them would not fit a message
			out.Issuers = append(out.Issuers, one)
		}
		return nil
	})
	return sent(out, err)
}

// GetIssuer returns one issuer with its keys.
func (s *issuerService) GetIssuer(ctx context.Context, req *hizov1.GetIssuerRequest) (*hizov1.Issuer, error) {
	if _, err := name.Issuer(req.GetName()); err != nil {
		return nil, err
	}
	var out *hizov1.Issuer
	err := s.gate.show(ctx, &call{kind: fsm.KindRecord, targets: []target{onIssuer(policy.IssuerGet, req.GetName())}}, func(answer *answer) error {
		i, ok := answer.store.Issuer(req.GetName())
		if !ok {
			return fault(hizov1.ReasonNotFound)
		}
		out = issuerOut(i)
		return nil
	})
	return sent(out, err)
}

// DeleteIssuer removes an issuer; every login that rests on it ends.
func (s *issuerService) DeleteIssuer(ctx context.Context, req *hizov1.DeleteIssuerRequest) (*hizov1.DeleteIssuerResponse, error) {
	if _, err := name.Issuer(req.GetName()); err != nil {
		return nil, err
	}
	_, err := s.gate.do(ctx, &call{
		method: "IssuerService/DeleteIssuer", kind: fsm.KindIssuerDelete, message: req,
		targets: []target{onIssuer(policy.IssuerDelete, req.GetName())},
		body:    func(*round) (any, error) { return &fsm.IssuerDelete{Name: req.GetName()}, nil },
	})
	if err != nil {
		return nil, err
	}
	return &hizov1.DeleteIssuerResponse{}, nil
}
