package manifests

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var envReference = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// References says what a pod names that is not there: volumes, keys of configuration maps, ports, variables. Claims are the
// volumes that a StatefulSet makes for it.
func (o *Objects) References(name string, pod corev1.PodSpec, claims []corev1.PersistentVolumeClaim) []string {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, name+": "+fmt.Sprintf(format, args...)) }
	volumes := map[string]bool{}
	for _, c := range claims {
		volumes[c.Name] = true
	}
	for _, v := range pod.Volumes {
		if volumes[v.Name] {
			say("volume %s is there twice", v.Name)
		}
		volumes[v.Name] = true
		if v.ConfigMap != nil && !slices.ContainsFunc(o.ConfigMaps, func(m corev1.ConfigMap) bool { return m.Name == v.ConfigMap.Name }) {
			say("volume %s is of the configuration map %s, which is not there", v.Name, v.ConfigMap.Name)
		}
	}
	if !slices.ContainsFunc(o.Accounts, func(a corev1.ServiceAccount) bool { return a.Name == pod.ServiceAccountName }) {
		say("service account %q is not there", pod.ServiceAccountName)
	}
	used := map[string]bool{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if !strings.Contains(c.Image, "/") || !strings.Contains(path.Base(c.Image), ":") {
			say("container %s: image %q is no image of a registry with a tag", c.Name, c.Image)
		}
		known := map[string]bool{}
		for _, e := range c.Env {
			for _, m := range envReference.FindAllStringSubmatch(e.Value, -1) {
				if !known[m[1]] {
					say("container %s: %s refers to %s, which is not set before it", c.Name, e.Name, m[1])
				}
			}
			if known[e.Name] {
				say("container %s: %s is set twice", c.Name, e.Name)
			}
			known[e.Name] = true
		}
		where := map[string]bool{}
		for _, m := range c.VolumeMounts {
			used[m.Name] = true
			if !volumes[m.Name] {
				say("container %s mounts %s, which is not there", c.Name, m.Name)
			}
			if where[m.MountPath] {
				say("container %s mounts two volumes at %s", c.Name, m.MountPath)
			}
			where[m.MountPath] = true
			for _, r := range envReference.FindAllStringSubmatch(m.SubPathExpr, -1) {
				if !known[r[1]] {
					say("container %s: the mount of %s refers to %s, which is not set", c.Name, m.Name, r[1])
				}
			}
		}
		for what, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
			if p != nil && p.HTTPGet != nil && !hasPort(c, p.HTTPGet.Port) {
				say("container %s: the %s probe asks port %s, which is not there", c.Name, what, p.HTTPGet.Port.String())
			}
		}
	}
	for v := range volumes {
		if !used[v] {
			say("volume %s is not mounted", v)
		}
	}
	slices.Sort(bad)
	return bad
}

func hasPort(c corev1.Container, p intstr.IntOrString) bool {
	return slices.ContainsFunc(c.Ports, func(have corev1.ContainerPort) bool {
		return p.Type == intstr.String && have.Name == p.StrVal || p.Type == intstr.Int && have.ContainerPort == p.IntVal
	})
}

// mount returns where a container has a path: the volume and the mount, the longest that fits.
func mount(c corev1.Container, file string) (corev1.VolumeMount, bool) {
	var best corev1.VolumeMount
	for _, m := range c.VolumeMounts {
		if (file == m.MountPath || strings.HasPrefix(file, m.MountPath+"/")) && len(m.MountPath) > len(best.MountPath) {
			best = m
		}
	}
	return best, best.Name != ""
}
