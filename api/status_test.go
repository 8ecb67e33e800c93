package api

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hizo/hizo/api/auth"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/policy"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/crypto/hybrid"
	"github.com/hizo/hizo/crypto/keyring"
	"github.com/hizo/hizo/crypto/shares"
	"github.com/hizo/hizo/fsm"
)

// Every outcome of Apply has one row of the table.
func TestEveryOutcomeIsInTheTable(t *testing.T) {
	for code := fsm.CodeOK + 1; code <= fsm.CodeLevel; code++ {
		rows := 0
		for _, r := range reasons {
			if slices.Contains(r.codes, code) {
				rows++
			}
		}
		if rows != 1 {
			t.Errorf("code %d is in %d rows, want 1", code, rows)
		}
	}
	if outcome(fsm.Result{Code: fsm.CodeOK}) != nil {
		t.Error("CodeOK is an error")
	}
	if got := outcome(fsm.Result{Code: 200}); toError(got).Reason != hizov1.ReasonInternal {
		t.Errorf("an unknown code: %v", got)
	}
}

// Every reason that clients are promised has a row, and each row says what to do next.
func TestEveryReasonIsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("hizov1", "meta.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	promised := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
			promised[strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)] = true
		}
		return true
	})
	for r := range promised {
		row, ok := reasons[r]
		if !ok {
			t.Errorf("%s has no row", r)
			continue
		}
		if row.code == codes.OK {
			t.Errorf("%s has no gRPC code", r)
		}
		// Two halves: what happened, and what to do.
		if !strings.Contains(row.next, ":") && r != hizov1.ReasonCancelled {
			t.Errorf("%s does not say what to do next: %q", r, row.next)
		}
		s := status.Convert((&Error{Reason: r, Info: map[string]string{"k": "v"}}).GRPCStatus().Err())
		info, ok := s.Details()[0].(*errdetails.ErrorInfo)
		if !ok || info.GetReason() != r || info.GetDomain() != "hizo" || info.GetMetadata()["k"] != "v" || s.Code() != row.code || s.Message() == "" {
			t.Errorf("%s on the wire: %v", r, s)
		}
	}
	for r := range reasons {
		if !promised[r] {
			t.Errorf("%s is in the table but no promise to clients", r)
		}
	}
	if len(promised) < 25 {
		t.Errorf("only %d reasons found", len(promised))
	}
}

// internal are the sentinels that mean a fault of ours, or of the disk, and that no request should meet:
// the client learns that, and the log the rest.
var internal = map[string][]string{
	"../cluster": {
		"ErrCommand", "ErrCheckpoint", "ErrTooOld",
		"ErrInterrupted", "ErrNotThisBackup", "ErrRolledBack", "ErrRootMoved", // of backups and hizod restore
		"ErrRecoveryBegun", "ErrQuorumThere", "ErrNotNewest", "ErrReport", "ErrRecoveryPlan", // of hizod recover
		"ErrNoNodeSet", "ErrRootRotation", // of duties and node-to-node calls
		"ErrNotThisBackup", "ErrRolledBack", "ErrInterrupted", "ErrRestoreTime", // of hizod restore
	},
	"auth":              {"ErrPasswordHash"},
	"name":              {},
	"policy":            {},
	"../crypto/keyring": {"ErrNoKey", "ErrMAC", "ErrPurpose", "ErrAuth", "ErrRoot", "ErrContext", "ErrOpen", "ErrCluster"},
	"../crypto/hybrid":  {"ErrOpen"},
	"../crypto/shares":  {"ErrTooFew", "ErrProof"},
}

// Every exported sentinel of the packages that the services call is in the table, or named as internal.
func TestEverySentinelIsInTheTable(t *testing.T) {
	known := map[string][]error{
		"../cluster": {
			cluster.ErrSealed, cluster.ErrNotInitialised, cluster.ErrAlreadyInitialised, cluster.ErrOverloaded, cluster.ErrTooLarge,
			cluster.ErrClockSkew, cluster.ErrShutdown, cluster.ErrNotAllowed, cluster.ErrJoinToken, cluster.ErrUnknownMember, cluster.ErrCSR,
			cluster.ErrNoRecipients, cluster.ErrHandOver, cluster.ErrRootMoved, cluster.ErrUnvouched,
		},
		"auth":              {auth.ErrMalformedToken, auth.ErrWeakPassword, auth.ErrBusy},
		"name":              {name.ErrNotCanonical},
		"policy":            {policy.ErrTooMany, policy.ErrDuplicate},
		"../crypto/keyring": {keyring.ErrClosed, keyring.ErrOtherRoot},
		"../crypto/hybrid":  {hybrid.ErrPublicKey},
		"../crypto/shares": {
			shares.ErrText, shares.ErrFormat, shares.ErrOtherCluster, shares.ErrOtherSet, shares.ErrOtherDeal,
			shares.ErrWrongShare, shares.ErrDuplicateShare, shares.ErrThreshold, shares.ErrRecipient,
		},
	}
	for dir, errs := range known {
		for _, err := range errs {
			if got := toError(fmt.Errorf("wrapped: %w", err)); got.Reason == hizov1.ReasonInternal {
				t.Errorf("%s: %q is an internal error to clients", dir, err)
			}
		}
		declared := sentinels(t, dir)
		if len(declared) == 0 {
			t.Errorf("%s: no sentinels found", dir)
		}
		covered := len(errs)
		for _, n := range declared {
			if slices.Contains(internal[dir], n) {
				covered++
			}
		}
		if covered != len(declared) {
			t.Errorf("%s declares %v: %d of %d are in the table or named as internal", dir, declared, covered, len(declared))
		}
	}
}

func sentinels(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, f.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(n.Name, "Err") {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestTypedErrors(t *testing.T) {
	e := toError(&cluster.NotLeaderError{Leader: cluster.LeaderInfo{ID: "n2", ClientAddr: "n2:8443"}})
	if e.Reason != hizov1.ReasonNotLeader || e.Info[hizov1.InfoLeaderID] != "n2" || e.Info[hizov1.InfoLeaderAddr] != "n2:8443" {
		t.Errorf("%+v", e)
	}
	if e := toError(&cluster.UnknownOutcomeError{Err: errors.New("x")}); e.Reason != hizov1.ReasonUnknownOutcome || reasons[e.Reason].code != codes.Unknown {
		t.Errorf("%+v", e)
	}
	if e := toError(&shares.WrongShareError{Index: 3}); e.Reason != hizov1.ReasonWrongShare || e.Info[hizov1.InfoIndex] != "3" {
		t.Errorf("%+v", e)
	}
	if e := toError(outcome(fsm.Result{Code: fsm.CodeConflict, Version: 7})); e.Info[hizov1.InfoCurrentVersion] != "7" {
		t.Errorf("%+v", e)
	}
	if err := policy.Validate("p", "permit("); toError(err).Reason != hizov1.ReasonInvalid || !strings.Contains(toError(err).Error(), "line") {
		t.Errorf("%+v", toError(err))
	}
	secret := errors.New("hunter2")
	if e := toError(secret); e.Reason != hizov1.ReasonInternal || strings.Contains(e.Error(), "hunter2") || strings.Contains(e.GRPCStatus().String(), "hunter2") {
		t.Errorf("an unknown error's text reaches the client: %v", e)
	}
	if toError(nil) != nil {
		t.Error("nil is an error")
	}
}
