package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/check"
	"labctl/lab/ping"
)

func (a *app) pingCommand() *cobra.Command {
	var all bool
	var count int
	var interval time.Duration
	probe := ping.Probe{}
	c := &cobra.Command{
		Use:   "ping A B | --all",
		Short: "Ping from an endpoint to another, or all containers each other",
		Long: `Ping from endpoint A to endpoint or address B, or with --all from every container
to every other at once. Exit status 1 when a packet was lost.`,
		Example: `  labctl ping node1.c1 node2.c1
  labctl ping node1.c1 203.0.113.1
  labctl ping node1.c1 node2.c1 --df -s 1422    # a packet of 1450 bytes, not to be fragmented
  labctl ping --all`,
		Args: func(c *cobra.Command, args []string) error {
			if all {
				for _, f := range []string{"count", "interval"} {
					if c.Flags().Changed(f) {
						return usage(fmt.Errorf("--%s: not for ping --all, which sends one packet to each", f), "leave it out")
					}
				}
				return arguments(0, 0, "no arguments with --all")(c, args)
			}
			return arguments(2, 2, "two endpoints, or --all")(c, args)
		},
		ValidArgsFunction: upTo(2, a.completeEndpoints),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkProbe(probe, count, interval); err != nil {
				return err
			}
			if all {
				return a.pingAll(c.Context(), probe)
			}
			return a.ping(c.Context(), args[0], args[1], probe, count, interval)
		},
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "every container to every other, concurrently")
	f.IntVarP(&count, "count", "c", 3, "how many")
	f.DurationVarP(&interval, "interval", "i", 200*time.Millisecond, "between two")
	f.IntVarP(&probe.Size, "size", "s", 56, "bytes of payload; the packet has 28 more")
	f.BoolVar(&probe.DF, "df", false, "forbid fragmentation")
	f.IntVar(&probe.TTL, "ttl", 0, "time to live (default: the kernel's)")
	f.DurationVarP(&probe.Wait, "timeout", "W", ping.DefaultWait, "how long an answer may take")
	return c
}

// checkProbe refuses numbers that no packet can have.
func checkProbe(p ping.Probe, count int, interval time.Duration) error {
	switch {
	case count < 1:
		return usage(fmt.Errorf("--count %d: no packet", count), "give 1 or more")
	case p.Size < 0 || p.Size > ping.MaxSize:
		return usage(fmt.Errorf("--size %d: not between 0 and %d", p.Size, ping.MaxSize), "the payload and 28 bytes of headers make an IPv4 packet")
	case p.TTL < 0 || p.TTL > 255:
		return usage(fmt.Errorf("--ttl %d: not between 1 and 255", p.TTL), "leave it out for the kernel's default")
	case interval < 0:
		return usage(fmt.Errorf("--interval %v: negative", interval), "give 0 or more")
	case p.Wait <= 0:
		return usage(fmt.Errorf("--timeout %v: no time for an answer", p.Wait), "give a duration such as 500ms")
	}
	return nil
}

func (a *app) ping(ctx context.Context, from, to string, probe ping.Probe, count int, interval time.Duration) error {
	name, err := endpoint(from)
	if err != nil {
		return err
	}
	cl, err := a.open("")
	if err != nil {
		return err
	}
	if probe.To, err = cl.Address(ctx, to); err != nil {
		return err
	}
	if !probe.To.Is4() {
		return usage(fmt.Errorf("%s: not an IPv4 address", to), "give an endpoint or an IPv4 address")
	}
	p, err := cl.Pinger(ctx, name)
	if err != nil {
		return err
	}
	defer p.Close()
	human := a.output == "table" || a.output == "wide"
	if human {
		fmt.Fprintf(a.stdout, "PING %s (%s) from %s: %d(%d) bytes of data\n", to, probe.To, name, probe.Size, probe.Size+28)
	}
	var results []ping.Result
	ticker := time.NewTicker(max(interval, time.Millisecond))
	defer ticker.Stop()
	for i := range count {
		r, err := p.Probe(ctx, probe)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		results = append(results, r)
		if human {
			fmt.Fprintln(a.stdout, pingLine(r, i+1))
		}
		if i+1 < count {
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}
	s := summarise(results)
	if done, err := a.machineReadable(struct {
		SchemaVersion int           `json:"schemaVersion"`
		From          string        `json:"from"`
		To            string        `json:"to"`
		Addr          netip.Addr    `json:"addr"`
		Sent          int           `json:"sent"`
		Received      int           `json:"received"`
		Results       []ping.Result `json:"results"`
	}{1, name, to, probe.To, len(results), s.received, results}); done {
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.stdout, "\n%d packets transmitted, %d received, %.0f%% packet loss\n", len(results), s.received, s.loss)
		if s.received > 0 {
			fmt.Fprintf(a.stdout, "rtt min/median/max = %s/%s/%s\n", rtt(s.min), rtt(s.median), rtt(s.max))
		}
	}
	if s.received < len(results) || len(results) == 0 {
		return exitStatus(1)
	}
	return nil
}

func pingLine(r ping.Result, seq int) string {
	if r.Lost == "" {
		return fmt.Sprintf("%d bytes from %s: icmp_seq=%d ttl=%d time=%s", r.Size+8, r.To, seq, r.TTL, rtt(r.RTT))
	}
	if r.From.IsValid() {
		return fmt.Sprintf("from %s: icmp_seq=%d %s", r.From, seq, r.Lost)
	}
	return fmt.Sprintf("icmp_seq=%d %s", seq, r.Lost)
}

// rtt is a round trip in milliseconds, as ping(8) prints it.
func rtt(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 3, 64) + " ms"
}

type summary struct {
	received         int
	loss             float64
	min, median, max time.Duration
}

func summarise(results []ping.Result) summary {
	var rtts []time.Duration
	for _, r := range results {
		if r.Lost == "" {
			rtts = append(rtts, r.RTT)
		}
	}
	s := summary{received: len(rtts), loss: 100}
	if len(results) > 0 {
		s.loss = 100 * float64(len(results)-len(rtts)) / float64(len(results))
	}
	if len(rtts) > 0 {
		slices.Sort(rtts)
		s.min, s.median, s.max = rtts[0], rtts[len(rtts)/2], rtts[len(rtts)-1]
	}
	return s
}

// pingAll prints mininet's picture: who reaches whom.
func (a *app) pingAll(ctx context.Context, probe ping.Probe) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	eps, closeAll, err := check.Containers(ctx, cl, st)
	if err != nil {
		return err
	}
	defer closeAll()
	for _, n := range st.Nodes {
		if n.State == lab.Dead {
			fmt.Fprintf(a.stderr, "labctl: %s is dead: left out\n", n.Name)
		}
	}
	for i, e := range eps {
		for _, other := range eps[:i] {
			if e.Addr == other.Addr {
				fmt.Fprintf(a.stderr, "labctl: %s and %s have the same address %s: each reaches itself\n", other.Name, e.Name, e.Addr)
			}
		}
	}
	m, err := ping.All(ctx, eps, probe)
	if err != nil {
		return err
	}
	if done, err := a.machineReadable(struct {
		SchemaVersion int `json:"schemaVersion"`
		*ping.Matrix
	}{1, m}); done {
		if err != nil {
			return err
		}
	} else if err := a.printMatrix(m); err != nil {
		return err
	}
	if m.Received < m.Sent {
		return exitStatus(1)
	}
	return nil
}

func (a *app) printMatrix(m *ping.Matrix) error {
	var rows [][]string
	for i, from := range m.Names {
		row := []string{from, "->"}
		for j := range m.Names {
			switch r := m.Cells[i][j]; {
			case r == nil:
				row = append(row, ".")
			case r.Lost != "":
				row = append(row, "X")
			default:
				row = append(row, strconv.FormatFloat(float64(r.RTT)/float64(time.Millisecond), 'f', 3, 64))
			}
		}
		rows = append(rows, row)
	}
	if err := table(a.stdout, append([]string{"MS", ""}, m.Names...), rows); err != nil {
		return err
	}
	for _, l := range m.Lost() {
		fmt.Fprintln(a.stdout, l)
	}
	loss := 0.0
	if m.Sent > 0 {
		loss = 100 * float64(m.Sent-m.Received) / float64(m.Sent)
	}
	fmt.Fprintf(a.stdout, "*** Results: %.0f%% dropped (%d/%d received)\n", loss, m.Received, m.Sent)
	return nil
}
