package fsm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// fill sets every field below v to something that is not its zero value and differs from its neighbours.
func fill(v reflect.Value, path string, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fill(v.Elem(), path, n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), v.Type().Field(i).Name, n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), fmt.Sprint(path, i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), path, n)
		}
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(uint64(*n%250 + 1))
	case reflect.Int64, reflect.Int:
		v.SetInt(int64(*n) * 1_000_000_007)
	default:
		panic(v.Kind())
	}
}

func filled[T any](v *T) *T {
	n := 0
	fill(reflect.ValueOf(v), "", &n)
	return v
}

// goldens are all formats that lie on disks or in logs, with the way back where there is one.
func goldens() (names []string, forms map[string][]byte, back map[string]func([]byte) (any, error), values map[string]any) {
	forms, back, values = map[string][]byte{}, map[string]func([]byte) (any, error){}, map[string]any{}
	add := func(name string, form []byte, value any, decode func([]byte) (any, error)) {
		names = append(names, name)
		forms[name], values[name], back[name] = form, value, decode
	}
	for _, kind := range Kinds() {
		body, _ := NewBody(kind)
		if body == nil {
			continue
		}
		n := int(kind)
		fill(reflect.ValueOf(body), "", &n)
		add(fmt.Sprintf("body/%d", kind), EncodeBody(kind, body), body, func(b []byte) (any, error) { return DecodeBody(kind, b) })
	}
	command := *filled(&Command{})
	command.Format = CommandFormat
	add("command", EncodeCommand(command), command, func(b []byte) (any, error) { return DecodeCommand(b) })
	entry := *filled(&Entry{})
	add("entry", EncodeEntry(entry), entry, func(b []byte) (any, error) { return DecodeEntry(b) })
	for _, name := range []string{
		ObjCluster, ObjUser("x"), ObjWorkload("x"), ObjRoles("user/x"), objHolder("r", "user/x"), objGeneration("user/x"),
		ObjToken(nil), ObjSecretID(nil), ObjEnrolment(nil), ObjJoinToken(nil), ObjCertificate(nil), ObjPolicies, ObjPolicy("x"),
		ObjVault("x"), ObjSecret("v", "p"), "version/x", "data/x", ObjKey("mac"), "keygen/x", ObjMember("x"), "deal/x",
		"checkpoint/x", "request/x",
		ObjPipeline("v", "p"), ObjRunner("workload/x"), ObjSealRevocation("v", "p", nil), "event/x", keyEvents,
		ObjIssuer("x"), ObjClaimBinding("x"), ObjAssertion(nil),
		"consumer/x", keyConsumers,
		ObjLeaseRole("v", "r"), "leaseterms/x", "lease/x", "leasemark/x",
		ObjRotation("v", "p"), "rotated/x", ObjRotations,
		ObjKeyRotation("root"), ObjOperatorsNext, "signers/x", ObjLevel, ObjRecovered, "givenup/x", ObjBackup, ObjMembership,
	} {
		o := newObject(name)
		n := 7
		fill(reflect.ValueOf(o), "", &n)
		add("object/"+name, encodeObject(o), o, func(b []byte) (any, error) { return decodeObject(name, b) })
	}
	leaf := *filled(&AuditRecord{})
	add("leaf", leaf.LeafBytes(), leaf, func(b []byte) (any, error) { return ParseLeaf(b) })
	add("position", Position{1, 2, 3}.encode(), nil, nil)
	m := manifest{Cluster: [16]byte{1}, Index: 5, Term: 2, Files: []manifestFile{{Name: "000004.sst", Size: 3, Sum: bytes.Repeat([]byte{4}, 32)}}}
	add("snapshot/lead", lead(&m, 6, 3), m, func(b []byte) (any, error) {
		m, _, _, err := readLead(bytes.NewReader(b))
		return m, err
	})
	meta := &snapshot{ID: "2-5-1", Version: 1, Index: 5, Term: 2, Configuration: []byte("c"), ConfigurationIndex: 4, Number: 1, Epoch: 9, Database: "db-000001", Manifest: m}
	add("snapshot/meta", encodeMeta(meta), meta, func(b []byte) (any, error) { return decodeMeta(b) })
	for _, r := range []MACed{
		*filled(&Cluster{}), *filled(&Member{}), *filled(&Vault{}), *filled(&User{}), *filled(&Workload{}),
		*filled(&RoleBinding{}), *filled(&Token{}), *filled(&SecretID{}), *filled(&Enrolment{}), *filled(&Policy{}),
		*filled(&JoinToken{}), *filled(&Certificate{}),
		*filled(&Pipeline{}), *filled(&SealRevocation{}),
		*filled(&Issuer{}), *filled(&ClaimBinding{}),
		*filled(&LeaseRole{}), *filled(&Lease{}),
		*filled(&Rotation{}),
		*filled(&OperatorSet{}), *filled(&Membership{}),
	} {
		add("mac/"+strings.ReplaceAll(r.MACDomain(), "/", "-"), r.MACBody(), nil, nil)
	}
	add("checkpoint/note", filled(&Checkpoint{}).NoteText(), nil, nil)
	return names, forms, back, values
}

// Logs and disks of the first release must stay readable. A change of any line here is a change of format: give it a
// new format number and a golden file of its own instead.
func TestFormatsAreGolden(t *testing.T) {
	const path = "testdata/format1.golden"
	names, forms, back, values := goldens()
	if *update {
		var out bytes.Buffer
		for _, name := range names {
			fmt.Fprintf(&out, "%s %x\n", name, forms[name])
		}
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	seen := 0
	for lines.Scan() {
		name, digits, _ := strings.Cut(lines.Text(), " ")
		want, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		form, known := forms[name]
		if !known {
			t.Errorf("%s is no longer written", name)
			continue
		}
		if !bytes.Equal(form, want) {
			t.Errorf("%s is written as\n%x, not as\n%x", name, form, want)
		}
		if back[name] == nil {
			continue
		}
		got, err := back[name](want)
		if err != nil || !reflect.DeepEqual(got, values[name]) {
			t.Errorf("%s is read as\n%+v, not as\n%+v (%v)", name, got, values[name], err)
		}
	}
	if seen != len(names) {
		t.Errorf("%d formats have a line, %d are written", seen, len(names))
	}
}

// What Apply assigns must not be under a MAC, everything else must.
func TestMACCoversWhatGrants(t *testing.T) {
	assigned := map[string]string{
		"Cluster": "Created Sealed MAC NodeEpoch PendingEpoch RetiredBelow Changed", "Member": "PeerAddr ClientAddr Joined ClientCert MAC Level Changed",
		"Vault": "Generation Created MAC Changed", "User": "Created MAC Changed", "Workload": "Created MAC Changed",
		"RoleBinding": "Created MAC Changed", "Token": "MAC Changed", "SecretID": "MAC UsedRequest UsedClient UsedToken Used Generation Changed",
		"Enrolment": "MAC Used Changed", "Policy": "Created MAC Changed", "JoinToken": "Used MAC Changed", "Certificate": "MAC Generation Changed",
		"Pipeline": "Created MAC Changed", "SealRevocation": "Created MAC Changed",
		"Issuer": "Created MAC Made Changed", "ClaimBinding": "Created MAC Made Changed",
		"LeaseRole": "MAC Created Changed", "Lease": "MAC State Created Deadline Confirmed Drops Tries NextTry LastError Changed",
		"OperatorSet": "Confirmed Proposed MAC Changed",
		"Rotation":    "MAC Paused Requested NextRun Number Attempt Tries RetryAt Failure FailedAt Created Changed",
	}
	domains := map[string]bool{}
	for _, r := range []MACed{
		Cluster{}, Member{}, Vault{}, User{}, Workload{}, RoleBinding{}, Token{}, SecretID{}, Enrolment{}, Policy{}, JoinToken{}, Certificate{},
		Pipeline{}, SealRevocation{},
		Issuer{}, ClaimBinding{},
		LeaseRole{}, Lease{},
		Rotation{},
		OperatorSet{},
	} {
		if domains[r.MACDomain()] {
			t.Errorf("%T shares its domain", r)
		}
		domains[r.MACDomain()] = true
		kind := reflect.TypeOf(r)
		for i := range kind.NumField() {
			changed := reflect.New(kind).Elem()
			n := 40
			fill(changed.Field(i), "x", &n)
			covered := !bytes.Equal(changed.Interface().(MACed).MACBody(), r.MACBody())
			free := strings.Contains(" "+assigned[kind.Name()]+" ", " "+kind.Field(i).Name+" ")
			if covered == free {
				t.Errorf("%s.%s: covered by the MAC is %t", kind.Name(), kind.Field(i).Name, covered)
			}
		}
	}
	// Moving a byte from one field to its neighbour is another record.
	if bytes.Equal((RoleBinding{Role: "ab", Principal: "c"}).MACBody(), (RoleBinding{Role: "a", Principal: "bc"}).MACBody()) {
		t.Error("two role bindings share one body")
	}
	if bytes.Equal((Enrolment{Roles: []string{"a", "b"}}).MACBody(), (Enrolment{Roles: []string{"ab"}}).MACBody()) {
		t.Error("two enrolments share one body")
	}
}
