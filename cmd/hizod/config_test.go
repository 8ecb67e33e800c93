package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hizo/hizo/cluster"
)

const goodConfig = `node: n1
data_dir: /var/lib/hizo
peers:
  listen: 127.0.0.1:7301
clients:
  listen: 127.0.0.1:7300
seal:
  type: pkcs11
  pkcs11:
    module: /usr/lib/softhsm/libsofthsm2.so
    token_label: hizo-n1
    pin_file: /run/hizo/pin
`

func TestParseConfig(t *testing.T) {
	cfg, err := ParseConfig([]byte(goodConfig))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Peers.Advertise != "127.0.0.1:7301" || cfg.Raft.Profile != "lan" || cfg.Log.Level != "info" {
		t.Errorf("defaults not filled in: %+v", cfg)
	}

	cfg, err = ParseConfig([]byte(goodConfig + "rotation:\n  commands:\n    mint:\n      path: /usr/local/libexec/mint\n      args: [a]\n      user: mint\n      timeout: 15s\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.Rotation.Commands["mint"]; c.Path != "/usr/local/libexec/mint" || c.Timeout != 15*time.Second || c.User != "mint" || len(c.Args) != 1 {
		t.Errorf("a command: %+v", c)
	}

	for _, tt := range []struct{ name, old, new, want string }{
		{"a typo is named with line and column", "  listen: 127.0.0.1:7301", "  lisen: 127.0.0.1:7301", `[4:3] unknown field "lisen"`},
		{"an unknown top-level key", "node: n1", "node: n1\nnodes: 3", `[2:1] unknown field "nodes"`},
		{"a duplicate key", "node: n1", "node: n1\nnode: n2", "[2:1]"},
		{"a value of the wrong type", "node: n1", "node: [n1]", "[1:7]"},
		{"missing node", "node: n1\n", "", "node: missing"},
		{"address without port", "127.0.0.1:7300", "127.0.0.1", "clients.listen"},
		{"unreachable address", "127.0.0.1:7300", "0.0.0.0:7300", "clients.advertise"},
		{"unknown seal", "type: pkcs11", "type: tpm", `"tpm" is unknown`},
		{"label and serial", "token_label: hizo-n1", "token_label: hizo-n1\n    token_serial: abc", "exactly one of"},
		{"observe without a port", "node: n1", "observe: {listen: localhost}\nnode: n1", "observe.listen"},
		{"PIN on the data disk", "/run/hizo/pin", "/var/lib/hizo/pin", "lies in data_dir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(goodConfig, tt.old, tt.new, 1)
			if text == goodConfig {
				t.Fatal("the case changes nothing")
			}
			_, err := ParseConfig([]byte(text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := ParseConfig(nil); err == nil {
		t.Error("an empty file was accepted")
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Fuzz(func(t *testing.T, data []byte) {
		if cfg, err := ParseConfig(data); err == nil && (cfg.Node == "" || cfg.DataDir == "") {
			t.Errorf("accepted without node or data_dir: %q", data)
		}
	})
}

func TestWebhookAllow(t *testing.T) {
	for text, wrong := range map[string]bool{"10.7.0.0/16": false, "fd00::/8": false, "10.7.0.1": true, "everywhere": true} {
		cfg, err := ParseConfig([]byte(goodConfig + "rotation:\n  webhook_allow: [\"" + text + "\"]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rotationTargets(cfg.Rotation, cluster.NewDirectory()); (err != nil) != wrong {
			t.Errorf("webhook_allow %s: %v", text, err)
		}
	}
}

// The example of the Debian package is a configuration, once its node is filled in.
func TestSystemdExample(t *testing.T) {
	text, err := os.ReadFile("../../deploy/systemd/hizod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseConfig(text); err == nil || !strings.Contains(err.Error(), "NETWORK") {
		t.Errorf("the example passes as it is: %v", err)
	}
	filled := strings.NewReplacer("ADDRESS", "10.20.0.1", "NETWORK", "10.20.0.0/24", "NODE", "n1").Replace(string(text))
	t.Setenv(credentialsVariable, "/run/credentials/hizod.service")
	cfg, err := ParseConfig([]byte(filled))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Seal.PKCS11.PINFile, "/run/credentials/hizod.service/hizo_pin"; got != want {
		t.Errorf("the PIN is looked for in %q, want %q", got, want)
	}
	if cfg.DataDir != "/var/lib/hizo/data" || !cfg.MemoryLock {
		t.Errorf("data in %q, memory locked %v", cfg.DataDir, cfg.MemoryLock)
	}
}
