package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

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
		ValidArgsFunction: a.completeExec,
		Annotations:       map[string]string{runsCommand: "yes"},
		RunE: func(c *cobra.Command, args []string) error {
			argv := args[1:]
			// Flags end at the endpoint, so the dashes are still there.
			if argv[0] == "--" {
				argv = argv[1:]
			} else if strings.HasPrefix(argv[0], "-") {
				return usage(fmt.Errorf("exec: %s: after the endpoint comes the command", argv[0]), "flags go before it: labctl exec -l LAB "+args[0]+" -- COMMAND")
			}
			if len(argv) == 0 {
				return usage(errors.New("exec: no command"), "for example: labctl exec "+args[0]+" -- ip route")
			}
			want := ttyAuto
			if c.Flags().Changed("tty") {
				want = ttyNever
				if tty {
					want = ttyAlways
				}
			}
			return a.exec(c.Context(), args[0], argv, want)
		},
	}
	c.Flags().BoolVarP(&tty, "tty", "t", false, "with a terminal, or without: -t=false (default: when standard input and output are one)")
	c.Flags().SetInterspersed(false)
	return c
}

func (a *app) shellCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "shell ENDPOINT",
		Short:             "A shell inside a node or container",
		Example:           "  labctl shell node1",
		Args:              arguments(1, 1, "an endpoint"),
		ValidArgsFunction: upTo(1, a.completeNamespaces),
		Annotations:       map[string]string{runsCommand: "yes"},
		RunE: func(c *cobra.Command, args []string) error {
			shell := os.Getenv("SHELL")
			if shell == "" {
				shell = "/bin/sh"
			}
			return a.exec(c.Context(), args[0], []string{shell}, ttyAuto)
		},
	}
}

// ttyChoice says whether a command gets a terminal.
type ttyChoice int

const (
	ttyAuto ttyChoice = iota // when the caller's standard input and output are one
	ttyAlways
	ttyNever
)

func (a *app) exec(ctx context.Context, endpointArg string, argv []string, tty ttyChoice) error {
	name, err := endpoint(endpointArg)
	if err != nil {
		return err
	}
	cl, err := a.open("")
	if err != nil {
		return err
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
	// From here on signals are the command's. With a terminal of its own it gets
	// those of keys from there.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if ctx.Err() != nil {
		return exitStatus(130) // one came before
	}
	// The context ends with Ctrl-C, so the connection must not.
	ctx = context.WithoutCancel(ctx)
	var exit *lab.Exit
	if tty == ttyAlways || tty == ttyAuto && term.IsTerminal(int(a.stdin.Fd())) && term.IsTerminal(int(out.Fd())) {
		exit, err = a.execTTY(ctx, cl, r, signals)
	} else {
		exit, err = cl.Exec(ctx, r, signals, a.stdin, out, errOut)
	}
	if err != nil {
		return err
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
func (a *app) execTTY(ctx context.Context, cl *lab.Client, r lab.ExecRequest, signals <-chan os.Signal) (*lab.Exit, error) {
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
				_ = control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, w) }) // cosmetic
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
	go a.feed(master, term.IsTerminal(in))
	ended, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		a.drain(master, ended)
	}()
	r.TTY = true
	exit, err := cl.Exec(ctx, r, signals, slave)
	slave.Close()
	close(ended)
	<-drained
	return exit, err
}

// feed copies standard input to a terminal. It ends with the process: a read
// cannot be called off. The end of a pipe or file is typed as Ctrl-D, twice
// where a line is begun (termios(3), VEOF).
func (a *app) feed(master *os.File, interactive bool) {
	buf := make([]byte, 4096)
	last := byte('\n')
	for {
		n, err := a.stdin.Read(buf)
		if n > 0 {
			last = buf[n-1]
			if _, werr := master.Write(buf[:n]); werr != nil {
				return // nobody has the terminal any more
			}
		}
		if err != nil {
			break
		}
	}
	if interactive {
		return
	}
	const eof = 4
	end := []byte{eof}
	if last != '\n' {
		end = []byte{eof, eof}
	}
	_, _ = master.Write(end) // as above
}

// drainIdle is how long a terminal must be silent, once its command has ended,
// to be empty: a process left in the background may hold it open for ever.
const drainIdle = 50 * time.Millisecond

// drain copies a terminal's output to standard output until the last process
// closes it, or the command has ended and nothing more comes.
func (a *app) drain(master *os.File, ended <-chan struct{}) {
	go func() {
		<-ended
		_ = master.SetReadDeadline(time.Now().Add(drainIdle)) // without one, the last close ends it
	}()
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		if n > 0 {
			if _, werr := a.stdout.Write(buf[:n]); werr != nil {
				return
			}
			select {
			case <-ended:
				_ = master.SetReadDeadline(time.Now().Add(drainIdle)) // as above
			default:
			}
		}
		if err != nil {
			return // EIO when the last process closes the terminal
		}
	}
}

// control calls f with the descriptor. Unlike File.Fd it leaves the file
// non-blocking, which deadlines need.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) { derr = do(int(fd)) }); err != nil {
		return err
	}
	return derr
}

// openPTY makes a pseudo terminal (pty(7)).
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return fmt.Errorf("/dev/ptmx: unlock: %w", err)
		}
		var err error
		if n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return fmt.Errorf("/dev/ptmx: number: %w", err)
		}
		return nil
	})
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}
