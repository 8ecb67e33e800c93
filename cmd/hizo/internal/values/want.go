package values

import (
	"errors"
	"fmt"
	"math"

	"github.com/hizo/hizo/api/inject"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
)

// Want is what one variable is to hold.
type Want struct {
	Name   string
	Ref    *name.Reference      // one of these three
	Lease  *name.LeaseReference //
	Sealed string               // hizo:v1:…
}

// Wanted reports whether a text is a reference or a sealed value, and not a plain value.
func Wanted(text string) bool {
	return name.IsReference(text) || name.IsLeaseReference(text) || seal.Is(text)
}

// Sealed reports whether a text is a sealed value.
func Sealed(text string) bool { return seal.Is(text) }

// ErrPlain says that a text is neither. It does not repeat the text, which may be a secret.
var ErrPlain = errors.New("neither a reference (hizo://VAULT/PATH#FIELD, hizo-lease://VAULT/ROLE#username) nor a sealed value (hizo:v1:…)")

// ParseWant reads what a variable is given as.
func ParseWant(variable, text string) (Want, error) {
	w := Want{Name: variable}
	switch {
	case name.IsReference(text):
		ref, err := name.ParseReference(text)
		if err == nil && ref.Version > math.MaxUint32 {
			err = fmt.Errorf("reference %s: there is no such version", ref)
		}
		w.Ref = &ref
		return w, err
	case name.IsLeaseReference(text):
		ref, err := name.ParseLeaseReference(text)
		w.Lease = &ref
		return w, err
	case seal.Is(text):
		if _, err := seal.Parse(text); err != nil {
			return w, err
		}
		w.Sealed = text
		return w, nil
	}
	return w, ErrPlain
}

// Job is all that one run wants.
type Job struct {
	Execution string // names it in the audit log
	Wants     []Want
	Pipeline  bool // and all variables of the caller's pipeline that are not among Wants
}

// Empty reports whether nothing is wanted.
func (j Job) Empty() bool { return len(j.Wants) == 0 && !j.Pipeline }

// request is for the one audited call. at says where in its references each of Wants is.
func (j Job) request() (r inject.Request, at []int) {
	r = inject.Request{Execution: j.Execution, Pipeline: j.Pipeline}
	index := map[name.Reference]int{}
	for _, w := range j.Wants {
		i := 0
		switch {
		case w.Ref != nil:
			var ok bool
			if i, ok = index[*w.Ref]; !ok {
				i = len(r.References)
				index[*w.Ref] = i
				r.References = append(r.References, *w.Ref)
			}
		case w.Sealed != "":
			i = len(r.Sealed)
			r.Sealed = append(r.Sealed, inject.Sealed{Name: w.Name, Text: w.Sealed})
		}
		at = append(at, i)
	}
	return r, at
}
