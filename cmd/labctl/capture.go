package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"labctl/lab"
	"labctl/lab/capture"
	"labctl/lab/packet"
)

// captureFlags are those of `labctl capture`.
type captureFlags struct {
	file     string
	count    int
	duration time.Duration
	filter   string
	snap     int
	link     bool
}

func (a *app) captureCommand() *cobra.Command {
	var fl captureFlags
	c := &cobra.Command{
		Use:   "capture [TARGET...]",
		Short: "Record many interfaces in one pcapng file",
		Long: `Record the packets of a lab's interfaces, merged by the kernel's time, in one
pcapng file whose interfaces are named as in the lab: node1:eth0. A target is an
endpoint (node1, node1.c1, lan) or one interface of it (node1:eth0); without one
it is every interface of the lab that is up, loopback apart.

-w - writes the file to standard output, for a pipe. Without -w the packets are
printed, one a line. Filters are compiled by tcpdump, where it is installed.`,
		Example: `  labctl capture -w lab.pcapng
  labctl capture node1 node1.c1:eth0 --filter icmp --duration 10s -w ping.pcapng
  labctl capture -w - | wireshark -k -i -
  labctl capture node1 node2 -c 20`,
		Args:              arguments(0, -1, "targets"),
		ValidArgsFunction: a.completeNamespaces,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.noObjects("capture"); err != nil {
				return err
			}
			switch {
			case fl.count < 0:
				return usage(fmt.Errorf("--count %d: negative", fl.count), "leave it out for no limit")
			case fl.duration < 0:
				return usage(fmt.Errorf("--duration %v: negative", fl.duration), "leave it out for no limit")
			case fl.snap < 0:
				return usage(fmt.Errorf("--snaplen %d: negative", fl.snap), "leave it out for whole packets")
			}
			return a.capture(c.Context(), args, fl)
		},
	}
	f := c.Flags()
	f.StringVarP(&fl.file, "write", "w", "", "the pcapng file; - is standard output")
	f.IntVarP(&fl.count, "count", "c", 0, "end after so many packets")
	f.DurationVar(&fl.duration, "duration", 0, "end after this time")
	f.StringVar(&fl.filter, "filter", "", "an expression as tcpdump takes it")
	f.IntVarP(&fl.snap, "snaplen", "s", 0, "keep so many bytes of each packet (default: all)")
	f.BoolVarP(&fl.link, "ethernet", "e", false, "print the Ethernet headers, too")
	return c
}

// noObjects refuses the outputs that packets are not printed in.
func (a *app) noObjects(command string) error {
	if a.output == "json" || a.output == "yaml" {
		return usage(fmt.Errorf("%s: --output %s: packets are lines or a file", command, a.output), "labctl "+command+" -w - ... | tshark -r - -T json")
	}
	return nil
}

func (a *app) capture(ctx context.Context, targets []string, fl captureFlags) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	interfaces, err := a.interfaces(ctx, cl, targets)
	if err != nil {
		return err
	}
	var o capture.Options
	switch {
	case fl.filter != "":
		if o.Filter, err = capture.Compile(ctx, fl.filter, fl.snap); err != nil {
			return err
		}
	case fl.snap > 0:
		o.Filter = capture.Cut(fl.snap)
	}
	sink, err := a.sink(fl, interfaces)
	if err != nil {
		return err
	}
	defer sink.Close()
	r := recording{app: a, client: cl, options: o, count: fl.count, duration: fl.duration}
	return r.run(ctx, interfaces, sink)
}

// interfaces are those of the targets, each once; without targets all of the
// nodes that have power and of everything around them.
func (a *app) interfaces(ctx context.Context, cl *lab.Client, targets []string) ([]capture.Interface, error) {
	if len(targets) == 0 {
		p, err := cl.Plan(ctx)
		if err != nil {
			return nil, err
		}
		st, err := cl.Status(ctx)
		if err != nil {
			return nil, err
		}
		targets = captured(p, st)
	}
	found := make([][]capture.Interface, len(targets))
	g, ctx := errgroup.WithContext(ctx)
	for n, t := range targets {
		g.Go(func() (err error) {
			found[n], err = capture.Find(ctx, cl, t)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var all []capture.Interface
	seen := map[string]bool{}
	for _, f := range found {
		for _, i := range f {
			if !seen[i.String()] {
				seen[i.String()] = true
				all = append(all, i)
			}
		}
	}
	if len(all) == 0 {
		return nil, &lab.Failure{Kind: lab.Failed, Err: errors.New("capture: no interface is up there"), Cure: "labctl status shows what is wrong"}
	}
	return all, nil
}

// captured are the namespaces of a lab, nodes without power apart.
func captured(p *lab.Plan, st *lab.Status) []string {
	dead := map[string]bool{}
	for _, n := range st.Nodes {
		if n.State != lab.Dead {
			continue
		}
		dead[n.Name] = true
		for _, c := range n.Containers {
			dead[n.Name+"."+c.Name] = true
		}
	}
	var names []string
	for _, s := range p.Segments {
		names = append(names, s.Name)
	}
	for _, e := range p.Endpoints() {
		if !dead[e] {
			names = append(names, e)
		}
	}
	return names
}

// sink is where packets go: a file or lines.
type sink interface {
	// begin is called when the capture is open, before the first packet.
	begin([]capture.Interface) error
	write([]capture.Packet) error
	// end is called after the last one. What failed before stays failed.
	end(*capture.Capture) error
	io.Closer
}

func (a *app) sink(fl captureFlags, interfaces []capture.Interface) (sink, error) {
	switch fl.file {
	case "":
		return &lineSink{out: a.stdout, style: packet.Style{Link: fl.link}, many: true}, nil
	case "-":
		if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, usage(errors.New("-w -: standard output is a terminal"), "pipe it: labctl capture -w - | wireshark -k -i -")
		}
		signal.Ignore(unix.SIGPIPE) // a reader that goes away ends the capture in order
		return &fileSink{out: a.stdout, name: "standard output", filter: fl.filter}, nil
	}
	// Not truncated yet: there may be no capture.
	f, err := os.OpenFile(fl.file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", fl.file, errors.Unwrap(err)), "nothing was captured; name a file that you can write")
	}
	return &fileSink{out: f, file: f, name: fl.file, filter: fl.filter}, nil
}

// fileSink writes pcapng.
type fileSink struct {
	out    io.Writer
	file   *os.File // nil for standard output
	name   string
	filter string
	w      *capture.Writer
}

func (s *fileSink) begin(interfaces []capture.Interface) error {
	if s.file != nil {
		_ = s.file.Truncate(0) // a pipe has no length
	}
	var err error
	s.w, err = capture.NewWriter(s.out, interfaces, s.filter)
	return s.failed(err)
}

func (s *fileSink) write(batch []capture.Packet) error {
	for _, p := range batch {
		if err := s.w.Write(p); err != nil {
			return s.failed(err)
		}
	}
	return s.failed(s.w.Flush())
}

func (s *fileSink) end(c *capture.Capture) error {
	return s.failed(s.w.Statistics(c.Stats(), c.Started(), time.Now()))
}

// failed leaves a file that readers can open: whole blocks and no more.
func (s *fileSink) failed(err error) error {
	if err == nil || errors.Is(err, unix.EPIPE) {
		return err
	}
	if s.file != nil && s.w != nil {
		_ = s.file.Truncate(s.w.Whole()) // the error to tell is the first one
	}
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: the capture ends: %w", s.name, err), Cure: "the lab goes on; what was written before is whole"}
}

func (s *fileSink) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// lineSink prints a packet a line, in tcpdump's manner.
type lineSink struct {
	out   io.Writer
	style packet.Style
	many  bool // say which interface
	names []string
	links []packet.LinkType
}

func (s *lineSink) begin(interfaces []capture.Interface) error {
	for _, i := range interfaces {
		s.names = append(s.names, i.String())
		s.links = append(s.links, i.Link)
	}
	return nil
}

func (s *lineSink) write(batch []capture.Packet) error {
	for _, p := range batch {
		line := p.Time.Format("15:04:05.000000 ")
		if s.many {
			line += fmt.Sprintf("%s %-3s ", s.names[p.Interface], p.Direction)
		}
		if _, err := fmt.Fprintln(s.out, line+packet.Decode(s.links[p.Interface], p.Data).Line(s.style)); err != nil {
			return err
		}
	}
	return nil
}

func (s *lineSink) end(*capture.Capture) error { return nil }
func (s *lineSink) Close() error               { return nil }

// recording is a capture with its limits.
type recording struct {
	*app
	client   *lab.Client
	options  capture.Options
	count    int
	duration time.Duration
	keep     func(capture.Interface, capture.Packet) bool // nil keeps all
	quiet    bool                                         // no table at the end
}

// errLabEnded is the cause of a capture's end that nobody asked for.
var errLabEnded = errors.New("the lab ended")

func (r recording) run(ctx context.Context, interfaces []capture.Interface, s sink) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := capture.Open(ctx, r.client, interfaces, r.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := s.begin(interfaces); err != nil {
		return err
	}
	if r.duration > 0 {
		defer time.AfterFunc(r.duration, func() { cancel(nil) }).Stop()
	}
	// Sockets hold a lab's namespaces: without this they would outlive it.
	go func() {
		_ = r.client.Watch(ctx, func(lab.Event) bool { return true })
		cancel(errLabEnded)
	}()
	what := interfaces[0].String()
	if len(interfaces) > 1 {
		what = strconv.Itoa(len(interfaces)) + " interfaces"
	}
	fmt.Fprintf(r.stderr, "capturing on %s; Ctrl-C ends it\n", what)
	n, err := r.read(ctx, c, s)
	if err == nil {
		err = s.end(c)
	}
	if serr := r.summary(c, n); err == nil {
		err = serr
	}
	if err == nil && errors.Is(context.Cause(ctx), errLabEnded) {
		err = &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: ended during the capture", r.client.Dir.Name()), Cure: "what was captured before is there"}
	}
	return err
}

// counted are the packets that a sink was given.
type counted struct{ kept, aggregates int }

// read gives packets to the sink until the capture ends, and counts them.
func (r recording) read(ctx context.Context, c *capture.Capture, s sink) (n counted, err error) {
	err = c.Run(ctx, func(batch []capture.Packet) error {
		if r.keep != nil {
			batch = filtered(batch, func(p capture.Packet) bool { return r.keep(c.Interfaces[p.Interface], p) })
		}
		last := r.count > 0 && n.kept+len(batch) >= r.count
		if last {
			batch = batch[:r.count-n.kept]
		}
		n.kept += len(batch)
		for _, p := range batch {
			if c.Interfaces[p.Interface].Aggregate(p) {
				n.aggregates++
			}
		}
		if err := s.write(batch); err != nil {
			return err
		}
		if last {
			return capture.ErrStop
		}
		return nil
	})
	return n, err
}

func filtered(batch []capture.Packet, keep func(capture.Packet) bool) []capture.Packet {
	var kept []capture.Packet
	for _, p := range batch {
		if keep(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// summary tells what each interface saw, on standard error.
func (r recording) summary(c *capture.Capture, n counted) error {
	var total capture.Stats
	var rows [][]string
	for i, s := range c.Stats() {
		total.Packets += s.Packets
		total.Bytes += s.Bytes
		total.Drops += s.Drops
		if s.Packets+s.Drops > 0 {
			rows = append(rows, []string{c.Interfaces[i].String(), strconv.FormatUint(s.Packets, 10), strconv.FormatUint(s.Bytes, 10), strconv.FormatUint(s.Drops, 10)})
		}
	}
	if n.aggregates > 0 {
		fmt.Fprintf(r.stderr, "%d packets are larger than their interface's MTU: several in one, not cut yet (offload)\n", n.aggregates)
	}
	if r.quiet {
		fmt.Fprintf(r.stderr, "%d packets captured\n%d packets dropped by kernel\n", n.kept, total.Drops)
		return nil
	}
	if len(rows) > 0 {
		if err := table(r.stderr, []string{"INTERFACE", "PACKETS", "BYTES", "DROPPED"}, rows); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(r.stderr, "%d packets captured; %d seen on %d interfaces, %d bytes, %d dropped\n", n.kept, total.Packets, len(c.Interfaces), total.Bytes, total.Drops)
	return err
}
