package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// span is a length of time as people write it: 30d, 12h, 90m. A day has 24 hours.
type span time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *span) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is no number of days: write 30d", s)
		}
		*d = span(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	n, err := time.ParseDuration(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no length of time: write 30d, 12h or 90m", s)
	}
	*d = span(n)
	return nil
}

func (d span) seconds() int64 { return int64(time.Duration(d) / time.Second) }
