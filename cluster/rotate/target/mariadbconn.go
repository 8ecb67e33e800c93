package target

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// myAccount is an account of MariaDB: a name and the hosts it may come from.
type myAccount struct{ user, host string }

func (a myAccount) String() string { return a.user + "@" + a.host }

// quoted is the account as an identifier; sql_mode has no say in how backticks are escaped.
func (a myAccount) quoted() string { return myName(a.user) + "@" + myName(a.host) }

func myName(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// mySession is one connection of one call.
type mySession struct {
	*sql.Conn
	db   *sql.DB
	addr address
	step
}

// myConnect logs in; several says that a statement may hold several, separated by semicolons. Passwords go as answers to a challenge, never themselves: the methods that would send one are off.
func myConnect(ctx context.Context, s step, a address, l login, name string, several bool) (*mySession, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.TLS = "tcp", a.String(), a.tls
	c.User, c.Passwd = l.username, string(l.password.Reveal())
	c.AllowCleartextPasswords, c.AllowOldPasswords, c.AllowFallbackToPlaintext = false, false, false
	c.MultiStatements = several
	c.ConnectionAttributes = "program_name:" + name
	c.Logger = log.New(io.Discard, "", 0) // text of the server
	// What a session may take at the server: one of a leader that was stopped does not keep its lock for ever.
	c.Params = map[string]string{"wait_timeout": "15", "lock_wait_timeout": "5", "max_statement_time": "10"}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, s.permanent("the options do not make a connection")
	}
	db := sql.OpenDB(connector)
	conn, err := db.Conn(ctx)
	// The driver (v1.10.1) cuts a last byte of zero off the server's question, which for ed25519 is random: one login in
	// 256 fails so, and the next question is another.
	for tries := 0; errors.Is(err, mysql.ErrMalformPkt) && tries < 3; tries++ {
		conn, err = db.Conn(ctx)
	}
	if err != nil {
		_ = db.Close() // it has no connection
		return nil, myError(ctx, s, a, err, l.username)
	}
	return &mySession{conn, db, a, s}, nil
}

// close hangs up, which gives the session's locks back.
func (m *mySession) close() {
	_, _ = m.Conn.Close(), m.db.Close() // what the session did has been answered
}

func (m *mySession) exec(ctx context.Context, about, query string) error {
	_, err := m.ExecContext(ctx, query)
	return myError(ctx, m.step, m.addr, err, about)
}

var myVersion = regexp.MustCompile(`^(?:5\.5\.5-)?(\d+)\.(\d+)\.`)

// supported says whether the server is a MariaDB that knows accounts with several passwords.
func (m *mySession) supported(ctx context.Context) error {
	var version string
	if err := m.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return myError(ctx, m.step, m.addr, err, "")
	}
	parts := myVersion.FindStringSubmatch(version)
	if parts == nil || !strings.Contains(version, "MariaDB") {
		return m.permanent("%s is not MariaDB", m.addr)
	}
	major, _ := strconv.Atoi(parts[1]) // digits
	minor, _ := strconv.Atoi(parts[2])
	if major < 10 || major == 10 && minor < 4 {
		return m.permanent("%s is MariaDB %d.%d: 10.4 is the first that holds two passwords for one account", m.addr, major, minor)
	}
	return nil
}

// lock makes this session the only one of ours that changes an account, by ending the one that does. That one belongs
// to the same attempt or to one that is over: a leader that was stopped keeps nobody waiting.
func (m *mySession) lock(ctx context.Context, a myAccount) error {
	sum := sha256.Sum256([]byte("hizo/" + a.quoted()))
	name := "hizo/" + hex.EncodeToString(sum[:16])
	for {
		var got sql.NullInt64
		if err := m.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0)", name).Scan(&got); err != nil {
			return myError(ctx, m.step, m.addr, err, a.String())
		}
		if got.Int64 == 1 {
			return nil
		}
		var holder sql.NullInt64
		if err := m.QueryRowContext(ctx, "SELECT IS_USED_LOCK(?)", name).Scan(&holder); err != nil {
			return myError(ctx, m.step, m.addr, err, a.String())
		}
		if holder.Valid {
			if _, err := m.ExecContext(ctx, "KILL "+strconv.FormatInt(holder.Int64, 10)); err != nil && !myIs(err, 1094) {
				return myError(ctx, m.step, m.addr, err, a.String())
			}
		}
		if err := pause(ctx); err != nil {
			return m.network(ctx, m.addr, err)
		}
	}
}

// myRule is one way into an account. An account has several: any of them opens it.
type myRule struct {
	Plugin string `json:"plugin"`
	Auth   string `json:"authentication_string"`
}

func (r myRule) clause() string {
	if r.Auth == "" {
		return myName(r.Plugin)
	}
	return myName(r.Plugin) + " USING '" + strings.ReplaceAll(r.Auth, "'", "''") + "'"
}

// passes says whether a password opens the account by this rule.
func (r myRule) passes(l login) bool {
	switch r.Plugin {
	case myNative:
		return r.Auth == nativeHash(l.password)
	case myEd25519:
		return r.Auth == ed25519Hash(l.password)
	}
	return false
}

// isPassword says whether a rule is about a password that we could have set.
func (r myRule) isPassword() bool { return r.Plugin == myNative || r.Plugin == myEd25519 }

// placeholder says whether nothing passes the rule, or anything: an account without a password has such a rule.
func (r myRule) placeholder() bool { return r.isPassword() && (r.Auth == "" || r.Auth == "invalid") }

// rules reads the ways into an account, in the server's order. mysql.global_priv keeps them as
//
//	{"plugin": P1, "authentication_string": A1, "auth_or": [{}, {"plugin": P2, "authentication_string": A2}]}
//
// where {} stands for the first ones.
func (m *mySession) rules(ctx context.Context, a myAccount) ([]myRule, error) {
	text, err := m.priv(ctx, a)
	if err != nil {
		return nil, err
	}
	rules, err := parseRules(text)
	if err != nil {
		return nil, m.permanent("mysql.global_priv of %s holds what this program does not know", a)
	}
	return rules, nil
}

// priv reads what the server keeps of an account, as JSON.
func (m *mySession) priv(ctx context.Context, a myAccount) (text []byte, err error) {
	err = m.QueryRowContext(ctx, "SELECT Priv FROM mysql.global_priv WHERE User = ? AND Host = ?", a.user, a.host).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, m.permanent("there is no account %s at %s: set option user_host if its hosts are others", a, m.addr)
	}
	return text, myError(ctx, m.step, m.addr, err, a.String())
}

func parseRules(text []byte) ([]myRule, error) {
	var priv struct {
		myRule
		Or []myRule `json:"auth_or"`
	}
	if err := json.Unmarshal(text, &priv); err != nil {
		return nil, err
	}
	if len(priv.Or) == 0 {
		return []myRule{priv.myRule}, nil
	}
	for i, r := range priv.Or {
		if r == (myRule{}) {
			priv.Or[i] = priv.myRule
		}
	}
	return priv.Or, nil
}

// set stores the ways into an account. None at all would be an account without a password, so there is one that
// nobody passes then.
func (m *mySession) set(ctx context.Context, a myAccount, rules []myRule) error {
	rules = slices.DeleteFunc(slices.Clone(rules), myRule.placeholder)
	if len(rules) == 0 {
		rules = []myRule{{myNative, "invalid"}}
	}
	var clauses []string
	for _, r := range rules {
		if strings.Contains(r.Auth, `\`) { // an escape, or not, as sql_mode says
			return m.permanent("the account %s logs in through %s with a backslash in its settings, which cannot be written back", a, r.Plugin)
		}
		clauses = append(clauses, r.clause())
	}
	return m.exec(ctx, a.String(), "ALTER USER "+a.quoted()+" IDENTIFIED VIA "+strings.Join(clauses, " OR "))
}

func myIs(err error, number uint16) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && e.Number == number
}

// myError is what went wrong, in words of our own. account is whom it is about.
func myError(ctx context.Context, s step, a address, err error, account string) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		if errors.Is(err, mysql.ErrNativePassword) || errors.Is(err, mysql.ErrCleartextPassword) || errors.Is(err, mysql.ErrOldPassword) || errors.Is(err, mysql.ErrUnknownPlugin) {
			return s.permanent("%s wants %s to log in by a method that shows the password, or that is unknown", a, account)
		}
		if errors.Is(err, mysql.ErrMalformPkt) && ctx.Err() == nil {
			// What the driver says to being asked a third time.
			return s.passing(errRefused, "%s refuses the login of %s, or tries more than two ways into the account before", a, account)
		}
		return s.network(ctx, a, err)
	}
	switch n := e.Number; n {
	case 1045, 1698, 4151:
		return s.passing(errRefused, "%s refuses the login of %s (error %d)", a, account, n)
	case 1044, 1142, 1143, 1227, 1370:
		return s.permanent("the administrator may not do this to %s (error %d): it needs CREATE USER on *.* and SELECT on mysql.global_priv", account, n)
	case 1396:
		return s.permanent("there is no account %s at %s, or it may not be changed (error %d)", account, a, n)
	case 1290, 1836:
		return s.passing(nil, "%s is read-only (error %d): set option host to the primary", a, n)
	case 1040, 1203, 1226:
		return s.passing(nil, "%s has no connection left (error %d)", a, n)
	case 1205, 1969, 3024:
		return s.passing(nil, "%s takes too long (error %d): another session holds a lock", a, n)
	case 1053, 1317, 1927:
		return s.passing(nil, "%s ended the session (error %d)", a, n)
	case 1095:
		return s.permanent("the administrator may not end the sessions of %s (error %d): it needs CONNECTION ADMIN on *.*", account, n)
	case 1049, 1146, 1147, 1141, 1959:
		return s.permanent("what a statement names is not there (error %d): look at the options creation and revocation", n)
	case 1064:
		return s.permanent("%s does not understand a statement (error %d): look at the options creation and revocation", a, n)
	default:
		return s.passing(nil, "%s answers with error %d", a, n)
	}
}
