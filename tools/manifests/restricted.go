package manifests

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Restricted says where a pod is less than the Pod Security Standard "restricted" demands, and two things more that these
// pods can do: a read-only root file system (writable where the job is not ours) and no token of the API server.
// https://kubernetes.io/docs/concepts/security/pod-security-standards/
func Restricted(name string, pod corev1.PodSpec) []string {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, name+": "+fmt.Sprintf(format, args...)) }
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		say("shares a namespace of its machine")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		say("gets a token of the API server")
	}
	sc := pod.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
	}
	if sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.RunAsUser == nil || *sc.RunAsUser == 0 {
		say("may run as root")
	}
	if sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		say("has no seccomp profile")
	}
	for _, v := range pod.Volumes {
		s := v.VolumeSource
		if s.ConfigMap == nil && s.Secret == nil && s.EmptyDir == nil && s.Projected == nil && s.PersistentVolumeClaim == nil && s.CSI == nil {
			say("volume %s is of a kind that is not allowed", v.Name)
		}
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		s := c.SecurityContext
		if s == nil {
			s = &corev1.SecurityContext{}
		}
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Privileged != nil && *s.Privileged {
			say("container %s may gain privileges", c.Name)
		}
		if s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			say("container %s has capabilities", c.Name)
		}
		if s.RunAsUser != nil && *s.RunAsUser == 0 || s.RunAsNonRoot != nil && !*s.RunAsNonRoot || s.SeccompProfile != nil || s.ProcMount != nil {
			say("container %s loosens what the pod says", c.Name)
		}
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				say("container %s takes a port of its machine", c.Name)
			}
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() {
			say("container %s has no limit or request of memory", c.Name)
		}
	}
	return bad
}
