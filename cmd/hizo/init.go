package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hizo/hizo/api/bootstrap"
	"github.com/hizo/hizo/api/client"
	"github.com/hizo/hizo/api/hizov1"
)

type clusterInitCmd struct {
	Bootstrap       string   `required:"" type:"path" placeholder:"FILE" help:"The file that the uninitialised node wrote into its data directory."`
	Operator        []string `required:"" sep:"none" placeholder:"RECIPIENT" help:"Age recipient of an operator, or @FILE; one flag for each operator."`
	Threshold       uint32   `required:"" placeholder:"N" help:"How many operators together unseal the cluster."`
	Name            string   `default:"hizo" help:"The cluster's name."`
	Out             string   `type:"path" placeholder:"DIR" help:"Write CA, trust file, encrypted shares and enrolment code into this directory; it must not hold those of another cluster."`
	RequireHardware bool     `help:"Refuse nodes whose keys are not in an HSM."`
}

func (c *clusterInitCmd) Run(s *session) error {
	boot, err := bootstrap.Read(c.Bootstrap)
	if err != nil {
		return err
	}
	operators, err := recipients(c.Operator)
	if err != nil {
		return err
	}
	if c.Threshold < 1 || int(c.Threshold) > len(operators) {
		return fmt.Errorf("--threshold %d does not fit %d operators: it is at least 1 and at most their number", c.Threshold, len(operators))
	}
	// What can fail here fails before the cluster exists: its shares are given out once.
	if c.Out != "" {
		if err := c.prepare(len(operators)); err != nil {
			return err
		}
	}
	pin, err := boot.Pin()
	if err != nil {
		return err
	}
	addr := boot.Address
	if len(s.g.Addrs) > 0 {
		addr = s.g.Addrs[0]
	}
	cl, err := client.New(client.Config{Addrs: []string{addr}, PinnedKey: &pin, Timeout: s.g.Timeout, UserAgent: "hizo/" + version()})
	if err != nil {
		return err
	}
	defer cl.Close()
	made, err := cl.Cluster().Init(s.ctx, &hizov1.InitRequest{
		BootstrapToken: boot.Token, Name: c.Name, Operators: operators, Threshold: c.Threshold, RequireHardware: c.RequireHardware,
	})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := c.write(made); err != nil {
			s.note("warning: not everything could be written into %s (%v): keep what follows, it is shown this once", c.Out, err)
			return c.print(s, made, "")
		}
	}
	return c.print(s, made, c.Out)
}

func shareFile(i int) string { return fmt.Sprintf("share-%d.age", i+1) }

// files of --out, with what init answered (nil: names only).
func (c *clusterInitCmd) files(made *hizov1.InitResponse, operators int) map[string][]byte {
	files := map[string][]byte{
		"ca.pem":    made.GetCaPem(),
		"trust":     []byte(strings.TrimSpace(made.GetTrust()) + "\n"),
		"enrolment": []byte(made.GetEnrolmentCode() + "\n"),
	}
	for i := range operators {
		files[shareFile(i)] = nil
		if shares := made.GetOperatorShares(); i < len(shares) {
			files[shareFile(i)] = shares[i]
		}
	}
	return files
}

func (c *clusterInitCmd) prepare(operators int) error {
	if err := os.MkdirAll(c.Out, 0o700); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	for name := range c.files(nil, operators) {
		if _, err := os.Lstat(filepath.Join(c.Out, name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("--out: %s exists in %s: choose another directory", name, c.Out)
		}
	}
	probe, err := os.CreateTemp(c.Out, ".probe-*")
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

func (c *clusterInitCmd) write(made *hizov1.InitResponse) error {
	var errs []error
	for name, data := range c.files(made, len(made.GetOperatorShares())) {
		mode := os.FileMode(0o600)
		if name == "ca.pem" || name == "trust" {
			mode = 0o644
		}
		errs = append(errs, writeNew(filepath.Join(c.Out, name), data, mode))
	}
	return errors.Join(errs...)
}

// initialised is the result as JSON: text where the message has bytes.
type initialised struct {
	ClusterID        string   `json:"cluster_id"`
	CA               string   `json:"ca_pem"`
	Trust            string   `json:"trust"`
	OperatorShares   []string `json:"operator_shares"`
	EnrolmentCode    string   `json:"enrolment_code"`
	EnrolmentExpires int64    `json:"enrolment_expires_unix"`
	Directory        string   `json:"directory,omitempty"`
}

func (c *clusterInitCmd) print(s *session, made *hizov1.InitResponse, dir string) error {
	r := initialised{
		ClusterID: made.GetClusterId(), CA: string(made.GetCaPem()), Trust: made.GetTrust(),
		EnrolmentCode: made.GetEnrolmentCode(), EnrolmentExpires: made.GetEnrolmentExpiresUnix(), Directory: dir,
	}
	for _, share := range made.GetOperatorShares() {
		r.OperatorShares = append(r.OperatorShares, string(share))
	}
	if s.g.Format != "table" {
		return s.showValue(r, table{})
	}
	var b strings.Builder
	table{rows: [][]string{{"cluster", r.ClusterID}, {"trust", r.Trust}}}.write(&b)
	if dir == "" {
		fmt.Fprintf(&b, "\nCA (keep it as a file, HIZO_CACERT):\n%s", r.CA)
		for i, share := range r.OperatorShares {
			fmt.Fprintf(&b, "\nShare of operator %d, encrypted to that operator's key:\n%s", i+1, strings.TrimRight(share, "\n")+"\n")
		}
	} else {
		fmt.Fprintf(&b, "\nIn %s: ca.pem, trust, enrolment, and for the operators share-1.age to %s\n", dir, shareFile(len(r.OperatorShares)-1))
	}
	fmt.Fprintf(&b, "\nEnrolment code of the first SecurityEngineer, good once until %s:\n%s\n", clock(r.EnrolmentExpires), r.EnrolmentCode)
	if _, err := s.stdout.WriteString(b.String()); err != nil {
		return err
	}
	s.note("next: give each operator their share, then hizo login --enrol --user NAME")
	return nil
}
