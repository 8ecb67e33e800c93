// Package schedule says when something is to be done next: at an interval or by a cron expression, in a time zone,
// within windows. It is pure: a Schedule has no clock.
//
// Wall clocks jump twice a year. A schedule that names hours runs once on each of those days: a time that is skipped
// counts as the moment after the jump, and of a time that comes twice the first one counts. One that runs every hour
// goes by elapsed time.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones must be the same on every node, and there where a container has none

	"github.com/netresearch/go-cron"
)

// Bounds of intervals and texts.
const (
	MinEvery = 10 * time.Second
	MaxEvery = 5 * 365 * 24 * time.Hour
	MaxText  = 256
)

// ErrSpec marks errors in what a person wrote.
var ErrSpec = errors.New("not a schedule")

// Spec is a schedule as people write it. Exactly one of Every and Cron is set.
type Spec struct {
	Every  time.Duration
	Cron   string // five fields of crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly
	Zone   string // of Cron and Window, for example Europe/Berlin; empty: UTC
	Window string // for example "Mon-Fri 02:00-05:00; Sat,Sun 00:00-24:00"; empty: always
}

// Schedule is a Spec that was understood.
type Schedule struct {
	every   time.Duration
	cron    *cron.SpecSchedule
	hourly  bool
	zone    *time.Location
	windows []window
}

// Parse checks a Spec. Its errors are ErrSpec and say what to write instead.
func Parse(spec Spec) (*Schedule, error) {
	s := &Schedule{every: spec.Every, zone: time.UTC}
	if len(spec.Cron) > MaxText || len(spec.Zone) > MaxText || len(spec.Window) > MaxText {
		return nil, fmt.Errorf("%w: a schedule's texts have at most %d bytes each", ErrSpec, MaxText)
	}
	if spec.Zone != "" {
		zone, err := time.LoadLocation(spec.Zone)
		if err != nil || spec.Zone == "Local" {
			return nil, fmt.Errorf("%w: %q is not a time zone such as Europe/Berlin", ErrSpec, spec.Zone)
		}
		s.zone = zone
	}
	switch {
	case spec.Every != 0 && spec.Cron != "":
		return nil, fmt.Errorf("%w: give an interval or a cron expression, not both", ErrSpec)
	case spec.Cron != "":
		if err := s.parseCron(spec.Cron); err != nil {
			return nil, err
		}
	case spec.Every < MinEvery || spec.Every > MaxEvery:
		return nil, fmt.Errorf("%w: an interval is from %v to %v; write for example 24h", ErrSpec, MinEvery, MaxEvery)
	}
	var err error
	if s.windows, err = parseWindows(spec.Window); err != nil {
		return nil, err
	}
	if _, ok := s.Next(time.Unix(0, 0)); !ok {
		return nil, fmt.Errorf("%w: %q never comes", ErrSpec, spec.Cron)
	}
	return s, nil
}

// parser reads crontab(5): a day matches if its date or its weekday does, where both are restricted.
const parser = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.Extended | cron.DowOrDom

// starBit is set by the parser in a field that was written as *.
const starBit = 1 << 63

func (s *Schedule) parseCron(text string) error {
	wrong := func(why string) error {
		return fmt.Errorf(`%w: cron %q: %s; write for example "0 3 * * *", at three every night`, ErrSpec, text, why)
	}
	if strings.Contains(text, "=") {
		return wrong("the time zone stands apart")
	}
	if strings.HasPrefix(text, "@every") {
		return wrong("an interval stands apart")
	}
	p, err := cron.TryNewParser(parser)
	if err != nil {
		return err
	}
	parsed, err := p.Parse(text)
	if err != nil {
		return wrong(err.Error())
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return wrong("it names no times of day")
	}
	s.cron, s.hourly = spec, spec.Hour&starBit != 0
	s.cron.Location = time.UTC // as a calendar of wall-clock times; see Next
	if s.hourly {
		s.cron.Location = s.zone
	}
	return nil
}

// Next is the first time after a time that lies in a window; a time outside of them is put off until the next one
// opens. ok is false if there is none within years.
func (s *Schedule) Next(after time.Time) (next time.Time, ok bool) {
	if next, ok = s.due(after); !ok || s.Open(next) {
		return next, ok
	}
	return s.opens(next)
}

// due is Next without windows.
func (s *Schedule) due(after time.Time) (time.Time, bool) {
	if s.cron == nil {
		return after.Add(s.every), true
	}
	if s.hourly {
		next := s.cron.Next(after)
		return next, !next.IsZero()
	}
	// The library skips gaps of other lengths than an hour, and runs twice where an hour comes twice. So it only
	// reads the calendar here, on a clock without jumps, and the zone's jumps are settled by instant.
	wall := onWall(after.In(s.zone))
	for {
		wall = s.cron.Next(wall)
		if wall.IsZero() {
			return wall, false
		}
		if at := instant(wall, s.zone); at.After(after) {
			return at, true
		}
	}
}

// onWall gives what the clock shows, as a UTC time.
func onWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// instant is when a zone's clock shows wall: the first time if it does so twice, the jump if it skips that.
func instant(wall time.Time, zone *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
	start, end := t.ZoneBounds()
	if onWall(t).Equal(wall) {
		if !start.IsZero() {
			_, offset := start.Add(-1).Zone()
			if before := wall.Add(-time.Duration(offset) * time.Second); before.Before(start) {
				return before.In(zone)
			}
		}
		return t
	}
	// A gap: Go answers by the offset before or after the jump.
	if onWall(t).After(wall) {
		return start
	}
	return end
}
