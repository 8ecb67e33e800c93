package manifests

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Ports of a node, and who may reach them.
const (
	clientsPort = 7300
	peersPort   = 7301
	observePort = 7903
)

// Cluster says what is wrong with the objects of an overlay that runs nodes.
func (o *Objects) Cluster() []string {
	if len(o.Sets) != 1 || len(o.Namespaces) != 1 {
		return []string{"want one StatefulSet and one Namespace"}
	}
	set := o.Sets[0]
	pod := set.Spec.Template
	if len(pod.Spec.Containers) != 1 {
		return []string{"want one container beside those that start first"}
	}
	bad := slices.Concat(o.sameNamespace(), Restricted("node", pod.Spec), o.References("node", pod.Spec, set.Spec.VolumeClaimTemplates),
		o.selectors(pod.Labels), o.services(), o.disruption(), probes(pod.Spec.Containers[0]), o.network(pod))
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	if o.Namespaces[0].Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		say("the namespace does not demand restricted pods")
	}
	if set.Spec.PodManagementPolicy != "Parallel" {
		say("a cold cluster would wait for its first node for ever: podManagementPolicy is not Parallel")
	}
	if s := pod.Spec.Containers[0].SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		say("the root file system of a node can be written")
	}
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p == nil || p.WhenDeleted != "Retain" || p.WhenScaled != "Retain" {
		say("a node's volumes go with its set")
	}
	if links := pod.Spec.EnableServiceLinks; links == nil || *links {
		say("Kubernetes puts HIZO_* variables of its own into the pods: enableServiceLinks is not false")
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s == nil || *s < 15 {
		say("a node is killed before it has handed leadership over and ended its calls (10 s)")
	}
	return bad
}

func (o *Objects) sameNamespace() []string {
	ns := o.Namespaces[0].Name
	var bad []string
	check := func(kind string, m metav1.ObjectMeta) {
		if m.Namespace != ns {
			bad = append(bad, fmt.Sprintf("%s %s is in namespace %q", kind, m.Name, m.Namespace))
		}
	}
	for _, x := range o.Accounts {
		check("account", x.ObjectMeta)
	}
	for _, x := range o.ConfigMaps {
		check("configuration map", x.ObjectMeta)
	}
	for _, x := range o.Services {
		check("service", x.ObjectMeta)
	}
	for _, x := range o.Sets {
		check("set", x.ObjectMeta)
	}
	for _, x := range o.Disruptions {
		check("disruption budget", x.ObjectMeta)
	}
	for _, x := range o.Policies {
		check("network policy", x.ObjectMeta)
	}
	return bad
}

// selectors: whatever selects pods here means the nodes.
func (o *Objects) selectors(node map[string]string) []string {
	var bad []string
	check := func(what string, selector *metav1.LabelSelector) {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || s.Empty() || !s.Matches(labels.Set(node)) {
			bad = append(bad, fmt.Sprintf("%s selects %q, and a node has %v (%v)", what, s, node, err))
		}
	}
	spec := o.Sets[0].Spec
	check("the set", spec.Selector)
	for _, s := range o.Services {
		check("service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	}
	for _, d := range o.Disruptions {
		check("disruption budget "+d.Name, d.Spec.Selector)
	}
	for _, p := range o.Policies {
		check("network policy "+p.Name, &p.Spec.PodSelector)
	}
	if a := spec.Template.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		for _, term := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			check("anti-affinity by "+term.TopologyKey, term.LabelSelector)
		}
	}
	for _, c := range spec.Template.Spec.TopologySpreadConstraints {
		check("spread by "+c.TopologyKey, c.LabelSelector)
	}
	return bad
}

func (o *Objects) services() []string {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	node := o.Sets[0].Spec.Template.Spec.Containers[0]
	names := false
	for _, s := range o.Services {
		if s.Spec.Type != "" && s.Spec.Type != corev1.ServiceTypeClusterIP {
			say("service %s is reached from outside", s.Name)
		}
		for _, p := range s.Spec.Ports {
			if !hasPort(node, p.TargetPort) {
				say("service %s: port %s leads to %s, which a node does not have", s.Name, p.Name, p.TargetPort.String())
			}
		}
		if s.Name == o.Sets[0].Spec.ServiceName {
			names = s.Spec.ClusterIP == corev1.ClusterIPNone && s.Spec.PublishNotReadyAddresses
			continue
		}
		if s.Spec.PublishNotReadyAddresses {
			say("service %s sends clients to nodes that are not ready", s.Name)
		}
		for _, p := range s.Spec.Ports {
			if p.TargetPort.String() != "clients" {
				say("service %s shows clients port %s", s.Name, p.TargetPort.String())
			}
		}
	}
	if !names {
		say("nodes that are not ready have no names, so they could not unseal each other: the set's service must be headless and publish not-ready addresses")
	}
	return bad
}

// disruption: what may be drained at once leaves a majority.
func (o *Objects) disruption() []string {
	replicas := 1
	if r := o.Sets[0].Spec.Replicas; r != nil {
		replicas = int(*r)
	}
	if replicas < 3 || replicas%2 == 0 {
		return []string{fmt.Sprintf("%d replicas: a cluster has 3, 5 or 7 nodes", replicas)}
	}
	if len(o.Disruptions) != 1 {
		return []string{fmt.Sprintf("%d disruption budgets", len(o.Disruptions))}
	}
	spec := o.Disruptions[0].Spec
	left, majority := 0, replicas/2+1
	var err error
	switch {
	case spec.MaxUnavailable != nil:
		var down int
		down, err = intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, replicas, true)
		left = replicas - down
		if down < 1 {
			return []string{"no machine can be drained: maxUnavailable is below 1"}
		}
	case spec.MinAvailable != nil:
		left, err = intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, replicas, true)
	}
	if err != nil || left < majority {
		return []string{fmt.Sprintf("drained at once, %d of %d nodes are left, and a majority is %d (%v)", left, replicas, majority, err)}
	}
	return nil
}

func probes(c corev1.Container) []string {
	var bad []string
	for what, want := range map[string]struct {
		probe *corev1.Probe
		path  string
	}{
		"startup":   {c.StartupProbe, "/healthz"},
		"liveness":  {c.LivenessProbe, "/healthz"}, // /readyz would have sealed nodes started again for ever
		"readiness": {c.ReadinessProbe, "/readyz"},
	} {
		if want.probe == nil || want.probe.HTTPGet == nil || want.probe.HTTPGet.Path != want.path || want.probe.HTTPGet.Port.String() != "observe" {
			bad = append(bad, fmt.Sprintf("the %s probe does not ask %s on the port observe", what, want.path))
		}
	}
	slices.Sort(bad)
	return bad
}

// network: peers' and clients' ports are apart, and nothing is open that nobody named.
func (o *Objects) network(pod corev1.PodTemplateSpec) []string {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	open := map[int32]bool{} // for somebody
	ingress, egress := false, false
	for _, p := range o.Policies {
		ingress = ingress || slices.Contains(p.Spec.PolicyTypes, netv1.PolicyTypeIngress)
		egress = egress || slices.Contains(p.Spec.PolicyTypes, netv1.PolicyTypeEgress)
		for _, rule := range p.Spec.Ingress {
			if len(rule.From) == 0 || len(rule.Ports) == 0 {
				say("policy %s admits everybody or to every port", p.Name)
			}
			for _, port := range rule.Ports {
				if port.Port == nil || port.Port.Type != intstr.Int || port.EndPort != nil {
					say("policy %s: write ports as numbers", p.Name)
					continue
				}
				open[port.Port.IntVal] = true
				if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.ContainerPort == port.Port.IntVal }) {
					say("policy %s opens port %d, which a node does not have", p.Name, port.Port.IntVal)
				}
				for _, from := range rule.From {
					if why := admits(from, port.Port.IntVal, pod.Labels); why != "" {
						say("policy %s: %s", p.Name, why)
					}
				}
			}
		}
		for _, rule := range p.Spec.Egress {
			if len(rule.To) == 0 || len(rule.Ports) == 0 {
				say("policy %s lets nodes go everywhere", p.Name)
			}
		}
	}
	if !ingress || !egress {
		say("no policy is for both directions")
	}
	for _, c := range pod.Spec.Containers[0].Ports {
		if !open[c.ContainerPort] {
			say("port %s (%d) is open to nobody", c.Name, c.ContainerPort)
		}
	}
	for _, want := range []int32{clientsPort, peersPort, observePort} {
		if !open[want] {
			say("port %d is open to nobody", want)
		}
	}
	return bad
}

// admits says why a peer should not be let in at a port.
func admits(from netv1.NetworkPolicyPeer, port int32, node map[string]string) string {
	own := false // pods of this namespace that are nodes
	if from.PodSelector != nil && from.NamespaceSelector == nil {
		s, err := metav1.LabelSelectorAsSelector(from.PodSelector)
		own = err == nil && !s.Empty() && s.Matches(labels.Set(node))
	}
	switch {
	case from.IPBlock != nil:
		return "admits addresses instead of pods"
	case port == peersPort && !own:
		return "admits others than nodes to the peers' port"
	case port == clientsPort && !own && (from.PodSelector == nil || len(from.PodSelector.MatchLabels)+len(from.PodSelector.MatchExpressions) == 0):
		return "admits every pod to the clients' port"
	case port == observePort && (from.NamespaceSelector == nil || len(from.NamespaceSelector.MatchLabels) == 0):
		return "admits every namespace to the metrics"
	}
	return ""
}
