package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"labctl/lab"
)

// env is the world that a command runs in.
type env struct {
	args    []string
	stdin   *os.File
	stdout  io.Writer
	stderr  io.Writer
	started time.Time
}

// app is what all commands share.
type app struct {
	env
	lab    string // -l: the lab, when it is not an argument
	output string // -o
}

// exitStatus ends the command with a status of its own and no message: the
// status of what exec ran.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run is the whole program; it returns the exit status.
func run(e env) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{env: e}
	root := a.rootCommand()
	root.SetArgs(e.args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	return a.report(root.ExecuteContext(ctx))
}

// report prints what went wrong, and the cure, and chooses the exit status.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[exitStatus](err); ok {
		return int(s)
	}
	// A reader that went away (labctl ls | head) is no error to tell about.
	if errors.Is(err, syscall.EPIPE) {
		return 1
	}
	if fe, ok := errors.AsType[*lab.FileError](err); ok {
		fmt.Fprint(a.stderr, fe.Excerpt())
		return 2
	}
	fmt.Fprintf(a.stderr, "labctl: %v\n", err)
	if f, ok := errors.AsType[*lab.Failure](err); ok && f.Cure != "" {
		fmt.Fprintf(a.stderr, "  cure: %s\n", f.Cure)
	}
	return lab.ExitCode(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "labctl",
		Short: "Real container networks on one Linux box",
		Long: `labctl turns a Linux box into several hosts (network namespaces) with an etcd
between them, runs real container networks on them, and shows with ordinary
tools what happens. It needs no containers, no daemon, and no root.`,
		Example: `  labctl up flannel-vxlan          # three hosts, six containers, a VXLAN between them
  labctl ping --all                # every container to every other
  labctl exec node1 -- ip route    # look inside
  labctl down                      # and nothing is left`,
		SilenceUsage:  true,
		SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: false,
		},
	}
	root.PersistentFlags().StringVarP(&a.lab, "lab", "l", "", "the lab, when several run")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table, wide, json or yaml")
	_ = root.RegisterFlagCompletionFunc("lab", a.completeLabs)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(err, c.CommandPath()+" --help shows the flags")
	})
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		switch a.output {
		case "table", "wide", "json", "yaml":
			return nil
		}
		return usage(fmt.Errorf("output %q: not known", a.output), "choose table, wide, json or yaml")
	}
	root.AddGroup(&cobra.Group{ID: "life", Title: "A lab's life:"}, &cobra.Group{ID: "look", Title: "Look and touch:"}, &cobra.Group{ID: "help", Title: "Around it:"})
	group := func(id string, cs ...*cobra.Command) {
		for _, c := range cs {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("life", a.upCommand(), a.downCommand(), a.lsCommand(), a.labsCommand(), a.showCommand())
	group("look", a.statusCommand(), a.execCommand(), a.shellCommand(), a.pingCommand(), a.logsCommand(), a.faultCommand())
	group("help", a.doctorCommand(), a.versionCommand())
	root.SetHelpCommandGroupID("help")
	root.SetCompletionCommandGroupID("help")
	root.AddCommand(a.insideCommands()...)
	return root
}

// usage is an error of the caller's: exit status 2.
func usage(err error, cure string) error {
	return &lab.Failure{Kind: lab.Usage, Err: err, Cure: cure}
}

// arguments checks their number in words.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		return usage(fmt.Errorf("%s: %d arguments, want %s", c.CommandPath(), len(args), what), "for example:\n"+c.Example)
	}
}

// open finds the lab that a command is about.
func (a *app) open(name string) (*lab.Client, error) {
	if name == "" {
		name = a.lab
	}
	return lab.Open(name)
}

// endpoint splits "node1:eth0" and the like; so far only the endpoint counts.
func endpoint(arg string) (string, error) {
	if strings.Contains(arg, ":") {
		return "", usage(fmt.Errorf("%s: an interface, want an endpoint", arg), "leave out the part from the colon on")
	}
	return arg, nil
}

// terminal says whether w is a terminal that may be drawn on.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == ""
}
