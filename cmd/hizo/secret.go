package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
)

type vaultCmd struct {
	Create vaultCreateCmd `cmd:"" help:"Create a vault with keys of its own."`
	List   vaultListCmd   `cmd:"" help:"List vaults."`

	RotateKey vaultRotateKeyCmd `cmd:"" name:"rotate-key" help:"Give a vault a new key; data keys are rewrapped in the background, values are not touched."`
}

type vaultCreateCmd struct {
	Name string `arg:"" help:"Name of the new vault."`
}

func (c *vaultCreateCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	v, err := cl.Vaults().CreateVault(s.ctx, &hizov1.CreateVaultRequest{Name: c.Name})
	if err != nil {
		return err
	}
	return s.show(v, vaultTable([]*hizov1.Vault{v}))
}

func vaultTable(all []*hizov1.Vault) table {
	t := table{head: []string{"VAULT", "KEY GENERATION", "CREATED"}}
	for _, v := range all {
		t.add(v.GetName(), fmt.Sprint(v.GetKeyGeneration()), clock(v.GetCreatedUnix()))
	}
	return t
}

type vaultListCmd struct{}

func (vaultListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Vaults().ListVaults(s.ctx, &hizov1.ListVaultsRequest{})
	if err != nil {
		return err
	}
	return s.show(l, vaultTable(l.GetVaults()))
}

type secretCmd struct {
	Put      secretPutCmd      `cmd:"" help:"Store a new version."`
	Get      secretGetCmd      `cmd:"" help:"Reveal a value; only SecurityEngineers may."`
	List     secretListCmd     `cmd:"" help:"List the paths of a vault."`
	Versions secretVersionsCmd `cmd:"" help:"List the versions of a secret."`
	Delete   secretDeleteCmd   `cmd:"" help:"Delete versions; undelete brings them back."`
	Undelete secretUndeleteCmd `cmd:"" help:"Bring deleted versions back."`
	Destroy  secretDestroyCmd  `cmd:"" help:"Destroy versions and their keys for good."`
}

type secretPutCmd struct {
	Secret string   `arg:"" name:"vault/path" help:"Where to store it."`
	Fields []string `arg:"" name:"field" help:"FIELD=- reads standard input, FIELD=@FILE a file, FIELD alone asks without echo, FIELD=VALUE takes the value as it stands (and your shell's history keeps it)."`
	Cas    *uint32  `placeholder:"N" help:"Only if the current version is N; 0: only if there is none."`
}

func (c *secretPutCmd) Run(s *session) error {
	where, err := name.ParseResource(c.Secret)
	if err != nil {
		return err
	}
	fields, err := s.fields(c.Fields)
	defer wipeFields(fields)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	put, err := cl.Secrets().Put(s.ctx, &hizov1.PutRequest{Vault: where.Vault, Path: where.Path, Fields: fields, Cas: c.Cas})
	if err != nil {
		return err
	}
	return s.show(put, table{rows: [][]string{{"stored", where.String()}, {"version", fmt.Sprint(put.GetVersion())}}})
}

func wipeFields(fields map[string][]byte) {
	for _, v := range fields {
		clear(v)
	}
}

// fields reads the values of FIELD, FIELD=-, FIELD=@FILE and FIELD=VALUE. Names are checked before anything is
// read, so that a typing error costs no input.
func (s *session) fields(args []string) (map[string][]byte, error) {
	fields := make(map[string][]byte, len(args))
	stdin := ""
	for _, arg := range args {
		field, source, _ := strings.Cut(arg, "=")
		if _, err := name.Field(field); err != nil {
			return nil, err
		}
		if _, twice := fields[field]; twice {
			return nil, fmt.Errorf("field %s is given twice: give each once", field)
		}
		fields[field] = nil
		if source == "-" {
			if stdin != "" {
				return nil, fmt.Errorf("fields %s and %s both want standard input: give one as FIELD=@FILE", stdin, field)
			}
			stdin = field
		}
	}
	for _, arg := range args {
		field, source, given := strings.Cut(arg, "=")
		value, err := s.fieldValue(field, source, given)
		if err != nil {
			return fields, err
		}
		fields[field] = value
	}
	return fields, nil
}

func (s *session) fieldValue(field, source string, given bool) ([]byte, error) {
	switch {
	case !given:
		if !s.interactive() {
			return nil, fmt.Errorf("field %s: there is no terminal to ask at: write %s=- to read standard input, or %s=@FILE", field, field, field)
		}
		value, err := s.ask("Value of " + field)
		if err == nil && len(value) == 0 {
			err = fmt.Errorf("field %s: nothing was entered: try again", field)
		}
		return value, err
	case source == "-" && term.IsTerminal(int(s.stdin.Fd())):
		return nil, fmt.Errorf("field %s: %s=- reads standard input, which is a terminal and would show what you type: write %s alone to be asked without echo", field, field, field)
	case source == "-":
		value, err := s.stdinAll()
		if err == nil && len(value) == 0 {
			err = fmt.Errorf("field %s: standard input is empty: pipe the value in, or write %s= for an empty one", field, field)
		}
		if err == nil {
			s.warnNewline(field, value)
		}
		return value, err
	case strings.HasPrefix(source, "@"):
		value, err := readFile(source[1:], maxInput)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", field, err)
		}
		s.warnNewline(field, value)
		return value, nil
	}
	s.note("warning: the value of %s is now in your shell's history and was in the process list: %s=- and %s=@FILE avoid that", field, field, field)
	return []byte(source), nil
}

// warnNewline tells of what `echo value |` adds. Values of several lines, such as keys, end that way on purpose.
func (s *session) warnNewline(field string, value []byte) {
	if i := bytes.IndexByte(value, '\n'); i >= 0 && i == len(value)-1 {
		s.note("warning: the value of %s ends with a newline, which is stored as well: use printf '%%s' to leave it out", field)
	}
}

type secretGetCmd struct {
	Secret  string `arg:"" name:"vault/path" help:"What to reveal."`
	Field   string `placeholder:"FIELD" help:"Print the bare value of one field."`
	Version uint32 `placeholder:"N" help:"Another version than the current one."`
	Reason  string `placeholder:"TEXT" help:"Why; kept in the audit record."`
}

func (c *secretGetCmd) Run(s *session) error {
	where, err := name.ParseResource(c.Secret)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	got, err := cl.Secrets().Reveal(s.ctx, &hizov1.RevealRequest{
		Vault: where.Vault, Path: where.Path, Version: c.Version, Field: c.Field, Reason: c.Reason,
	})
	if err != nil {
		return err
	}
	defer wipeFields(got.GetFields())
	if c.Field != "" && s.g.Format == "table" {
		value, ok := got.GetFields()[c.Field]
		if !ok {
			return fmt.Errorf("the answer lacks the field %s: check that the server is of the same version", c.Field)
		}
		if _, err := s.stdout.Write(value); err != nil {
			return err
		}
		if s.toTerminal() {
			_, err = fmt.Fprintln(s.stdout)
		}
		return err
	}
	return s.showRevealed(where, got)
}

// revealed is a revealed version as JSON. Values that are no text are in base64, apart.
type revealed struct {
	Vault         string            `json:"vault"`
	Path          string            `json:"path"`
	Version       uint32            `json:"version"`
	CreatedUnix   int64             `json:"created_unix"`
	AuditSequence uint64            `json:"audit_sequence"`
	Fields        map[string]string `json:"fields"`
	Binary        map[string]string `json:"fields_base64,omitempty"`
}

func (s *session) showRevealed(where name.Resource, got *hizov1.RevealResponse) error {
	r := revealed{
		Vault: where.Vault, Path: where.Path, Version: got.GetVersion(), CreatedUnix: got.GetCreatedUnix(),
		AuditSequence: got.GetAuditSequence(), Fields: map[string]string{}, Binary: map[string]string{},
	}
	t := table{head: []string{"FIELD", "VALUE"}}
	for _, field := range slices.Sorted(maps.Keys(got.GetFields())) {
		value := got.GetFields()[field]
		if utf8.Valid(value) {
			r.Fields[field] = string(value)
		} else {
			r.Binary[field] = base64.StdEncoding.EncodeToString(value)
		}
		t.add(field, string(value))
	}
	if s.g.Format == "table" {
		s.note("%s, version %d of %s, audit record %d", where, r.Version, clock(r.CreatedUnix), r.AuditSequence)
	}
	return s.showValue(r, t)
}

type secretListCmd struct {
	Where string `arg:"" name:"vault[/prefix]" help:"Which vault, and which paths of it."`
	Limit int    `default:"0" help:"At most so many; 0: all."`
}

func (c *secretListCmd) Run(s *session) error {
	vault, prefix, _ := strings.Cut(c.Where, "/")
	if _, err := name.Vault(vault); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	all := &hizov1.ListSecretsResponse{}
	after := ""
	for {
		page, err := cl.Secrets().List(s.ctx, &hizov1.ListSecretsRequest{Vault: vault, Prefix: prefix, After: after, Limit: pageSize(c.Limit, len(all.Items))})
		if err != nil {
			return err
		}
		all.Items = append(all.Items, page.GetItems()...)
		all.More = page.GetMore()
		if !page.GetMore() || len(page.GetItems()) == 0 || c.Limit > 0 && len(all.Items) >= c.Limit {
			break
		}
		after = page.GetItems()[len(page.GetItems())-1].GetPath()
	}
	t := table{head: []string{"PATH", "CURRENT", "UPDATED"}}
	for _, i := range all.GetItems() {
		t.add(i.GetPath(), fmt.Sprint(i.GetCurrent()), clock(i.GetUpdatedUnix()))
	}
	if s.g.Format == "table" && all.GetMore() {
		s.note("there are more: raise --limit")
	}
	return s.show(all, t)
}

// pageSize is how many to ask for next; 0 leaves it to the server.
func pageSize(limit, have int) uint32 {
	if limit <= 0 {
		return 0
	}
	return uint32(min(limit-have, 1000))
}

type secretVersionsCmd struct {
	Secret string `arg:"" name:"vault/path" help:"Which secret."`
}

func (c *secretVersionsCmd) Run(s *session) error {
	where, err := name.ParseResource(c.Secret)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	v, err := cl.Secrets().Versions(s.ctx, &hizov1.VersionsRequest{Vault: where.Vault, Path: where.Path})
	if err != nil {
		return err
	}
	return s.show(v, versionTable(v.GetItems()))
}

func versionTable(items []*hizov1.VersionsResponse_Item) table {
	t := table{head: []string{"VERSION", "STAGE", "CREATED", "BY", "DELETED"}}
	for _, i := range items {
		t.add(fmt.Sprint(i.GetVersion()), i.GetStage(), clock(i.GetCreatedUnix()), orDash(i.GetBy()), clock(i.GetDeletedUnix()))
	}
	return t
}

type secretDeleteCmd struct {
	Secret  string   `arg:"" name:"vault/path" help:"Which secret."`
	Version []uint32 `placeholder:"N,..." help:"Which versions (default: the current one)."`
}

func (c *secretDeleteCmd) Run(s *session) error {
	return s.changeVersions(c.Secret, c.Version, "deleted", hizov1.SecretServiceClient.Delete)
}

type secretUndeleteCmd struct {
	Secret  string   `arg:"" name:"vault/path" help:"Which secret."`
	Version []uint32 `placeholder:"N,..." help:"Which versions (default: the current one)."`
}

func (c *secretUndeleteCmd) Run(s *session) error {
	return s.changeVersions(c.Secret, c.Version, "brought back", hizov1.SecretServiceClient.Undelete)
}

type secretDestroyCmd struct {
	Secret  string   `arg:"" name:"vault/path" help:"Which secret."`
	Version []uint32 `required:"" placeholder:"N,..." help:"Which versions."`
	DryRun  bool     `help:"Only show what would be destroyed."`
	Yes     bool     `help:"Do not ask."`
}

func (c *secretDestroyCmd) Run(s *session) error {
	where, err := name.ParseResource(c.Secret)
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.dryRun(s, where)
	}
	question := fmt.Sprintf("Destroy %s of %s for good?", versionList(c.Version), where)
	if err := s.confirm(question, c.Yes); err != nil {
		return err
	}
	return s.changeVersions(c.Secret, c.Version, "destroyed", hizov1.SecretServiceClient.Destroy)
}

func (c *secretDestroyCmd) dryRun(s *session, where name.Resource) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	v, err := cl.Secrets().Versions(s.ctx, &hizov1.VersionsRequest{Vault: where.Vault, Path: where.Path})
	if err != nil {
		return err
	}
	would := &hizov1.VersionsResponse{}
	for _, i := range v.GetItems() {
		if slices.Contains(c.Version, i.GetVersion()) {
			would.Items = append(would.Items, i)
		}
	}
	if len(would.GetItems()) == 0 {
		return errors.New("no such version: `hizo secret versions` lists them")
	}
	s.note("would be destroyed; nothing was changed")
	return s.show(would, versionTable(would.GetItems()))
}

func versionList(versions []uint32) string {
	if len(versions) == 0 {
		return "the current version"
	}
	var words []string
	for _, v := range versions {
		words = append(words, strconv.FormatUint(uint64(v), 10))
	}
	if len(words) == 1 {
		return "version " + words[0]
	}
	return "versions " + strings.Join(words, ", ")
}

// versionChange is Delete, Undelete or Destroy of the secret service.
type versionChange = func(hizov1.SecretServiceClient, context.Context, *hizov1.ChangeVersionsRequest, ...grpc.CallOption) (*hizov1.ChangeVersionsResponse, error)

func (s *session) changeVersions(secret string, versions []uint32, done string, change versionChange) error {
	where, err := name.ParseResource(secret)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := change(cl.Secrets(), s.ctx, &hizov1.ChangeVersionsRequest{Vault: where.Vault, Path: where.Path, Versions: versions})
	if err != nil {
		return err
	}
	return s.show(r, table{rows: [][]string{{done, versionList(r.GetVersions()) + " of " + where.String()}}})
}
