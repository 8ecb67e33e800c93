package logstore

import (
	"fmt"
	"time"
)

// StalledError is why a process ended that could not write its log.
type StalledError struct {
	Path  string
	What  string
	After time.Duration
}

func (e *StalledError) Error() string {
	return fmt.Sprintf("raft log %s: the disk did not finish a write (%s the log) within %s: this node stops so that another can lead; check the disk, then start it again", e.Path, e.What, e.After)
}

// guard runs a write that must end within the deadline. A leader whose disk
// hangs keeps sending heartbeats from another goroutine, so that nobody replaces
// it, while its main loop sits in StoreLogs and can be told nothing (raft issues
// 503 and 666). Returning an error instead would let the abandoned write land
// later, below newer terms. So the timer's goroutine ends the process, and the
// write never returns.
func (s *Store) guard(what string, write func() error) error {
	timer := time.AfterFunc(s.deadline, func() {
		s.exit(&StalledError{Path: s.path, What: what, After: s.deadline})
	})
	err := write()
	if !timer.Stop() {
		select {} // the process is ending
	}
	return err
}

// fatal ends the process from the writing goroutine itself.
func (s *Store) fatal(err error) {
	s.exit(err)
	select {}
}

func (s *Store) exit(err error) {
	s.log.Error("this node stops", "error", err)
	s.cfg.Exit(err)
}
