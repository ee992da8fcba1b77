package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// What is measured, as keys of benchLab.samples.
const (
	tcp1      = "tcp1"      // Gbit/s received
	tcp4      = "tcp4"      // Gbit/s received, all four
	kpps      = "kpps"      // thousand packets received a second
	flood     = "flood"     // us there and back
	memory    = "memory"    // MB
	cpuAll    = "cpuAll"    // s of CPU a Gbit, of the whole machine
	cpuAgents = "cpuAgents" // s of CPU a Gbit, of the lab's agents
)

func (b *backends) in(ctx context.Context, l *benchLab, argv ...string) ([]byte, error) {
	return output(ctx, append([]string{b.labctl, "exec", "-l", l.name, "node1.c1", "--"}, argv...)...)
}

// iperf3's report, as far as it is looked at.
type iperfReport struct {
	End struct {
		SumReceived struct {
			BitsPerSecond float64 `json:"bits_per_second"`
			Bytes         float64 `json:"bytes"`
			Seconds       float64 `json:"seconds"`
		} `json:"sum_received"`
		CPU struct {
			Host   float64 `json:"host_total"` // per cent of one processor
			Remote float64 `json:"remote_total"`
		} `json:"cpu_utilization_percent"`
		Sum struct {
			Packets float64 `json:"packets"`
			Lost    float64 `json:"lost_packets"`
			Seconds float64 `json:"seconds"`
		} `json:"sum"`
	} `json:"end"`
}

func (b *backends) iperf(ctx context.Context, l *benchLab, args ...string) (r iperfReport, err error) {
	seconds := strconv.FormatFloat(b.each.Seconds(), 'f', -1, 64)
	out, err := b.in(ctx, l, append([]string{"iperf3", "-J", "-c", l.to, "-t", seconds}, args...)...)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// tcp measures TCP streams, and with one stream the CPU that they cost.
func (b *backends) tcp(what string, streams int) func(context.Context, *benchLab) error {
	return func(ctx context.Context, l *benchLab) error {
		all, err := busy()
		if err != nil {
			return err
		}
		agents, err := l.agentTime()
		if err != nil {
			return err
		}
		r, err := b.iperf(ctx, l, "-C", congestion, "-P", strconv.Itoa(streams))
		if err != nil {
			return err
		}
		l.samples[what] = append(l.samples[what], r.End.SumReceived.BitsPerSecond/1e9)
		if streams > 1 {
			return nil
		}
		gbit := r.End.SumReceived.Bytes * 8 / 1e9
		allAfter, err := busy()
		if err != nil {
			return err
		}
		agentsAfter, err := l.agentTime()
		if err != nil {
			return err
		}
		l.samples[cpuAll] = append(l.samples[cpuAll], (allAfter-all)/gbit)
		l.samples[cpuAgents] = append(l.samples[cpuAgents], (agentsAfter-agents)/gbit)
		return nil
	}
}

// packets sends UDP packets with 64 bytes of payload as fast as it can.
func (b *backends) packets(ctx context.Context, l *benchLab) error {
	r, err := b.iperf(ctx, l, "-u", "-b", "0", "-l", "64")
	if err != nil {
		return err
	}
	s := r.End.Sum
	l.samples[kpps] = append(l.samples[kpps], (s.Packets-s.Lost)/s.Seconds/1000)
	return nil
}

var rtt = regexp.MustCompile(`= [\d.]+/([\d.]+)/`)

// flood is the mean time of pings that each wait for the one before.
func (b *backends) flood(ctx context.Context, l *benchLab) error {
	out, err := b.in(ctx, l, "ping", "-f", "-q", "-c", "5000", l.to)
	if err != nil {
		return err
	}
	m := rtt.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("ping: no times in %q", out)
	}
	ms, err := strconv.ParseFloat(string(m[1]), 64)
	l.samples[flood] = append(l.samples[flood], ms*1000)
	return err
}

// memory is what is private to each of the lab's agents, before any traffic.
func (b *backends) memory(l *benchLab) error {
	for _, pid := range l.agents {
		mb, err := private(pid)
		if err != nil {
			return err
		}
		l.samples[memory] = append(l.samples[memory], mb)
	}
	return nil
}

// clockTicks is USER_HZ, the unit of times in /proc (100 on every Linux).
const clockTicks = 100

// busy is the CPU time of the machine so far, in seconds: all but idle, waiting
// and what the hypervisor took.
func busy() (float64, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var sum float64
	for i, f := range strings.Fields(line)[1:] {
		const idle, iowait, steal = 3, 4, 7
		if i == idle || i == iowait || i >= steal { // guest time is in user already
			continue
		}
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += ticks
	}
	return sum / clockTicks, nil
}

// agentTime is the CPU time of the lab's agents so far, in seconds.
func (l *benchLab) agentTime() (float64, error) {
	var sum float64
	for _, pid := range l.agents {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// After the name, which may have anything in it but ends with ).
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		const utime, stime = 11, 12
		for _, i := range []int{utime, stime} {
			ticks, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			sum += ticks
		}
	}
	return sum / clockTicks, nil
}

func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown CPU"
}
