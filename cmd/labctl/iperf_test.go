package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"labctl/lab/iperf"
)

// iperfFile writes a lab of two hosts.
func iperfFile(t *testing.T, u user) string {
	t.Helper()
	file := filepath.Join(u.runtime, "iperf.yaml")
	err := os.WriteFile(file, []byte(`name: iperf
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: {node1: {subnet: 10.244.1.0/24}, node2: {subnet: 10.244.2.0/24}}
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// iperf measures from node1.c1 to node2.c1.
func (l *running) iperf(t *testing.T, args ...string) *iperf.Report {
	t.Helper()
	out := l.run(t, append([]string{"iperf", "-l", l.name, "node1.c1", "node2.c1", "-o", "json"}, args...)...)
	var r iperf.Report
	unmarshal(t, out, &r)
	return &r
}

// How fast it is, is for make bench-iperf: here only what must hold on a busy
// machine as well.
func TestIperf(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, iperfFile(t, u))

		r := l.iperf(t, "-t", "0.4", "-i", "0.1", "-P", "2", "-C", "cubic")
		if r.Engine != "labctl" || r.Protocol != "tcp" || r.Congestion != "cubic" || len(r.Intervals) != 4 || len(r.Streams) != 2 {
			t.Errorf("tcp: engine %s, protocol %s, congestion %s, %d intervals, %d streams", r.Engine, r.Protocol, r.Congestion, len(r.Intervals), len(r.Streams))
		}
		if r.Sum.Bytes == 0 || r.Sum.SentBytes < r.Sum.Bytes || r.Sum.TCP == nil || r.Sum.TCP.CwndBytes == 0 || r.Sum.TCP.RTTMs == 0 {
			t.Errorf("tcp: sum %+v, %+v", r.Sum, r.Sum.TCP)
		}
		if r.Address.Addr().String() != "10.244.2.2" || r.Address.Port() == 0 {
			t.Errorf("tcp: address %s, want 10.244.2.2 and a port", r.Address)
		}
		if c := r.CPU; len(c.Agents) != 2 || c.Agents[0].Node != "node1" || c.Agents[0].Pid == 0 || c.Sender <= 0 || c.Receiver <= 0 || c.Machine <= 0 {
			t.Errorf("tcp: cpu %+v", c)
		}

		r = l.iperf(t, "-u", "-b", "2M", "-t", "0.5", "-R")
		s := r.Sum.UDP
		if !r.Reverse || r.Length != 1450-28 || s == nil || s.Packets == 0 || s.Lost != 0 || s.OutOfOrder != 0 || s.Duplicates != 0 {
			t.Errorf("udp: reverse %v, length %d, %+v", r.Reverse, r.Length, s)
		}
		for _, rp := range []string{"500000", "1M"} {
			if r := l.iperf(t, "-u", "-b", rp, "-t", "0.5", "-P", "2"); r.Sum.UDP.Packets == 0 || r.Sum.UDP.Lost != 0 {
				t.Errorf("udp -b %s: %+v", rp, r.Sum.UDP)
			}
		}

		l.iperfLoss(t)
		l.iperfUnreached(t)
	})
}

// nft gives node2 rules for what it forwards to its container.
func (l *running) nft(t *testing.T, rule string) {
	t.Helper()
	l.exec(t, "node2", "sh", "-c", "nft delete table ip mayhem 2>/dev/null; nft -f - <<'END'\n"+
		"table ip mayhem { chain forward { type filter hook forward priority 0; ip daddr 10.244.2.2 "+rule+"; }; }\nEND\n")
}

// Every tenth packet goes: a tenth is missed, and none out of order.
func (l *running) iperfLoss(t *testing.T) {
	t.Helper()
	needTool(t, "nft")
	l.nft(t, "ip protocol udp numgen inc mod 10 9 drop")
	r := l.iperf(t, "-u", "-b", "5M", "--length", "1000", "-t", "1")
	u := r.Sum.UDP
	if u.Packets < 100 || u.LostPercent < 9 || u.LostPercent > 11 || u.OutOfOrder != 0 {
		t.Errorf("every tenth dropped: %+v, want 10 %% lost", u)
	}
	if got := (u.Packets - u.Lost) * 1000; got != r.Sum.Bytes {
		t.Errorf("every tenth dropped: %d bytes arrived, but %d datagrams", r.Sum.Bytes, u.Packets-u.Lost)
	}
}

// What is in the way is told in words, with a cure.
func (l *running) iperfUnreached(t *testing.T) {
	t.Helper()
	for _, tt := range []struct {
		rule string
		args []string
		want string
	}{
		{"ip protocol tcp drop", nil, "tcp): no answer within 3s"},
		{"ip protocol udp drop", []string{"-u"}, "udp): nothing arrived within 3s"},
		{"ip protocol tcp reject with tcp reset", nil, "tcp): refused"},
		{"ip protocol tcp reject with icmp type host-unreachable", nil, "tcp): no route to host"},
	} {
		l.nft(t, tt.rule)
		_, stderr, code := l.try(t, append([]string{"iperf", "-l", l.name, "node1.c1", "node2.c1", "-t", "1"}, tt.args...)...)
		if code != 1 || !strings.Contains(stderr, "iperf: node1.c1 -> node2.c1 (10.244.2.2:") || !strings.Contains(stderr, tt.want) || !strings.Contains(stderr, "cure: ") {
			t.Errorf("%s: exit status %d, want 1 and %q:\n%s", tt.rule, code, tt.want, stderr)
		}
	}
	// The path closes while it is measured: what there was before is told.
	l.nft(t, "ip protocol tcp quota over 5 mbytes drop")
	r := l.iperf(t, "-t", "1", "-i", "0.5")
	if last := r.Intervals[1].Sum; last.Bytes != 0 || r.Sum.Bytes == 0 {
		t.Errorf("path closed: %d bytes in all, %d of them at the end, want none there", r.Sum.Bytes, last.Bytes)
	}
}

// The real iperf3 is another engine with the same report.
func TestIperf3(t *testing.T) {
	t.Parallel()
	needTool(t, "iperf3")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, iperfFile(t, u))
		for _, args := range [][]string{
			{"-t", "1", "-P", "2", "-i", "0.5"},
			{"-t", "1", "-R", "-C", "cubic", "-b", "50M"},
			{"-t", "1", "-u", "-b", "2M", "--length", "1000"},
			{"-t", "1", "-u", "-R"},
		} {
			r := l.iperf(t, append(args, "--engine", "iperf3")...)
			if err := checkIperf3(r); err != nil {
				t.Errorf("%s: %v", strings.Join(args, " "), err)
			}
		}
		_, stderr, code := l.try(t, "iperf", "-l", l.name, "node1.c1", "node2.c1", "--engine", "iperf3", "-t", "0.5")
		if code != 2 || !strings.Contains(stderr, "whole seconds") {
			t.Errorf("half a second: exit status %d, want 2 and why:\n%s", code, stderr)
		}
		l.exec(t, "node1", "ip", "link", "set", "eth0", "down")
		_, stderr, code = l.try(t, "iperf", "-l", l.name, "node2", "node2.c1", "--engine", "iperf3", "-t", "1")
		if code != 0 {
			t.Errorf("within node2: exit status %d\n%s", code, stderr)
		}
	})
}

func checkIperf3(r *iperf.Report) error {
	if r.Engine != "iperf3" || r.Sum.Bytes == 0 || r.Sum.SentBytes == 0 || len(r.Intervals) == 0 || r.Length == 0 || r.Seconds < 0.5 {
		return fmt.Errorf("engine %s, %d of %d bytes, %d intervals, length %d, %v s", r.Engine, r.Sum.Bytes, r.Sum.SentBytes, len(r.Intervals), r.Length, r.Seconds)
	}
	if r.CPU.Sender+r.CPU.Receiver <= 0 {
		return fmt.Errorf("cpu %+v", r.CPU)
	}
	if u := r.Sum.UDP; r.Protocol == "udp" && (u == nil || u.Packets == 0 || u.Lost != 0) {
		return fmt.Errorf("udp %+v", u)
	}
	if c := r.Sum.TCP; r.Protocol == "tcp" && c == nil {
		return fmt.Errorf("no tcp in %+v", r.Sum)
	}
	return nil
}

// Amounts are printed as iperf3 prints them.
func TestIperfAmounts(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0.00 Bytes", 1023: "1023 Bytes", 1 << 20: "1.00 MBytes", 1.5 * (1 << 30): "1.50 GBytes", 123 << 20: " 123 MBytes"} {
		if got := strings.TrimRight(transfer(v), " "); got != want {
			t.Errorf("transfer(%v) = %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{999: " 999 bits/sec", 1e6: "1.00 Mbits/sec", 9.41e8: " 941 Mbits/sec", 23.456e9: "23.5 Gbits/sec"} {
		if got := strings.TrimRight(bitrate(v), " "); got != want {
			t.Errorf("bitrate(%v) = %q, want %q", v, got, want)
		}
	}
	for text, want := range map[string]uint64{"0": 0, "1": 1, "500K": 500e3, "2.5g": 25e8, "100M": 100e6} {
		if got, err := parseRate(text, true); err != nil || got != want {
			t.Errorf("parseRate(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"-1", "M", "1X", "NaN", "1e30", " 1", "Inf"} {
		if got, err := parseRate(bad, false); err == nil {
			t.Errorf("parseRate(%q) = %d, want an error", bad, got)
		}
	}
	if n, err := parseLength("64K"); err != nil || n != 65536 {
		t.Errorf("parseLength(64K) = %d, %v; want 65536", n, err)
	}
}
