package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"labctl/lab"
	"labctl/lab/capture"
	"labctl/lab/packet"
)

// tcpdumpFlags are those that mean the same to tcpdump and to us.
type tcpdumpFlags struct {
	count     int
	file      string
	link      bool
	verbose   bool
	numeric   bool // always so: inside a lab there is nobody to ask for names
	unbuffers bool // always so, too
	host      string
	port      uint16
	proto     string
}

func (fl *tcpdumpFlags) define(f *pflag.FlagSet) {
	f.IntVarP(&fl.count, "count", "c", fl.count, "end after so many packets")
	f.StringVarP(&fl.file, "write", "w", fl.file, "write a file instead of lines; - is standard output")
	f.BoolVarP(&fl.link, "ethernet", "e", fl.link, "the Ethernet headers, too")
	f.BoolVarP(&fl.verbose, "verbose", "v", fl.verbose, "the fields of the IP headers, too")
	f.BoolVarP(&fl.numeric, "numeric", "n", true, "no names for addresses: always so")
}

func (a *app) tcpdumpCommand() *cobra.Command {
	var fl tcpdumpFlags
	c := &cobra.Command{
		Use:   "tcpdump ENDPOINT[:INTERFACE] [-- TCPDUMP-ARGUMENT...]",
		Short: "tcpdump on an interface of an endpoint",
		Long: `Show the packets of one interface (eth0, or the first one that is up). Where
tcpdump is installed, it is tcpdump that runs: root's inside the endpoint; an
ordinary user's reads what labctl captures, because tcpdump cannot become a user
of its own in a rootless lab. What stands after -- is tcpdump's.

Without tcpdump labctl prints the packets itself, in the same manner, and the
flags below are what there is. --host takes an endpoint's name, too.`,
		Example: `  labctl tcpdump node1
  labctl tcpdump node1:flannel.1 -c 10 --proto icmp
  labctl tcpdump node1:eth0 -- -vv udp port 8472
  labctl tcpdump node1.c1 --host node2.c1 -w ping.pcap`,
		Args:              arguments(1, -1, "an endpoint or an interface of it"),
		ValidArgsFunction: upTo(1, a.completeNamespaces),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 && c.ArgsLenAtDash() != 1 {
				return usage(fmt.Errorf("tcpdump: %s: one endpoint", args[1]), "tcpdump's own arguments go after --: labctl tcpdump "+args[0]+" -- "+strings.Join(args[1:], " "))
			}
			if err := a.noObjects("tcpdump"); err != nil {
				return err
			}
			return a.tcpdump(c.Context(), args[0], args[1:], fl)
		},
	}
	fl.define(c.Flags())
	c.Flags().StringVar(&fl.host, "host", "", "only packets from or to this address or endpoint")
	c.Flags().Uint16Var(&fl.port, "port", 0, "only packets from or to this port")
	c.Flags().StringVar(&fl.proto, "proto", "", "only this protocol: "+strings.Join(capture.Protocols(), ", "))
	_ = c.RegisterFlagCompletionFunc("proto", cobra.FixedCompletions(capture.Protocols(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) tcpdump(ctx context.Context, target string, args []string, fl tcpdumpFlags) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	match, err := fl.match(ctx, cl)
	if err != nil {
		return err
	}
	on, err := one(ctx, cl, target)
	if err != nil {
		return err
	}
	if len(args) > 0 && match != (capture.Match{}) {
		return usage(errors.New("tcpdump: --host, --port or --proto, and arguments of tcpdump's own"), "say it all in tcpdump's words: -- "+strings.Join(append(args, match.Expression()), " "))
	}
	program, err := exec.LookPath("tcpdump")
	switch {
	case err != nil:
		return a.ownDump(ctx, cl, on, args, match, fl)
	case os.Geteuid() == 0:
		argv := append([]string{program, "-i", on.Name}, fl.arguments(args, match)...)
		return a.exec(ctx, on.Endpoint, argv, ttyNever)
	}
	return a.pipedDump(ctx, cl, on, append([]string{program, "-r", "-"}, fl.arguments(args, match)...))
}

// match makes a filter of --host, --port and --proto.
func (fl tcpdumpFlags) match(ctx context.Context, cl *lab.Client) (capture.Match, error) {
	m := capture.Match{Port: fl.port, Proto: fl.proto}
	if fl.proto != "" && !slices.Contains(capture.Protocols(), fl.proto) {
		return m, usage(fmt.Errorf("--proto %s: not known", fl.proto), "choose one of "+strings.Join(capture.Protocols(), ", "))
	}
	if fl.count < 0 {
		return m, usage(fmt.Errorf("--count %d: negative", fl.count), "leave it out for no limit")
	}
	if fl.host == "" {
		return m, nil
	}
	var err error
	m.Host, err = cl.Address(ctx, fl.host)
	return m, err
}

// arguments are what tcpdump is told.
func (fl tcpdumpFlags) arguments(args []string, m capture.Match) []string {
	argv := []string{"-n", "-l"}
	if fl.count > 0 {
		argv = append(argv, "-c", strconv.Itoa(fl.count))
	}
	if fl.file != "" {
		argv = append(argv, "-U", "-w", fl.file)
	}
	if fl.link {
		argv = append(argv, "-e")
	}
	if fl.verbose {
		argv = append(argv, "-v")
	}
	argv = append(argv, args...)
	if e := m.Expression(); e != "" {
		argv = append(argv, e)
	}
	return argv
}

// one is the interface of a target; of an endpoint eth0, or else the first that is up.
func one(ctx context.Context, cl *lab.Client, target string) (capture.Interface, error) {
	found, err := capture.Find(ctx, cl, target)
	if err != nil {
		return capture.Interface{}, err
	}
	if len(found) == 0 {
		return capture.Interface{}, &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: no interface is up", target), Cure: "labctl exec " + target + " -- ip link"}
	}
	for _, i := range found {
		if i.Name == "eth0" {
			return i, nil
		}
	}
	return found[0], nil
}

// pipedDump captures, and lets tcpdump read it as the caller.
func (a *app) pipedDump(ctx context.Context, cl *lab.Client, on capture.Interface, argv []string) error {
	if i := slices.IndexFunc(argv[3:], takesInterface); i >= 0 {
		return usage(fmt.Errorf("tcpdump: %s: tcpdump reads what labctl captures", argv[3+i]), "name the interface with the endpoint: "+on.String())
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	// Ctrl-C is for the capture: tcpdump prints what there is, to the end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		cancel() // -c, or killed: no more packets are wanted
	}()
	s := &fileSink{out: in, name: "tcpdump"}
	err = recording{app: a, client: cl, quiet: true}.run(ctx, []capture.Interface{on}, s)
	in.Close()
	status := <-ended
	if e, ok := errors.AsType[*exec.ExitError](status); ok {
		if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			fmt.Fprintf(a.stderr, "labctl: tcpdump: %v\n", ws.Signal())
			return exitStatus(128 + int(ws.Signal()))
		}
		return exitStatus(e.ExitCode())
	}
	// A reader that has had enough is no error; nor is one that ends in between.
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, status)
}

// takesInterface finds the arguments that choose what to capture on.
func takesInterface(arg string) bool {
	return strings.HasPrefix(arg, "-i") || strings.HasPrefix(arg, "--interface") || strings.HasPrefix(arg, "-r")
}

// ownDump prints packets without tcpdump.
func (a *app) ownDump(ctx context.Context, cl *lab.Client, on capture.Interface, args []string, m capture.Match, fl tcpdumpFlags) error {
	if err := fl.parse(args); err != nil {
		return err
	}
	var s sink = &lineSink{out: a.stdout, style: packet.Style{Link: fl.link, Verbose: fl.verbose}}
	if fl.file != "" {
		var err error
		if s, err = a.sink(captureFlags{file: fl.file}, []capture.Interface{on}); err != nil {
			return err
		}
	}
	defer s.Close()
	r := recording{app: a, client: cl, count: fl.count, quiet: true}
	if m != (capture.Match{}) {
		r.keep = func(i capture.Interface, p capture.Packet) bool { return m.Matches(packet.Decode(i.Link, p.Data)) }
	}
	return r.run(ctx, []capture.Interface{on}, s)
}

// parse reads those of tcpdump's arguments that we have ourselves.
func (fl *tcpdumpFlags) parse(args []string) error {
	f := pflag.NewFlagSet("tcpdump", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	fl.define(f)
	f.BoolVarP(&fl.unbuffers, "line-buffered", "l", true, "")
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("filter %q", strings.Join(f.Args(), " "))
	}
	if err != nil {
		return &lab.Failure{Kind: lab.Unable, Err: fmt.Errorf("tcpdump: is not installed here, and labctl's own knows less: %w", err),
			Cure: "install tcpdump (Debian: apt install tcpdump), or use -c -w -e -n -v --host --port --proto"}
	}
	return nil
}
