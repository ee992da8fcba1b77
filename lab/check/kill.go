package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"labctl/lab"
)

// pingsWithout is how many packets must pass while the agent is dead.
const pingsWithout = 5

// aftermath is how long the lab may take to be as it was.
const aftermath = 10 * time.Second

// kill ends a node's agent as kill -9 does, and looks whether packets still
// pass while there is none. The node is held meanwhile: no new agent comes.
func (r *Runner) kill(ctx context.Context, c lab.KillCheck) (expected string, err error) {
	expected = fmt.Sprintf("%d answers without an agent on %s", pingsWithout, c.Agent)
	if c.Expect == lab.ExpectFail {
		expected = "no answer without an agent on " + c.Agent
	}
	if _, err := r.client.Fault(ctx, string(lab.HoldFault), c.Agent); err != nil {
		return expected, err
	}
	defer func() {
		// Checks that follow find the lab as this one did, however this ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(r.slow)*aftermath)
		defer cancel()
		_, rerr := r.client.Fault(ctx, string(lab.ReleaseFault), c.Agent)
		err = errors.Join(err, rerr, r.wait(ctx, func(st *lab.Status, n lab.NodeStatus) bool {
			return n.AgentPid != 0 && st.State == lab.Ready
		}, c.Agent))
	}()
	if _, err := r.client.Fault(ctx, string(lab.KillFault), c.Agent); err != nil {
		return expected, err
	}
	if err := r.wait(ctx, func(_ *lab.Status, n lab.NodeStatus) bool { return n.AgentPid == 0 }, c.Agent); err != nil {
		return expected, err
	}
	ping := lab.PingCheck{From: c.From, To: c.To, Expect: c.Expect}
	for range pingsWithout {
		if _, err := r.ping(ctx, ping); err != nil {
			if f, ok := errors.AsType[*failure](err); ok {
				return expected, &failure{expected, f.found}
			}
			return expected, err
		}
		if c.Expect == lab.ExpectFail {
			break // each lost packet is a second
		}
	}
	return expected, nil
}

func (r *Runner) node(ctx context.Context, name string) (*lab.Status, lab.NodeStatus, error) {
	st, err := r.client.Status(ctx)
	if err != nil {
		return nil, lab.NodeStatus{}, err
	}
	i := slices.IndexFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Name == name })
	if i < 0 {
		return nil, lab.NodeStatus{}, fmt.Errorf("%s: no such node", name)
	}
	return st, st.Nodes[i], nil
}

// wait asks until a node is so.
func (r *Runner) wait(ctx context.Context, so func(*lab.Status, lab.NodeStatus) bool, node string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st, n, err := r.node(ctx, node)
		if err != nil {
			return err
		}
		if so(st, n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: agent %d, lab %s: %w", node, n.AgentPid, st.State, ctx.Err())
		case <-tick.C:
		}
	}
}

// converged compares what up measured.
func (r *Runner) converged(c lab.ConvergedCheck) (string, error) {
	within := time.Duration(r.slow) * c.Within
	expected := fmt.Sprintf("at most %v after up began", within)
	took := time.Duration(r.status.Timings.ConvergedMs) * time.Millisecond
	if took > within {
		return expected, &failure{expected, took.String()}
	}
	return fmt.Sprintf("%s; %v measured", expected, took), nil
}
