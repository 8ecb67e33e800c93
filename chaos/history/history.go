// Package history records what clients of a chaos run asked for and what they were told: one line of JSON for each
// call, written as it ends, so that a run that dies leaves what it saw.
package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Outcome of a call, as the client may rely on it.
type Outcome string

// Outcomes.
const (
	OK      Outcome = "ok"
	No      Outcome = "no"      // a definite refusal: the call had no effect
	Unknown Outcome = "unknown" // it may have taken effect, or may still
)

// Kinds of call.
const (
	Put    = "put"
	CAS    = "cas"
	Reveal = "reveal"
	Inject = "inject"
	Login  = "login"
	Revoke = "revoke"
	UseOf  = "use" // a reveal whose point is its token
	Rotate = "rotate"
	Backup = "backup"

	Lease      = "lease"       // a user was made; Token names the lease
	LeaseLogin = "lease-login" // that user logs in at its server
	LeaseRenew = "lease-renew"
	LeaseEnd   = "lease-end" // revoked

	// What watches tell. They are no calls: their outcome is always OK.
	WatchStart = "watch-start" // where it begins
	WatchAgain = "watch-again" // it is opened again from its cursor
	WatchReset = "watch-reset" // it starts over: what was between is not told
	Told       = "told"        // a put
	WatchEnd   = "watch-end"   // it ended by itself; Reason says why
)

// Event is one call.
type Event struct {
	ID     int
	Client string
	Kind   string
	Key    string `json:",omitempty"` // vault/path
	// Value written or released. The values are random and made for the run.
	Value string `json:",omitempty"`
	// CAS is the version that a compare-and-set demands.
	CAS     uint32 `json:",omitempty"`
	Version uint32 `json:",omitempty"` // written or released
	Audit   uint64 `json:",omitempty"` // sequence of the record of a release
	Token   string `json:",omitempty"` // name of the login that the call used, or ended
	Request string `json:",omitempty"`

	Call, Return time.Duration // since the run's start; Return is 0 for a call that never came back
	Outcome      Outcome
	Reason       string `json:",omitempty"`
}

// Recorder is safe for concurrent use.
type Recorder struct {
	start time.Time

	mu     sync.Mutex
	file   *os.File
	out    *bufio.Writer
	events []Event
	open   map[int]Event
	next   int
}

// NewRecorder writes to a new file.
func NewRecorder(path string) (*Recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Recorder{start: time.Now(), file: f, out: bufio.NewWriter(f), open: map[int]Event{}}, nil
}

// Now is the time since the run's start.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// Begin notes that a call is about to be made.
func (r *Recorder) Begin(e Event) Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.ID = r.next
	r.next++
	e.Call = time.Since(r.start)
	r.open[e.ID] = e
	return e
}

// End notes what came of it.
func (r *Recorder) End(e Event) {
	e.Return = time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, e.ID)
	r.events = append(r.events, e)
	line, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("history: %v", err)) // no field of Event can't be encoded
	}
	_, _ = r.out.Write(append(line, '\n')) // Close reports
}

// Close ends the file and returns everything. Calls still under way are unknown.
func (r *Recorder) Close() ([]Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.open {
		e.Outcome = Unknown
		r.events = append(r.events, e)
	}
	clear(r.open)
	if err := r.out.Flush(); err != nil {
		return nil, err
	}
	return r.events, r.file.Close()
}

// Read reads a history back, to check it again.
func Read(in io.Reader) ([]Event, error) {
	var events []Event
	dec := json.NewDecoder(in)
	for {
		var e Event
		if err := dec.Decode(&e); err == io.EOF {
			return events, nil
		} else if err != nil {
			return events, fmt.Errorf("history, call %d: %w", len(events), err)
		}
		events = append(events, e)
	}
}
