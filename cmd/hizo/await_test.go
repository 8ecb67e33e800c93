package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hizo/hizo/api/apitest"
	"github.com/hizo/hizo/api/hizov1"
)

// awaiting are commands of scripts that wait for what a process in the background does:
//
//	shows FILE TEXT           FILE holds TEXT
//	consumed SECRET VERSION   there is one consumer of SECRET, and it uses VERSION; "none": there is none
func awaiting(c *apitest.Cluster) map[string]func(*testscript.TestScript, bool, []string) {
	await := func(ts *testscript.TestScript, what string, f func() (bool, string)) {
		var got string
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			ok, now := f()
			if got = now; ok {
				return
			}
		}
		ts.Fatalf("in vain: %s; there is %q", what, got)
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"shows": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) != 2 {
				ts.Fatalf("usage: shows FILE TEXT")
			}
			await(ts, args[0]+" shows "+args[1], func() (bool, string) {
				b, _ := os.ReadFile(ts.MkAbs(args[0]))
				return strings.Contains(string(b), args[1]), string(b)
			})
		},
		"consumed": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) != 2 {
				ts.Fatalf("usage: consumed SECRET VERSION")
			}
			vault, path, _ := strings.Cut(args[0], "/")
			await(ts, args[0]+" consumed at "+args[1], func() (bool, string) {
				out, err := c.Engineer.Watches().ListConsumers(c.T.Context(), &hizov1.ListConsumersRequest{Vault: vault, Path: path})
				ts.Check(err)
				got := "none"
				for i, consumer := range out.GetConsumers() {
					if got = strconv.Itoa(int(consumer.GetVersion())); i > 0 {
						got = "several"
					}
				}
				return got == args[1], got
			})
		},
	}
}
