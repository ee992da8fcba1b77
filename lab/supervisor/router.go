package supervisor

import (
	"errors"
	"io"
	"os"
	"slices"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// router is the process of a router that speaks BGP, with what it said last.
type router struct {
	process
	plan lab.RouterPlan

	// Guarded by Supervisor.mu.
	report agent.Report
	orders *mailbox // nil while it does not run
}

// newRouterLocked describes a router's process. The caller holds mu.
func (s *Supervisor) newRouterLocked(p lab.RouterPlan) *router {
	r := &router{plan: p}
	r.process = process{
		name: p.Name, ns: s.endpoints[p.Name].ns, s: s, state: waiting,
		argv: []string{"labctl", "__speaker", p.Name}, env: os.Environ(),
	}
	r.started = func(c *rpc.Conn) {
		orders := s.openMailbox(c, func() (agent.Order, bool) { return s.orderOfRouter(r) })
		s.mu.Lock()
		r.orders = orders
		orders.put()
		s.mu.Unlock()
		s.poke()
	}
	r.ended = func() {
		s.mu.Lock()
		r.orders.close()
		r.orders = nil
		s.mu.Unlock()
		s.poke()
	}
	r.message = func(c *rpc.Conn) error {
		for {
			var rep agent.Report
			if _, err := c.Receive(&rep); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			s.mu.Lock()
			r.report = rep
			s.heard()
			s.mu.Unlock()
			s.poke()
		}
	}
	return r
}

// orderOfRouter is how things are to be for a router.
func (s *Supervisor) orderOfRouter(r *router) (agent.Order, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return agent.Order{BGP: s.speaker(r.name, r.plan.Speaker), Ask: s.asked}, !s.paused(r.name)
}

// speaker is what an endpoint's BGP speaker is to do, nil for one without. The
// caller holds mu.
func (s *Supervisor) speaker(name string, p *lab.SpeakerPlan) *agent.Speaker {
	if p == nil {
		return nil
	}
	if s.speakersOf != s.plan {
		s.speakers, s.speakersOf = s.plan.Speakers(), s.plan
	}
	config := s.speakers[name]
	config.Peers = slices.Clone(config.Peers)
	return &agent.Speaker{Program: p.Program, Dir: s.dir.Speaker(name), Config: config}
}

// orderChanged tells agents and routers whose peers, or those who are out, are
// others than they were told. The caller holds mu.
func (s *Supervisor) orderChanged() {
	if s.plan.BGP == nil {
		return
	}
	out := s.outs()
	if s.orderedOf == s.plan && slices.Equal(s.orderedOut, out) {
		return
	}
	s.orderedOf, s.orderedOut = s.plan, out
	for _, h := range s.hosts {
		s.order(h)
	}
	for _, r := range s.routers {
		r.orders.put()
	}
}

// outs are the hosts that do not run, by order. The caller holds mu.
func (s *Supervisor) outs() []string {
	var names []string
	for _, h := range s.hosts {
		if h.out != "" {
			names = append(names, h.name)
		}
	}
	return names
}

// reasons are why a router does not speak. The caller holds mu.
func (r *router) reasons() []string {
	switch {
	case r.orders == nil:
		return []string{"speaker: " + processReason(&r.process)}
	case r.report.Error != "":
		return []string{"speaker: " + r.report.Error}
	case r.report.BGP != nil && r.report.BGP.Err != "":
		return []string{r.report.BGP.Err}
	}
	return nil
}
