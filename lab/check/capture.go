package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"labctl/lab"
	"labctl/lab/capture"
	"labctl/lab/packet"
)

// captureMemory holds what one ping and its neighbours' ARP put on a wire.
const captureMemory = 1 << 20

// capture pings and looks at what one interface saw meanwhile. An answer is
// not asked for.
func (r *Runner) capture(ctx context.Context, c lab.CaptureCheck) (string, error) {
	match, err := lab.ExpandRegexp(c.Match, r.value)
	if err != nil {
		return c.Match, err
	}
	not, err := lab.ExpandRegexp(c.Not, r.value)
	if err != nil {
		return c.Not, err
	}
	var parts []string
	if c.Match != "" {
		parts = append(parts, "packets like "+match.String())
	}
	if c.Not != "" {
		parts = append(parts, "none like "+not.String())
	}
	expected := strings.Join(parts, ", ")
	lines, err := r.packets(ctx, c)
	if err != nil {
		return expected, err
	}
	if !match.MatchString(lines) || c.Not != "" && not.MatchString(lines) {
		found := "no packet"
		if lines != "" {
			found = fmt.Sprintf("%q", lines)
		}
		return expected, &failure{expected, found}
	}
	return expected, nil
}

// packets are the lines of what c's interface sees.
func (r *Runner) packets(ctx context.Context, c lab.CaptureCheck) (lines string, err error) {
	on, err := capture.Find(ctx, r.client, c.On)
	if err != nil {
		return "", err
	}
	cp, err := capture.Open(ctx, r.client, on, capture.Options{Memory: captureMemory})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, cp.Close()) }()
	if _, err := r.ping(ctx, lab.PingCheck{From: c.From, To: c.To}); err != nil {
		if _, lost := errors.AsType[*failure](err); !lost {
			return "", err
		}
	}
	var b strings.Builder
	over, cancel := context.WithCancel(ctx)
	cancel() // what was seen up to now is all that is wanted
	err = cp.Run(over, func(batch []capture.Packet) error {
		for _, p := range batch {
			fmt.Fprintln(&b, packet.Decode(on[0].Link, p.Data).Line(packet.Style{Link: true}))
		}
		return nil
	})
	return strings.TrimSpace(b.String()), err
}
