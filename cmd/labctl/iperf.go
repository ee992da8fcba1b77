package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/iperf"
)

func (a *app) iperfCommand() *cobra.Command {
	var p iperf.Params
	var rate, length, engine string
	var seconds, interval, omit float64
	c := &cobra.Command{
		Use:   "iperf A B",
		Short: "Measure what a path carries: TCP, or UDP with loss and jitter",
		Long: `Measure from endpoint A to endpoint B, containers or nodes: TCP streams, or with -u
UDP at a fixed rate with loss, reordering and jitter. On a terminal, or with -i,
there is a line for each interval. At the end comes what it cost: CPU of both
ends, of the agents of their nodes, and the machine's softirq. labctl measures by
itself; --engine iperf3 has the real iperf3 do it, in the same namespaces.
Ctrl-C ends it early, with what was measured so far. Exit status 1 when nothing
arrived.`,
		Example: `  labctl iperf node1.c1 node2.c1
  labctl iperf node1 node2 -t 5 -P 4 -R           # 4 streams, from node2 to node1
  labctl iperf node1.c1 node2.c1 -u -b 100M       # UDP, 100 Mbit/s
  labctl iperf node1.c1 node2.c1 -u -b 0 --length 64   # as many small packets as go
  labctl iperf node1.c1 node2.c1 --engine iperf3 -o json`,
		Args:              arguments(2, 2, "two endpoints"),
		ValidArgsFunction: upTo(2, a.completeEndpoints),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(engines, engine) {
				return usage(fmt.Errorf("--engine %s: not known", engine), "choose "+strings.Join(engines, " or "))
			}
			if n, err := parseLength(a.lab); err == nil && n > 0 {
				return usage(fmt.Errorf("-l %s: the lab, which has no such name", a.lab), "the length is --length "+a.lab)
			}
			var err error
			if p.Rate, err = parseRate(rate, p.UDP); err != nil {
				return err
			}
			if p.Length, err = parseLength(length); err != nil {
				return err
			}
			p.Duration, p.Omit, p.Interval = inSeconds(seconds), inSeconds(omit), inSeconds(interval)
			live := c.Flags().Changed("interval")
			if live && interval == 0 { // iperf3's way to have none
				live, p.Interval = false, max(p.Duration, time.Second)
			}
			if err := p.Check(); err != nil {
				return err
			}
			return a.iperf(c.Context(), args[0], args[1], p, engine, live || terminal(a.stdout))
		},
	}
	f := c.Flags()
	f.Float64VarP(&seconds, "time", "t", 10, "seconds")
	f.IntVarP(&p.Streams, "parallel", "P", 1, "streams")
	f.BoolVarP(&p.Reverse, "reverse", "R", false, "from B to A")
	f.BoolVarP(&p.UDP, "udp", "u", false, "UDP")
	f.StringVarP(&rate, "bitrate", "b", "", "bits a second of each stream, with K, M or G; 0: as fast as possible (default: TCP 0, UDP 1M)")
	f.StringVar(&length, "length", "", "bytes of a write or datagram, with K (default: TCP 128K, UDP what fits the MTU); -l is the lab")
	f.StringVarP(&p.Congestion, "congestion", "C", "", "TCP's congestion control (default: the kernel's)")
	f.Float64VarP(&interval, "interval", "i", 1, "seconds between two lines; 0: no lines")
	f.Float64Var(&omit, "omit", 0, "seconds at the beginning that do not count")
	f.StringVar(&engine, "engine", engines[0], "labctl's own, or iperf3")
	_ = c.RegisterFlagCompletionFunc("engine", cobra.FixedCompletions(engines, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// engines are those who can measure, the default first.
var engines = []string{"labctl", "iperf3"}

func inSeconds(s float64) time.Duration {
	// Beyond what a duration holds it is refused all the same.
	return time.Duration(min(max(s, -1e9), 1e9) * float64(time.Second))
}

// parseRate reads iperf3's way of giving a bitrate.
func parseRate(text string, udp bool) (uint64, error) {
	if text == "" {
		if udp {
			return iperf.DefaultUDPRate, nil
		}
		return 0, nil
	}
	v, err := scaled(text, 1000)
	if err != nil || v > 1e18 {
		return 0, usage(fmt.Errorf("--bitrate %s: not a rate", text), "give bits a second, such as 500K, 100M or 2.5G; 0 is as fast as possible")
	}
	return uint64(v), nil
}

func parseLength(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	v, err := scaled(text, 1024)
	if err != nil || v < 1 || v > 1e9 {
		return 0, usage(fmt.Errorf("--length %s: not a number of bytes", text), "give bytes, such as 1400 or 64K")
	}
	return int(v), nil
}

// scaled reads a number with K, M, G or T behind it.
func scaled(text string, base float64) (float64, error) {
	factor := 1.0
	digits := text
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgt", text[n-1]|0x20); i >= 0 {
			digits = text[:n-1]
			for range i + 1 {
				factor *= base
			}
		}
	}
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(v >= 0) {
		return 0, errors.New("not a number")
	}
	return v * factor, nil
}

func (a *app) iperf(ctx context.Context, from, to string, p iperf.Params, engine string, live bool) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	var ends [2]iperf.End
	for i, arg := range []string{from, to} {
		if ends[i], err = iperfEnd(ctx, cl, arg); err != nil {
			return err
		}
	}
	agents := agentsOf(st, from, to)
	human := a.output == "table" || a.output == "wide"
	var lines *iperfLines
	var each func(iperf.Interval)
	if human {
		lines = &iperfLines{w: a.stdout, udp: p.UDP, streams: p.Streams, fromIperf3: engine != engines[0]}
		lines.title(from, to, ends[1].Addr, p)
		if live {
			each = lines.interval
		}
	}
	ctx, gone := whileThere(ctx, cl)
	var r *iperf.Report
	if engine == engines[0] {
		r, err = iperf.Run(ctx, ends[0], ends[1], p, agents, each)
	} else {
		r, err = iperf.Iperf3(ctx, cl, ends[0], ends[1], p, agents)
		if r != nil && each != nil {
			for _, i := range r.Intervals {
				each(i)
			}
		}
	}
	if lost := gone(); lost != nil {
		err = lost
	}
	if r != nil {
		if done, jerr := a.machineReadable(r); done {
			err = errors.Join(err, jerr)
		} else {
			lines.end(r)
		}
	}
	switch {
	case err != nil:
		return err
	case r.Interrupted:
		return exitStatus(130)
	case !r.Delivered():
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("iperf: %s -> %s: nothing arrived", from, to),
			Cure: fmt.Sprintf("labctl status shows what is not as it should be; labctl ping %s %s tells whether packets pass", from, to)}
	}
	return nil
}

// whileThere is ctx as long as the lab is there: without its supervisor it has
// no links, and the rest of the time would measure nothing. gone ends the watch
// and says whether the lab went.
func whileThere(ctx context.Context, cl *lab.Client) (there context.Context, gone func() error) {
	there, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		err := cl.Watch(there, func(lab.Event) bool { return true })
		if there.Err() != nil {
			err = nil // called off
		}
		cancel()
		ended <- err
	}()
	return there, func() error {
		cancel()
		return <-ended
	}
}

// iperfEnd is an endpoint by its name: an address alone has no namespace to
// send from or listen in.
func iperfEnd(ctx context.Context, cl *lab.Client, arg string) (iperf.End, error) {
	name, err := endpoint(arg)
	if err != nil {
		return iperf.End{}, err
	}
	e := iperf.End{Name: name}
	e.Socket = func(ctx context.Context, domain, typ, proto int) (*os.File, error) {
		return cl.Socket(ctx, name, domain, typ, proto)
	}
	if e.Addr, err = cl.EndpointAddress(ctx, name); err != nil {
		return iperf.End{}, err
	}
	return e, nil
}

// agentsOf are the agents of the nodes that the endpoints are on.
func agentsOf(st *lab.Status, endpoints ...string) []iperf.Agent {
	var agents []iperf.Agent
	for _, n := range st.Nodes {
		on := func(e string) bool { return e == n.Name || strings.HasPrefix(e, n.Name+".") }
		if n.AgentPid != 0 && slices.ContainsFunc(endpoints, on) {
			agents = append(agents, iperf.Agent{Node: n.Name, Pid: n.AgentPid})
		}
	}
	return agents
}
