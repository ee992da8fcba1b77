package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"labctl/lab"
)

// execFailed is docker's and env(1)'s status for a failure of their own.
const execFailed = exitStatus(125)

func (a *app) execCommand() *cobra.Command {
	var tty bool
	c := &cobra.Command{
		Use:   "exec ENDPOINT -- COMMAND [ARGUMENT...]",
		Short: "Run a command inside a node or container",
		Long: `Run a command inside the network namespace of an endpoint: a node, a container,
a segment, a router, etcd or internet. The exit status is the command's; 125 is
labctl's own failure, 126 a command that cannot be executed, 127 one that is not
found. The command ends with the lab.`,
		Example: `  labctl exec node1 -- ip route
  labctl exec node1.c1 -- ping -c 3 10.244.7.2
  labctl exec lan -- bridge link`,
		Args:              arguments(2, -1, "an endpoint and a command"),
		ValidArgsFunction: a.completeEndpoints,
		RunE: func(c *cobra.Command, args []string) error {
			argv := args[1:]
			// Flags end at the endpoint, so the dashes are still there.
			if argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return usage(errors.New("exec: no command"), "labctl exec "+args[0]+" -- ip route")
			}
			return a.exec(c.Context(), args[0], argv, tty)
		},
	}
	c.Flags().BoolVarP(&tty, "tty", "t", false, "with a terminal (default: when standard input and output are one)")
	c.Flags().SetInterspersed(false)
	return c
}

func (a *app) shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "shell ENDPOINT",
		Short:             "A shell inside a node or container",
		Example:           "  labctl shell node1",
		Args:              arguments(1, 1, "an endpoint"),
		ValidArgsFunction: a.completeEndpoints,
		RunE: func(c *cobra.Command, args []string) error {
			shell := os.Getenv("SHELL")
			if shell == "" {
				shell = "/bin/sh"
			}
			return a.exec(c.Context(), args[0], []string{shell}, false)
		},
	}
}

func (a *app) exec(ctx context.Context, endpointArg string, argv []string, forceTTY bool) error {
	name, err := endpoint(endpointArg)
	if err != nil {
		return err
	}
	cl, err := a.open("")
	if err != nil {
		a.report(err)
		return execFailed
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	r := lab.ExecRequest{Endpoint: name, Argv: argv, Env: os.Environ(), Dir: dir}
	out, outIsFile := a.stdout.(*os.File)
	errOut, errIsFile := a.stderr.(*os.File)
	if !outIsFile || !errIsFile || a.stdin == nil {
		return fmt.Errorf("exec: needs files for its standard streams")
	}
	// Signals belong to the command; the context ends with Ctrl-C, so the
	// connection must not.
	ctx = context.WithoutCancel(ctx)
	var exit *lab.Exit
	if forceTTY || term.IsTerminal(int(a.stdin.Fd())) && term.IsTerminal(int(out.Fd())) {
		exit, err = a.execTTY(ctx, cl, r)
	} else {
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
		defer signal.Stop(signals)
		exit, err = cl.Exec(ctx, r, signals, a.stdin, out, errOut)
	}
	if err != nil {
		a.report(err)
		return execFailed
	}
	if exit.Error != "" {
		fmt.Fprintf(a.stderr, "labctl: %s\n", exit.Error)
	}
	if exit.Code == 0 {
		return nil
	}
	return exitStatus(exit.Code)
}

// execTTY gives the command a pseudo terminal of its own and connects it with
// the caller's.
func (a *app) execTTY(ctx context.Context, cl *lab.Client, r lab.ExecRequest) (*lab.Exit, error) {
	master, slave, err := openPTY()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	in := int(a.stdin.Fd())
	if term.IsTerminal(in) {
		saved, err := term.MakeRaw(in)
		if err != nil {
			slave.Close()
			return nil, err
		}
		defer func() {
			if err := term.Restore(in, saved); err != nil {
				fmt.Fprintf(a.stderr, "labctl: terminal: %v; stty sane mends it\n", err)
			}
		}()
		resize := func() {
			if w, err := unix.IoctlGetWinsize(in, unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, w) // cosmetic
			}
		}
		resize()
		changes := make(chan os.Signal, 1)
		signal.Notify(changes, syscall.SIGWINCH)
		defer signal.Stop(changes)
		go func() {
			for range changes {
				resize()
			}
		}()
	}
	go io.Copy(master, a.stdin) // ends with the process: a read of a terminal cannot be called off
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(a.stdout, master) // ends with EIO when the last process closes the terminal
	}()
	r.TTY = true
	exit, err := cl.Exec(ctx, r, nil, slave)
	slave.Close()
	if err == nil && exit.Error == "" {
		<-drained
	}
	return exit, err
}

// openPTY makes a pseudo terminal (pty(7)).
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("/dev/ptmx: unlock: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("/dev/ptmx: number: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}
