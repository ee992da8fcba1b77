package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"labctl/lab"
	"labctl/lab/policy"
	"labctl/nodes"
)

// workloads are the lab's containers as policies see them.
func (s *Supervisor) workloads() []policy.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []policy.Endpoint
	for _, h := range s.hosts {
		for _, c := range h.containers {
			all = append(all, policy.Endpoint{Name: c.name, Node: h.name, Labels: c.plan.Labels, Addr: c.addr.Addr(), Container: true})
		}
	}
	return all
}

// lets says whether the policies let pings pass between two containers.
func (s *Supervisor) lets() func(from, to *container) bool {
	engine := policy.NewEngine(s.current().Policies)
	ends := map[string]policy.Endpoint{}
	for _, e := range s.workloads() {
		ends[e.Name] = e
	}
	return func(from, to *container) bool {
		return engine.Decide(ends[from.name], ends[to.name], policy.Port{Protocol: lab.ICMP}).Allowed
	}
}

// policyState adds a node's share of the network policies to its state.
func (s *Supervisor) policyState(st *nodes.State, h *host) error {
	t := policy.Table(h.name, s.current().Policies, s.workloads())
	if len(t.Chains) == 0 {
		return nil
	}
	st.Tables = append(st.Tables, t)
	if h.plan.Wiring == lab.RoutedWiring {
		return nil // each packet comes by the forward hook
	}
	tracking := policy.Tracking()
	for _, c := range tracking {
		err := h.ns.Do(func() error { _, err := os.Stat("/proc/sys/" + c.Key); return err })
		if errors.Is(err, fs.ErrNotExist) {
			return &lab.Failure{Kind: lab.Unable, Err: fmt.Errorf("policies: this kernel has no br_netfilter, without which frames between containers of a bridge come by no rule"),
				Cure: "load it as root: modprobe br_netfilter"}
		} else if err != nil {
			return err
		}
	}
	st.Sysctls = append(st.Sysctls, tracking...)
	return nil
}

// spread gives every node its policies anew, after addresses have changed.
func (s *Supervisor) spread() error {
	if len(s.current().Policies) == 0 {
		return nil
	}
	return s.renewAll()
}

// renewAll gives every host its state anew; the reconcilers do the rest.
func (s *Supervisor) renewAll() error {
	s.mu.Lock()
	hosts := slices.Clone(s.hosts)
	s.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, s.renew(h))
	}
	return errors.Join(errs...)
}

// setPolicies puts other policies in the place of the lab's. It returns when
// every node that is not held has them in its kernel.
func (s *Supervisor) setPolicies(ctx context.Context, ps lab.Policies) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	file, err := os.ReadFile(s.dir.Spec())
	if err != nil {
		return err
	}
	ext, err := lab.ReplacePolicies(s.current(), file, ps)
	if err != nil {
		return err
	}
	if err := s.extend(ext); err != nil {
		return err
	}
	if err := s.renewAll(); err != nil {
		return err
	}
	s.mu.Lock()
	hosts := slices.Clone(s.hosts)
	s.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		s.mu.Lock()
		skip := h.held || h.out == lab.Dead
		s.mu.Unlock()
		if skip {
			continue
		}
		if _, err := h.reconciler.Apply(ctx); err != nil {
			errs = append(errs, failure(err))
		}
	}
	return errors.Join(errs...)
}
