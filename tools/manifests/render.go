// Package manifests renders what is in deploy/kubernetes as `kubectl kustomize` does and checks it without a cluster: every
// object is decoded strictly into the type that the API server has for it, and then the objects are checked against each
// other. It is a module of its own because nothing else needs Kubernetes' packages.
package manifests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Objects is what one directory renders to.
type Objects struct {
	Namespaces  []corev1.Namespace
	Accounts    []corev1.ServiceAccount
	ConfigMaps  []corev1.ConfigMap
	Services    []corev1.Service
	Sets        []appsv1.StatefulSet
	Jobs        []batchv1.Job
	Disruptions []policyv1.PodDisruptionBudget
	Policies    []netv1.NetworkPolicy
}

// Load copies a directory into memory, where tests can change it.
func Load(dir string) (filesys.FileSystem, error) {
	mem := filesys.MakeFsInMemory()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return mem.WriteFile("/"+filepath.ToSlash(rel), data)
	})
	return mem, err
}

// Render builds an overlay and decodes what comes out. A field that the type does not have, one that is there twice and a
// kind that this package does not check are errors.
func Render(files filesys.FileSystem, overlay string) (*Objects, error) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, "/"+overlay)
	if err != nil {
		return nil, err
	}
	var all Objects
	for _, r := range made.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		id := r.GetApiVersion() + " " + r.GetKind()
		switch id {
		case "v1 Namespace":
			err = decode(text, &all.Namespaces)
		case "v1 ServiceAccount":
			err = decode(text, &all.Accounts)
		case "v1 ConfigMap":
			err = decode(text, &all.ConfigMaps)
		case "v1 Service":
			err = decode(text, &all.Services)
		case "apps/v1 StatefulSet":
			err = decode(text, &all.Sets)
		case "batch/v1 Job":
			err = decode(text, &all.Jobs)
		case "policy/v1 PodDisruptionBudget":
			err = decode(text, &all.Disruptions)
		case "networking.k8s.io/v1 NetworkPolicy":
			err = decode(text, &all.Policies)
		default:
			err = fmt.Errorf("nothing here checks this kind")
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", id, r.GetName(), err)
		}
	}
	return &all, nil
}

func decode[T any](text []byte, list *[]T) error {
	var object T
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		return err
	}
	*list = append(*list, object)
	return nil
}
