package manifests

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// tokenFile is where `hizo login --kubernetes` looks for the pod's token.
const tokenFile = "/var/run/secrets/hizo/token"

var audience = regexp.MustCompile(`^hizo:[0-9a-f]{32}$`)

// Job says why a job would not get its secrets from a cluster.
func (o *Objects) Job(cluster *Objects) []string {
	if len(o.Jobs) != 1 || len(cluster.Sets) != 1 {
		return []string{"want one job and one cluster"}
	}
	pod := o.Jobs[0].Spec.Template
	bad := slices.Concat(Restricted("job", pod.Spec), o.References("job", pod.Spec, nil))
	say := func(format string, args ...any) { bad = append(bad, "job: "+fmt.Sprintf(format, args...)) }
	c := pod.Spec.Containers[0]
	if !slices.Contains(c.Command, "--kubernetes") {
		say("does not log in by its pod's token")
	}

	m, _ := mount(c, tokenFile)
	found := false
	for _, v := range pod.Spec.Volumes {
		if v.Name != m.Name || v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if t := s.ServiceAccountToken; t != nil && m.MountPath+"/"+t.Path == tokenFile {
				found = true
				if !audience.MatchString(t.Audience) {
					say("the token's audience is %q, and a cluster's is hizo: and its id", t.Audience)
				}
				if t.ExpirationSeconds == nil || *t.ExpirationSeconds > 3600 {
					say("the token lives longer than an hour")
				}
			}
		}
	}
	if !found {
		say("no token is projected to %s", tokenFile)
	}

	env, err := Environment(c, "", "")
	if err != nil {
		say("%v", err)
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "HIZO_ADDRS":
			for addr := range strings.SplitSeq(value, ",") {
				if !cluster.reached(addr) {
					say("%s is no service of the cluster for clients", addr)
				}
			}
		case "HIZO_CACERT":
			ca, ok := mount(c, value)
			for _, v := range pod.Spec.Volumes {
				if v.Name == ca.Name && v.ConfigMap != nil {
					for _, cm := range o.ConfigMaps {
						if _, has := cm.Data[strings.TrimPrefix(value, ca.MountPath+"/")]; cm.Name == v.ConfigMap.Name && !has {
							say("%s is not in the configuration map", value)
						}
					}
				}
			}
			if !ok {
				say("%s is not mounted", value)
			}
		}
	}
	if !cluster.admitted(pod.Labels) {
		say("the cluster's network policies keep it out: its labels are %v", pod.Labels)
	}
	return bad
}

// reached: is this a service for clients?
func (o *Objects) reached(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	for _, s := range o.Services {
		if err == nil && host == s.Name+"."+s.Namespace+".svc" && !s.Spec.PublishNotReadyAddresses {
			for _, p := range s.Spec.Ports {
				if fmt.Sprint(p.Port) == port {
					return true
				}
			}
		}
	}
	return false
}

// admitted: does a policy let pods with these labels, of any namespace, reach the clients' port?
func (o *Objects) admitted(pod map[string]string) bool {
	for _, p := range o.Policies {
		for _, rule := range p.Spec.Ingress {
			at := slices.ContainsFunc(rule.Ports, func(p netv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.IntVal == clientsPort })
			for _, from := range rule.From {
				if from.NamespaceSelector == nil || len(from.NamespaceSelector.MatchLabels) > 0 || from.PodSelector == nil {
					continue
				}
				s, err := metav1.LabelSelectorAsSelector(from.PodSelector)
				if at && err == nil && s.Matches(labels.Set(pod)) {
					return true
				}
			}
		}
	}
	return false
}
