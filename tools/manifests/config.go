package manifests

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// config is what of a node's configuration has to agree with its pod.
type config struct {
	Node    string `json:"node"`
	DataDir string `json:"data_dir"`
	Peers   listen `json:"peers"`
	Clients listen `json:"clients"`
	Observe listen `json:"observe"`
	Seal    struct {
		Type   string `json:"type"`
		PKCS11 struct {
			Module  string `json:"module"`
			PINFile string `json:"pin_file"`
		} `json:"pkcs11"`
	} `json:"seal"`
	Join *struct {
		TokenFile string `json:"token_file"`
	} `json:"join"`
}

type listen struct {
	Listen    string `json:"listen"`
	Advertise string `json:"advertise"`
}

// Environment is what a container of a pod is started with.
func Environment(c corev1.Container, pod, namespace string) ([]string, error) {
	known := map[string]string{}
	var env []string
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			if e.ValueFrom.FieldRef == nil {
				return nil, fmt.Errorf("%s is from something else than the pod", e.Name)
			}
			switch e.ValueFrom.FieldRef.FieldPath {
			case "metadata.name":
				value = pod
			case "metadata.namespace":
				value = namespace
			default:
				return nil, fmt.Errorf("%s is from %s", e.Name, e.ValueFrom.FieldRef.FieldPath)
			}
		}
		value = envReference.ReplaceAllStringFunc(value, func(r string) string { return known[r[2:len(r)-1]] })
		known[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	return env, nil
}

// NodeConfig is what the image's entrypoint makes of the template for one pod, in YAML.
func (o *Objects) NodeConfig(entrypoint, dir string, ordinal int) ([]byte, error) {
	set := o.Sets[0]
	env, err := Environment(set.Spec.Template.Spec.Containers[0], fmt.Sprintf("%s-%d", set.Name, ordinal), set.Namespace)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(entrypoint, "render")
	cmd.Env = append(env, "PATH=/usr/bin:/bin", "HIZO_TEMPLATE="+filepath.Join(dir, "hizod.yaml.in"))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("entrypoint render: %w", err)
	}
	return out, nil
}

// Agrees says where a node's configuration and its pod contradict each other.
func (o *Objects) Agrees(text []byte, ordinal int) []string {
	set := o.Sets[0]
	pod, node := set.Spec.Template.Spec, set.Spec.Template.Spec.Containers[0]
	name := fmt.Sprintf("%s-%d", set.Name, ordinal)
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, name+": "+fmt.Sprintf(format, args...)) }
	var c config
	if err := yaml.Unmarshal(text, &c); err != nil {
		return []string{err.Error()}
	}
	if strings.Contains(string(text), "${") {
		say("something was not put in: %s", text)
	}
	if c.Node != name {
		say("the node calls itself %q", c.Node)
	}
	if joins := c.Join != nil; joins != (ordinal > 0) {
		say("joins is %v", joins)
	}
	domain := fmt.Sprintf("%s.%s.svc", set.Spec.ServiceName, set.Namespace)
	for port, l := range map[string]listen{"clients": c.Clients, "peers": c.Peers, "observe": c.Observe} {
		host, number, _ := net.SplitHostPort(l.Listen)
		if n, err := strconv.Atoi(number); err != nil || host != "0.0.0.0" || !hasNumber(node, port, int32(n)) {
			say("%s listens on %q, and the pod's port of that name is another one", port, l.Listen)
		}
		if want := name + "." + domain + ":" + number; port != "observe" && l.Advertise != want {
			say("%s says it is at %q, and its name is %q", port, l.Advertise, want)
		}
	}
	volume := func(path string) *corev1.VolumeSource {
		m, ok := mount(node, path)
		if !ok {
			say("%s is not on a volume, and nothing else can be written", path)
			return &corev1.VolumeSource{}
		}
		for _, v := range pod.Volumes {
			if v.Name == m.Name {
				return &v.VolumeSource
			}
		}
		return nil // a claim of the set
	}
	if volume(c.DataDir) != nil {
		say("the data are on no volume of their own")
	}
	memory := func(what, path string) {
		if v := volume(path); v == nil || v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumMemory {
			say("%s is on disk", what)
		}
	}
	memory("the PIN", c.Seal.PKCS11.PINFile)
	if c.Join != nil {
		memory("the join token", c.Join.TokenFile)
	}
	if c.Seal.Type != "pkcs11" {
		say("the keys are in %q", c.Seal.Type)
	}
	// Either the token is SoftHSM2's, on a volume that stays, or the library is one that was brought along.
	soft := false
	for _, e := range node.Env {
		soft = soft || e.Name == "HIZO_SOFTHSM" && e.Value == "yes"
	}
	m, mounted := mount(node, c.Seal.PKCS11.Module)
	_, token := mount(node, "/var/lib/hizo-token")
	switch {
	case soft && (mounted || !token || volume("/var/lib/hizo-token") != nil):
		say("a token of SoftHSM2 that is not on a volume of its own, or another library (%s)", c.Seal.PKCS11.Module)
	case !soft && (!mounted || !m.ReadOnly || token):
		say("the library %s is not on a volume that can only be read", c.Seal.PKCS11.Module)
	}
	return bad
}

func hasNumber(c corev1.Container, name string, number int32) bool {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort == number
		}
	}
	return false
}
