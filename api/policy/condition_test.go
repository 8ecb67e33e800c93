package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestConditions(t *testing.T) {
	claims := map[string]string{"repository": "org/model", "ref": "refs/tags/v1.2", "groups": `["ml","ops"]`}
	for text, want := range map[string]bool{
		`context.claims.hasTag("ref") && context.claims.getTag("ref") like "refs/tags/v*"`:   true,
		`context.claims.hasTag("ref") && context.claims.getTag("ref") like "refs/heads/*"`:   false,
		`context.claims.hasTag("groups") && context.claims.getTag("groups") like "*\"ml\"*"`: true,
		`context.claims.hasTag("groups") && context.claims.getTag("groups") like "*\"m\"*"`:  false,
		`context.claims.hasTag("actor")`:  false,
		`!context.claims.hasTag("actor")`: true,
		`context.claims.hasTag("ref") && ["a", "refs/tags/v1.2"].contains(context.claims.getTag("ref")) // why not`: true,
	} {
		c, err := ParseCondition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.Holds(claims); got != want {
			t.Errorf("%s holds: %t", text, got)
		}
	}
	c, err := ParseCondition("context.claims.hasTag(\"a\") &&\ncontext.claims.getTag(\"a\") == \"x\" || context.claims.hasTag(\"b\")")
	if err != nil || strings.Join(c.Claims(), ",") != "a,b" {
		t.Errorf("asks for %v, %v", c.Claims(), err)
	}
}

func TestConditionsThatAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		`true`: "no claim",
		`context.claims.hasTag("a") }; permit (principal, action, resource) when { true`: "one expression",
		`context.claims.hasTag("a") } unless { context.claims.hasTag("b")`:               "one expression",
		`context.claims.getTag("a") == "x"`:                                              "line 1, column",
		`context.time > datetime("2026-01-01")`:                                          "time",
		`context.claims.hasTag(context.claims.getTag("a"))`:                              "line 1",
		`context.claims.hasTag(if context.claims.hasTag("a") then "b" else "c")`:         "names its claims",
		`principal == Hizo::Workload::"x"`:                                               "no claim",
		`repository == "org/model"`:                                                      "line 1",
		"context.claims.hasTag(\"a\") &&\n&& true":                                       "line 2",
		strings.Repeat("!", 100) + `context.claims.hasTag("a")`:                          "deep",
		`context.claims.hasTag("` + strings.Repeat("a", MaxCondition) + `")`:             "larger",
	} {
		_, err := ParseCondition(text)
		if _, ok := errors.AsType[*TextError](err); !ok || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, want %q", text, err, says)
		}
	}
}

// Whatever is typed is refused or evaluates; it never reaches beyond the claims.
func FuzzCondition(f *testing.F) {
	f.Add(`context.claims.hasTag("a") && context.claims.getTag("a") == "x"`)
	f.Add(`true } when { false`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			return
		}
		if len(c.Claims()) == 0 {
			t.Fatalf("%q asks for nothing", text)
		}
		c.Holds(nil)
		c.Holds(map[string]string{"a": "x"})
	})
}
