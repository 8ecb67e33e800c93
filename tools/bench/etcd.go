package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// etcdCluster is three etcd processes on loopback with TLS for peers and clients.
type etcdCluster struct {
	procs []*exec.Cmd
	kvs   []etcdserverpb.KVClient // connections to the leader, shared by the clients
	conns []*grpc.ClientConn
	value []byte
	keys  int
}

const connections = 8 // gRPC connections that the clients of either system share

func startEtcd(ctx context.Context, dir string, o options) (_ *etcdCluster, err error) {
	bin, err := exec.LookPath("etcd")
	if err != nil {
		return nil, errors.New("etcd is not installed; apt-get install etcd-server")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	pki, err := newPKI(dir)
	if err != nil {
		return nil, err
	}
	e := &etcdCluster{value: bytes.Repeat([]byte("v"), o.valueSize), keys: o.keys}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	const nodes = 3
	var clients, peers, initial []string
	for i := range nodes {
		clients = append(clients, freePort())
		peers = append(peers, freePort())
		initial = append(initial, fmt.Sprintf("e%d=https://%s", i+1, peers[i]))
	}
	for i := range nodes {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("e%d.log", i+1)))
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(bin,
			"--name", fmt.Sprintf("e%d", i+1), "--data-dir", filepath.Join(dir, fmt.Sprintf("e%d", i+1)),
			"--listen-client-urls", "https://"+clients[i], "--advertise-client-urls", "https://"+clients[i],
			"--listen-peer-urls", "https://"+peers[i], "--initial-advertise-peer-urls", "https://"+peers[i],
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--cert-file", pki.cert, "--key-file", pki.key, "--trusted-ca-file", pki.ca, "--client-cert-auth",
			"--peer-cert-file", pki.cert, "--peer-key-file", pki.key, "--peer-trusted-ca-file", pki.ca, "--peer-client-cert-auth",
			"--quota-backend-bytes", "8589934592", "--logger", "zap")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		log.Close()
		e.procs = append(e.procs, cmd)
	}
	creds := credentials.NewTLS(pki.client())
	leader, err := etcdLeader(ctx, clients, creds)
	if err != nil {
		return nil, err
	}
	for range connections {
		conn, err := grpc.NewClient("passthrough:///"+leader, grpc.WithTransportCredentials(creds))
		if err != nil {
			return nil, err
		}
		e.conns = append(e.conns, conn)
		e.kvs = append(e.kvs, etcdserverpb.NewKVClient(conn))
	}
	for i := range o.keys {
		if err := e.put(ctx, i, 0); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// etcdLeader waits until a leader is elected and answers its client address: the clients of both systems
// talk to the leader directly.
func etcdLeader(ctx context.Context, addrs []string, creds credentials.TransportCredentials) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		for _, addr := range addrs {
			conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
			if err != nil {
				return "", err
			}
			one, stop := context.WithTimeout(ctx, time.Second)
			st, err := etcdserverpb.NewMaintenanceClient(conn).Status(one, &etcdserverpb.StatusRequest{})
			stop()
			conn.Close()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				return addr, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no leader: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (e *etcdCluster) key(client, i int) []byte {
	return fmt.Appendf(nil, "bench/key-%06d", (client*7919+i)%e.keys)
}

func (e *etcdCluster) put(ctx context.Context, client, i int) error {
	_, err := e.kvs[client%connections].Put(ctx, &etcdserverpb.PutRequest{Key: e.key(client, i), Value: e.value})
	return err
}

// read is a linearizable range of one key: etcd's default.
func (e *etcdCluster) read(ctx context.Context, client, i int) error {
	r, err := e.kvs[client%connections].Range(ctx, &etcdserverpb.RangeRequest{Key: e.key(client, i)})
	if err == nil && r.Count != 1 {
		return errors.New("key not found")
	}
	return err
}

func (e *etcdCluster) Close() {
	for _, c := range e.conns {
		c.Close()
	}
	for _, p := range e.procs {
		p.Process.Kill()
		p.Wait()
	}
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // no free port on loopback: nothing here can run
	}
	defer l.Close()
	return l.Addr().String()
}

func pool(pem []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}
