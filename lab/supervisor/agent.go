package supervisor

import (
	"errors"
	"io"
	"os"
	"strings"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// agentProcess is a node's agent with what it said last.
type agentProcess struct {
	process
	command *commandAgent // nil for labctl's own agent

	// Guarded by Supervisor.mu.
	report agent.Report
	orders *mailbox // nil while it does not run
}

// newAgent describes the agent on h. It is started by keep.
func (s *Supervisor) newAgent(h *host) (*agentProcess, error) {
	if h.plan.Command != nil {
		return s.newCommand(h)
	}
	a, plan := &agentProcess{}, s.current()
	argv := []string{"labctl", "agent", "--node", h.name,
		"--etcd-endpoints", strings.Join(plan.Etcd.Endpoints, ","),
		"--iface", h.plan.NIC.Name,
		"--public-ip", h.plan.NIC.Addr.Addr().String(),
	}
	if plan.Calico != nil {
		argv = append(argv, "--system", string(agent.Calico))
	} else {
		argv = append(argv, "--subnet-file", s.dir.SubnetEnv(h.name), "--ip-masq", "--lease-ttl", plan.LeaseTTL.String())
	}
	a.process = process{
		name: h.name, ns: h.ns, s: s, state: waiting,
		argv: argv,
		// One thread runs Go code at a time, unless whoever starts the lab has said
		// otherwise: agents are many and each does little. A path in user space,
		// which does much, sets it by itself. And they look for garbage late for the
		// first time: what each allocates until the lab is up is less than what
		// looking for it would touch.
		env: append(os.Environ(), agent.ControlFD+"=3", "GOMAXPROCS=1", "GOGC=150"),
	}
	a.started = func(c *rpc.Conn) {
		s.resumed(h.plan.Name)
		orders := s.openMailbox(c, func() (agent.Order, bool) { return s.orderOf(h) })
		s.mu.Lock()
		a.orders = orders
		a.report.Phase = "" // what the one before it said holds no longer
		s.order(h)
		s.mu.Unlock()
		s.poke()
	}
	a.ended = func() {
		s.mu.Lock()
		a.orders.close()
		a.orders = nil
		s.mu.Unlock()
		s.poke()
	}
	a.message = func(c *rpc.Conn) error {
		for {
			var r agent.Report
			if _, err := c.Receive(&r); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			s.reported(h, r)
		}
	}
	return a, nil
}

// order has an agent told how things are to be. The caller holds mu.
func (s *Supervisor) order(h *host) {
	if h.agent != nil {
		h.agent.orders.put()
	}
}

// orderOf is how things are to be for a node's agent. One that is paused does
// not read: it is told when it goes on.
func (s *Supervisor) orderOf(h *host) (agent.Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused(h.plan.Name) {
		return agent.Order{}, false
	}
	o := agent.Order{Store: s.etcdReady, Hosts: s.running(), Up: s.isUp(), Hold: h.held, Down: h.down, Ask: s.asked, BGP: s.speaker(h.name, h.plan.Speaker)}
	if o.BGP != nil {
		o.Out = s.outs()
	}
	for _, c := range h.containers {
		o.Containers = append(o.Containers, agent.Container{Name: c.plan.Name, Dev: c.plan.Port, Addr: c.plan.Addr})
	}
	return o, true
}

// reported takes an agent's report: a new subnet is wired at once.
func (s *Supervisor) reported(h *host, r agent.Report) {
	s.mu.Lock()
	h.agent.report = r
	s.heard()
	s.moved.Broadcast() // a node command that waits for the last host need not wait for evaluate's rest
	if r.Unsupported && !s.verified && !s.gaveUp {
		// No use waiting: say so to whoever waits for the build.
		s.gaveUp = true
		what, cure, ok := strings.Cut(r.Error, "; ")
		if !ok {
			cure = unsupportedCure
		}
		s.emitLocked(lab.Event{Error: what, Kind: lab.Unable, Cure: cure})
	}
	rewire, impaired := h.joint.stale(h, r), len(s.faults) > 0
	s.mu.Unlock()
	if rewire {
		s.rewire(h)
	}
	if impaired {
		s.impairAgain(h.endpoint) // the agent's devices may be new
	}
	s.poke()
}

// rewire is wire with its error for the status.
func (s *Supervisor) rewire(h *host) {
	err := s.wire(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	h.wireErr = ""
	if err != nil {
		h.wireErr = err.Error()
		s.log.Error("wire", "node", h.name, "err", err)
	}
}
