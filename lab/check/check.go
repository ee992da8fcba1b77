package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"labctl/lab"
)

// Outcome is how a check ended.
type Outcome string

// The outcomes of a check.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	Cannot Outcome = "cannot"   // this machine, or this user, cannot run it; Found says why
	Left   Outcome = "left out" // it says nothing of the lab as it was brought up; Found says why
)

// Result is what became of a check.
type Result struct {
	Title    string  `json:"title"`
	Claim    string  `json:"claim,omitempty"`
	Outcome  Outcome `json:"outcome"`
	Expected string  `json:"expected"`
	Found    string  `json:"found"`
	TookMs   float64 `json:"tookMs"`
	// Packet is one whose way through the lab tells more of a check that failed;
	// nil if the check is not about packets between two endpoints.
	Packet *lab.PingCheck `json:"-"`
}

// Line is the check's claim and title.
func (r Result) Line() string { return strings.TrimSpace(r.Claim + " " + r.Title) }

// Millis is a duration as results have it, with three digits behind the point.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	patience = 5 * time.Second  // how long a check is tried again
	oneTry   = 30 * time.Second // what a try may take: a busy machine is slow to run a program
)

// Runner runs checks on one lab.
type Runner struct {
	client *lab.Client
	plan   *lab.Plan
	status *lab.Status
	slow   int
}

// NewRunner looks at the lab once; what checks' ${...} stand for is from then.
// On a machine that is slow times slower, deadlines are as much later.
func NewRunner(ctx context.Context, c *lab.Client, slow int) (*Runner, error) {
	p, err := c.Plan(ctx)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &Runner{client: c, plan: p, status: st, slow: slow}, nil
}

// failure says what a check found in place of what it expected.
type failure struct{ expected, found string }

func (f *failure) Error() string { return "found " + f.found + ", want " + f.expected }

// unableError says what a check misses on this machine.
type unableError struct{ why string }

func (e *unableError) Error() string { return e.why }

// Run runs one check. One that goes wrong in the middle has failed, too.
func (r *Runner) Run(ctx context.Context, c lab.CheckSpec) Result {
	from := time.Now()
	expected, err := r.until(ctx, c)
	res := Result{Title: c.Title(), Claim: c.Claim, Outcome: Passed, Expected: expected, Found: "as expected", TookMs: Millis(time.Since(from))}
	if err == nil {
		return res
	}
	res.Outcome, res.Found = Failed, err.Error()
	if f, ok := errors.AsType[*failure](err); ok {
		res.Expected, res.Found = f.expected, f.found
	} else if _, ok := errors.AsType[*unableError](err); ok {
		res.Outcome = Cannot
		return res
	}
	res.Packet = r.packet(c, err)
	return res
}

// packet is one that a check sends, or that its others are like.
func (r *Runner) packet(c lab.CheckSpec, err error) *lab.PingCheck {
	var p lab.PingCheck
	switch {
	case c.Ping != nil && c.Ping.All:
		lost, ok := errors.AsType[*lostPair](err)
		if !ok {
			return nil
		}
		p = lab.PingCheck{From: lost.from, To: lost.to}
	case c.Ping != nil:
		p = lab.PingCheck{From: c.Ping.From, To: c.Ping.To, Size: c.Ping.Size, DF: c.Ping.DF}
	case c.MTU != nil:
		p = lab.PingCheck{From: c.MTU.From, To: c.MTU.To, Size: c.MTU.Is - 28, DF: true}
	case c.Calls != nil:
		p = lab.PingCheck{From: c.Calls.From, To: c.Calls.To}
	case c.Latency != nil:
		p = lab.PingCheck{From: c.Latency.From, To: c.Latency.To}
	case c.Throughput != nil:
		p = lab.PingCheck{From: c.Throughput.From, To: c.Throughput.To}
	case c.Kill != nil:
		p = lab.PingCheck{From: c.Kill.From, To: c.Kill.To}
	case c.Capture != nil:
		p = lab.PingCheck{From: c.Capture.From, To: c.Capture.To}
	default:
		return nil
	}
	if p.To, err = lab.Expand(p.To, r.value); err != nil {
		return nil // which the check itself has told
	}
	return &p
}

// until tries a check until it holds, or patience or ctx ends.
func (r *Runner) until(ctx context.Context, c lab.CheckSpec) (expected string, err error) {
	if once(c) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(r.slow)*oneTry)
		defer cancel()
		return r.try(ctx, c)
	}
	return again(ctx, time.Duration(r.slow), func(ctx context.Context) (string, error) { return r.try(ctx, c) })
}

// again calls try until it succeeds, or patience or ctx ends; a try that began in
// time may come to its end. What one that did has found tells more than that the
// last one was cut short.
func again(ctx context.Context, slow time.Duration, try func(context.Context) (string, error)) (expected string, err error) {
	var found *failure
	for begun := time.Now(); ; {
		one, cancel := context.WithTimeout(ctx, slow*oneTry)
		expected, err = try(one)
		if f, ok := errors.AsType[*failure](err); ok {
			found = f
		} else if one.Err() != nil && found != nil && err != nil {
			err = found
		}
		cancel()
		if _, unable := errors.AsType[*unableError](err); err == nil || unable || time.Since(begun) > slow*patience {
			return expected, err
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return expected, err
		}
	}
}

// once says whether a check that does not hold is not tried again: waiting
// would only help one that expects a failure, and what was measured or done
// once is not made better by doing it again.
func once(c lab.CheckSpec) bool {
	return expectsFailure(c) || c.Converged != nil || c.Throughput != nil || c.Kill != nil
}

func expectsFailure(c lab.CheckSpec) bool {
	return c.Ping != nil && c.Ping.Expect == lab.ExpectFail || c.HTTP != nil && c.HTTP.Expect == lab.ExpectFail ||
		c.Policy != nil && c.Policy.Expect == lab.ExpectFail
}

// try runs a check once.
func (r *Runner) try(ctx context.Context, c lab.CheckSpec) (expected string, err error) {
	switch {
	case c.Ping != nil && c.Ping.All:
		return "every pair answers", r.pingAll(ctx)
	case c.Ping != nil:
		return r.ping(ctx, *c.Ping)
	case c.Command != nil:
		return r.command(ctx, *c.Command)
	case c.HTTP != nil:
		return r.http(ctx, *c.HTTP)
	case c.Count != nil:
		return r.count(ctx, *c.Count)
	case c.MTU != nil:
		return r.mtu(ctx, *c.MTU)
	case c.Store != nil:
		return r.store(ctx, *c.Store)
	case c.Calls != nil:
		return r.calls(ctx, *c.Calls)
	case c.Converged != nil:
		return r.converged(*c.Converged)
	case c.Latency != nil:
		return r.latency(ctx, *c.Latency)
	case c.Throughput != nil:
		return r.throughput(ctx, *c.Throughput)
	case c.Kill != nil:
		return r.kill(ctx, *c.Kill)
	case c.Capture != nil:
		return r.capture(ctx, *c.Capture)
	case c.Policy != nil:
		return r.policy(ctx, *c.Policy)
	}
	return "", errors.New("check: of no kind that this labctl knows")
}

// value is what a placeholder stands for.
func (r *Runner) value(p lab.Placeholder) (string, error) {
	if p.Endpoint == "" && p.Value == "lab" {
		return r.plan.Name, nil
	}
	if p.Value == "ip" {
		if a, ok := r.plan.Address(p.Endpoint); ok {
			return a.String(), nil
		}
		for _, n := range r.status.Nodes {
			for _, c := range n.Containers {
				if n.Name+"."+c.Name == p.Endpoint && c.IP != "" {
					return c.IP, nil
				}
			}
		}
		return "", fmt.Errorf("${%s}: has no address", p)
	}
	for i, n := range r.status.Nodes {
		if n.Name != p.Endpoint {
			continue
		}
		return r.nodeValue(p, n, r.plan.Nodes[i])
	}
	return "", fmt.Errorf("${%s}: no such node", p)
}

func (r *Runner) nodeValue(p lab.Placeholder, n lab.NodeStatus, plan lab.NodePlan) (string, error) {
	switch p.Value {
	case "mac":
		return plan.NIC.MAC, nil
	case "vtepmac":
		return n.VTEPMAC, nil
	case "subnetfile":
		return n.SubnetFile, nil
	}
	if len(n.Subnets) == 0 {
		return "", fmt.Errorf("${%s}: the node has no subnet", p)
	}
	subnet, err := parseSubnet(n.Subnets[0])
	if err != nil {
		return "", err
	}
	switch p.Value {
	case "subnet":
		return subnet.String(), nil
	case "base":
		return subnet.Addr().String(), nil
	case "key":
		return strings.ReplaceAll(subnet.String(), "/", "-"), nil
	case "gateway":
		return subnet.Addr().Next().String(), nil
	}
	return "", fmt.Errorf("${%s}: not known", p)
}
