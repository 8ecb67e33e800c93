package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Each line: what is written, from when on, and the next runs. Clocks of Berlin jump at 2025-03-30 02:00 (to 03:00) and
// 2025-10-26 03:00 (to 02:00), those of Lord Howe Island by half an hour at 2025-10-05 02:00, and in 2018 those of Sao
// Paulo at midnight of 11-04.
func TestNext(t *testing.T) {
	for _, c := range []struct {
		name string
		spec Spec
		from string
		want []string
	}{
		{"interval", Spec{Every: 24 * time.Hour}, "2025-03-29T12:00:00Z", []string{"2025-03-30T12:00:00Z", "2025-03-31T12:00:00Z"}},
		{"nightly in UTC", Spec{Cron: "0 3 * * *"}, "2025-01-01T03:00:00Z", []string{"2025-01-02T03:00:00Z", "2025-01-03T03:00:00Z"}},
		{
			"nightly in Berlin keeps to the wall clock", Spec{Cron: "0 3 * * *", Zone: "Europe/Berlin"}, "2025-03-28T12:00:00Z",
			[]string{"2025-03-29T02:00:00Z", "2025-03-30T01:00:00Z", "2025-03-31T01:00:00Z"},
		},
		{
			"a time that is skipped runs after the jump", Spec{Cron: "30 2 * * *", Zone: "Europe/Berlin"}, "2025-03-29T12:00:00Z",
			[]string{"2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"},
		},
		{
			"a time that comes twice runs once", Spec{Cron: "30 2 * * *", Zone: "Europe/Berlin"}, "2025-10-25T12:00:00Z",
			[]string{"2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"},
		},
		{
			"also when asked between the two", Spec{Cron: "30 2 * * *", Zone: "Europe/Berlin"}, "2025-10-26T01:10:00Z",
			[]string{"2025-10-27T01:30:00Z"},
		},
		{
			"two times in one gap run once", Spec{Cron: "10,40 2 * * *", Zone: "Europe/Berlin"}, "2025-03-29T12:00:00Z",
			[]string{"2025-03-30T01:00:00Z", "2025-03-31T00:10:00Z"},
		},
		{
			"every quarter of an hour goes by elapsed time", Spec{Cron: "*/15 * * * *", Zone: "Europe/Berlin"}, "2025-10-26T00:45:00Z",
			[]string{"2025-10-26T01:00:00Z", "2025-10-26T01:15:00Z"},
		},
		{
			"a gap of half an hour", Spec{Cron: "15 2 * * *", Zone: "Australia/Lord_Howe"}, "2025-10-04T12:00:00Z",
			[]string{"2025-10-04T15:30:00Z", "2025-10-05T15:15:00Z"},
		},
		{
			"a day without midnight", Spec{Cron: "0 0 * * *", Zone: "America/Sao_Paulo"}, "2018-11-03T12:00:00Z",
			[]string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		},
		{
			"date or weekday, as in crontab(5)", Spec{Cron: "0 0 13 * FRI"}, "2025-06-01T00:00:00Z",
			[]string{"2025-06-06T00:00:00Z", "2025-06-13T00:00:00Z", "2025-06-20T00:00:00Z"},
		},
		{"the last day of the month", Spec{Cron: "0 0 L * *"}, "2024-02-01T00:00:00Z", []string{"2024-02-29T00:00:00Z", "2024-03-31T00:00:00Z"}},
		{"leap day", Spec{Cron: "0 0 29 2 *"}, "2025-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		{"@daily", Spec{Cron: "@daily", Zone: "Asia/Tokyo"}, "2025-01-01T00:00:00Z", []string{"2025-01-01T15:00:00Z"}},
		{
			"put off until the window opens", Spec{Every: 10 * time.Hour, Window: "02:00-05:00"}, "2025-01-01T00:00:00Z",
			[]string{"2025-01-02T02:00:00Z", "2025-01-03T02:00:00Z"},
		},
		{
			"within the window as it comes", Spec{Every: time.Hour, Window: "02:00-05:00"}, "2025-01-01T02:30:00Z",
			[]string{"2025-01-01T03:30:00Z", "2025-01-01T04:30:00Z", "2025-01-02T02:00:00Z"},
		},
		{
			"weekdays", Spec{Cron: "0 12 * * *", Window: "Mon-Fri 02:00-05:00"}, "2025-01-03T00:00:00Z", // a Friday
			[]string{"2025-01-06T02:00:00Z", "2025-01-07T02:00:00Z"},
		},
		{
			"past midnight", Spec{Every: time.Hour, Window: "Sat 22:00-02:00"}, "2025-01-04T23:30:00Z", // a Saturday
			[]string{"2025-01-05T00:30:00Z", "2025-01-05T01:30:00Z", "2025-01-11T22:00:00Z"},
		},
		{
			"several windows, over the end of the week", Spec{Every: time.Hour, Window: "Fri-Mon 01:00-02:00; Wed 05:00-24:00"}, "2025-01-06T01:00:00Z",
			[]string{"2025-01-08T05:00:00Z", "2025-01-08T06:00:00Z"},
		},
		{
			"a window in a zone", Spec{Every: time.Hour, Zone: "Europe/Berlin", Window: "02:00-05:00"}, "2025-07-01T12:00:00Z",
			[]string{"2025-07-02T00:00:00Z"},
		},
		{
			"a window that a jump swallows", Spec{Cron: "0 1 * * *", Zone: "Europe/Berlin", Window: "02:00-03:00"}, "2025-03-29T12:00:00Z",
			[]string{"2025-03-31T00:00:00Z"},
		},
		{
			"a window that a jump lengthens", Spec{Cron: "30 * * * *", Zone: "Europe/Berlin", Window: "02:00-03:00"}, "2025-10-25T12:00:00Z",
			[]string{"2025-10-26T00:00:00Z", "2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range c.want {
				next, ok := s.Next(at)
				if got := next.UTC().Format(time.RFC3339); !ok || got != want {
					t.Fatalf("run %d after %s: %s, want %s", i, at.UTC().Format(time.RFC3339), got, want)
				}
				at = next
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		says string
	}{
		{Spec{}, "interval"},
		{Spec{Every: time.Second}, "interval"},
		{Spec{Every: -time.Hour}, "interval"},
		{Spec{Every: time.Hour, Cron: "@daily"}, "not both"},
		{Spec{Cron: "0 25 * * *"}, "0 25 * * *"},
		{Spec{Cron: "0 0 30 2 *"}, "never comes"},
		{Spec{Cron: "0 3 * * * *"}, "fields"},
		{Spec{Cron: "TZ=UTC 0 3 * * *"}, "apart"},
		{Spec{Cron: "@every 1h"}, "apart"},
		{Spec{Cron: "@reboot"}, "@reboot"},
		{Spec{Cron: strings.Repeat("1,", 200) + "1 * * * *"}, "bytes"},
		{Spec{Every: time.Hour, Zone: "Mars/Olympus"}, "time zone"},
		{Spec{Every: time.Hour, Zone: "Local"}, "time zone"},
		{Spec{Every: time.Hour, Zone: "../etc/passwd"}, "time zone"},
		{Spec{Every: time.Hour, Window: "Mon-Fri"}, "02:00"},
		{Spec{Every: time.Hour, Window: "Mon-Foo 02:00-05:00"}, "Mon-Foo"},
		{Spec{Every: time.Hour, Window: "2:00-5:00"}, "2:00"},
		{Spec{Every: time.Hour, Window: "02:00-02:00"}, "no length"},
		{Spec{Every: time.Hour, Window: "24:00-02:00"}, "no length"},
		{Spec{Every: time.Hour, Window: "02:00-05:00;"}, "HH:MM"},
		{Spec{Every: time.Hour, Window: "Mon Tue 02:00-05:00"}, "DAYS"},
	} {
		_, err := Parse(c.spec)
		if !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
}

// Whatever is written, the next time is later, and in a window.
func FuzzNext(f *testing.F) {
	f.Add("0 3 * * *", "Europe/Berlin", "Mon-Fri 02:00-05:00", int64(1743296400))
	f.Add("*/5 * * 2 *", "Australia/Lord_Howe", "22:00-02:00", int64(1))
	f.Fuzz(func(t *testing.T, cron, zone, window string, at int64) {
		s, err := Parse(Spec{Cron: cron, Zone: zone, Window: window})
		if err != nil {
			if !errors.Is(err, ErrSpec) {
				t.Fatal(err)
			}
			return
		}
		after := time.Unix(at%(1<<33), 0)
		next, ok := s.Next(after)
		if ok && (!next.After(after) || !s.Open(next)) {
			t.Fatalf("after %v comes %v, open: %t", after, next, s.Open(next))
		}
	})
}
