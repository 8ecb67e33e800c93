package api

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/hizov1"
)

// healthService tells load balancers and probes how the node is. It needs no token and costs no record.
// The server as a whole ("") and each API service are serving when the node is ready.
type healthService struct {
	grpc_health_v1.UnimplementedHealthServer
	*Server
}

func (s *Server) ready() bool {
	if !s.node.Initialised() || s.ctx.Err() != nil {
		return false
	}
	if _, err := s.node.Keyring(); err != nil {
		return false
	}
	_, ok := s.node.Leader()
	return ok
}

func (s *healthService) check(service string) (grpc_health_v1.HealthCheckResponse_ServingStatus, bool) {
	switch service {
	case hizov1.HealthLive:
		return grpc_health_v1.HealthCheckResponse_SERVING, true
	case "", hizov1.HealthReady, hizov1.AuthService_ServiceDesc.ServiceName, hizov1.VaultService_ServiceDesc.ServiceName,
		hizov1.SecretService_ServiceDesc.ServiceName, hizov1.IdentityService_ServiceDesc.ServiceName,
		hizov1.PolicyService_ServiceDesc.ServiceName, hizov1.AuditService_ServiceDesc.ServiceName,
		hizov1.ClusterService_ServiceDesc.ServiceName, hizov1.WatchService_ServiceDesc.ServiceName:
		if s.ready() {
			return grpc_health_v1.HealthCheckResponse_SERVING, true
		}
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING, true
	case hizov1.HealthLeader:
		if s.ready() && s.node.TermBegun() {
			return grpc_health_v1.HealthCheckResponse_SERVING, true
		}
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING, true
	}
	return grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN, false
}

// Check implements the health service.
func (s *healthService) Check(_ context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	st, known := s.check(req.GetService())
	if !known {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: st}, nil
}

// Watch implements the health service. Sealing and leadership are node-local and have no event to wait
// for: they are looked at four times a second.
func (s *healthService) Watch(req *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	if _, known := s.check(req.GetService()); !known {
		return status.Error(codes.NotFound, "unknown service")
	}
	if err := hold(s.watches); err != nil {
		return err
	}
	defer unhold(s.watches)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last := grpc_health_v1.HealthCheckResponse_ServingStatus(-1)
	for {
		if st, _ := s.check(req.GetService()); st != last {
			last = st
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.ctx.Done():
			return fault(hizov1.ReasonShutdown)
		}
	}
}

// hold takes one of the places for long streams.
func hold(places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
		return &Error{Reason: hizov1.ReasonOverloaded, Message: "too many streams are open on this node: close one, then retry"}
	}
}

func unhold(places chan struct{}) { <-places }
