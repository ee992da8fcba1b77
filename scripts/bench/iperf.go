package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"time"
)

// engines compares labctl's own iperf with iperf3, in one lab, from container
// to container, in interleaved rounds.
type engines struct {
	labctl  string
	rounds  int
	each    time.Duration
	gate    float64 // by what part labctl's median may differ from iperf3's; 0: only show
	lab     string
	samples map[string][]float64
}

// iperfCase is one thing that both measure.
type iperfCase struct {
	name string
	args []string
	of   func(iperfResult) float64
}

// iperfResult is labctl iperf -o json, as far as it is looked at.
type iperfResult struct {
	Sum struct {
		BitsPerSecond float64
		UDP           struct {
			Packets, Lost int64
		}
	}
	CPU struct {
		SenderSeconds, ReceiverSeconds, MachineSecondsPerGbit float64
	}
}

// The UDP stream has a rate that any machine carries.
const (
	udpRate     = 50e6
	udpRateFlag = "50M"
	udpRateWant = 0.02 // how far from it the rate may be
)

func (e *engines) run(ctx context.Context) (err error) {
	if e.rounds < 5 {
		return errors.New("iperf: at least 5 rounds for a median")
	}
	e.lab = fmt.Sprintf("bench-%d", os.Getpid())
	e.samples = map[string][]float64{}
	if _, err := output(ctx, e.labctl, "up", "flannel-vxlan", "--name", e.lab); err != nil {
		return err
	}
	defer func() {
		_, down := output(context.Background(), e.labctl, "down", e.lab)
		err = errors.Join(err, down)
	}()
	if err := unpaced(ctx, e.labctl, e.lab); err != nil {
		return err
	}
	fmt.Printf("machine: %s, %s, %d cores, %s\n", kernel(), cpu(), runtime.NumCPU(), time.Now().Format("2006-01-02"))
	fmt.Printf("flannel-vxlan, container to container, TCP %s; %d rounds of %v, the engines in random order\n\n", congestion, e.rounds, e.each)
	gbit := func(r iperfResult) float64 { return r.Sum.BitsPerSecond / 1e9 }
	cases := []iperfCase{
		{"1 TCP stream, Gbit/s", []string{"-C", congestion}, gbit},
		{"4 TCP streams, Gbit/s", []string{"-C", congestion, "-P", "4"}, gbit},
		{"UDP at " + udpRateFlag + ", Mbit/s", []string{"-u", "-b", udpRateFlag}, func(r iperfResult) float64 { return r.Sum.BitsPerSecond / 1e6 }},
	}
	lost := int64(0)
	for round := range e.rounds + 1 { // the first is a warm-up
		for _, c := range cases {
			names := []string{"labctl", "iperf3"}
			rand.Shuffle(2, func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names {
				r, err := e.measure(ctx, name, c.args)
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				if round == 0 {
					continue
				}
				e.samples[name+c.name] = append(e.samples[name+c.name], c.of(r))
				e.samples[name+c.name+cpuAll] = append(e.samples[name+c.name+cpuAll], r.CPU.MachineSecondsPerGbit)
				if name == "labctl" {
					lost += r.Sum.UDP.Lost
				}
			}
		}
	}
	return e.judge(cases, lost)
}

func (e *engines) measure(ctx context.Context, engine string, args []string) (r iperfResult, err error) {
	out, err := output(ctx, append([]string{e.labctl, "iperf", "-l", e.lab, "node1.c1", "node2.c1", "--engine", engine, "-o", "json",
		"-t", strconv.FormatFloat(e.each.Seconds(), 'f', -1, 64)}, args...)...)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// judge prints the medians and compares those that have a gate: one TCP
// stream, for which labctl makes the calls that iperf3 makes, and the rate and
// loss of UDP. Four streams are shown only: iperf3 before 3.16 is one thread an
// end, and labctl one for each stream. The ratio is the median of the rounds':
// what else the machine does differs from round to round.
func (e *engines) judge(cases []iperfCase, lost int64) error {
	fmt.Printf("%-24s %-26s %-26s %-8s %s\n", "MEDIAN (LEAST - MOST)", "LABCTL", "IPERF3", "RATIO", "CPU S/GBIT, BOTH")
	var errs []error
	for i, c := range cases {
		own, theirs := e.samples["labctl"+c.name], e.samples["iperf3"+c.name]
		ratios := make([]float64, len(own))
		for k := range own {
			ratios[k] = own[k] / theirs[k]
		}
		ratio := median(ratios)
		fmt.Printf("%-24s %-26s %-26s %-8.3f %.3f, %.3f\n", c.name, describe(own, "%.2f"), describe(theirs, "%.2f"), ratio,
			median(e.samples["labctl"+c.name+cpuAll]), median(e.samples["iperf3"+c.name+cpuAll]))
		if e.gate > 0 && i == 0 && math.Abs(ratio-1) > e.gate {
			errs = append(errs, fmt.Errorf("%s: labctl / iperf3 is %.3f, further from 1 than %.2f", c.name, ratio, e.gate))
		}
	}
	rate := median(e.samples["labctl"+cases[2].name]) * 1e6
	fmt.Printf("\nUDP: rate / target %.4f, %d datagrams lost in all rounds\n", rate/udpRate, lost)
	if e.gate > 0 && math.Abs(rate/udpRate-1) > udpRateWant {
		errs = append(errs, fmt.Errorf("udp: rate / target is %.4f, further from 1 than %.2f", rate/udpRate, udpRateWant))
	}
	if e.gate > 0 && lost > 0 {
		errs = append(errs, fmt.Errorf("udp: %d datagrams lost", lost))
	}
	return errors.Join(errs...)
}
