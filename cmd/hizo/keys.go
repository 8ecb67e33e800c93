package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/crypto/shares"
)

type vaultRotateKeyCmd struct {
	Name string `arg:"" help:"Name of the vault."`
}

func (c *vaultRotateKeyCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	v, err := cl.Keys().RotateVault(s.ctx, &hizov1.RotateVaultRequest{Vault: c.Name})
	if err != nil {
		return err
	}
	s.note("new values are under generation %d; `hizo cluster schedule list` shows how far the older data keys are", v.GetKeyGeneration())
	return s.show(v, table{rows: [][]string{{"vault", v.GetVault()}, {"key generation", fmt.Sprint(v.GetKeyGeneration())}}})
}

type clusterRotateCmd struct {
	Subject   string   `arg:"" help:"root, node-shares, operator-shares, certificates, vaults, or vault/NAME."`
	Operator  []string `placeholder:"RECIPIENT" help:"operator-shares: other operators than now, each an age recipient or @FILE; repeat for each."`
	Threshold uint32   `help:"operator-shares: how many of them unseal (default: as now)."`
	Abort     bool     `help:"operator-shares: drop new shares that are not in force yet."`
}

func (c *clusterRotateCmd) Run(s *session) error {
	operators, err := recipients(c.Operator)
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	if c.Abort {
		if c.Subject != "operator-shares" {
			return errors.New("only operator-shares can be dropped: everything else is renewed at once or not at all")
		}
		r, err := cl.Keys().AbortOperatorShares(s.ctx, &hizov1.AbortOperatorSharesRequest{})
		if err != nil {
			return err
		}
		return s.show(r, table{rows: [][]string{{"dropped", c.Subject}}})
	}
	return rotateKeys(s, &hizov1.RotateRequest{Subject: c.Subject, Operators: operators, Threshold: c.Threshold})
}

func rotateKeys(s *session, req *hizov1.RotateRequest) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	k, err := cl.Keys().Rotate(s.ctx, req)
	if err != nil {
		return err
	}
	if req.GetSubject() == "operator-shares" {
		s.note("the old shares stay in force until enough operators have said that they can read the new ones: hizo operator confirm --identity FILE")
	}
	return s.show(k, keyRotationTable([]*hizov1.KeyRotation{k}))
}

type clusterDealCmd struct{}

func (clusterDealCmd) Run(s *session) error {
	return rotateKeys(s, &hizov1.RotateRequest{Subject: "node-shares"})
}

type clusterScheduleCmd struct {
	Set  clusterScheduleSetCmd  `cmd:"" help:"Set or remove a schedule."`
	List clusterScheduleListCmd `cmd:"" help:"List schedules, what is under way, and how far the vaults' data keys are."`
}

type clusterScheduleSetCmd struct {
	Subject string        `arg:"" help:"root, node-shares, operator-shares, certificates, vaults, or vault/NAME."`
	Every   time.Duration `help:"Interval, for example 720h."`
	Cron    string        `placeholder:"EXPR" help:"Cron expression, for example \"0 3 1 * *\"."`
	TZ      string        `name:"tz" placeholder:"ZONE" help:"Time zone of --cron and --window (default UTC)."`
	Window  string        `placeholder:"TEXT" help:"When it may begin, for example \"Sat,Sun 00:00-24:00\"."`
	Off     bool          `help:"Remove the schedule."`
}

func (c *clusterScheduleSetCmd) Run(s *session) error {
	req := &hizov1.SetKeyScheduleRequest{Subject: c.Subject}
	if !c.Off {
		if c.Every%time.Second != 0 {
			return errors.New("--every takes whole seconds")
		}
		req.Schedule = &hizov1.KeySchedule{EverySeconds: int64(c.Every / time.Second), Cron: c.Cron, Zone: c.TZ, Window: c.Window}
	} else if c.Every != 0 || c.Cron != "" {
		return errors.New("--off stands alone")
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	k, err := cl.Keys().SetKeySchedule(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(k, keyRotationTable([]*hizov1.KeyRotation{k}))
}

func keyRotationTable(list []*hizov1.KeyRotation) table {
	t := table{head: []string{"KEYS", "SCHEDULE", "NEXT", "UNDER WAY SINCE", "LAST"}}
	at := func(unix int64) string {
		if unix == 0 {
			return "-"
		}
		return clock(unix)
	}
	for _, k := range list {
		t.add(k.GetSubject(), scheduleText(k.GetSchedule()), at(k.GetNextUnix()), at(k.GetSinceUnix()), at(k.GetLastUnix()))
	}
	return t
}

func scheduleText(k *hizov1.KeySchedule) string {
	if k == nil {
		return "on demand"
	}
	text := k.GetCron()
	if text == "" {
		text = "every " + (time.Duration(k.GetEverySeconds()) * time.Second).String()
	}
	if k.GetWindow() != "" {
		text += " in " + k.GetWindow()
	}
	if k.GetZone() != "" {
		text += " " + k.GetZone()
	}
	return text
}

type clusterScheduleListCmd struct{}

func (clusterScheduleListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Keys().ListKeyRotations(s.ctx, &hizov1.ListKeyRotationsRequest{})
	if err != nil {
		return err
	}
	t := keyRotationTable(l.GetRotations())
	if len(l.GetVaults()) > 0 {
		t.add("", "", "", "", "")
		t.add("VAULT", "GENERATION", "DATA KEYS", "UNDER OLDER ONES", "OLDER GENERATIONS")
	}
	for _, v := range l.GetVaults() {
		t.add(v.GetVault(), fmt.Sprint(v.GetKeyGeneration()), fmt.Sprint(v.GetDataKeys()), fmt.Sprint(v.GetStaleDataKeys()), fmt.Sprint(v.GetOlderGenerations()))
	}
	return s.show(l, t)
}

type operatorSharesCmd struct {
	Out string `type:"path" placeholder:"DIR" help:"Write each operator's encrypted share into DIR as operator-N.age."`
}

func (c *operatorSharesCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Keys().OperatorShares(s.ctx, &hizov1.OperatorSharesRequest{})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := os.MkdirAll(c.Out, 0o700); err != nil {
			return fmt.Errorf("the folder of the shares: %w", err)
		}
		for _, share := range l.GetShares() {
			path := filepath.Join(c.Out, fmt.Sprintf("operator-%d.age", share.GetOperator()))
			if err := writeNew(path, share.GetFile(), 0o600); err != nil {
				return fmt.Errorf("write the share of operator %d: %w", share.GetOperator(), err)
			}
		}
	}
	return s.show(l, sharesTable(s, l))
}

func sharesTable(s *session, l *hizov1.OperatorSharesResponse) table {
	if l.GetInForce() {
		s.note("these shares are in force: any %d of %d unseal", l.GetThreshold(), len(l.GetShares()))
	} else {
		s.note("waiting for their operators: %d of %d confirmations; until then the old shares are in force", l.GetConfirmed(), l.GetNeeded())
	}
	t := table{head: []string{"OPERATOR", "CONFIRMED", "RECIPIENT"}}
	for _, share := range l.GetShares() {
		recipient := share.GetRecipient()
		if len(recipient) > 24 {
			recipient = recipient[:24] + "…"
		}
		confirmed := "-"
		if share.GetConfirmedUnix() != 0 {
			confirmed = clock(share.GetConfirmedUnix())
		}
		t.add(fmt.Sprint(share.GetOperator()), confirmed, recipient)
	}
	return t
}

type operatorConfirmCmd struct {
	Identity string `required:"" type:"path" placeholder:"FILE" help:"The operator's age identity."`
	Out      string `type:"path" placeholder:"FILE" help:"Keep the encrypted share in this new file (it opens with the same identity)."`
}

// Run finds the share that opens with the identity, reads it, and sends what shows that it was read. The share itself
// stays here.
func (c *operatorConfirmCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Keys().OperatorShares(s.ctx, &hizov1.OperatorSharesRequest{})
	if err != nil {
		return err
	}
	var last error
	for _, one := range l.GetShares() {
		plain, err := openAge(one.GetFile(), c.Identity)
		if err != nil {
			last = err
			continue
		}
		share, err := shares.ParseText(string(bytes.TrimSpace(plain)))
		clear(plain)
		if err != nil {
			return fmt.Errorf("the new share of operator %d: %w", one.GetOperator(), err)
		}
		code, err := share.Confirmation()
		share.Wipe()
		if err != nil {
			return err
		}
		if c.Out != "" {
			if err := writeNew(c.Out, one.GetFile(), 0o600); err != nil {
				return fmt.Errorf("keep the new share: %w", err)
			}
		}
		r, err := cl.Keys().ConfirmOperatorShare(s.ctx, &hizov1.ConfirmOperatorShareRequest{Operator: one.GetOperator(), Code: code})
		if err != nil {
			return err
		}
		return s.show(r, sharesTable(s, r))
	}
	return fmt.Errorf("none of the %d new shares is for this identity: %w", len(l.GetShares()), last)
}
