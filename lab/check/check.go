package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"labctl/lab"
)

// Result is what became of a check.
type Result struct {
	Title    string        `json:"title"`
	Claim    string        `json:"claim,omitempty"`
	OK       bool          `json:"ok"`
	Expected string        `json:"expected"`
	Found    string        `json:"found"`
	Took     time.Duration `json:"took"`
}

// patience is how long a check is tried again.
const patience = 5 * time.Second

// Runner runs checks on one lab.
type Runner struct {
	client *lab.Client
	plan   *lab.Plan
	status *lab.Status
}

// NewRunner looks at the lab once; what checks' ${...} stand for is from then.
func NewRunner(ctx context.Context, c *lab.Client) (*Runner, error) {
	p, err := c.Plan(ctx)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &Runner{client: c, plan: p, status: st}, nil
}

// failure says what a check found in place of what it expected.
type failure struct{ expected, found string }

func (f *failure) Error() string { return "found " + f.found + ", want " + f.expected }

// Run runs one check. A check that cannot be run at all has failed, too.
func (r *Runner) Run(ctx context.Context, c lab.CheckSpec) Result {
	from := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var expected string
	var err error
	for {
		expected, err = r.try(ctx, c)
		if err == nil || expectsFailure(c) {
			break
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
			t.Stop()
		}
		break
	}
	res := Result{Title: c.Title(), Claim: c.Claim, OK: err == nil, Expected: expected, Found: "as expected", Took: time.Since(from)}
	if f, ok := errors.AsType[*failure](err); ok {
		res.Expected, res.Found = f.expected, f.found
	} else if err != nil {
		res.Found = err.Error()
	}
	return res
}

func expectsFailure(c lab.CheckSpec) bool {
	return c.Ping != nil && c.Ping.Expect == lab.ExpectFail || c.HTTP != nil && c.HTTP.Expect == lab.ExpectFail
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
