package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"labctl/backends"
	"labctl/lab"
	"labctl/nodes"
)

// fault is one that lasts.
type fault struct {
	lab.Fault
	id    int
	since time.Time
}

// inject does a fault, and tells those that last then. One at a time.
func (s *Supervisor) inject(ctx context.Context, r lab.FaultRequest) ([]lab.ActiveFault, error) {
	if len(r.Words) > 0 {
		f, err := lab.ParseFault(r.Words)
		if err != nil {
			return nil, err
		}
		s.injecting.Lock()
		defer s.injecting.Unlock()
		if err := f.Check(s.current()); err != nil {
			return nil, err
		}
		if err := s.injectOne(ctx, f); err != nil {
			return nil, faultFailure(f, err)
		}
		s.poke()
	}
	return s.activeFaults(), nil
}

// faultFailure names the fault, and tells a kernel that lacks something.
func faultFailure(f lab.Fault, err error) error {
	if _, ok := errors.AsType[*lab.Failure](err); ok {
		return err
	}
	err = fmt.Errorf("fault %s: %w", f, err)
	if m, ok := errors.AsType[*nodes.MissingError](err); ok {
		return &lab.Failure{Kind: lab.Unable, Err: err, Cure: m.Cure}
	}
	if errors.Is(err, unix.ENODEV) {
		return &lab.Failure{Kind: lab.Usage, Err: err, Cure: "labctl exec ENDPOINT -- ip link shows the interfaces"}
	}
	return err
}

func (s *Supervisor) injectOne(ctx context.Context, f lab.Fault) error {
	switch f.Kind {
	case lab.HealFault:
		return s.heal(ctx, func(a fault) bool { return len(f.IDs) == 0 || slices.Contains(f.IDs, a.id) }, f.IDs)
	case lab.ReleaseFault:
		return s.heal(ctx, func(a fault) bool {
			return a.Kind == lab.HoldFault && (len(f.Nodes) == 0 || slices.Contains(f.Nodes, a.On))
		}, nil)
	case lab.ResumeFault:
		return s.heal(ctx, func(a fault) bool { return a.Kind == lab.PauseFault && a.On == f.On }, nil)
	case lab.LinkFault:
		if f.Up {
			return s.heal(ctx, func(a fault) bool { return a.Kind == lab.LinkFault && a.On == f.On }, nil)
		}
	case lab.KillFault:
		return s.signal(f.On, unix.SIGKILL)
	case lab.CompactFault:
		return s.dial(ctx, func(ctx context.Context, c *clientv3.Client) error { return backends.NewStore(c).Compact(ctx) })
	case lab.RestartFault:
		return &lab.Failure{Kind: lab.Usage, Err: errors.New("fault restart: is for labctl to do by node kill and node start")}
	case lab.HoldFault:
		nodes := f.Nodes
		for _, n := range s.current().Nodes {
			if len(f.Nodes) == 0 {
				nodes = append(nodes, n.Name)
			}
		}
		for _, n := range nodes {
			s.remember(lab.Fault{Kind: lab.HoldFault, On: n})
		}
		s.holdAsTold()
		return nil
	case lab.PauseFault:
		if err := s.signal(f.On, unix.SIGSTOP); err != nil {
			return err
		}
		s.remember(f)
		return nil
	}
	before := s.remember(f)
	if err := s.impair(); err != nil {
		s.restore(f, before)
		return errors.Join(err, s.impair())
	}
	return nil
}

// heal ends the chosen faults. ids are numbers that must be there.
func (s *Supervisor) heal(_ context.Context, chosen func(fault) bool, ids []int) error {
	// Agents that are started and nodes that go end faults as well: what is left
	// is taken from those that last at this moment.
	s.mu.Lock()
	all := s.faults
	for _, id := range ids {
		if !slices.ContainsFunc(all, func(a fault) bool { return a.id == id }) {
			s.mu.Unlock()
			return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("fault heal %d: no such fault", id), Cure: "labctl fault list shows those that last"}
		}
	}
	s.faults = slices.DeleteFunc(slices.Clone(all), chosen)
	s.mu.Unlock()
	s.holdAsTold()
	errs := []error{s.impair()}
	for _, a := range all {
		if a.Kind != lab.PauseFault || !chosen(a) {
			continue
		}
		// One that was killed meanwhile is not paused any more.
		if err := s.signal(a.On, unix.SIGCONT); err != nil && !errors.Is(err, errNotRunning) {
			errs = append(errs, err)
		}
		if h := s.host(a.On); h != nil {
			s.mu.Lock()
			s.order(h) // what it was not told
			s.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// remember notes a fault that lasts, in the place of one like it, which it
// returns; nil when there was none.
func (s *Supervisor) remember(f lab.Fault) *lab.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.Clone(s.faults)
	if i := slices.IndexFunc(s.faults, func(a fault) bool { return a.Same(f) }); i >= 0 {
		before := s.faults[i].Fault
		s.faults[i].Fault = f
		return &before
	}
	s.faultID++
	s.faults = append(s.faults, fault{f, s.faultID, time.Now()})
	return nil
}

// restore undoes remember, and nothing that others have done since.
func (s *Supervisor) restore(f lab.Fault, before *lab.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.Clone(s.faults)
	i := slices.IndexFunc(s.faults, func(a fault) bool { return a.Same(f) })
	switch {
	case i < 0: // gone with its node
	case before != nil:
		s.faults[i].Fault = *before
	default:
		s.faults = slices.Delete(s.faults, i, i+1)
	}
}

func (s *Supervisor) faultList() []fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// forgetFaults drops what was about a node that is gone for good.
func (s *Supervisor) forgetFaults(h *host) {
	s.mu.Lock()
	var left []fault
	for _, f := range s.faults {
		endpoint, _, _ := strings.Cut(f.On, ":")
		if f.On != "" && h.has(endpoint) {
			continue
		}
		var groups [][]string
		for _, g := range f.Groups {
			if g = slices.DeleteFunc(slices.Clone(g), func(n string) bool { return n == h.plan.Name }); len(g) > 0 {
				groups = append(groups, g)
			}
		}
		if f.Kind == lab.PartitionFault && len(groups) < min(2, len(f.Groups)) {
			continue
		}
		f.Groups = groups
		left = append(left, f)
	}
	s.faults = left
	s.mu.Unlock()
}

// holdAsTold makes the nodes held that are to be: their reconcilers, their
// containers', their agents and the restarting of these.
func (s *Supervisor) holdAsTold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		on := slices.ContainsFunc(s.faults, func(f fault) bool { return f.Kind == lab.HoldFault && f.On == h.plan.Name })
		if on == h.held {
			continue
		}
		h.held = on
		h.reconciler.Hold(on)
		for _, c := range h.containers {
			c.reconciler.Hold(on)
		}
		if h.agent != nil {
			h.agent.hold(on)
			s.order(h)
		}
	}
}

// paused says whether a process is stopped by a fault. The caller holds mu.
func (s *Supervisor) paused(name string) bool {
	return slices.ContainsFunc(s.faults, func(f fault) bool { return f.Kind == lab.PauseFault && f.On == name })
}

// resumed forgets that a process was paused: another runs in its place.
func (s *Supervisor) resumed(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.DeleteFunc(slices.Clone(s.faults), func(f fault) bool { return f.Kind == lab.PauseFault && f.On == name })
}

var errNotRunning = errors.New("does not run")

// signal sends a signal to etcd, or to a node's agent and its process group.
func (s *Supervisor) signal(name string, sig syscall.Signal) error {
	p := s.etcd
	if name != etcdName {
		h := s.host(name)
		if h == nil || h.agent == nil {
			return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: has no agent", name), Cure: "labctl status shows what runs"}
		}
		p = &h.agent.process
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil || p.child.SignalGroup(sig) != nil {
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: %w", name, errNotRunning), Cure: "labctl status shows what runs"}
	}
	return nil
}

// activeFaults are those that last, as people see them.
func (s *Supervisor) activeFaults() []lab.ActiveFault {
	list := s.faultList()
	active := make([]lab.ActiveFault, 0, len(list))
	counts := map[string]map[string]uint64{}
	dropped := func(endpoint, chain string) uint64 {
		if counts[endpoint] == nil {
			counts[endpoint] = map[string]uint64{}
			if e := s.at(endpoint); e != nil {
				if n, err := e.impairer.Dropped(); err == nil { // it may have gone this moment
					counts[endpoint] = n
				}
			}
		}
		return counts[endpoint][chain]
	}
	for _, f := range list {
		a := lab.ActiveFault{ID: f.id, Fault: f.String(), Kind: f.Kind, On: f.On, Since: f.since}
		if f.Kind == lab.DropFault {
			endpoint, dev, _ := strings.Cut(f.On, ":")
			n := dropped(endpoint, "drop-"+dev)
			a.Dropped = &n
		}
		active = append(active, a)
	}
	return active
}

// impair makes all endpoints' devices as the faults say.
func (s *Supervisor) impair() error {
	s.mu.Lock()
	want := impairments(s.faults, nics(s.plan), s.answersFor())
	endpoints := make([]*endpoint, 0, len(s.endpoints))
	for _, e := range s.endpoints {
		endpoints = append(endpoints, e)
	}
	for _, h := range s.hosts {
		if down := switchedOff(want[h.plan.Name]); !slices.Equal(down, h.down) {
			h.down = down
			s.order(h)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, e := range endpoints {
		e.reconciler.KeepDown(switchedOff(want[e.name]))
		errs = append(errs, e.impairer.Apply(want[e.name]))
	}
	return errors.Join(errs...)
}

// impairAgain looks whether an endpoint's devices are still as the faults say:
// one that was made anew is not.
func (s *Supervisor) impairAgain(e *endpoint) {
	s.mu.Lock()
	want := impairments(s.faults, nics(s.plan), s.answersFor())[e.name]
	s.mu.Unlock()
	e.reconciler.KeepDown(switchedOff(want))
	if err := e.impairer.Apply(want); err != nil && !errors.Is(err, unix.ENODEV) {
		s.log.Warn("fault", "err", err)
	}
}

// answersFor are the prefixes of each node's containers. The caller holds mu.
func (s *Supervisor) answersFor() map[string][]netip.Prefix {
	m := map[string][]netip.Prefix{}
	for _, h := range s.hosts {
		m[h.plan.Name] = h.joint.subnets(h)
	}
	return m
}

func switchedOff(all []nodes.Impairment) []string {
	var down []string
	for _, i := range all {
		if i.Down {
			down = append(down, i.Dev)
		}
	}
	slices.Sort(down)
	return down
}

// impairments are what the faults are in the kernel, by endpoint.
func impairments(faults []fault, nics map[string][]lab.NICPlan, subnets map[string][]netip.Prefix) map[string][]nodes.Impairment {
	m := map[string][]nodes.Impairment{}
	on := func(endpoint, dev string) *nodes.Impairment {
		i := slices.IndexFunc(m[endpoint], func(i nodes.Impairment) bool { return i.Dev == dev })
		if i < 0 {
			i = len(m[endpoint])
			m[endpoint] = append(m[endpoint], nodes.Impairment{Dev: dev})
		}
		return &m[endpoint][i]
	}
	for _, f := range faults {
		if f.Kind == lab.PartitionFault {
			for _, p := range separated(f.Groups, nics) {
				for _, nic := range nics[p[0]] {
					i := on(p[0], nic.Name)
					i.Block = append(i.Block, sources(nics[p[1]], subnets[p[1]])...)
				}
			}
			continue
		}
		endpoint, dev, ok := strings.Cut(f.On, ":")
		if !ok {
			continue // of a process or a whole node
		}
		i := on(endpoint, dev)
		switch f.Kind {
		case lab.LinkFault:
			i.Down = true
		case lab.DropFault:
			i.Drop = f.Percent
		case lab.RateFault:
			i.Rate = f.Rate
		case lab.DelayFault:
			i.Delay, i.Jitter = f.Delay, f.Jitter
		case lab.LossFault:
			i.Loss = f.Percent
		case lab.ReorderFault:
			i.Reorder = f.Percent
		}
	}
	return m
}

// separated are the ordered pairs of which the first does not hear the second.
// One group is separated from all others, several from each other.
func separated(groups [][]string, nics map[string][]lab.NICPlan) [][2]string {
	if len(groups) == 1 {
		var rest []string
		for name := range nics {
			if !slices.Contains(groups[0], name) {
				rest = append(rest, name)
			}
		}
		slices.Sort(rest)
		groups = [][]string{groups[0], rest}
	}
	var pairs [][2]string
	for i, g := range groups {
		for j, o := range groups {
			if i == j {
				continue
			}
			for _, a := range g {
				for _, b := range o {
					pairs = append(pairs, [2]string{a, b})
				}
			}
		}
	}
	return pairs
}

// sources are how packets of a host are known: by its MACs on a segment, and
// beyond a router by its addresses and its containers'.
func sources(nics []lab.NICPlan, subnets []netip.Prefix) []nodes.Source {
	var all []nodes.Source
	for _, n := range nics {
		if mac, err := net.ParseMAC(n.MAC); err == nil { // the plan's own
			all = append(all, nodes.Source{MAC: mac})
		}
		all = append(all, nodes.Source{Net: netip.PrefixFrom(n.Addr.Addr(), n.Addr.Addr().BitLen())})
	}
	for _, p := range subnets {
		all = append(all, nodes.Source{Net: p})
	}
	return all
}
