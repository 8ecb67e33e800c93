// Package compose holds no product code: it tests the image and the compose file with real containers.
package compose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// world is what the test's commands run in: storage, networks and settings of podman that are nobody else's.
type world struct {
	t   *testing.T
	dir string // of the cluster
	env []string
}

// newWorld prepares podman below build/compose, which keeps images for the next run.
func newWorld(t *testing.T) *world {
	if os.Getenv("HIZO_TEST_COMPOSE") == "" {
		t.Skip("containers are tested by: make test-compose")
	}
	if os.Geteuid() != 0 {
		t.Fatal("debootstrap needs root")
	}
	build, err := filepath.Abs("../../build/compose")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"storage", "run", "networks"} {
		if err := os.MkdirAll(filepath.Join(build, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "cluster")}
	write := func(name, text string) string {
		path := filepath.Join(build, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	storage := write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(build, "storage"), filepath.Join(build, "run")))
	// The limits are those of a machine that may not raise its own.
	containers := write("containers.conf", fmt.Sprintf("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"+
		"[engine]\nruntime = \"runc\"\nevents_logger = \"file\"\n[network]\nnetwork_config_dir = %q\n", filepath.Join(build, "networks")))
	w.env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+storage, "CONTAINERS_CONF="+containers,
		"ARCHIVE="+archive(t), "COMPOSE=podman-compose", "ENGINE=podman", "HIZO_CLUSTER_DIR="+w.dir)
	for _, node := range []string{"N1", "N2", "N3"} {
		w.env = append(w.env, "HIZO_PORT_"+node+"="+freePort(t))
	}
	return w
}

// archive is where the base's root file system is kept for the next run, of any clone; for a month, so that it is not ever older.
func archive(t *testing.T) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "hizo", "base-bookworm.tar")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 30*24*time.Hour {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// try runs a command and returns what it wrote to standard output, and an error with what it wrote elsewhere.
func (w *world) try(name string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stderr = w.env, &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), err
}

func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.try(name, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// hizo runs the client of bin/ on the host, by the published ports alone.
func (w *world) hizo(args string) string {
	w.t.Helper()
	return w.run("bash", "-c", fmt.Sprintf(". %s/env; ../../bin/hizo %s", w.dir, args))
}

func (w *world) compose(args ...string) string {
	w.t.Helper()
	return w.run("bash", "-c", fmt.Sprintf(". %s/env; podman-compose -f compose.yaml %s", w.dir, strings.Join(args, " ")))
}

// container is the one of a node, stopped or not.
func (w *world) container(node string) string {
	w.t.Helper()
	id := w.run("podman", "ps", "-aq", "--filter", "label=com.docker.compose.service="+node)
	if id == "" || strings.Contains(id, "\n") {
		w.t.Fatalf("containers of %s: %q", node, id)
	}
	return id
}

// await waits for a condition, two minutes at most.
func (w *world) await(what string, ok func() error) {
	w.t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			logs, _ := w.try("sh", "-c", "for c in $(podman ps -aq); do podman logs --tail 5 $c; done 2>&1")
			w.t.Log(logs)
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ready waits until a node can serve, by the same command as its health check, asked more.
func (w *world) ready(node string) {
	w.t.Helper()
	w.await(node+" is ready", func() error {
		_, err := w.try("podman", "exec", w.container(node), "entrypoint", "hizod", "health", "--ready", "--config", "/run/hizo/hizod.yaml")
		return err
	})
}

func (w *world) leader() string {
	w.t.Helper()
	for line := range strings.Lines(w.hizo("cluster members")) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == "leader" {
			return f[0]
		}
	}
	w.t.Fatal("nobody leads")
	return ""
}

const value = "kept in a container, shown to nobody"

// reveal reads the secret through the published ports.
func (w *world) reveal(why string) {
	w.t.Helper()
	if got := w.hizo("secret get ml/db --field password --reason '" + why + "'"); got != value {
		w.t.Fatalf("%s: revealed %q", why, got)
	}
}

// cleanUp removes everything but the images.
func (w *world) cleanUp() {
	w.try("podman-compose", "-f", "compose.yaml", "down", "-v")
	w.try("podman", "rm", "--all", "--force", "--time", "0")
	w.try("podman", "volume", "rm", "--all", "--force")
	w.try("podman", "network", "prune", "--force")
	w.try("podman", "image", "prune", "--force") // what the build before this one left without a name
}

func TestCluster(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	stage := func(format string, args ...any) {
		t.Logf("%5.1fs  %s", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	w.cleanUp()
	t.Cleanup(w.cleanUp)

	w.image(stage)
	w.run("./setup")
	stage("a cluster of three")
	w.hizo("vault create ml")
	w.hizo("secret put ml/db password='" + value + "'")
	w.reveal("all are up")
	members := w.hizo("cluster members")
	if again := w.run("./setup"); !strings.Contains(again, members) {
		t.Errorf("set up again, the members are other ones:\n%s\nbefore:\n%s", again, members)
	}
	stage("set up again: nothing changed")
	w.confined()
	stage("containers looked at")

	// A leader that dies is started again by the restart policy, and unsealed by the others. (podman kill would count as the
	// wish that it stay down.)
	killed := w.leader()
	before := w.run("podman", "inspect", "--format", "{{.State.Pid}}", w.container(killed))
	w.run("kill", "-KILL", before)
	w.reveal("the leader is gone")
	stage("%s led and was killed; the value was revealed by the others", killed)
	w.await(killed+" is started again", func() error {
		pid, err := w.try("podman", "inspect", "--format", "{{.State.Pid}}", w.container(killed))
		if err == nil && (pid == before || pid == "0") {
			err = fmt.Errorf("process %s, was %s", pid, before)
		}
		return err
	})
	w.ready(killed)
	stage("%s is back", killed)

	// Containers are replaceable: what counts is in the volumes. Nobody has to unseal.
	w.compose("down")
	w.compose("up", "-d")
	for _, node := range []string{"n1", "n2", "n3"} {
		w.ready(node)
	}
	w.reveal("new containers")
	stage("all containers removed and made anew; unsealed by themselves")

	w.compose("down", "-v")
	for _, left := range [][]string{{"ps", "-aq"}, {"volume", "ls", "-q"}} {
		if out := w.run("podman", left...); out != "" {
			t.Errorf("podman %s: %s", strings.Join(left, " "), out)
		}
	}
	stage("removed")
}

// image makes base and image, as far as they are not there from the last time.
func (w *world) image(stage func(string, ...any)) {
	w.t.Helper()
	const base = "localhost/hizo-base:bookworm"
	if _, err := w.try("podman", "image", "exists", base); err != nil {
		w.run("./base.sh", base)
	}
	stage("base image")
	w.env = append(w.env, "BASE="+base)
	w.run("./build")
	stage("image")
}

// A container as the manifests of deploy/kubernetes have it: never root, no capability, nothing that can be written but volumes,
// mounts that belong to root and the group.
func TestAsKubernetesStartsIt(t *testing.T) {
	w := newWorld(t)
	w.cleanUp()
	t.Cleanup(w.cleanUp)
	w.image(t.Logf)
	temp := t.TempDir()
	mounts := map[string]os.FileMode{"files": 0o2750, "data": 0o2775, "token": 0o2775, "run": 0o2777}
	for name, mode := range mounts {
		w.run("install", "-d", "-m", fmt.Sprintf("%o", mode), "-g", "10001", filepath.Join(temp, name))
	}
	for name, text := range map[string]string{"pin": "a PIN of the orchestrator\n", "files/s3-credentials": "other credentials\n"} {
		path := filepath.Join(temp, name)
		if err := os.WriteFile(path, []byte(text), 0o440); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 0, 10001); err != nil {
			t.Fatal(err)
		}
	}
	kubernetes, err := filepath.Abs("../kubernetes/base")
	if err != nil {
		t.Fatal(err)
	}
	id := w.run("podman", "run", "-d", "--user", "10001:10001", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--read-only", "--read-only-tmpfs=false", "-v", temp+"/run:/run/hizo",
		"-e", "HIZO_NODE=hizo-0", "-e", "HIZO_FIRST=hizo-0", "-e", "HIZO_SOFTHSM=yes", "-e", "HIZO_DOMAIN=hizo-peers.hizo.svc",
		"-v", temp+"/pin:/run/secrets/pin:ro", "-v", temp+"/files:/run/secrets/node:ro", "-v", kubernetes+":/etc/hizo:ro",
		"-v", temp+"/data:/var/lib/hizo", "-v", temp+"/token:/var/lib/hizo-token", "localhost/hizo:local")
	health := []string{"exec", id, "hizod", "health", "--config", "/run/hizo/hizod.yaml"}
	for i, start := range []string{"first", "second"} {
		if i > 0 {
			w.run("podman", "restart", "-t", "10", id)
		}
		w.await("the "+start+" start", func() error {
			_, err := w.try("podman", health...)
			if err != nil {
				log, _ := w.try("sh", "-c", "podman logs --tail 3 "+id+" 2>&1")
				err = fmt.Errorf("%w\n%s", err, log)
			}
			return err
		})
		if _, err := w.try("podman", append(health, "--ready")...); err == nil || !strings.Contains(err.Error(), "not-initialised") {
			t.Errorf("ready without a cluster: %v", err)
		}
		if got := w.run("podman", "exec", id, "stat", "--format", "%a %U", "/run/hizo/pin", "/run/hizo/s3-credentials"); got != "600 hizo\n600 hizo" {
			t.Errorf("secrets are copied as %q", got)
		}
	}
}

// confined looks at what a running node can do, and at where the PIN is.
func (w *world) confined() {
	w.t.Helper()
	for _, node := range []string{"n1", "n2", "n3"} {
		id := w.container(node)
		w.run("podman", "healthcheck", "run", id)
		status := w.run("podman", "exec", id, "cat", "/proc/1/status")
		for _, want := range []string{"Name:\thizod", "Uid:\t10001\t10001\t10001\t10001", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
			"CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, want+"\n") {
				w.t.Errorf("%s: /proc/1/status lacks %q:\n%s", node, want, status)
			}
		}
		if out, err := w.try("podman", "exec", id, "touch", "/usr/local/bin/x"); err == nil || !strings.Contains(err.Error(), "Read-only file system") {
			w.t.Errorf("%s: its root file system can be written: %s, %v", node, out, err)
		}
		if fs := w.run("podman", "exec", id, "stat", "--file-system", "--format", "%T", "/run/hizo"); fs != "tmpfs" {
			w.t.Errorf("%s: /run/hizo, where the PIN is, is a %s", node, fs)
		}

		pin, err := os.ReadFile(filepath.Join(w.dir, "secrets", "pin-"+node))
		if err != nil {
			w.t.Fatal(err)
		}
		text := strings.TrimSpace(string(pin))
		if len(text) < 20 {
			w.t.Errorf("%s: a PIN of %d characters", node, len(text))
		}
		// The reads are done as root of the host: nothing in the volumes, in the container's definition or in what it logged
		// gives the PIN away.
		log, _ := w.try("sh", "-c", "podman logs "+id+" 2>&1")
		for what, said := range map[string]string{
			"its definition":  w.run("podman", "inspect", id),
			"its log":         log,
			"its environment": w.run("podman", "exec", "--user", "hizo", id, "env"),
			"compose's log":   read(w.t, filepath.Join(w.dir, "compose.log")),
		} {
			if strings.Contains(said, text) {
				w.t.Errorf("%s: the PIN is in %s", node, what)
			}
		}
		for _, v := range w.volumes(id) {
			if out, err := w.try("grep", "-rlF", "-e", text, v); err == nil {
				w.t.Errorf("%s: the PIN is on disk: %s", node, out)
			}
			if out, err := w.try("grep", "-rlF", "-e", value, v); err == nil {
				w.t.Errorf("%s: the secret is on disk: %s", node, out)
			}
		}
	}
	// Only the clients' ports are published, and on loopback alone.
	for _, node := range []string{"n1", "n2", "n3"} {
		if ports := w.run("podman", "port", w.container(node)); strings.Contains(ports, "\n") || !strings.HasPrefix(ports, "7300/tcp -> 127.0.0.1:") {
			w.t.Errorf("%s publishes %q", node, ports)
		}
	}
}

func (w *world) volumes(container string) []string {
	w.t.Helper()
	var mounts []struct{ Type, Source string }
	if err := json.Unmarshal([]byte(w.run("podman", "inspect", "--format", "{{json .Mounts}}", container)), &mounts); err != nil {
		w.t.Fatal(err)
	}
	var dirs []string
	for _, m := range mounts {
		if m.Type == "volume" {
			dirs = append(dirs, m.Source)
		}
	}
	if len(dirs) != 2 {
		w.t.Errorf("%d volumes, want data and token: %v", len(dirs), mounts)
	}
	return dirs
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
