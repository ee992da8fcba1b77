package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"labctl/lab"
	"labctl/lab/ping"
)

// latencyRounds is how many packets go each way; the medians are compared.
const latencyRounds = 21

// latency compares the round trips of two ways, of which packets are sent in
// turn: what slows the machine down slows both.
func (r *Runner) latency(ctx context.Context, c lab.LatencyCheck) (string, error) {
	expected := fmt.Sprintf("at most %v times %s -> %s", c.Most, c.Than.From, c.Than.To)
	ways := make([]*way, 0, 2)
	for _, p := range []lab.PathSpec{{From: c.From, To: c.To}, c.Than} {
		w, err := r.way(ctx, p)
		if err != nil {
			return expected, err
		}
		defer w.pinger.Close()
		ways = append(ways, w)
	}
	for range latencyRounds {
		for _, w := range ways {
			if err := w.send(ctx); err != nil {
				return expected, err
			}
		}
	}
	a, b := ways[0].median(), ways[1].median()
	ratio := float64(a) / float64(max(b, 1))
	found := fmt.Sprintf("%.2f times (medians %v and %v of %d)", ratio, a, b, latencyRounds)
	if ratio > c.Most {
		return expected, &failure{expected, found}
	}
	return expected + "; " + found, nil
}

// way is one of the two.
type way struct {
	pinger *ping.Pinger
	to     netip.Addr
	rtts   []time.Duration
}

func (r *Runner) way(ctx context.Context, p lab.PathSpec) (*way, error) {
	to, err := r.address(ctx, p.To)
	if err != nil {
		return nil, err
	}
	w := &way{to: to}
	w.pinger, err = r.client.Pinger(ctx, p.From)
	return w, err
}

func (w *way) send(ctx context.Context) error {
	res, err := w.pinger.Probe(ctx, ping.Probe{To: w.to, Size: 56, Wait: answerTime})
	if err == nil && res.Lost != "" {
		err = errors.New(w.to.String() + ": " + res.Lost)
	}
	w.rtts = append(w.rtts, res.RTT)
	return err
}

func (w *way) median() time.Duration {
	slices.Sort(w.rtts)
	return w.rtts[len(w.rtts)/2]
}
