package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/hizo/hizo/api/hizov1"
)

// serverName is the name that every node's certificate carries beside its own.
const serverName = "cluster.hizo.internal"

// hizoCluster is `hizod dev` with three node processes.
type hizoCluster struct {
	dev     *exec.Cmd
	conns   []*grpc.ClientConn
	secrets []hizov1.SecretServiceClient
	healths []healthpb.HealthClient
	token   string
	value   []byte
	keys    int
	status  *hizov1.StatusResponse
}

func startHizo(ctx context.Context, dir string, o options) (_ *hizoCluster, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h := &hizoCluster{value: bytes.Repeat([]byte("v"), o.valueSize), keys: o.keys}
	h.dev = exec.Command(o.hizod, "dev", "--nodes", "3", "--dir", dir, "--hsm", o.hsm)
	h.dev.Stdout, h.dev.Stderr = log, log
	h.dev.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := h.dev.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	env, err := waitEnv(ctx, filepath.Join(dir, "env"), log.Name())
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(env["HIZO_CACERT"])
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(env["HIZO_TOKEN_FILE"])
	if err != nil {
		return nil, err
	}
	h.token = strings.TrimSpace(string(token))
	creds := credentials.NewTLS(&tls.Config{RootCAs: pool(ca), ServerName: serverName, MinVersion: tls.VersionTLS13})
	leader, err := h.findLeader(ctx, strings.Split(env["HIZO_ADDRS"], ","), creds)
	if err != nil {
		return nil, err
	}
	for range connections {
		conn, err := grpc.NewClient("passthrough:///"+leader, grpc.WithTransportCredentials(creds))
		if err != nil {
			return nil, err
		}
		h.conns = append(h.conns, conn)
		h.secrets = append(h.secrets, hizov1.NewSecretServiceClient(conn))
		h.healths = append(h.healths, healthpb.NewHealthClient(conn))
	}
	if _, err := hizov1.NewVaultServiceClient(h.conns[0]).CreateVault(h.mutation(ctx), &hizov1.CreateVaultRequest{Name: "bench"}); err != nil {
		return nil, err
	}
	for i := range o.keys {
		if err := h.put(ctx, i, 0); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// waitEnv waits until the development cluster has written its environment file.
func waitEnv(ctx context.Context, path, log string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		data, err := os.ReadFile(path)
		if err == nil {
			env := make(map[string]string)
			for line := range strings.Lines(string(data)) {
				if name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
					env[name] = strings.Trim(value, `'"`)
				}
			}
			return env, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the development cluster did not come up; see %s", log)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (h *hizoCluster) findLeader(ctx context.Context, addrs []string, creds credentials.TransportCredentials) (string, error) {
	for _, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			return "", err
		}
		st, err := hizov1.NewClusterServiceClient(conn).Status(h.auth(ctx), &hizov1.StatusRequest{})
		conn.Close()
		if err != nil {
			return "", err
		}
		if st.Role == "leader" {
			h.status = st
			return addr, nil
		}
	}
	return "", fmt.Errorf("none of %v leads", addrs)
}

func (h *hizoCluster) describe() string {
	return fmt.Sprintf("hizo %s, seal %s", h.status.Version, h.status.SealKind)
}

func (h *hizoCluster) auth(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+h.token)
}

func (h *hizoCluster) mutation(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(h.auth(ctx), "hizo-request-id", uuid.Must(uuid.NewV7()).String())
}

func (h *hizoCluster) path(client, i int) string {
	return fmt.Sprintf("key-%06d", (client*7919+i)%h.keys)
}

func (h *hizoCluster) put(ctx context.Context, client, i int) error {
	_, err := h.secrets[client%connections].Put(h.mutation(ctx), &hizov1.PutRequest{
		Vault: "bench", Path: h.path(client, i), Fields: map[string][]byte{"value": h.value}})
	return err
}

func (h *hizoCluster) reveal(ctx context.Context, client, i int) error {
	r, err := h.secrets[client%connections].Reveal(h.auth(ctx), &hizov1.RevealRequest{
		Vault: "bench", Path: h.path(client, i), Field: "value"})
	if err == nil && len(r.Fields["value"]) != len(h.value) {
		return fmt.Errorf("revealed %d bytes", len(r.Fields["value"]))
	}
	return err
}

func (h *hizoCluster) health(ctx context.Context, client, _ int) error {
	_, err := h.healths[client%connections].Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func (h *hizoCluster) Close() {
	for _, c := range h.conns {
		c.Close()
	}
	h.dev.Process.Signal(syscall.SIGTERM)
	h.dev.Wait()
}
