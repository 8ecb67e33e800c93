package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const dir = "../../deploy/kubernetes"

func load(t *testing.T) filesys.FileSystem {
	t.Helper()
	files, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// check renders everything and returns what is wrong with it, errors of rendering included.
func check(t *testing.T, files filesys.FileSystem) []string {
	t.Helper()
	entrypoint, err := filepath.Abs("../../deploy/compose/entrypoint")
	if err != nil {
		t.Fatal(err)
	}
	var bad []string
	var trial *Objects
	for _, overlay := range []string{"trial", "hsm"} {
		o, err := Render(files, overlay)
		if err != nil {
			return []string{overlay + ": " + err.Error()}
		}
		found := o.Cluster()
		if len(o.Sets) == 1 && len(o.Sets[0].Spec.Template.Spec.Containers) == 1 {
			found = append(found, nodes(t, o, entrypoint)...)
		}
		for _, b := range found {
			bad = append(bad, overlay+": "+b)
		}
		if overlay == "trial" {
			trial = o
		}
	}
	job, err := Render(files, "job")
	if err != nil {
		return append(bad, "job: "+err.Error())
	}
	return append(bad, job.Job(trial)...)
}

func nodes(t *testing.T, o *Objects, entrypoint string) []string {
	t.Helper()
	temp := t.TempDir() // the template as the pod has it, which is from the rendered map
	var bad []string
	for _, m := range o.ConfigMaps {
		for name, text := range m.Data {
			write(t, filepath.Join(temp, name), text)
		}
	}
	for i := range int(*o.Sets[0].Spec.Replicas) {
		text, err := o.NodeConfig(entrypoint, temp, i)
		if err != nil {
			return []string{err.Error()}
		}
		bad = append(bad, o.Agrees(text, i)...)
	}
	return bad
}

func TestShipped(t *testing.T) {
	for _, b := range check(t, load(t)) {
		t.Error(b)
	}
}

// Each of these mistakes was made on purpose, and has to be found.
func TestMistakesAreFound(t *testing.T) {
	const set, net, svc, pdb = "base/statefulset.yaml", "base/network.yaml", "base/services.yaml", "base/disruption.yaml"
	for _, m := range []struct{ file, old, new, want string }{
		{set, "podManagementPolicy", "podManagmentPolicy", `unknown field "podManagmentPolicy"`},
		{set, "replicas: 3", `replicas: "3"`, "cannot unmarshal string"},
		{set, "replicas: 3", "replicas: 4", "4 replicas"},
		{set, "Parallel #", "OrderedReady #", "cold cluster"},
		{set, "whenDeleted: Retain", "whenDeleted: Delete", "volumes go with its set"},
		{set, "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"},
		{set, "terminationGracePeriodSeconds: 30", "terminationGracePeriodSeconds: 5", "killed before"},
		{set, "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"},
		{set, "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "no seccomp"},
		{set, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "can be written"},
		{set, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "may gain privileges"},
		{set, "drop: [ALL]", "drop: [NET_RAW]", "has capabilities"},
		{set, "limits: {memory: 1Gi}", "limits: {cpu: 1}", "no limit or request of memory"},
		{set, "emptyDir: {medium: Memory, sizeLimit: 1Mi}", "emptyDir: {sizeLimit: 1Mi}", "PIN is on disk"},
		{set, "emptyDir: {medium: Memory, sizeLimit: 1Mi}", "hostPath: {path: /run}", "kind that is not allowed"},
		{set, "serviceName: hizo-peers", "serviceName: hizo", "no names"},
		{set, "value: hizo-peers.$(HIZO_NAMESPACE).svc", "value: hizo.$(HIZO_NAMESPACE).svc", "its name is"},
		{set, "$(HIZO_NAMESPACE)", "$(NAMESPACE)", "not set before it"},
		{set, "subPathExpr: $(HIZO_NODE)", "subPathExpr: $(NODE)", "which is not set"},
		{set, "value: hizo-0", "value: hizo-9", "joins is true"},
		{set, "{path: /healthz, port: observe}\n            periodSeconds: 10", "{path: /readyz, port: observe}\n            periodSeconds: 10", "liveness probe does not ask /healthz"},
		{set, "{path: /readyz, port: observe}", "{path: /readyz, port: health}", "asks port health"},
		{set, "containerPort: 7301", "containerPort: 7302", "peers listens on"},
		{set, "labels: {app.kubernetes.io/name: hizo}\n    spec:", "labels: {app.kubernetes.io/name: hizod}\n    spec:", "the set selects"},
		{set, "configMap: {name: hizo-config}", "configMap: {name: config}", "configuration map config, which is not there"},
		{set, "{name: config, mountPath: /etc/hizo, readOnly: true}", "{name: conf, mountPath: /etc/hizo, readOnly: true}", "mounts conf"},
		{set, "serviceAccountName: hizo", "serviceAccountName: default", `service account "default"`},
		{set, "{name: data, mountPath: /var/lib/hizo}", "{name: data, mountPath: /data}", "not on a volume"},
		{pdb, "maxUnavailable: 1", "maxUnavailable: 2", "1 of 3 nodes are left"},
		{pdb, "maxUnavailable: 1", "maxUnavailable: 0", "no machine can be drained"},
		{pdb, "maxUnavailable: 1", "maxUnavailable: 50%", "1 of 3 nodes are left"},
		{pdb, "matchLabels: {app.kubernetes.io/name: hizo}", "matchLabels: {app: hizo}", "disruption budget hizo selects"},
		{svc, "publishNotReadyAddresses: true", "publishNotReadyAddresses: false", "unseal each other"},
		{svc, "targetPort: peers", "targetPort: raft", "leads to raft"},
		{svc, "  name: hizo\nspec:\n  clusterIP: None", "  name: hizo\nspec:\n  type: LoadBalancer", "reached from outside"},
		{svc, "  name: hizo\nspec:\n  clusterIP: None", "  name: hizo\nspec:\n  publishNotReadyAddresses: true", "not ready"},
		{net, "        - {protocol: TCP, port: 7300}\n        - {protocol: TCP, port: 7301}\n  egress", "        - {protocol: TCP, port: 7300}\n  egress", "7301) is open to nobody"},
		{net, "            matchLabels: {hizo-client: \"true\"}\n      ports:\n        - {protocol: TCP, port: 7300}", "            matchLabels: {hizo-client: \"true\"}\n      ports:\n        - {protocol: TCP, port: 7301}", "admits others than nodes"},
		{net, "matchLabels: {hizo-client: \"true\"}", "{}", "admits every pod"},
		{net, "matchLabels: {kubernetes.io/metadata.name: monitoring}", "{}", "admits every namespace"},
		{net, "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "both directions"},
		{net, "    - to:\n        - namespaceSelector:\n            matchLabels: {kubernetes.io/metadata.name: kube-system}\n      ports", "    - ports", "go everywhere"},
		{"base/namespace.yaml", "enforce: restricted", "enforce: baseline", "does not demand restricted"},
		{"base/hizod.yaml.in", "pin_file: /run/hizo/pin", "pin_file: /var/lib/hizo/pin", "PIN is on disk"},
		{"base/hizod.yaml.in", "${NODE}.${DOMAIN}:7301", "${NODE}.${ZONE}:7301", "not put in"},
		{"base/hizod.yaml.in", "type: pkcs11", "type: software", `keys are in "software"`},
		{"trial/kustomization.yaml", `value: "yes"`, `value: "no"`, "not on a volume that can only be read"},
		{"trial/kustomization.yaml", "registry.example.com/hizo #", "hizo #", "no image of a registry"},
		{"hsm/vendor.yaml", "mountPath: /opt/hsm, readOnly: true", "mountPath: /opt/hsm", "can only be read"},
		{"hsm/vendor.yaml", "/opt/hsm/lib/", "/usr/lib/", "is not on a volume"},
		{"job/job.yaml", "path: token\n", "path: jwt\n", "no token is projected"},
		{"job/job.yaml", "audience: hizo:", "audience: vault:", "audience is"},
		{"job/job.yaml", "hizo.hizo.svc:7300", "hizo-peers.hizo.svc:7300", "no service of the cluster"},
		{"job/job.yaml", `hizo-client: "true"`, `hizo-client: "yes"`, "keep it out"},
		{"job/job.yaml", "/etc/hizo/ca.pem", "/etc/hizo/ca.crt", "not in the configuration map"},
		{"job/job.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"},
	} {
		t.Run(m.want, func(t *testing.T) {
			files := load(t)
			text, err := files.ReadFile("/" + m.file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(text), m.old) < 1 {
				t.Fatalf("%s has no %q", m.file, m.old)
			}
			if err := files.WriteFile("/"+m.file, []byte(strings.Replace(string(text), m.old, m.new, 1))); err != nil {
				t.Fatal(err)
			}
			bad := check(t, files)
			if !strings.Contains(strings.Join(bad, "\n"), m.want) {
				t.Errorf("%s with %q instead of %q: want %q, found %q", m.file, m.new, m.old, m.want, bad)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
