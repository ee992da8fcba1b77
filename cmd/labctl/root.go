package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"labctl/lab"
	"labctl/lab/inside"
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
	// The tables' memory of how wide words are takes 660 KB, in each process of
	// a lab. It is no loss.
	twwidth.SetCacheCapacity(0)
	if code, ran := inside.Run(e.args, e.stdout, e.stderr); ran {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{env: e}
	root := a.rootCommand()
	root.SetArgs(longFlags(e.args))
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	c, err := root.ExecuteContextC(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &lab.Failure{Kind: lab.Interrupted, Err: errors.New("interrupted")}
	}
	code := a.report(err)
	_, own := errors.AsType[exitStatus](err)
	if err != nil && !own && c.Annotations[runsCommand] != "" {
		return int(execFailed)
	}
	return code
}

// runsCommand marks the commands whose exit status is that of what they run.
const runsCommand = "runs a command"

// outputsToo marks a command that knows one output more: its name.
const outputsToo = "another output"

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
		fmt.Fprintln(a.stderr, fe.Excerpt())
		return 2
	}
	return inside.Report(err, a.stderr)
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
		SilenceUsage:          true,
		SilenceErrors:         true,
		DisableFlagsInUseLine: true,
		Args:                  noSuchCommand,
		RunE:                  func(c *cobra.Command, _ []string) error { return c.Help() },
		CompletionOptions:     cobra.CompletionOptions{DisableDefaultCmd: true}, // completion.go has it
	}
	root.PersistentFlags().StringVarP(&a.lab, "lab", "l", "", "the lab, when several run")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table, wide, json or yaml")
	_ = root.RegisterFlagCompletionFunc("lab", a.completeLabs)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(err, c.CommandPath()+" --help shows the flags")
	})
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		known := []string{"table", "wide", "json", "yaml"}
		if more := c.Annotations[outputsToo]; more != "" {
			known = append(known, more)
		}
		if slices.Contains(known, a.output) {
			return nil
		}
		last := len(known) - 1
		return usage(fmt.Errorf("output %q: not known", a.output), "choose "+strings.Join(known[:last], ", ")+" or "+known[last])
	}
	root.AddGroup(&cobra.Group{ID: "life", Title: "A lab's life:"}, &cobra.Group{ID: "look", Title: "Look and touch:"},
		&cobra.Group{ID: "host", Title: "On a real machine:"}, &cobra.Group{ID: "help", Title: "Around it:"})
	group := func(id string, cs ...*cobra.Command) {
		for _, c := range cs {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("life", a.upCommand(), a.downCommand(), a.lsCommand(), a.labsCommand(), a.showCommand())
	group("look", a.statusCommand(), a.execCommand(), a.shellCommand(), a.pingCommand(), a.traceCommand(), a.captureCommand(), a.tcpdumpCommand(), a.iperfCommand(), a.logsCommand(), a.nodeCommand(), a.bgpCommand(), a.policyCommand(), a.faultCommand(), a.testCommand(), a.benchCommand())
	group("host", a.agentCommand(), a.dockerOptsCommand())
	group("help", a.doctorCommand(), a.versionCommand(), a.completionCommand())
	root.SetHelpCommand(helpCommand())
	root.SetHelpCommandGroupID("help")
	return root
}

// usage is an error of the caller's: exit status 2.
func usage(err error, cure string) error {
	return &lab.Failure{Kind: lab.Usage, Err: err, Cure: cure}
}

// arguments checks their number; what says in words which there are to be.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		given := "none was given"
		switch {
		case len(args) == 1:
			given = "1 was given"
		case len(args) > 1:
			given = fmt.Sprintf("%d were given", len(args))
		}
		example, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n")
		return usage(fmt.Errorf("%s: takes %s; %s", commandName(c), what, given), "for example: "+example)
	}
}

// commandName is what an error about a command begins with.
func commandName(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), "labctl ")
}

// noSuchCommand refuses arguments of a command that only has others under it.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	name := args[0]
	if c.HasParent() {
		name = commandName(c) + " " + name
	}
	c.SuggestionsMinimumDistance = 2
	cure := c.CommandPath() + " --help shows the commands"
	if like := c.SuggestionsFor(args[0]); len(like) > 0 && args[0] != "" {
		cure = "did you mean " + strings.Join(like, " or ") + "? " + cure
	}
	return usage(fmt.Errorf("%s: no such command", name), cure)
}

// helpCommand is cobra's, but for names that it does not know.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "What a command does, with examples",
		Example: "  labctl help up\n  labctl up --help",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			of, _, err := c.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range of.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return noSuchCommand(of, rest)
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// open finds the lab that a command is about.
func (a *app) open(name string) (*lab.Client, error) {
	if name == "" {
		name = a.lab
	}
	return lab.Open(name)
}

// labName is the lab that a command's only argument or -l names, "" when
// neither is given. A name given empty is a mistake ("$LAB" unset), and must
// not stand for the only lab that runs.
func (a *app) labName(args []string) (string, error) {
	switch {
	case len(args) == 0:
		return a.lab, nil
	case args[0] == "":
		return "", usage(errors.New("lab: its name is empty"), "leave the argument out, or name a lab; labctl ls shows those that run")
	case a.lab != "" && a.lab != args[0]:
		return "", usage(fmt.Errorf("lab: named twice, %s and %s", args[0], a.lab), "leave out one of them")
	}
	return args[0], nil
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
