package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/api/observe"
	"github.com/hizo/hizo/crypto/seal/pkcs11"
	"github.com/hizo/hizo/crypto/seal/softhsm"
)

// What the shipped templates become, for each node, is what hizod accepts, and as safe as it has to be.
func TestDeployedConfigurations(t *testing.T) {
	entrypoint, err := filepath.Abs("../../deploy/compose/entrypoint")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct{ template, node, domain, module, peers string }{
		{"compose/hizod.yaml.in", "n1", "", "", "n1:7301"},
		{"compose/hizod.yaml.in", "n2", "", "", "n2:7301"},
		{"kubernetes/base/hizod.yaml.in", "n1", "hizo-peers.hizo.svc", "", "n1.hizo-peers.hizo.svc:7301"},
		{"kubernetes/base/hizod.yaml.in", "hizo-2", "hizo-peers.hizo.svc", "/opt/hsm/lib/libvendor-pkcs11.so", "hizo-2.hizo-peers.hizo.svc:7301"},
	} {
		cfg := renderConfig(t, entrypoint, "../../deploy/"+d.template, d.node, "HIZO_DOMAIN="+d.domain, "HIZO_PKCS11_MODULE="+d.module)
		p := cfg.Seal.PKCS11
		if cfg.Node != d.node || cfg.Peers.Advertise != d.peers || !strings.HasSuffix(p.TokenLabel, d.node) || d.module != "" && p.Module != d.module {
			t.Errorf("%v: %+v", d, cfg)
		}
		if joins := cfg.Join != nil; joins != (d.node != "n1") {
			t.Errorf("%v: joins is %v", d, joins)
		}
		if cfg.Development || cfg.Observe.Listen == "" || within(cfg.DataDir, p.PINFile) {
			t.Errorf("%v: %+v", d, cfg)
		}
	}
	for _, bad := range []string{
		"HIZO_NODE=n 1", "HIZO_NODE=n1;reboot", "HIZO_NODE=n1/../..", "HIZO_NODE=n&1", "HIZO_DOMAIN=a/b", "HIZO_DOMAIN=a:b",
		"HIZO_PKCS11_MODULE=/x|y", "HIZO_PKCS11_MODULE=x: y", "HIZO_TEMPLATE=/nowhere",
	} {
		cmd := exec.Command(entrypoint, "render")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HIZO_NODE=n1", "HIZO_TEMPLATE=../../deploy/compose/hizod.yaml.in", bad}
		if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "data_dir") {
			t.Errorf("%s was rendered: %s", bad, out)
		}
	}
}

func renderConfig(t *testing.T, entrypoint, template, node string, env ...string) *Config {
	t.Helper()
	for _, read := range []string{entrypoint, template} { // go test has to know what the result rests on
		if _, err := os.Stat(read); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(entrypoint, "render")
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HIZO_NODE="+node, "HIZO_FIRST=n1", "HIZO_TEMPLATE="+template)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", template, err)
	}
	cfg, err := ParseConfig(out)
	if err != nil {
		t.Fatalf("%s for %s: %v\n%s", template, node, err, out)
	}
	return cfg
}

func TestCheckCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hizod.yaml")
	for text, want := range map[string]string{
		goodConfig: "",
		goodConfig + "gossip:\n  listen: 10.0.0.1:7302\n":                "allowed_cidrs",
		goodConfig + "rotation:\n  webhook_allow: [nowhere]\n":           "webhook_allow",
		strings.Replace(goodConfig, "node: n1\n", "", 1):                 "node: missing",
		goodConfig + "rotation:\n  commands: {x: {path: relative/path}}": "relative/path",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := (&checkCmd{Config: file}).Run()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestHealthCommand(t *testing.T) {
	s, err := observe.Listen(observe.Config{Listen: "0.0.0.0:0", Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(s.Addr(), "[::]"), ":")
	for _, listen := range []string{"127.0.0.1:" + port, "0.0.0.0:" + port, ":" + port} {
		if text, err := askHealth(t.Context(), listen, false); err != nil || text != "alive" {
			t.Errorf("%s: %q, %v", listen, text, err)
		}
		if _, err := askHealth(t.Context(), listen, true); err == nil || !strings.Contains(err.Error(), "not ready: starting: ") {
			t.Errorf("%s: a node that starts is ready: %v", listen, err)
		}
	}
	s.Close()
	if _, err := askHealth(t.Context(), "127.0.0.1:"+port, false); err == nil {
		t.Error("a node that is gone is alive")
	}
	if _, err := askHealth(t.Context(), "", false); err == nil || !strings.Contains(err.Error(), "observe.listen") {
		t.Errorf("nothing to ask: %v", err)
	}

	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hangs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := askHealth(ctx, strings.TrimPrefix(hangs.URL, "http://"), false); err == nil {
		t.Error("a node that does not answer is alive")
	}
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no JSON", http.StatusServiceUnavailable)
	}))
	defer broken.Close()
	if _, err := askHealth(t.Context(), strings.TrimPrefix(broken.URL, "http://"), true); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("an answer without reasons: %v", err)
	}
}

func TestSofthsmCommand(t *testing.T) {
	module, err := softhsm.Module()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	pin, file := filepath.Join(dir, "pin"), filepath.Join(dir, "hizod.yaml")
	text := strings.NewReplacer("/usr/lib/softhsm/libsofthsm2.so", module, "/run/hizo/pin", pin).Replace(goodConfig)
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(pin, "a PIN with a newline behind it\n")
	write(file, strings.Replace(text, module, "/opt/vendor/libhsm.so", 1))
	if err := (&softhsmCmd{Config: file, Dir: filepath.Join(dir, "token")}).Run(); err == nil || !strings.Contains(err.Error(), "vendor") {
		t.Errorf("a vendor's module: %v", err)
	}
	write(file, text)
	for range 2 { // the second time it is there
		if err := (&softhsmCmd{Config: file, Dir: filepath.Join(dir, "token")}).Run(); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(softhsm.ConfEnv, filepath.Join(dir, "token", "softhsm2.conf"))
	s, err := pkcs11.Open(pkcs11.Config{Module: module, TokenLabel: "hizo-n1", PINFile: pin})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	for range 2 {
		if err := (&softhsmCmd{Label: "other", Dir: filepath.Join(dir, "labelled")}).Run(); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "labelled", "other.pin")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
