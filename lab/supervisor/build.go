package supervisor

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"
	"labctl/lab"
)

// build makes everything of the plan and starts the processes. It returns when
// all is made; follow then waits until the agents have done their part.
func (s *Supervisor) build(ctx context.Context) error {
	s.wg.Go(func() { s.observe(ctx) })
	if err := s.step("namespaces", s.makeNamespaces); err != nil {
		return err
	}
	if err := s.step("hosts and links", func() error { return s.makeLinks(ctx) }); err != nil {
		return err
	}
	s.mu.Lock()
	s.built = true
	s.timings.UpMs = s.sinceStart()
	s.mu.Unlock()
	for _, e := range s.endpoints {
		s.mind(ctx, e)
	}
	return nil
}

// endpointNames are the names of all namespaces of the plan.
func endpointNames(p *lab.Plan) []string {
	var names []string
	if p.Etcd != nil {
		names = append(names, etcdName)
	}
	for _, x := range p.Segments {
		names = append(names, x.Name)
	}
	for _, x := range p.Routers {
		names = append(names, x.Name)
	}
	if p.Internet != nil {
		names = append(names, internetName)
	}
	for _, n := range p.Nodes {
		names = append(names, n.Name)
		for _, c := range n.Containers {
			names = append(names, n.Name+"."+c.Name)
		}
	}
	return names
}

// internetName is the endpoint of the outside world.
const internetName = "internet"

// makeNamespaces creates all namespaces.
func (s *Supervisor) makeNamespaces() error {
	b, err := os.ReadFile(s.dir.Record())
	if err != nil {
		return err
	}
	rec, err := lab.ParseRecord(b)
	if err != nil {
		return err
	}
	self, err := readlinkAt(s.hostProc, "self")
	if err != nil {
		return err
	}
	if rec.Supervisor, err = strconv.Atoi(self); err != nil {
		return fmt.Errorf("/proc/self: %w", err)
	}
	rec.Links = map[string]string{}
	rec.Namespaces = map[uint64]lab.NamespaceRecord{}
	s.mu.Lock()
	s.record = *rec
	s.mu.Unlock()
	return s.open(endpointNames(s.plan))
}

// makeLinks wires the underlay and the hosts. The store goes first: its start
// takes the longest, and it runs beside the rest.
func (s *Supervisor) makeLinks(ctx context.Context) error {
	// With the bridge first, the ends of no veth pair get the same number,
	// which nodes would have to mend.
	for _, p := range s.plan.Segments {
		st := s.segmentState(p)
		st.Links = st.Links[:1]
		if err := s.endpoints[p.Name].apply(ctx, st); err != nil {
			return err
		}
	}
	if p := s.plan.Etcd; p != nil {
		st, err := s.etcdState(p)
		if err != nil {
			return err
		}
		if err := s.endpoints[etcdName].apply(ctx, st); err != nil {
			return err
		}
		if s.etcd, err = s.newEtcd(); err != nil {
			return err
		}
		s.etcd.begin(ctx)
	}
	if p := s.plan.Internet; p != nil {
		if err := s.endpoints[internetName].apply(ctx, s.internetState(p)); err != nil {
			return err
		}
		if err := s.listen(ctx, s.endpoints[internetName], 80); err != nil {
			return err
		}
	}
	for _, p := range s.plan.Routers {
		st, err := s.routerState(p)
		if err != nil {
			return err
		}
		if err := s.endpoints[p.Name].apply(ctx, st); err != nil {
			return err
		}
		if p.Speaker != nil {
			s.mu.Lock()
			s.routers = append(s.routers, s.newRouterLocked(p))
			s.mu.Unlock()
		}
	}
	for _, p := range s.plan.Nodes {
		h := s.newHost(p)
		s.mu.Lock()
		s.hosts = append(s.hosts, h)
		s.mu.Unlock()
	}
	// The agents start as soon as they can reach the store: a first SYN into a
	// switch without ports would be sent again only after a second. Containers
	// are made while the agents begin.
	each := func(f func(h *host) error) error {
		var g errgroup.Group
		g.SetLimit(4)
		for _, h := range s.hosts {
			g.Go(func() error { return f(h) })
		}
		return g.Wait()
	}
	if err := each(func(h *host) error { return s.makeMachine(ctx, h) }); err != nil {
		return err
	}
	for _, p := range s.plan.Segments {
		if err := s.endpoints[p.Name].apply(ctx, s.segmentState(p)); err != nil {
			return err
		}
	}
	for _, r := range s.routers {
		r.begin(ctx)
	}
	for _, h := range s.hosts {
		if h.agent != nil {
			h.agent.begin(ctx)
		}
	}
	return each(func(h *host) error { return s.makeContainers(ctx, h) })
}

// makeMachine makes a node with its underlay interface.
func (s *Supervisor) makeMachine(ctx context.Context, h *host) error {
	if err := os.MkdirAll(s.dir.Node(h.name), 0o700); err != nil {
		return err
	}
	st, err := s.machineState(h)
	if err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	if err := h.apply(ctx, st); err != nil {
		return err
	}
	if h.plan.Agent {
		a, err := s.newAgent(h)
		if err != nil {
			return err
		}
		s.mu.Lock()
		h.agent = a
		s.mu.Unlock()
	}
	return nil
}

// makeContainers makes a node's bridge and containers. They have addresses at
// once where the plan knows the subnet.
func (s *Supervisor) makeContainers(ctx context.Context, h *host) error {
	h.wiring.Lock()
	defer h.wiring.Unlock()
	s.mu.Lock()
	err := h.joint.plan(h)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.applyHost(ctx, h); err != nil {
		return err
	}
	for _, c := range h.containers {
		for _, port := range c.plan.Serve {
			if err := s.listen(ctx, c.endpoint, port); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyHost brings a node's bridge and containers into the kernel. The caller
// holds h.wiring.
func (s *Supervisor) applyHost(ctx context.Context, h *host) error {
	st, err := s.hostState(h)
	if err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	if err := h.apply(ctx, st); err != nil {
		return err
	}
	for _, c := range h.containers {
		if err := c.apply(ctx, h.joint.container(h, c)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	h.wired = h.joint.complete(h)
	s.mu.Unlock()
	return nil
}

// wire gives a node's containers the addresses that its agent has for them, as
// a container runtime would.
func (s *Supervisor) wire(h *host) error {
	if err := s.address(h); err != nil {
		return err
	}
	return s.spread()
}

// address is wire for the node itself; others may have policies about its
// containers.
func (s *Supervisor) address(h *host) error {
	assign, err := h.joint.learn(s, h)
	if err != nil {
		return err
	}
	h.wiring.Lock()
	defer h.wiring.Unlock()
	if h.closed {
		return nil
	}
	s.mu.Lock()
	h.wired = false
	err = assign()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.applyHost(context.Background(), h)
}
