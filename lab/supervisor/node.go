package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"labctl/backends"
	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
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
		err := n.store(ctx, func(ctx context.Context, st *backends.Store) error {
			return st.Reserve(ctx, p.Subnet, p.NIC.Addr.Addr())
		})
		if _, taken := errors.AsType[*backends.TakenError](err); taken {
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

// bring makes a node's namespaces and all in them, and starts its agent. The
// node is the index-th of the plan.
func (n *nodeChange) bring(ctx context.Context, p lab.NodePlan, index int) error {
	if err := n.open(namesOf(p)); err != nil {
		return errors.Join(err, n.shut(namesOf(p)))
	}
	h := n.newHost(p)
	n.mu.Lock()
	if index < len(n.hosts) {
		h.held = n.hosts[index].held
		n.hosts[index] = h
	} else {
		n.hosts = append(n.hosts, h)
	}
	n.mu.Unlock()
	// A held node is built, and then left alone.
	for _, e := range h.endpoints() {
		e.reconciler.Hold(h.held)
		n.mind(ctx, e)
	}
	if err := n.makeMachine(ctx, h); err != nil {
		return err
	}
	if err := n.settle(ctx, false); err != nil {
		return err
	}
	n.employ(ctx, h)
	n.await(func() bool { return n.joined(h) })
	return n.makeContainers(ctx, h)
}

// employ starts a node's agent, if it has one.
func (n *nodeChange) employ(ctx context.Context, h *host) {
	if h.agent == nil {
		return
	}
	h.agent.hold(h.held)
	h.agent.begin(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.hosts {
		n.order(other)
	}
}

// namesOf are a node's endpoints.
func namesOf(p lab.NodePlan) []string {
	names := []string{p.Name}
	for _, c := range p.Containers {
		names = append(names, p.Name+"."+c.Name)
	}
	return names
}

func (h *host) endpoints() []*endpoint {
	all := []*endpoint{h.endpoint}
	for _, c := range h.containers {
		all = append(all, c.endpoint)
	}
	return all
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
		n.await(func() bool { return n.joined(h) })
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
	errs = append(errs, n.dismantle(ctx, h, true), n.extend(ext),
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

// forget deletes a node's leases; the others are waited for.
func (n *nodeChange) forget(ctx context.Context, p lab.NodePlan) error {
	return n.store(ctx, func(ctx context.Context, st *backends.Store) error {
		_, revision, err := st.Forget(ctx, p.NIC.Addr.Addr())
		if err == nil && revision > 0 {
			n.await(func() bool { return n.left(revision) })
		}
		return err
	})
}

// store lends a connection to etcd.
func (s *Supervisor) store(ctx context.Context, f func(ctx context.Context, st *backends.Store) error) error {
	st, err := backends.Dial([]string{"unix://" + s.dir.EtcdSocket()})
	if err != nil {
		return err
	}
	defer st.Close()
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	return f(ctx, st)
}

// dismantle takes a node's namespaces away with every process in them: first
// its underlay link, so that nothing that dies in there can say so, then the
// rest. With gone it is no longer a node of the lab.
func (s *Supervisor) dismantle(ctx context.Context, h *host, gone bool) error {
	if h == nil {
		return nil
	}
	s.mu.Lock()
	h.out = lab.Dead
	here := s.endpoints[h.plan.Name] == h.endpoint
	s.mu.Unlock()
	errs := []error{s.settle(ctx, false)}
	if here {
		s.darken(ctx, h)
	}
	if h.agent != nil {
		h.agent.end(0)
	}
	if here {
		errs = append(errs, s.shut(namesOf(h.plan)))
	}
	s.mu.Lock()
	h.wired, h.wireErr, h.gateway = false, "", netip.Prefix{}
	for _, c := range h.containers {
		c.addr = netip.Prefix{}
	}
	if h.agent != nil {
		h.agent.report = agent.Report{}
	}
	if gone {
		s.hosts = slices.DeleteFunc(slices.Clone(s.hosts), func(o *host) bool { return o == h })
	}
	s.mu.Unlock()
	return errors.Join(errs...)
}

// darken takes a node's links away; from now on nothing is made there.
func (s *Supervisor) darken(ctx context.Context, h *host) {
	h.wiring.Lock()
	defer h.wiring.Unlock()
	h.closed = true
	for _, c := range h.containers {
		c.reconciler.Set(nodes.State{}) // whose links go with the node's
	}
	// The underlay's end must be free at once; the other links go with the
	// namespace, which the kernel takes apart in the background.
	st, err := s.hostState(h)
	if err == nil {
		err = h.apply(ctx, unplugged(st, h.plan.NIC.Name))
	}
	if err != nil {
		s.log.Warn("links", "node", h.plan.Name, "err", err)
	}
}

// unplugged is a state without a device.
func unplugged(st nodes.State, dev string) nodes.State {
	st.Links = slices.DeleteFunc(st.Links, func(l nodes.Link) bool { return l.LinkName() == dev })
	st.Addrs = slices.DeleteFunc(st.Addrs, func(a nodes.Addr) bool { return a.Dev == dev })
	st.Routes = slices.DeleteFunc(st.Routes, func(r nodes.Route) bool { return r.Dev == dev })
	st.Neighbours = slices.DeleteFunc(st.Neighbours, func(n nodes.Neighbour) bool { return n.Dev == dev })
	return st
}

// extend makes a plan the lab's, and writes it down.
func (s *Supervisor) extend(e *lab.Extended) error {
	if err := s.dir.WriteExtended(e); err != nil {
		return err
	}
	s.mu.Lock()
	s.plan = e.Plan
	s.mu.Unlock()
	if s.etcd == nil {
		return nil
	}
	// A store that starts again has the reservations of now.
	argv, err := s.etcdArgv(e.Plan)
	s.etcd.set(func() { s.etcd.argv = argv })
	return err
}

// settle gives the endpoints that depend on which nodes there are their states
// anew: the segments, and with neighbours all that have an underlay interface.
func (s *Supervisor) settle(ctx context.Context, neighbours bool) error {
	p := s.current()
	for _, seg := range p.Segments {
		if err := s.at(seg.Name).apply(ctx, s.segmentState(seg)); err != nil {
			return err
		}
	}
	if !neighbours {
		return nil
	}
	if p.Etcd != nil {
		st, err := s.etcdState(p.Etcd)
		if err != nil {
			return err
		}
		s.at(etcdName).reconciler.Set(st)
	}
	for _, r := range p.Routers {
		st, err := s.routerState(r)
		if err != nil {
			return err
		}
		s.at(r.Name).reconciler.Set(st)
	}
	s.mu.Lock()
	hosts := slices.Clone(s.hosts)
	s.mu.Unlock()
	for _, h := range hosts {
		if err := s.renew(h); err != nil {
			return err
		}
	}
	return nil
}

// renew gives a host its state anew.
func (s *Supervisor) renew(h *host) error {
	h.wiring.Lock()
	defer h.wiring.Unlock()
	if h.closed {
		return nil
	}
	st, err := s.hostState(h)
	if err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	h.reconciler.Set(st)
	return nil
}

// await waits in the background until done, which is called with mu held, says
// that the others know of the change.
func (n *nodeChange) await(done func() bool) {
	n.waited = make(chan error, 1)
	go func() { n.waited <- n.wait(done) }()
	n.poke()
}

func (n *nodeChange) wait(done func() bool) error {
	defer context.AfterFunc(n.patience, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.moved.Broadcast()
	})()
	n.mu.Lock()
	defer n.mu.Unlock()
	for !done() {
		if n.patience.Err() != nil {
			return n.late()
		}
		n.moved.Wait()
	}
	n.res.ConvergedMs = n.since()
	return nil
}

// late says what is missing. The caller holds mu.
func (n *nodeChange) late() error {
	if !errors.Is(n.patience.Err(), context.DeadlineExceeded) {
		return &lab.Failure{Kind: lab.Interrupted, Err: fmt.Errorf("%s: interrupted", n.r.Node)}
	}
	err := fmt.Errorf("%s: node %s is done, but after %v not all others know", n.r.Node, n.r.Action, n.r.Timeout)
	for _, r := range n.reasons() {
		err = fmt.Errorf("%w; %s", err, r)
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
	r := h.agent.report
	if n.res.LeaseMs == 0 && r.Subnet.IsValid() {
		n.res.LeaseMs = n.since()
	}
	if h.held {
		return true // and knows nobody until it is released
	}
	for _, o := range n.hosts {
		if n.follows(o) && o != h && o.agent.report.Digest != r.Digest {
			return false
		}
	}
	return r.Digest != ""
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

// follows says whether a node has an agent that keeps its routes in step with
// the store. The caller holds mu.
func (s *Supervisor) follows(h *host) bool {
	return h.agent != nil && h.out == "" && !h.held
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

// running is how many nodes are to be there. The caller holds mu.
func (s *Supervisor) running() int {
	n := 0
	for _, h := range s.hosts {
		if h.out == "" {
			n++
		}
	}
	return n
}

// dead are the names of the nodes without power.
func (s *Supervisor) dead() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]bool{}
	for _, h := range s.hosts {
		if h.out == lab.Dead {
			names[h.plan.Name] = true
		}
	}
	return names
}
