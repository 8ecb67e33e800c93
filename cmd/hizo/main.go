// Hizo is the client of a Hizo cluster: it manages secrets and identities, runs commands with injected
// secrets, and verifies the audit log.
//
// It exits with 0; with 1 for a mistake made here, or when no node can be reached; with 2 when the cluster
// refuses; with 3 when it is not known whether a change took effect. `hizo run` exits with its command's code.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the grammar of the command line.
type cli struct {
	Globals

	Operator   operatorCmd   `cmd:"" help:"Keys of operators, who hold the shares that unseal a cluster."`
	Cluster    clusterCmd    `cmd:"" help:"Initialise, unseal and change the cluster."`
	Login      loginCmd      `cmd:"" help:"Log in; the token goes to the token file."`
	Logout     logoutCmd     `cmd:"" help:"Revoke the token and delete the token file."`
	Whoami     whoamiCmd     `cmd:"" name:"whoami" help:"Show who the token belongs to."`
	Vault      vaultCmd      `cmd:"" help:"Create and list vaults."`
	Secret     secretCmd     `cmd:"" help:"Put, read and manage secrets."`
	User       userCmd       `cmd:"" help:"Manage people."`
	Role       roleCmd       `cmd:"" help:"Grant and revoke roles."`
	Workload   workloadCmd   `cmd:"" help:"Manage identities of pipelines."`
	Cert       certCmd       `cmd:"" help:"Issue client certificates."`
	Token      tokenCmd      `cmd:"" help:"Revoke tokens."`
	Issuer     issuerCmd     `cmd:"" help:"Whose word is taken for who a machine is."`
	Binding    bindingCmd    `cmd:"" help:"Which workload those are who have certain claims."`
	Policy     policyCmd     `cmd:"" help:"Manage and explain policies."`
	Lease      leaseCmd      `cmd:"" help:"Users of databases made for one run, and dropped again."`
	Pipeline   pipelineCmd   `cmd:"" help:"Manage pipelines: who runs them, what a run gets."`
	Seal       sealCmd       `cmd:"" help:"Seal a value for a pipeline's variable, offline."`
	Reseal     resealCmd     `cmd:"" help:"Seal the values of files to the newest keys of their pipelines."`
	Rotation   rotationCmd   `cmd:"" help:"Rotate secrets, on schedule or on demand."`
	Run        runCmd        `cmd:"" help:"Run a command with injected secrets."`
	Agent      agentCmd      `cmd:"" help:"Keep files, a command or a socket supplied with secrets."`
	Watch      watchCmd      `cmd:"" help:"Follow what changes: names and versions, never values."`
	Consumers  consumersCmd  `cmd:"" help:"List who uses which version of a secret."`
	Backup     backupCmd     `cmd:"" help:"Make, list and verify backups of the cluster."`
	Audit      auditCmd      `cmd:"" help:"Read, export and verify the audit log."`
	Version    versionCmd    `cmd:"" help:"Show the version of this program."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`
	Guard      guardCmd      `cmd:"" name:"__guard" hidden:"" help:"Removes files in memory when the program that made them has ended."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:"" help:"Candidates for a completion script."`
}

func main() { os.Exit(run(os.Args[1:])) }

// run is main without exiting.
func run(args []string) int {
	var c cli
	s := &session{g: &c.Globals, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	parser, err := newParser(&c)
	if err != nil {
		return s.fail(err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		return s.fail(usageError(err))
	}
	// `run` and `agent` handle signals by themselves: their commands get them.
	s.ctx = context.Background()
	if name := strings.Fields(command.Command())[0]; name != "run" && name != "agent" {
		var stop context.CancelFunc
		s.ctx, stop = signal.NotifyContext(s.ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
	}
	defer s.close()
	if err := command.Run(s); err != nil {
		return s.fail(err)
	}
	return 0
}

func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c, kong.Name("hizo"),
		kong.Description("Secrets for machine-learning pipelines, kept by a Hizo cluster."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Vars{"role": roleHelp},
	)
}
