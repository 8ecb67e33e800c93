package main

import (
	"slices"
	"strings"
)

// A layer is a set of packages that the import direction treats alike: a folder of the
// repository and what lies below it, unless a longer layer name matches.
type layer string

// mayImport is the whole rule, in the direction
//
//	cmd, chaos → api → cluster → fsm;  cluster → crypto
//
// What a layer may reach indirectly it may also import directly. crypto, transport, fsm and
// api/hizov1 import none of the others. cluster takes raft.Transport as an interface, so
// transport is joined to it by cmd alone, and by clustertest, the kit that starts whole
// clusters for tests; apitest puts the API on top of that. A layer may always import itself.
var mayImport = map[layer][]layer{
	"cmd":                 {"api", "api/hizov1", "cluster", "crypto", "fsm", "transport"},
	"chaos":               {"api", "api/apitest", "api/hizov1", "chaos/check", "chaos/history", "cluster", "cluster/clustertest", "crypto", "fsm", "transport"},
	"chaos/check":         {"api", "chaos/history", "cluster", "fsm"},
	"chaos/history":       {},
	"api":                 {"api/hizov1", "cluster", "crypto", "fsm", "transport"},
	"api/apitest":         {"api", "api/hizov1", "cluster", "cluster/clustertest", "crypto", "fsm", "transport"},
	"api/hizov1":          {},
	"cluster":             {"crypto", "fsm"},
	"cluster/clustertest": {"cluster", "crypto", "fsm", "transport"},
	"crypto":              {},
	"transport":           {},
	"fsm":                 {},
	"deploy":              {},
}

// mayImportInTests is allowed to _test.go files on top of mayImport.
var mayImportInTests = map[layer][]layer{
	"cmd": {"api/apitest", "cluster/clustertest"},
	"api": {"api/apitest", "cluster/clustertest"},
	// The fast chaos harness needs what cluster does not export, and is judged by the checkers of the other one.
	"cluster": {"cluster/clustertest", "transport", "chaos/check", "chaos/history"},
}

// onlyIn keeps packages that need cgo out of everything but the two that are made of them (the seal, and
// the provisioning of SoftHSM tokens), and those out of everything but the server: the CLI is built with
// CGO_ENABLED=0. Tests may import ours anywhere.
// Keys are import paths, matched with everything below them; values are folders.
var onlyIn = map[string][]string{
	"C":                               {"crypto/seal/pkcs11"},
	"github.com/ThalesGroup/crypto11": {"crypto/seal/pkcs11"},
	"github.com/miekg/pkcs11":         {"crypto/seal/pkcs11", "crypto/seal/softhsm"},
	"github.com/prometheus":           {"api/observe"},
	"go.opentelemetry.io":             {"api/observe"},
	module + "/crypto/seal/pkcs11":    {"crypto/seal/pkcs11", "cmd/hizod", "chaos"},
	module + "/crypto/seal/softhsm":   {"crypto/seal/softhsm", "cmd/hizod", "chaos"},
}

// module is the path that go.mod gives this repository.
const module = "github.com/hizo/hizo"

// layerOf returns the layer of a folder, "" where the layout of the repository knows none.
func layerOf(folder string) layer {
	best := layer("")
	for l := range mayImport {
		if within(folder, string(l)) && len(l) > len(best) {
			best = l
		}
	}
	return best
}

// within reports whether path is base or lies below it.
func within(path, base string) bool {
	return path == base || strings.HasPrefix(path, base+"/")
}

// breach says why a file in folder must not import path; "" means that it may.
func breach(folder string, test bool, path string) string {
	for restricted, homes := range onlyIn {
		if !within(path, restricted) {
			continue
		}
		allowed := test && within(restricted, module)
		for _, home := range homes {
			allowed = allowed || within(folder, home)
		}
		if !allowed {
			return "only " + strings.Join(homes, ", ") + " may import it (it needs cgo)"
		}
	}
	if path == module {
		return "the repository's root is not a package"
	}
	target, ours := strings.CutPrefix(path, module+"/")
	if !ours {
		return ""
	}
	from, to := layerOf(folder), layerOf(target)
	switch {
	case from == "":
		return "folder " + folder + " is not part of the layout; name it in tools/importrule/rule.go"
	case to == "":
		return "folder " + target + " is not part of the layout; name it in tools/importrule/rule.go"
	case from == to, slices.Contains(mayImport[from], to), test && slices.Contains(mayImportInTests[from], to):
		return ""
	}
	return "imports go cmd, chaos → api → cluster → fsm and cluster → crypto; " +
		string(from) + " must not import " + string(to)
}
