package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"labctl/lab/iperf"
)

// iperfLines prints iperf3's familiar picture.
type iperfLines struct {
	w          io.Writer
	udp        bool
	streams    int
	fromIperf3 bool
	drawn      bool // the header of the intervals
}

func (l *iperfLines) title(from, to string, addr netip.Addr, p iperf.Params) {
	what := "TCP"
	if p.UDP {
		what = "UDP"
	}
	if p.Rate > 0 {
		what += fmt.Sprintf(" at %s", strings.TrimSpace(bitrate(float64(p.Rate))))
	}
	arrow, engine, plural := "->", "", "s"
	if p.Reverse {
		arrow = "<-"
	}
	if l.fromIperf3 {
		engine = ", by iperf3"
	}
	if p.Streams == 1 {
		plural = ""
	}
	fmt.Fprintf(l.w, "iperf %s %s %s (%s): %s, %d stream%s, %v s%s\n", from, arrow, to, addr, what, p.Streams, plural, p.Duration.Seconds(), engine)
}

func (l *iperfLines) header(last string) {
	fmt.Fprintln(l.w, strings.TrimRight(fmt.Sprintf("[ ID] Interval           Transfer     Bitrate         %s", last), " "))
}

func (l *iperfLines) interval(i iperf.Interval) {
	if !l.drawn {
		if l.udp {
			l.header("Jitter    Lost/Total Datagrams")
		} else {
			l.header("Retr  Cwnd")
		}
		l.drawn = true
	}
	omitted := ""
	if i.Omitted {
		omitted = "  (omitted)"
	}
	for _, s := range i.Streams {
		l.line(fmt.Sprintf("%3d", s.ID), i.Start, i.End, s.Bytes, s.BitsPerSecond, ofInterval(s)+omitted)
	}
	if l.streams > 1 {
		l.line("SUM", i.Start, i.End, i.Sum.Bytes, i.Sum.BitsPerSecond, ofInterval(i.Sum)+omitted)
	}
}

// ofInterval are the columns behind the bitrate.
func ofInterval(s iperf.Sample) string {
	switch {
	case s.TCP != nil:
		return fmt.Sprintf("%4d  %s", s.TCP.Retransmits, transfer(float64(s.TCP.CwndBytes)))
	case s.UDP != nil:
		return ofUDP(s.UDP)
	}
	return ""
}

func ofUDP(u *iperf.UDPSample) string {
	return fmt.Sprintf("%5.3f ms  %d/%d (%.2g%%)", u.JitterMs, u.Lost, u.Packets, u.LostPercent)
}

func (l *iperfLines) line(id string, start, end float64, bytes int64, bits float64, more string) {
	fmt.Fprintln(l.w, strings.TrimRight(fmt.Sprintf("[%s] %6.2f-%-6.2f sec  %s  %s  %s", id, start, end, transfer(float64(bytes)), bitrate(bits), more), " "))
}

// end prints the totals, and what they cost.
func (l *iperfLines) end(r *iperf.Report) {
	if l.drawn {
		fmt.Fprintln(l.w, strings.TrimSuffix(strings.Repeat("- ", 25), " "))
	}
	if l.udp {
		l.header("Jitter    Lost/Total Datagrams")
	} else {
		l.header("Retr")
	}
	for _, s := range r.Streams {
		l.total(fmt.Sprintf("%3d", s.ID), r.Seconds, s)
	}
	if len(r.Streams) > 1 {
		l.total("SUM", r.Seconds, r.Sum)
	}
	if u := r.Sum.UDP; u != nil {
		for _, more := range []struct {
			n    int64
			what string
		}{
			{u.OutOfOrder, "datagrams came out of order"},
			{u.Duplicates, "datagrams came twice"},
			{u.SocketDrops, "of the lost ones found the receiving socket's buffer full"},
		} {
			if more.n > 0 {
				fmt.Fprintf(l.w, "%d %s\n", more.n, more.what)
			}
		}
	}
	if len(r.Streams) == 0 {
		return
	}
	c := r.CPU
	sender, receiver := r.Target()
	fmt.Fprintf(l.w, "\nCPU: sender %s %.2f s, receiver %s %.2f s", sender, c.Sender, receiver, c.Receiver)
	for _, a := range c.Agents {
		fmt.Fprintf(l.w, ", agent %s %.2f s", a.Node, a.Seconds)
	}
	fmt.Fprintf(l.w, "\nmachine: softirq %.2f s, %.4f s/Gbit; all %.2f s, %.4f s/Gbit\n", c.Softirq, c.SoftirqPerGbit, c.Machine, c.MachinePerGbit)
}

func (l *iperfLines) total(id string, seconds float64, s iperf.Sample) {
	sent, arrived := "      sender", "      receiver"
	switch {
	case s.TCP != nil:
		sent, arrived = fmt.Sprintf("%4d  %s", s.TCP.Retransmits, sent), "      "+arrived
	case s.UDP != nil:
		sent = fmt.Sprintf("0.000 ms  0/%d (0%%)%s", s.UDP.Packets, sent)
		arrived = ofUDP(s.UDP) + arrived
	}
	l.line(id, 0, seconds, s.SentBytes, s.SentBitsPerSecond, sent)
	l.line(id, 0, seconds, s.Bytes, s.BitsPerSecond, arrived)
}

// transfer is bytes as iperf3 prints them: by 1024, three digits.
func transfer(bytes float64) string {
	v, unit := scale(bytes, 1024)
	return fmt.Sprintf("%s %-6s", threeDigits(v), unit+"Bytes")
}

// bitrate is bits a second as iperf3 prints them: by 1000.
func bitrate(bits float64) string {
	v, unit := scale(bits, 1000)
	return fmt.Sprintf("%s %-9s", threeDigits(v), unit+"bits/sec")
}

func scale(v, base float64) (float64, string) {
	units := []string{"", "K", "M", "G", "T"}
	i := 0
	for v >= base && i < len(units)-1 {
		v /= base
		i++
	}
	return v, units[i]
}

func threeDigits(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%4.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%4.1f", v)
	}
	return fmt.Sprintf("%4.0f", v)
}
