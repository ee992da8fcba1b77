package supervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"labctl/lab"
)

// awaitJoined waits in the background until a node has joined, or the pool has no
// address for it.
func (n *nodeChange) awaitJoined(h *host) {
	n.await(func() (bool, error) { return n.joined(h), n.lacking(h) })
}

// await waits in the background until done, which is called with mu held, says
// that the others know of the change, or that they never will.
func (n *nodeChange) await(done func() (bool, error)) {
	n.waited = make(chan error, 1)
	go func() { n.waited <- n.wait(done) }()
	n.poke()
}

func (n *nodeChange) wait(done func() (bool, error)) error {
	defer context.AfterFunc(n.patience, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.moved.Broadcast()
	})()
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		switch over, err := done(); {
		case err != nil:
			return err
		case over:
			n.res.ConvergedMs = n.since()
			return nil
		case n.patience.Err() != nil:
			return n.late()
		}
		n.moved.Wait()
	}
}

// lacking is why a node will not join: the pool has no address for it, and
// nobody is about to give one back. The caller holds mu.
func (n *nodeChange) lacking(h *host) error {
	if n.exhausted() == nil || !n.follows(h) || !h.agent.report.Exhausted {
		return nil
	}
	why, cure, _ := strings.Cut(h.agent.report.Error, "; ")
	return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: node %s is done, but %s", n.r.Node, n.r.Action, why),
		Cure: fmt.Sprintf("%s; %s takes what another node gives back", cure, n.r.Node)}
}

// late says what is missing. The caller holds mu.
func (n *nodeChange) late() error {
	if !errors.Is(n.patience.Err(), context.DeadlineExceeded) {
		return &lab.Failure{Kind: lab.Interrupted, Err: fmt.Errorf("%s: interrupted", n.r.Node)}
	}
	err := fmt.Errorf("%s: node %s is done, but after %v not all others know", n.r.Node, n.r.Action, n.r.Timeout)
	if reasons := n.reasons(); len(reasons) > 0 {
		err = fmt.Errorf("%w; %s", err, lab.FirstOf(reasons))
	}
	return &lab.Failure{Kind: lab.TimedOut, Err: err, Cure: "labctl status tells what is missing; --timeout gives it longer"}
}

// since is a time for the result.
func (n *nodeChange) since() int64 { return max(time.Since(n.r.From).Milliseconds(), 1) }

// joined says whether a node has all that it needs and every other one knows
// it. The caller holds mu.
func (n *nodeChange) joined(h *host) bool {
	if len(n.hostReasons(h)) > 0 {
		return false
	}
	if h.agent == nil {
		return true
	}
	subnet, digest := h.agent.report.Subnet, h.agent.report.Digest
	if c := h.agent.command; c != nil {
		subnet, digest = c.lease.Subnet, n.outside.digest
	}
	if n.res.LeaseMs == 0 && (subnet.IsValid() || len(h.agent.report.Blocks) > 0) {
		n.res.LeaseMs = n.since()
	}
	if h.held {
		return true // and knows nobody until it is released
	}
	for _, o := range n.hosts {
		if n.follows(o) && o != h && o.agent.report.Digest != digest {
			return false
		}
	}
	return digest != ""
}

// left says whether all agents have come as far as a revision of the store.
// The caller holds mu.
func (n *nodeChange) left(revision int64) bool {
	for _, o := range n.hosts {
		if n.follows(o) && o.agent.report.Revision < revision {
			return false
		}
	}
	return true
}

// follows says whether a node has an agent of labctl's that keeps its routes in
// step with the store: others do not say how far they are. The caller holds mu.
func (s *Supervisor) follows(h *host) bool {
	return h.agent != nil && h.agent.command == nil && h.out == "" && !h.held
}

// describe fills in the rest of the result. The caller holds mu.
func (n *nodeChange) describe() {
	n.res.DoneMs = n.since()
	n.res.State, n.res.Lease = lab.Gone, lab.NoLease
	for _, o := range n.hosts {
		if o.plan.Name != n.r.Node {
			if n.follows(o) {
				n.res.Others++
			}
			continue
		}
		st := n.hostStatus(o)
		n.res.State = st.State
		if len(st.Subnets) > 0 {
			n.res.Subnet = st.Subnets[0]
		}
		if n.res.Lease = o.plan.LeaseKind(); n.res.Lease == lab.TimedLease {
			n.res.LeaseTTLMs = time.Duration(n.plan.LeaseTTL).Milliseconds()
		}
	}
}
