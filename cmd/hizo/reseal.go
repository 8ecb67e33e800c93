package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
	"github.com/hizo/hizo/api/seal"
	"github.com/hizo/hizo/cmd/hizo/internal/sealedfile"
)

type resealCmd struct {
	Files    []string `arg:"" name:"file" sep:"none" help:"Files of variables: dotenv, YAML or JSON."`
	Pipeline string   `placeholder:"VAULT/NAME" help:"Refuse values of another pipeline (default: that whose key they were sealed to)."`
	As       string   `placeholder:"FORMAT" help:"Read the files as dotenv, yaml or json, whatever their names say."`
	DryRun   bool     `help:"Change no file; only tell what would change."`
}

// resealed is what became of one value.
type resealed struct {
	File        string `json:"file"`
	Line        int    `json:"line"`
	Variable    string `json:"variable"`
	Pipeline    string `json:"pipeline"`
	KeyID       string `json:"key_id"`
	ExpiresUnix int64  `json:"expires_unix"`
	Changed     bool   `json:"changed"`
}

// configFile is a file to reseal.
type configFile struct {
	path   string
	text   []byte
	values []sealedfile.Value
}

// Run writes no file before all values of all files are resealed: the cluster opens and seals them, and answers what is
// sealed again.
func (c *resealCmd) Run(s *session) error {
	files, err := c.read()
	if err != nil {
		return err
	}
	req := &hizov1.ResealRequest{}
	if c.Pipeline != "" {
		p, err := name.ParsePipeline(c.Pipeline)
		if err != nil {
			return err
		}
		req.Vault, req.Name = p.Vault, p.Name
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	answers, err := resealAll(s, cl, req, files)
	if err != nil {
		return err
	}
	out := []resealed{}
	t := table{head: []string{"FILE", "VARIABLE", "PIPELINE", "KEY", "EXPIRES", "CHANGED"}}
	for _, f := range files {
		var texts []string
		changed := false
		for _, v := range f.values {
			a := answers[resealKey{v.Name, v.Sealed.Text()}]
			texts = append(texts, a.GetSeal())
			changed = changed || !a.GetUnchanged()
			out = append(out, resealed{f.path, v.Line, v.Name, a.GetPipeline(), a.GetKeyId(), a.GetExpiresUnix(), !a.GetUnchanged()})
			t.add(fmt.Sprintf("%s:%d", f.path, v.Line), v.Name, a.GetPipeline(), a.GetKeyId(), clock(a.GetExpiresUnix()), yesNo(!a.GetUnchanged()))
		}
		if changed && !c.DryRun {
			if err := f.write(sealedfile.Replace(f.text, f.values, texts)); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
		}
	}
	return s.showValue(out, t)
}

func (c *resealCmd) read() ([]configFile, error) {
	var files []configFile
	some := false
	for _, path := range c.Files {
		format := sealedfile.Format(c.As)
		var err error
		if c.As == "" {
			if format, err = sealedfile.FormatOf(path); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
		f := configFile{path: path}
		if f.text, err = readFile(path, sealedfile.MaxFile); err != nil {
			return nil, err
		}
		if f.values, err = sealedfile.Find(format, f.text); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		some = some || len(f.values) > 0
		files = append(files, f)
	}
	if !some {
		return nil, errors.New("there is no sealed value (hizo:v1:...) in what was given: check the names of the files")
	}
	return files, nil
}

// resealKey names a value: the same text may stand in several files.
type resealKey struct{ variable, text string }

// Bounds of one call, below the server's.
const (
	resealItems = 64
	resealBytes = 512 << 10
)

// resealAll has every value resealed, those of one key at a time: which pipeline it is follows from the key.
func resealAll(s *session, cl *client.Client, head *hizov1.ResealRequest, files []configFile) (map[resealKey]*hizov1.ResealResponse_Item, error) {
	answers := map[resealKey]*hizov1.ResealResponse_Item{}
	var keys [][seal.KeyIDSize]byte
	byKey := map[[seal.KeyIDSize]byte][]resealKey{}
	for _, f := range files {
		for _, v := range f.values {
			k := resealKey{v.Name, v.Sealed.Text()}
			if _, known := answers[k]; known {
				continue
			}
			answers[k] = nil
			if byKey[v.Sealed.KeyID] == nil {
				keys = append(keys, v.Sealed.KeyID)
			}
			byKey[v.Sealed.KeyID] = append(byKey[v.Sealed.KeyID], k)
		}
	}
	for _, id := range keys {
		for rest := byKey[id]; len(rest) > 0; {
			req := &hizov1.ResealRequest{Vault: head.GetVault(), Name: head.GetName()}
			for size := 0; len(req.Items) < min(len(rest), resealItems); {
				k := rest[len(req.Items)]
				if size += len(k.text); size > resealBytes && len(req.Items) > 0 {
					break
				}
				req.Items = append(req.Items, &hizov1.ResealRequest_Item{Variable: k.variable, Seal: k.text})
			}
			answer, err := cl.Pipelines().Reseal(s.ctx, req)
			if err != nil {
				return nil, err
			}
			if len(answer.GetItems()) != len(req.GetItems()) {
				return nil, fmt.Errorf("the cluster answered %d sealed values for %d: check that the server is of the same version", len(answer.GetItems()), len(req.GetItems()))
			}
			for i, item := range answer.GetItems() {
				if _, err := seal.Parse(item.GetSeal()); err != nil {
					return nil, fmt.Errorf("the cluster answered something that is not sealed: check that the server is of the same version")
				}
				answers[rest[i]] = item
			}
			rest = rest[len(req.Items):]
		}
	}
	return answers, nil
}

// write replaces the file, unless somebody else has changed it meanwhile.
func (f *configFile) write(text []byte) error {
	now, err := readFile(f.path, sealedfile.MaxFile)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, f.text) {
		return errors.New("the file was changed while its values were resealed: run this again")
	}
	return writeOver(f.path, text, 0o600)
}

// writeOver replaces a file in one step: a crash leaves the old one or the new one. It keeps mode and owner of what it
// replaces, mode is for a new one, and it writes through symbolic links.
func writeOver(path string, data []byte, mode os.FileMode) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	old, err := os.Stat(path)
	switch {
	case err == nil:
		mode = old.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".hizo-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	if old != nil {
		sameOwner(tmp, old)
	}
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
