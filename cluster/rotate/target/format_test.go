package target_test

import (
	"encoding/base64"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/hizo/hizo/cluster/rotate/target"
	"github.com/hizo/hizo/crypto/secret"
)

var quiet = log.New(io.Discard, "", 0)

func certificate(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// TestSignature is the example of RFC 9421, appendix B.2.5.
func TestSignature(t *testing.T) {
	r := httptest.NewRequest("POST", "http://example.com/foo?param=Value&Pet=dog", nil)
	r.Header = http.Header{"Date": {"Tue, 20 Apr 2021 02:07:55 GMT"}, "Content-Type": {"application/json"}}
	r.URL.Host = "example.com"
	key, err := base64.StdEncoding.DecodeString("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
	if err != nil {
		t.Fatal(err)
	}
	signature, input := target.Sign(r, []string{"date", "@authority", "content-type"}, `;created=1618884473;keyid="test-shared-secret"`, key)
	if want := `("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`; input != want {
		t.Errorf("input %s", input)
	}
	if want := "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="; signature != want {
		t.Errorf("signature %s", signature)
	}
}

// TestHashes: what servers make of these passwords (SELECT PASSWORD('...'); RFC 7677, section 3, for its salt).
func TestHashes(t *testing.T) {
	if got := target.NativeHash(secret.Copy([]byte("password"))); got != "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19" {
		t.Error(got)
	}
	if got := target.Ed25519Hash(secret.Copy([]byte("secret"))); got != "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY" {
		t.Error(got)
	}
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	got, err := target.Verifier(secret.Copy([]byte("pencil")), salt)
	if err != nil || got != "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=" {
		t.Error(got, err)
	}
}

func TestSalts(t *testing.T) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for _, m := range []byte{target.MarkApplied, target.MarkUndone, target.MarkRetired} {
		salt := target.MarkedSalt(id, m)
		got, mark := target.ReadSalt(salt)
		if mark != m || got != [12]byte(id[:12]) || len(salt) != 16 {
			t.Errorf("mark %c: %x %c", m, got, mark)
		}
		for i := range salt {
			salt[i] ^= 1
			if _, mark := target.ReadSalt(salt); mark != target.MarkNone {
				t.Errorf("mark %c: byte %d may change", m, i)
			}
			salt[i] ^= 1
		}
		if _, mark := target.ReadSalt(salt[:15]); mark != target.MarkNone {
			t.Error("a short salt is ours")
		}
	}
}

func TestPasswords(t *testing.T) {
	seen := map[string]bool{}
	count := map[rune]int{}
	for range 2000 {
		p := string(target.Password(32).Reveal())
		if len(p) != 32 || seen[p] {
			t.Fatalf("%d characters, or twice the same", len(p))
		}
		seen[p] = true
		for _, r := range p {
			count[r]++
		}
	}
	if len(count) != 62 {
		t.Errorf("%d different characters", len(count))
	}
	for r, n := range count { // 1032 each on average; 6 standard deviations are 190
		if n < 840 || n > 1225 {
			t.Errorf("%c comes %d times", r, n)
		}
	}
}

func TestRules(t *testing.T) {
	for text, want := range map[string][][2]string{
		`{"plugin":"mysql_native_password","authentication_string":"*A","access":0}`:                           {{"mysql_native_password", "*A"}},
		`{"plugin":"p","authentication_string":"a","auth_or":[{}]}`:                                            {{"p", "a"}},
		`{"plugin":"p","authentication_string":"a","auth_or":[{},{"plugin":"q","authentication_string":"b"}]}`: {{"p", "a"}, {"q", "b"}},
		`{"plugin":"p","authentication_string":"a","auth_or":[{"plugin":"unix_socket"},{}]}`:                   {{"unix_socket", ""}, {"p", "a"}},
	} {
		if got, err := target.ParseRules([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q %v", text, got, err)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(`{"plugin":"p","authentication_string":"a","auth_or":[{},{"plugin":"q","authentication_string":"b"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if rules, err := target.ParseRules(text); err == nil && len(rules) == 0 {
			t.Fatal("an account without any way in")
		}
	})
}

// TestGuard: names are looked up by the dialler; what counts is each address that it is about to dial.
func TestGuard(t *testing.T) {
	w := target.Webhook{
		Allow:   []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("127.0.0.9/32")},
		Cluster: func() []string { return []string{"192.0.2.10", "2001:db8::10", "no-such-host.invalid"} },
	}
	for text, refused := range map[string]bool{
		"127.0.0.1": true, "127.0.0.9": false, "::1": true, "::ffff:127.0.0.1": true, "::127.0.0.1": true, "0.0.0.0": true, "0.1.2.3": true, "::": true,
		"169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true, "::ffff:169.254.169.254": true, "fd00:ec2::254": true,
		"100.100.100.200": true, "168.63.129.16": true, "192.0.0.192": true, "224.0.0.1": true, "255.255.255.255": true, "ff02::1": true,
		"64:ff9b::7f00:1": true, "64:ff9b:1::7f00:1": true, "2002:7f00:1::": true, "2001:0:4136::1": true,
		"192.0.2.10": true, "::ffff:192.0.2.10": true, "2001:db8::10": true,
		"192.0.2.11": false, "2001:db8::11": false, "10.7.1.1": false, "10.8.1.1": false, "93.184.216.34": false, "fd12::1": false,
	} {
		if err := w.Checked(t.Context(), netip.MustParseAddr(text)); (err != nil) != refused {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestOptions(t *testing.T) {
	base := map[string]string{"host": "db.example"}
	for _, c := range []struct {
		target target.Target
		pairs  string // name=value, separated by blanks
		wrong  string // part of the error; "" for none
	}{
		{target.NewPostgres(), "", ""},
		{target.NewPostgres(), "host=", "option host is missing"},
		{target.NewPostgres(), "port=0", "option port"},
		{target.NewPostgres(), "port=x", "option port"},
		{target.NewPostgres(), "tls=off", "option tls"},
		{target.NewPostgres(), "tls=disable ca=x", "option ca"},
		{target.NewPostgres(), "ca=x", "no PEM certificate"},
		{target.NewPostgres(), "mode=both", "option mode"},
		{target.NewPostgres(), "mode=alternating", "takes two roles"},
		{target.NewPostgres(), "mode=alternating roles=a,a", "takes two roles"},
		{target.NewPostgres(), "mode=alternating roles=a,b", ""},
		{target.NewPostgres(), "mode=alternating roles=a,b username=c", "username is for mode=single"},
		{target.NewPostgres(), "roles=a,b", "for mode=alternating"},
		{target.NewPostgres(), "length=8", "option length"},
		{target.NewPostgres(), "username_field=password", "the same field"},
		{target.NewPostgres(), "pasword_field=x", "unknown option pasword_field"},
		{target.NewMariaDB(), "", ""},
		{target.NewMariaDB(), "plugin=ed25519", "for mode=alternating"},
		{target.NewMariaDB(), "mode=alternating accounts=a", "takes two accounts"},
		{target.NewMariaDB(), "mode=alternating accounts=a,b plugin=ed25519", ""},
		{target.NewMariaDB(), "mode=dual accounts=a,b", "for mode=alternating"},
		{target.NewRedis(), "", ""},
		{target.NewRedis(), "save=always", "option save"},
	} {
		config := map[string]string{}
		for k, v := range base {
			config[k] = v
		}
		for _, pair := range strings.Fields(c.pairs) {
			k, v, _ := strings.Cut(pair, "=")
			config[k] = v
		}
		err := c.target.Check(config)
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%T %s: %v", c.target, c.pairs, err)
		}
		if err != nil {
			if _, err := c.target.Stage(t.Context(), target.Attempt{Config: config}); err == nil {
				t.Errorf("%T %s: a value is staged", c.target, c.pairs)
			}
		}
	}
	for _, rules := range []string{"", "on +@all", "+@all >password", "nopass", "#0123", "~x:{{password}}", "~x:{{expires}}"} {
		if target.NewRedisUsers().Check(map[string]string{"host": "h", "rules": rules}) == nil {
			t.Errorf("rules %q are accepted", rules)
		}
	}
	if err := target.NewRedisUsers().Check(map[string]string{"host": "h", "rules": "~x:{{name}}:* +@read"}); err != nil {
		t.Error(err)
	}
}
