package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// The life of a node by `labctl node`:
//
//	        add          stop            start
//	(none) ----> running ----> stopped ---------> running
//	                |             |
//	                |    kill     |      start
//	                +-----------> dead ---------> running
//	   rm, from any of them: (none)
//
// What is between two of them is done under Supervisor.changing; waiting for
// the others is not, so that commands overlap as far as they can.

const (
	// agentGrace is how long an agent has between SIGTERM and SIGKILL.
	agentGrace = 3 * time.Second
	// forgetTimeout is how long a store that is away may delay a node's leaving.
	forgetTimeout = 10 * time.Second
)

// nodeChange is one node command under way.
type nodeChange struct {
	*Supervisor
	r   lab.NodeRequest
	res *lab.NodeResult
	// patience ends when the command does not wait any more.
	patience context.Context
	waited   chan error // set by await
}

// node serves a node command.
func (s *Supervisor) node(ctx context.Context, conn *rpc.Conn, r lab.NodeRequest) (*lab.NodeResult, error) {
	n := &nodeChange{Supervisor: s, r: r, res: &lab.NodeResult{SchemaVersion: 1, Lab: s.dir.Name(), Node: r.Node, Action: r.Action}}
	var cancel context.CancelFunc
	n.patience, cancel = context.WithDeadline(ctx, r.From.Add(r.Timeout))
	defer cancel()
	go func() { // ends with the connection
		var ignored struct{}
		_, _ = conn.Receive(&ignored) // a caller that says nothing more, or is gone
		cancel()
	}()
	err := n.change(ctx)
	if err != nil {
		cancel()
	}
	if n.waited != nil {
		err = cmp.Or(err, <-n.waited)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	n.describe()
	s.mu.Unlock()
	return n.res, nil
}

// change does what is asked for, one command at a time.
func (n *nodeChange) change(ctx context.Context) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if errors.Is(n.patience.Err(), context.Canceled) {
		// While another command had its turn. What is not begun is left alone.
		return &lab.Failure{Kind: lab.Interrupted, Err: fmt.Errorf("%s: interrupted before it was begun", n.r.Node)}
	}
	n.mu.Lock()
	verified, plan := n.verified, n.plan
	n.mu.Unlock()
	if !verified {
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: is still being built", n.res.Lab), Cure: "labctl up " + n.res.Lab + " waits until it is ready"}
	}
	if n.r.Action == lab.NodeAdd {
		return n.add(ctx, plan)
	}
	if _, err := plan.FindNode(n.r.Node); err != nil {
		return err
	}
	h := n.host(n.r.Node)
	switch n.r.Action {
	case lab.NodeRm:
		return n.remove(ctx, plan, h)
	case lab.NodeStop:
		return n.stop(h)
	case lab.NodeStart:
		return n.start(ctx, h)
	case lab.NodeKill:
		return n.kill(ctx, h)
	}
	return fmt.Errorf("node %s: not known to this labctl; is the lab from another version?", n.r.Action)
}

// add makes a new host.
func (n *nodeChange) add(ctx context.Context, old *lab.Plan) error {
	file, err := os.ReadFile(n.dir.Spec())
	if err != nil {
		return err
	}
	ext, err := lab.AddNode(old, file, n.r.Spec())
	if err != nil {
		return err
	}
	if err := lab.CheckLimits(ext.Plan); err != nil {
		return err
	}
	p := ext.Plan.Node(n.r.Node)
	reserved := p.Agent && p.Subnet.IsValid()
	if reserved {
		err := n.store(ctx, func(ctx context.Context, r registry) error { return r.reserve(ctx, *p) })
		if errors.Is(err, errTaken) {
			return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: %w", p.Name, err), Cure: "choose another --subnet, or leave it out"}
		} else if err != nil {
			return err
		}
	}
	if err := n.extend(ext); err != nil {
		return err
	}
	if err := n.bring(ctx, *p, len(ext.Plan.Nodes)-1); err != nil {
		// As if nothing had been.
		undo := []error{n.dismantle(ctx, n.host(p.Name), true), n.extend(&lab.Extended{Plan: old, File: file})}
		if reserved {
			undo = append(undo, n.forget(ctx, *p))
		}
		return errors.Join(append([]error{failure(err)}, undo...)...)
	}
	n.emit(lab.Event{Process: p.Name, Message: "node added"})
	if old.Neighbours.Static || ext.Plan.Neighbours.Static {
		return n.settle(ctx, true)
	}
	return nil
}

// failure keeps the kind and cure that an error of the kernel's has.
func failure(err error) error {
	if cure := kernelCure(err); cure != "" {
		return &lab.Failure{Kind: lab.Unable, Err: err, Cure: cure}
	}
	return err
}

// stop ends the agent as a service manager would. The kernel goes on.
func (n *nodeChange) stop(h *host) error {
	n.mu.Lock()
	a, out := h.agent, h.out
	if a != nil && out == "" {
		h.out = lab.Stopped
	}
	n.mu.Unlock()
	if out != "" {
		n.res.Unchanged = true
		return nil
	}
	if a == nil {
		return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: has no agent to stop", h.plan.Name), Cure: "labctl node kill " + h.plan.Name + " takes its power"}
	}
	a.end(agentGrace)
	n.mu.Lock()
	a.report = agent.Report{}
	n.mu.Unlock()
	n.emit(lab.Event{Process: h.plan.Name, Message: "node stopped"})
	return nil
}

// start undoes stop and kill.
func (n *nodeChange) start(ctx context.Context, h *host) error {
	n.mu.Lock()
	out := h.out
	index := slices.Index(n.hosts, h)
	n.mu.Unlock()
	switch out {
	case "":
		n.res.Unchanged = true
		return nil
	case lab.Stopped:
		a, err := n.newAgent(h)
		if err != nil {
			return err
		}
		n.mu.Lock()
		h.agent, h.out, h.settled = a, "", false
		n.mu.Unlock()
		n.employ(ctx, h)
		n.awaitJoined(h)
	default:
		if err := n.bring(ctx, h.plan, index); err != nil {
			// Dead again; what it was before serves for another try.
			failed := n.host(h.plan.Name)
			undo := error(nil)
			if failed != h {
				undo = n.dismantle(ctx, failed, false)
			}
			return errors.Join(failure(err), undo)
		}
	}
	n.emit(lab.Event{Process: h.plan.Name, Message: "node started"})
	return nil
}

// kill is a power failure.
func (n *nodeChange) kill(ctx context.Context, h *host) error {
	n.mu.Lock()
	dead := h.out == lab.Dead
	n.mu.Unlock()
	if dead {
		n.res.Unchanged = true
		return nil
	}
	if err := n.dismantle(ctx, h, false); err != nil {
		return err
	}
	n.emit(lab.Event{Process: h.plan.Name, Message: "node killed"})
	return nil
}

// remove lets a node leave for good.
func (n *nodeChange) remove(ctx context.Context, old *lab.Plan, h *host) error {
	file, err := os.ReadFile(n.dir.Spec())
	if err != nil {
		return err
	}
	ext, err := lab.RemoveNode(old, file, h.plan.Name)
	if err != nil {
		return err
	}
	n.mu.Lock()
	a := h.agent
	if a != nil && h.out == "" {
		h.out = lab.Stopped // its end is meant
	}
	n.mu.Unlock()
	var errs []error
	if a != nil {
		a.end(agentGrace)
		errs = append(errs, n.forget(ctx, h.plan))
	}
	n.forgetFaults(h)
	errs = append(errs, n.dismantle(ctx, h, true), n.extend(ext), n.impair(),
		os.RemoveAll(n.dir.Node(h.plan.Name)), os.RemoveAll(n.dir.Log(h.plan.Name)))
	if old.Neighbours.Static || ext.Plan.Neighbours.Static {
		errs = append(errs, n.settle(ctx, true))
	}
	n.mu.Lock()
	for _, other := range n.hosts {
		n.order(other)
	}
	n.mu.Unlock()
	n.emit(lab.Event{Process: h.plan.Name, Message: "node removed"})
	return errors.Join(errs...)
}

// forget takes a node out of the store; the others are waited for.
func (n *nodeChange) forget(ctx context.Context, p lab.NodePlan) error {
	return n.store(ctx, func(ctx context.Context, r registry) error {
		revision, err := r.forget(ctx, p)
		if err == nil && revision > 0 {
			n.await(func() (bool, error) { return n.left(revision), nil })
		}
		return err
	})
}

// host finds a node, nil when it is not there.
func (s *Supervisor) host(name string) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.plan.Name == name {
			return h
		}
	}
	return nil
}

// current is the lab's plan as it is now.
func (s *Supervisor) current() *lab.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan
}
