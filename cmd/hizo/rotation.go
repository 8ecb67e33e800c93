package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hizo/hizo/api/hizov1"
	"github.com/hizo/hizo/api/name"
)

type rotationCmd struct {
	Set     rotationSetCmd     `cmd:"" help:"Set when and where a secret is rotated."`
	List    rotationListCmd    `cmd:"" help:"List rotations."`
	Status  rotationStatusCmd  `cmd:"" help:"Show how a rotation stands, and who still uses an older version."`
	Run     rotationRunCmd     `cmd:"" help:"Rotate now."`
	Pause   rotationPauseCmd   `cmd:"" help:"Begin no more rotations until it is resumed; one that is under way goes on."`
	Resume  rotationResumeCmd  `cmd:"" help:"Let the schedule begin again, from now."`
	History rotationHistoryCmd `cmd:"" help:"List the rotations that ended, newest first."`
	Delete  rotationDeleteCmd  `cmd:"" help:"Delete a schedule; the secret stays as it is."`
}

// rotationOf names the secret whose rotation a command is about.
type rotationOf struct {
	Secret string `arg:"" name:"vault/path" help:"Which secret."`
}

func (c rotationOf) request() (*hizov1.RotationRequest, error) {
	where, err := name.ParseResource(c.Secret)
	return &hizov1.RotationRequest{Vault: where.Vault, Path: where.Path}, err
}

type rotationSetCmd struct {
	rotationOf
	Every    span              `placeholder:"24h" xor:"when" help:"How often."`
	Cron     string            `placeholder:"\"0 3 * * *\"" xor:"when" help:"When, as in crontab(5)."`
	TZ       string            `name:"tz" placeholder:"ZONE" help:"Time zone of --cron and --window, such as Europe/Berlin (default: UTC)."`
	Window   string            `placeholder:"\"Mon-Fri 02:00-05:00\"" help:"Begin only in these hours; several with a semicolon between them."`
	Target   string            `required:"" placeholder:"KIND" help:"What is changed outside: generated (nothing), postgresql, mariadb, redis, webhook, command."`
	Option   map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"An option of the target, such as host=db.internal or admin=VAULT/PATH; NAME=@FILE reads a file; may be repeated. No secrets."`
	Field    string            `placeholder:"FIELD" help:"Short for --option field=FIELD."`
	Grace    span              `default:"10m" help:"How long the old value stays valid at least."`
	Wait     bool              `name:"wait-for-consumers" help:"Keep the old value until every consumer has moved to the new one, or the deadline has passed."`
	Deadline span              `placeholder:"24h" help:"With --wait-for-consumers: when the old value goes at the latest."`
	Revoke   bool              `name:"revoke-issued" help:"When the old value goes, end what it was good for: leases made with it, and tokens of those that still use it."`
}

func (c *rotationSetCmd) Run(s *session) error {
	where, err := name.ParseResource(c.Secret)
	if err != nil {
		return err
	}
	if c.Every == 0 && c.Cron == "" {
		return fmt.Errorf("say when: --every 24h, or --cron \"0 3 * * *\" with --tz")
	}
	options := maps.Clone(c.Option)
	if options == nil {
		options = map[string]string{}
	}
	for option, value := range options {
		if file, is := strings.CutPrefix(value, "@"); is {
			content, err := readFile(file, maxInput)
			if err != nil {
				return fmt.Errorf("--option %s: %w", option, err)
			}
			options[option] = string(content)
		}
	}
	if c.Field != "" {
		options["field"] = c.Field
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Rotations().Set(s.ctx, &hizov1.SetRotationRequest{
		Vault: where.Vault, Path: where.Path, Target: c.Target, Options: options, EverySeconds: c.Every.seconds(), Cron: c.Cron,
		Zone: c.TZ, Window: c.Window, GraceSeconds: c.Grace.seconds(), WaitForConsumers: c.Wait, DeadlineSeconds: c.Deadline.seconds(),
		RevokeIssued: c.Revoke,
	})
	if err != nil {
		return err
	}
	return s.show(r, rotationTable(r))
}

func duration(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func when(r *hizov1.Rotation) string {
	text := "every " + duration(r.GetEverySeconds())
	if r.GetCron() != "" {
		text = r.GetCron()
	}
	if r.GetZone() != "" {
		text += " " + r.GetZone()
	}
	if r.GetWindow() != "" {
		text += ", in " + r.GetWindow()
	}
	return text
}

func next(r *hizov1.Rotation) string {
	if r.GetPaused() {
		return "paused"
	}
	return clock(r.GetNextRunUnix())
}

// rotationTable is a rotation for people: what it is, then how it stands.
func rotationTable(r *hizov1.Rotation) table {
	t := table{}
	t.add("secret", r.GetVault()+"/"+r.GetPath())
	t.add("target", r.GetTarget())
	for _, option := range slices.Sorted(maps.Keys(r.GetOptions())) {
		value, _, more := strings.Cut(r.GetOptions()[option], "\n")
		if more {
			value += " …"
		}
		t.add("  "+option, value)
	}
	t.add("when", when(r))
	t.add("old value", retires(r))
	t.add("set by", r.GetBy())
	t.add("next run", next(r))
	t.add("rotations", fmt.Sprint(r.GetAttempts()))
	t.add("stage", r.GetStage())
	if r.GetVersion() != 0 {
		t.add("version", fmt.Sprintf("%d, after %d", r.GetVersion(), r.GetOldVersion()))
		t.add("began", clock(r.GetStartedUnix()))
	}
	if r.GetRetiresUnix() != 0 {
		label := "old value goes"
		if r.GetWaitForConsumers() {
			label = "goes at the latest"
		}
		t.add(label, clock(r.GetRetiresUnix()))
	}
	if r.GetFailure() != "" {
		t.add("failure", r.GetFailure())
		t.add("failed", clock(r.GetFailedUnix()))
	}
	if r.GetTries() != 0 {
		t.add("tries", fmt.Sprintf("%d, the next one at %s", r.GetTries(), clock(r.GetRetryUnix())))
	}
	for _, c := range r.GetLagging() {
		t.add("lags behind", fmt.Sprintf("%s %s at version %d, seen %s", c.GetPrincipal(), c.GetId(), c.GetVersion(), clock(c.GetSeenUnix())))
	}
	return t
}

func retires(r *hizov1.Rotation) string {
	text := "valid for " + duration(r.GetGraceSeconds())
	if r.GetWaitForConsumers() {
		text += fmt.Sprintf(" and until its consumers have moved, %s at most", duration(r.GetDeadlineSeconds()))
	}
	if r.GetRevokeIssued() {
		text += "; then what it was good for is revoked"
	}
	return text
}

type rotationListCmd struct {
	Vault string `arg:"" optional:"" help:"Only those of one vault."`
}

func (c *rotationListCmd) Run(s *session) error {
	cl, err := s.connect()
	if err != nil {
		return err
	}
	l, err := cl.Rotations().List(s.ctx, &hizov1.ListRotationsRequest{Vault: c.Vault})
	if err != nil {
		return err
	}
	t := table{head: []string{"SECRET", "TARGET", "WHEN", "NEXT RUN", "STAGE", "FAILURE"}}
	for _, r := range l.GetRotations() {
		t.add(r.GetVault()+"/"+r.GetPath(), r.GetTarget(), when(r), next(r), r.GetStage(), orDash(r.GetFailure()))
	}
	return s.show(l, t)
}

type rotationStatusCmd struct{ rotationOf }

func (c *rotationStatusCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Rotations().Show(s.ctx, &hizov1.ShowRotationRequest{Vault: req.GetVault(), Path: req.GetPath()})
	if err != nil {
		return err
	}
	return s.show(r, rotationTable(r))
}

type rotationPauseCmd struct{ rotationOf }

func (c *rotationPauseCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Rotations().Pause(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(r, rotationTable(r))
}

type rotationResumeCmd struct{ rotationOf }

func (c *rotationResumeCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	r, err := cl.Rotations().Resume(s.ctx, req)
	if err != nil {
		return err
	}
	return s.show(r, rotationTable(r))
}

type rotationHistoryCmd struct{ rotationOf }

func (c *rotationHistoryCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	h, err := cl.Rotations().History(s.ctx, req)
	if err != nil {
		return err
	}
	t := table{head: []string{"ROTATION", "VERSION", "BEGAN", "CURRENT SINCE", "ENDED", "OUTCOME", "FAILURES", "DETAIL"}}
	for _, a := range h.GetAttempts() {
		t.add(fmt.Sprint(a.GetNumber()), orDash(number(a.GetVersion())), clock(a.GetStartedUnix()), clock(a.GetPromotedUnix()),
			clock(a.GetEndedUnix()), a.GetOutcome(), fmt.Sprint(a.GetFailures()), orDash(a.GetDetail()))
	}
	return s.show(h, t)
}

// number is empty for 0.
func number(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

type rotationDeleteCmd struct {
	rotationOf
	Force bool `help:"Also while a rotation is under way; its new value is kept as an old version, because it is not known whether the target has it."`
	Yes   bool `help:"Do not ask."`
}

func (c *rotationDeleteCmd) Run(s *session) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	if err := s.confirm(fmt.Sprintf("Delete the rotation of %s?", c.Secret), c.Yes); err != nil {
		return err
	}
	cl, err := s.connect()
	if err != nil {
		return err
	}
	d, err := cl.Rotations().Delete(s.ctx, &hizov1.DeleteRotationRequest{Vault: req.GetVault(), Path: req.GetPath(), Force: c.Force})
	if err != nil {
		return err
	}
	return s.show(d, table{rows: [][]string{{"deleted", "the rotation of " + c.Secret}}})
}
