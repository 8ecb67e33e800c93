package target

import (
	"regexp"
	"strings"
	"time"
)

// Statements that a lease role adds to the making or the end of a user come from people who may write them; what is put
// into them does not. Two placeholders, each replaced by text that is quoted as a whole:
//
//	{{name}}      the user, as an identifier
//	{{expires}}   when the lease ends at the latest, as a literal
//
// There is none for the password: it is set as a hash, by this program.

var (
	placeholder = regexp.MustCompile(`\{\{[^}]*\}\}|\{\{|\}\}`)
	userName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
)

func (o *options) template(name string) string {
	text := o.text(name, "")
	for _, p := range placeholder.FindAllString(text, -1) {
		switch p {
		case "{{name}}", "{{expires}}":
		case "{{password}}":
			o.fail("option %s: there is no {{password}}: the password is set as a hash, before these statements", name)
		default:
			o.fail("option %s: %s is no placeholder; there are {{name}} and {{expires}}, which stand without quotes", name, p)
		}
	}
	for _, quote := range []string{`'`, `"`, "`"} {
		if strings.Contains(text, quote+"{{") || strings.Contains(text, "}}"+quote) {
			o.fail("option %s: {{name}} and {{expires}} stand without quotes", name)
		}
	}
	return text
}

func fill(text, name, expires string) string {
	return strings.NewReplacer("{{name}}", name, "{{expires}}", expires).Replace(text)
}

// userCall is one call about a user of a lease.
type userCall struct {
	step
	u     User
	admin login
}

func userBegin(kind, stage string, u User) (userCall, error) {
	c := userCall{step{kind, stage}, u, adminOf(u.Admin)}
	switch {
	case !userName.MatchString(u.Name):
		return c, c.permanent("a user's name has 1 to 63 letters, digits, '_' and '-'")
	case !c.admin.given():
		return c, c.permanent("the administrator's secret needs the fields username and password")
	case stage == "create" && u.Password.Len() == 0:
		return c, c.permanent("a user needs a password")
	}
	return c, nil
}

// session is the name by which a call's connections are known at the server.
func (c userCall) session() string { return "hizo/" + c.u.Name }

// timestamp is a point in time as PostgreSQL and MariaDB read it, in UTC.
func timestamp(t time.Time) string { return "'" + t.UTC().Format("2006-01-02 15:04:05") + "'" }
