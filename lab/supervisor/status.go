package supervisor

import "labctl/lab"

// status is the lab as it is now.
func (s *Supervisor) status() *lab.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statusLocked()
}

// statusLocked is status for a caller that holds mu.
func (s *Supervisor) statusLocked() *lab.Status {
	st := &lab.Status{
		SchemaVersion: 1, Name: s.plan.Name, State: s.state, Reasons: s.reasons(),
		Backend: s.plan.Backend, Timings: s.timings,
		Nodes: []lab.NodeStatus{}, Processes: []lab.ProcessStatus{},
		StaticNeighbours: s.plan.Neighbours.Static, Rootless: s.record.Rootless,
	}
	for _, f := range s.faults {
		st.Faults = append(st.Faults, lab.ActiveFault{ID: f.id, Fault: f.String(), Kind: f.Kind, On: f.On, Since: f.since})
		if f.Kind != lab.HoldFault { // which has a state of its own
			st.Reasons = append(st.Reasons, "fault: "+f.String())
		}
	}
	if st.Reasons == nil {
		st.Reasons = []string{}
	}
	if s.plan.Pool.IsValid() {
		st.Network = s.plan.Pool.String()
	}
	if p := s.plan.Etcd; p != nil {
		st.Etcd = &lab.EtcdStatus{Netns: p.Netns, Segment: p.NIC.Segment, Endpoints: p.Endpoints, State: lab.Starting}
		if s.etcdReady {
			st.Etcd.State = lab.Ready
		} else if s.verified {
			st.Etcd.State = lab.Degraded
		}
		if s.etcd != nil {
			st.Processes = append(st.Processes, s.etcd.status())
		}
	}
	for _, r := range s.routers {
		rs := lab.RouterStatus{Name: r.name, Netns: r.plan.Netns, State: lab.Ready, Reasons: r.reasons(), BGP: r.report.BGP}
		if len(rs.Reasons) > 0 {
			rs.State = lab.Degraded
		} else {
			rs.Reasons = []string{}
		}
		st.Routers = append(st.Routers, rs)
		st.Processes = append(st.Processes, r.status())
	}
	for _, h := range s.hosts {
		st.Nodes = append(st.Nodes, s.hostStatus(h))
		if h.agent != nil {
			st.Processes = append(st.Processes, h.agent.status())
		}
	}
	return st
}

// hostStatus is one node. The caller holds mu.
func (s *Supervisor) hostStatus(h *host) lab.NodeStatus {
	n := lab.NodeStatus{
		Name: h.name, Netns: h.plan.Netns, State: lab.Ready, Reasons: s.hostReasons(h),
		PublicIP: h.plan.NIC.Addr.Addr().String(), Subnets: []string{}, MTU: h.mtu,
		Drift: []lab.Drift{}, Healed: []lab.Drift{}, Foreign: []lab.Drift{},
		Problems: []string{}, Containers: []lab.ContainerStatus{},
	}
	if m := h.plan.Management; m != nil {
		n.Management = m.Addr.Addr().String()
	}
	for _, p := range h.joint.subnets(h) {
		n.Subnets = append(n.Subnets, p.String())
	}
	collect := func(e *endpoint) {
		r := e.reconciler.Report()
		n.Drift = append(n.Drift, drifts(e.name, r.Drift)...)
		n.Healed = append(n.Healed, healedDrifts(e.name, r.Healed)...)
		n.Foreign = append(n.Foreign, drifts(e.name, r.Foreign)...)
		if r.Err != "" {
			n.Problems = append(n.Problems, r.Err)
		}
	}
	if h.out != lab.Dead {
		collect(h.endpoint)
	}
	for _, c := range h.containers {
		if h.out != lab.Dead {
			collect(c.endpoint)
		}
		cs := lab.ContainerStatus{Name: c.plan.Name, Netns: c.plan.Netns}
		if c.addr.IsValid() {
			cs.IP = c.addr.Addr().String()
		}
		n.Containers = append(n.Containers, cs)
	}
	if a := h.agent; a != nil && a.command != nil {
		n.Agent, n.AgentPid, n.SubnetFile = a.command.name, a.status().Pid, s.dir.SubnetEnv(h.name)
		n.Peers, n.VTEPMAC = max(s.outside.leases-1, 0), vtepMAC(a.command.lease)
	} else if a != nil {
		n.Agent = lab.OwnAgent
		r := a.report
		n.AgentPid = a.status().Pid
		if s.plan.Calico == nil {
			n.SubnetFile = s.dir.SubnetEnv(h.name)
		}
		n.Peers = max(r.Leases-1, 0)
		n.VTEPMAC, n.Tunnel = r.VTEPMAC, r.Tunnel
		n.Traffic = r.Traffic
		n.BGP = r.BGP
		n.Drift = append(n.Drift, drifts(h.name, r.Drift)...)
		n.Healed = append(n.Healed, healedDrifts(h.name, r.Healed)...)
		n.Foreign = append(n.Foreign, drifts(h.name, r.Foreign)...)
		n.Problems = append(n.Problems, r.Problems...)
	}
	switch {
	case h.out != "":
		n.State = h.out
	case h.held:
		n.State = lab.Held
	case len(n.Reasons) > 0 && !h.settled:
		n.State = lab.Starting
	case len(n.Reasons) > 0 || len(n.Drift) > 0:
		n.State = lab.Degraded
	}
	if n.Reasons == nil {
		n.Reasons = []string{}
	}
	return n
}
