package name

import (
	"errors"
	"strings"
	"testing"
)

func TestPipelineNames(t *testing.T) {
	if p, err := ParsePipeline("ml/train"); err != nil || p != (PipelineName{"ml", "train"}) || p.String() != "ml/train" {
		t.Errorf("ml/train is %v, %v", p, err)
	}
	for _, bad := range []string{"", "ml", "ml/", "/train", "ml/a/b", "ML/train", "ml/Train", "ml/..", "ml/ train", "ml/" + strings.Repeat("a", MaxPipeline+1)} {
		if p, err := ParsePipeline(bad); !errors.Is(err, ErrNotCanonical) {
			t.Errorf("%q is %v, %v", bad, p, err)
		}
	}
}

func TestVariables(t *testing.T) {
	for _, good := range []string{"A", "_", "a1_B", strings.Repeat("A", MaxVariable)} {
		if _, err := Variable(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "1A", "A-B", "A=B", "A B", "Ä", "A\x00", strings.Repeat("A", MaxVariable+1)} {
		if _, err := Variable(bad); !errors.Is(err, ErrNotCanonical) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for n, want := range map[string]bool{
		"PATH": true, "HOME": true, "LD_PRELOAD": true, "LC_ALL": true, "DYLD_X": true, "PYTHONPATH": true, "HIZO_TOKEN": true,
		"PGPASSWORD": false, "LDAP_PASSWORD": false, "MY_PATH": false, "path": false,
	} {
		if got := ReservedVariable(n); got != want {
			t.Errorf("%s is reserved: %v", n, got)
		}
	}
}
