package cluster

import (
	"errors"
	"testing"
)

// One member's flood is refused and costs the others nothing.
func TestLimitsAreEachMembersOwn(t *testing.T) {
	s := &peerServer{}
	for range recordBurst {
		if err := s.throttle("n1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.throttle("n1"); !errors.Is(err, ErrOverloaded) {
		t.Errorf("record %d of one member: %v", recordBurst+1, err)
	}
	if err := s.throttle("n2"); err != nil {
		t.Errorf("another member: %v", err)
	}
	if err := s.forwards.allowN("n1", forwardRate, forwardBurst, forwardBurst); err != nil {
		t.Fatal(err)
	}
	if err := s.forwards.allowN("n1", forwardRate, forwardBurst, maxForwarded); !errors.Is(err, ErrOverloaded) {
		t.Errorf("more bytes than the burst: %v", err)
	}
	if err := s.forwards.allowN("n2", forwardRate, forwardBurst, maxForwarded); err != nil {
		t.Errorf("another member: %v", err)
	}
}
