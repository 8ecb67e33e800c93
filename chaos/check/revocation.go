package check

import (
	"fmt"
	"time"

	"github.com/hizo/hizo/chaos/history"
)

// Revocation checks that no call with a login succeeded that began after the acknowledgement of that login's
// revocation. decided counts the refused calls that prove something.
func Revocation(events []history.Event) (decided int, violations []string) {
	ended := map[string]time.Duration{}
	for _, e := range events {
		if e.Kind == history.Revoke && e.Outcome == history.OK {
			ended[e.Token] = e.Return
		}
	}
	for _, e := range events {
		end, revoked := ended[e.Token]
		if e.Kind != history.UseOf || !revoked || e.Call <= end {
			continue
		}
		if e.Outcome == history.OK {
			violations = append(violations, fmt.Sprintf("revocation: call %d with login %s began %v after its revocation was acknowledged, and succeeded", e.ID, e.Token, e.Call-end))
		} else if e.Reason == "UNAUTHENTICATED" {
			decided++
		}
	}
	return decided, violations
}

// Requests checks that each version of a key was acknowledged to one request only.
func Requests(events []history.Event) (violations []string) {
	owner := map[place]history.Event{}
	for _, e := range events {
		if e.Outcome != history.OK || e.Kind != history.Put && e.Kind != history.CAS {
			continue
		}
		at := place{e.Key, e.Version}
		if other, taken := owner[at]; taken {
			violations = append(violations, fmt.Sprintf("once: version %d of %s was acknowledged to request %s and to request %s", e.Version, e.Key, other.Request, e.Request))
		}
		owner[at] = e
	}
	return violations
}
