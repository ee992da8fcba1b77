package check

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"labctl/lab"
	"labctl/lab/iperf"
)

// A throughput check measures each path for so long.
const throughputFor = 100 * time.Millisecond

// throughput measures what one TCP stream carries, and in turn what the other
// path does: what slows the machine down slows both.
func (r *Runner) throughput(ctx context.Context, c lab.ThroughputCheck) (string, error) {
	return compare(c, func(p lab.PathSpec) (float64, error) { return r.carry(ctx, p) })
}

// compare judges what carry measures, by rounds that are more when the first few
// do not do: on a busy machine who is to send waits for most of so short a time.
func compare(c lab.ThroughputCheck, carry func(lab.PathSpec) (mbit float64, err error)) (string, error) {
	paths := []lab.PathSpec{{From: c.From, To: c.To}}
	expected := fmt.Sprintf("at least %v Mbit/s", c.Mbit)
	if c.Than != nil {
		paths = append(paths, *c.Than)
		expected = fmt.Sprintf("at least %v times %s -> %s", c.Least, c.Than.From, c.Than.To)
		if c.Mbit > 0 {
			expected += fmt.Sprintf(" and %v Mbit/s", c.Mbit)
		}
	}
	rates := make([][]float64, len(paths))
	found := ""
	for _, rounds := range []int{5, 25} {
		for len(rates[0]) < rounds {
			for i, p := range paths {
				mbit, err := carry(p)
				if err != nil {
					return expected, err
				}
				rates[i] = append(rates[i], mbit)
			}
		}
		own := median(rates[0])
		found = fmt.Sprintf("%.0f Mbit/s (median of %d)", own, rounds)
		holds := own >= c.Mbit
		if c.Than != nil {
			than := median(rates[1])
			ratio := own / max(than, 1e-6)
			found = fmt.Sprintf("%.2f times (medians %.0f and %.0f Mbit/s of %d)", ratio, own, than, rounds)
			holds = holds && ratio >= c.Least
		}
		if holds {
			return expected + "; " + found, nil
		}
	}
	return expected, &failure{expected, found}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// carry is what a path carries, in Mbit/s of payload.
func (r *Runner) carry(ctx context.Context, p lab.PathSpec) (float64, error) {
	var ends [2]iperf.End
	for i, name := range []string{p.From, p.To} {
		addr, err := r.client.EndpointAddress(ctx, name)
		if err != nil {
			return 0, err
		}
		ends[i] = iperf.End{Name: name, Addr: addr, Socket: func(ctx context.Context, domain, typ, proto int) (*os.File, error) {
			return r.client.Socket(ctx, name, domain, typ, proto)
		}}
	}
	rep, err := iperf.Run(ctx, ends[0], ends[1], iperf.Params{Streams: 1, Duration: throughputFor, Interval: throughputFor}, nil, nil)
	if err != nil {
		return 0, err
	}
	if rep.Interrupted {
		return 0, fmt.Errorf("throughput %s -> %s: %w", p.From, p.To, context.Cause(ctx))
	}
	return rep.Sum.BitsPerSecond / 1e6, nil
}
