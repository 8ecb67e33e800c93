package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

// lockedBuffer takes the logs of all nodes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Known secrets go through everything, also through what goes wrong; afterwards no file, log line or
// error holds one of them, plain, in base64 or in hex.
func TestCanary(t *testing.T) {
	t.Parallel()
	const value, password, reason, misplaced = "canary-value-7Qx2", "canary-password-9Lm4", "canary-reason-3Rt8", "canary-misplaced-5Zk6"
	logs := &lockedBuffer{}
	var wrong atomic.Pointer[fault]
	c := apitest.Start(t, apitest.Options{
		Options: clustertest.Options{Logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))},
		Wrap:    func(_ string, n api.Node) api.Node { return &faulty{Node: n, fault: &wrong} },
	})
	ctx := t.Context()
	c.Vault("ml")
	var said []string // every error
	note := func(_ any, err error) {
		if err != nil {
			said = append(said, fmt.Sprintf("%v %+v %#v", err, err, err))
		}
	}
	s := c.Engineer
	put := func(path string) {
		note(s.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: path, Fields: map[string][]byte{"f": []byte(value)}}))
	}
	put("db/main")
	put("db//" + misplaced)
	note(s.Secrets().Put(ctx, &hizov1.PutRequest{Vault: "ml", Path: "x", Fields: map[string][]byte{misplaced + "!": []byte(value)}}))
	note(s.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main", Reason: reason}))
	note(s.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "bob", Password: []byte(password)}))
	note(s.Identities().CreateUser(ctx, &hizov1.CreateUserRequest{Name: "bob", Password: []byte(password)}))
	note(s.Identities().SetPassword(ctx, &hizov1.SetPasswordRequest{Name: "bob", Password: []byte(password)}))
	login, err := c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "bob", Password: []byte(password)})
	if err != nil {
		t.Fatal(err)
	}
	note(c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: "alice", Password: []byte(password)}))
	// A password typed where the name belongs.
	note(c.Client().Auth().Login(ctx, &hizov1.LoginRequest{User: strings.ToLower(misplaced), Password: []byte("x")}))
	bob := c.As(login)
	note(bob.Secrets().Reveal(ctx, &hizov1.RevealRequest{Vault: "ml", Path: "db/main", Reason: reason}))
	share, err := c.Shares[0].Text()
	if err != nil {
		t.Fatal(err)
	}
	note(c.Client().Cluster().Unseal(ctx, &hizov1.UnsealRequest{Share: share + "q"}))
	for _, f := range []fault{
		func(context.Context, fsm.Command, func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			panic(fmt.Errorf("panic with %s", value))
		},
		func(context.Context, fsm.Command, func(context.Context, fsm.Command) (fsm.Result, error)) (fsm.Result, error) {
			panic(value)
		},
	} {
		wrong.Store(&f)
		short, cancel := context.WithTimeout(ctx, 200_000_000)
		note(s.Secrets().Put(short, &hizov1.PutRequest{Vault: "ml", Path: "y", Fields: map[string][]byte{"f": []byte(value)}}))
		cancel()
	}
	wrong.Store(nil)
	c.Kill(c.Leader())
	put("db/main")

	canaries := map[string]string{"value": value, "password": password, "reason": reason, "token": login.GetToken(), "share": share,
		// What is typed where a name belongs comes back to whoever typed it, and goes nowhere else.
		"misplaced text": misplaced, "misplaced name": strings.ToLower(misplaced),
	}
	scan := func(where string, b []byte) {
		for what, canary := range canaries {
			if where == "an error" && strings.HasPrefix(what, "misplaced") {
				continue
			}
			raw := []byte(canary)
			forms := map[string][]byte{"plain": raw, "hex": []byte(hex.EncodeToString(raw))}
			for shift := range 3 { // base64 depends on where the text begins
				inner := base64.StdEncoding.EncodeToString(append(make([]byte, shift), raw...))
				forms[fmt.Sprintf("base64+%d", shift)] = []byte(inner[4 : len(inner)-4])
			}
			for form, f := range forms {
				if i := bytes.Index(b, f); i >= 0 {
					t.Errorf("%s: the %s stands there (%s, byte %d): %.120q", where, what, form, i, b[max(0, i-60):])
				}
			}
		}
	}
	files := 0
	for _, n := range c.Nodes {
		err := filepath.WalkDir(n.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // the node is at work
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			files++
			scan(path, b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range said {
		scan("an error", []byte(e))
	}
	logs.mu.Lock()
	defer logs.mu.Unlock()
	scan("the log", logs.b.Bytes())
	if files < 30 || len(said) < 8 || logs.b.Len() < 1000 || !bytes.Contains(logs.b.Bytes(), []byte("panicked")) {
		t.Errorf("the scan saw %d files, %d errors, %d bytes of log: too little", files, len(said), logs.b.Len())
	}
}
