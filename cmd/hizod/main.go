// Command hizod is one node of a Hizo cluster. `hizod server` runs it, `hizod dev` runs a whole cluster of
// node processes on loopback for trying things out.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

type cli struct {
	Server   serverCmd        `cmd:"" help:"Run one node."`
	Dev      devCmd           `cmd:"" help:"Run a development cluster on loopback: starts node processes, initialises and unseals them."`
	Check    checkCmd         `cmd:"" help:"Check a configuration file without starting anything."`
	Health   healthCmd        `cmd:"" help:"Ask the node of a configuration, by its observe.listen, whether it is alive (--ready: can serve); exit 1 if not."`
	Softhsm  softhsmCmd       `cmd:"" help:"Make a SoftHSM2 token (a stand-in for an HSM), unless it is there."`
	Restore  restoreCmd       `cmd:"" help:"Begin a cluster again from a backup, with this node alone. The node must not be running."`
	Recover  recoverCmd       `cmd:"" help:"Go on with the nodes that are left after a majority was lost for good. Without --confirm it looks and changes nothing."`
	Identity identityCmd      `cmd:"" help:"Print the fingerprint of this node's identity key (for hizo cluster join-token), making the key when there is none."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("hizod"),
		kong.Description("A node of Hizo, a replicated secrets cluster."),
		kong.UsageOnError(),
		kong.Vars{"version": version()},
	)
	if err != nil {
		fatal(err)
	}
	ctx, err := parser.Parse(os.Args[1:])
	if err != nil {
		fatal(err)
	}
	if err := ctx.Run(); err != nil {
		fatal(err)
	}
}

// fatal prints an error as one or more lines and exits with its code, 1 where it names none.
func fatal(err error) {
	code := 1
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		code = coded.ExitCode()
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "hizod:", text)
	}
	os.Exit(code)
}

// version is the module's version, with the commit it was built from where the toolchain recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "dev"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && !strings.Contains(v, s.Value[:12]) {
			v += " " + s.Value[:12]
		}
	}
	return v
}
