package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/nodes"
)

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
	n.awaitJoined(h)
	if err := n.makeContainers(ctx, h); err != nil {
		return err
	}
	for _, e := range h.endpoints() {
		n.impairAgain(e) // faults outlive a power failure
	}
	return nil
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
	h.wired, h.wireErr, h.gateway, h.blocks = false, "", netip.Prefix{}, nil
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
	// The underlay's ends must be free at once; the other links go with the
	// namespace, which the kernel takes apart in the background.
	st, err := s.hostState(h)
	if err == nil {
		for _, n := range h.plan.NICs() {
			st = unplugged(st, n.Name)
		}
		err = h.apply(ctx, st)
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
	return s.renewAll()
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
