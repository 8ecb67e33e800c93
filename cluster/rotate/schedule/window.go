package schedule

import (
	"fmt"
	"strings"
	"time"
)

// window is a span of some weekdays. Minutes are of the day it begins on; end may lie on the next day.
type window struct {
	days       [7]bool // Sunday first
	start, end int
}

const day = 24 * 60

var weekdays = map[string]time.Weekday{
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday, "thu": time.Thursday,
	"fri": time.Friday, "sat": time.Saturday,
}

func parseWindows(text string) ([]window, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var list []window
	for part := range strings.SplitSeq(text, ";") {
		w, err := parseWindow(strings.Fields(part))
		if err != nil {
			return nil, fmt.Errorf(`%w: window %q: %w; write for example "Mon-Fri 02:00-05:00"`, ErrSpec, text, err)
		}
		list = append(list, w)
	}
	return list, nil
}

func parseWindow(words []string) (w window, err error) {
	switch len(words) {
	case 1:
		for d := range w.days {
			w.days[d] = true
		}
	case 2:
		if err := w.parseDays(words[0]); err != nil {
			return w, err
		}
	default:
		return w, fmt.Errorf("%q is not DAYS HH:MM-HH:MM", strings.Join(words, " "))
	}
	span := words[len(words)-1]
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return w, fmt.Errorf("%q is not HH:MM-HH:MM", span)
	}
	if w.start, err = minutes(from); err != nil {
		return w, err
	}
	if w.end, err = minutes(to); err != nil {
		return w, err
	}
	if w.start == w.end || w.start == day {
		return w, fmt.Errorf("%q has no length", span)
	}
	if w.end < w.start {
		w.end += day
	}
	return w, nil
}

func (w *window) parseDays(text string) error {
	for item := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(item, "-")
		if !ranged {
			to = from
		}
		first, ok1 := weekdays[strings.ToLower(from)]
		last, ok2 := weekdays[strings.ToLower(to)]
		if !ok1 || !ok2 {
			return fmt.Errorf("%q is not a day or days such as Mon-Fri", item)
		}
		for d := first; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == last {
				break
			}
		}
	}
	return nil
}

// minutes of HH:MM since midnight; 24:00 is the end of the day.
func minutes(text string) (int, error) {
	if text == "24:00" {
		return day, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		return 0, fmt.Errorf("%q is not a time such as 02:00", text)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// span is when the window that begins on the date of t is open; empty if none does.
func (w *window) span(t time.Time, zone *time.Location) (from, to time.Time, ok bool) {
	if !w.days[t.Weekday()] {
		return from, to, false
	}
	at := func(minute int) time.Time {
		return instant(time.Date(t.Year(), t.Month(), t.Day(), 0, minute, 0, 0, time.UTC), zone)
	}
	from, to = at(w.start), at(w.end)
	return from, to, from.Before(to) // a jump may have swallowed it
}

// Open says whether a time lies in a window.
func (s *Schedule) Open(t time.Time) bool {
	if len(s.windows) == 0 {
		return true
	}
	wall := onWall(t.In(s.zone))
	for i := range s.windows {
		for _, d := range []int{-1, 0} {
			from, to, ok := s.windows[i].span(wall.AddDate(0, 0, d), s.zone)
			if ok && !t.Before(from) && t.Before(to) {
				return true
			}
		}
	}
	return false
}

// opens is when the next window after t begins.
func (s *Schedule) opens(t time.Time) (next time.Time, ok bool) {
	wall := onWall(t.In(s.zone))
	for d := range 15 { // one week, and another for windows that a jump swallowed
		for i := range s.windows {
			from, _, has := s.windows[i].span(wall.AddDate(0, 0, d), s.zone)
			if has && from.After(t) && (!ok || from.Before(next)) {
				next, ok = from, true
			}
		}
		if ok {
			return next, ok
		}
	}
	return next, ok
}
