package main

import (
	"strings"
	"testing"

	"github.com/hizo/hizo/api/audit"
)

// Records that no member signed can be written by anybody who holds the export.
func TestVerifyDemandsSignatures(t *testing.T) {
	signers := audit.Signers{"n1": nil, "n2": nil, "n3": nil}
	for _, tt := range []struct {
		name   string
		cmd    auditVerifyCmd
		report audit.Report
		want   string
	}{
		{"signed to the end", auditVerifyCmd{MinSigners: 3}, audit.Report{State: audit.State{Size: 9, Signers: signers}, Checkpoints: 1}, ""},
		{"nothing new behind a known state", auditVerifyCmd{}, audit.Report{State: audit.State{Size: 9, Signers: signers}}, ""},
		{"no checkpoint", auditVerifyCmd{AllowUnsigned: true}, audit.Report{Records: 9, Unsigned: 9}, "no checkpoint"},
		{"records behind it", auditVerifyCmd{}, audit.Report{State: audit.State{Size: 9, Signers: signers}, Checkpoints: 1, Unsigned: 3}, "records 9 to 11"},
		{"records behind it, accepted", auditVerifyCmd{AllowUnsigned: true}, audit.Report{State: audit.State{Size: 9, Signers: signers}, Checkpoints: 1, Unsigned: 3}, ""},
		{"too few signers", auditVerifyCmd{MinSigners: 4}, audit.Report{State: audit.State{Size: 9, Signers: signers}, Checkpoints: 1}, "--min-signers 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cmd.vouched(tt.report)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
