package supervisor

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"labctl/lab"
	"labctl/lab/agent"
)

// A lab that takes longer than this to converge has a fault that its status
// names. Each host has as much to do as there are hosts.
const (
	convergeTimeout = 60 * time.Second
	convergePerHost = 200 * time.Millisecond
)

// patience is how long the lab may take to converge.
func (s *Supervisor) patience() time.Duration {
	return convergeTimeout + time.Duration(len(s.current().Nodes))*convergePerHost
}

// follow keeps the lab's state up to date until ctx ends.
func (s *Supervisor) follow(ctx context.Context) {
	patience := s.patience()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		from := time.Now()
		s.evaluate(ctx)
		// In a lab of hundreds of hosts a look at all takes a while, and as it
		// comes up there is always a reason for another.
		rest.Reset(min(evaluateRest*time.Since(from), mostRest))
		select {
		case <-ctx.Done():
			return
		case <-timeout.C:
			s.giveUp(patience)
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-timeout.C:
			s.giveUp(patience)
		}
	}
}

// evaluateRest is how many times as long as it took an evaluation is followed
// by none, and mostRest the most of it: one that waited for a processor while
// hundreds of agents start may have taken seconds.
const (
	evaluateRest = 10
	mostRest     = 500 * time.Millisecond
)

// giveUp tells those who wait for the build what is missing. The lab stays as
// it is, for a look with `labctl status`, unless the command that waits takes
// it down.
func (s *Supervisor) giveUp(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verified {
		return
	}
	s.comeUp()
	s.emitLocked(lab.Event{Error: fmt.Sprintf("%s: not converged after %v; %s", s.plan.Name, after.Round(time.Second), lab.FirstOf(s.reasons())), Kind: lab.TimedOut,
		Cure: "see to what is named; a machine that is busy with other things may need fewer nodes"})
}

// comeUp says that the lab has come up, or has not in time: nobody has to wait
// for it any more. The caller holds mu.
func (s *Supervisor) comeUp() {
	if s.isUp() {
		return
	}
	close(s.up)
	for _, h := range s.hosts {
		s.order(h)
	}
}

// isUp says whether comeUp was called. The caller holds mu.
func (s *Supervisor) isUp() bool {
	select {
	case <-s.up:
		return true
	default:
		return false
	}
}

// evaluate derives the lab's state from what it depends on.
func (s *Supervisor) evaluate(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved.Broadcast()
	s.orderChanged()
	for _, h := range s.hosts {
		h.settled = h.settled || len(s.hostReasons(h)) == 0
	}
	reasons := s.reasons()
	if len(reasons) == 0 && s.timings.ConvergedMs == 0 {
		s.timings.ConvergedMs = s.sinceStart()
		s.emitLocked(lab.Event{Step: "converged"})
	}
	if !s.verified {
		s.tellExhausted()
		if len(reasons) == 0 && !s.verifying {
			s.verifying = true
			s.wg.Go(func() { s.verify(ctx) })
		}
		return
	}
	state := lab.Ready
	for _, h := range s.hosts {
		if h.held {
			state = lab.Held
		}
	}
	broken := slices.ContainsFunc(s.faults, func(f fault) bool { return f.Kind != lab.HoldFault })
	if (len(reasons) > 0 || broken) && state != lab.Held {
		state = lab.Degraded
	}
	if state != s.state {
		s.state = state
		s.emitLocked(lab.Event{State: state})
	}
	s.tellChanges()
}

// tellExhausted ends the build where it comes to nothing. The caller holds mu.
func (s *Supervisor) tellExhausted() {
	if s.gaveUp {
		return
	}
	h := s.exhausted()
	if h == nil {
		return
	}
	s.gaveUp = true
	why, cure, _ := strings.Cut(h.agent.report.Error, "; ")
	s.emitLocked(lab.Event{Error: why, Kind: lab.Usage, Cure: cure})
}

// exhausted is the first host that the pool has no address for, while all hosts
// that run have what else they asked for, so that none will give one back. It
// is nil when there is none. The caller holds mu.
func (s *Supervisor) exhausted() *host {
	if s.plan.Calico == nil {
		return nil
	}
	var first *host
	revision := int64(0)
	for _, h := range s.hosts {
		if !s.follows(h) {
			continue
		}
		r := h.agent.report
		switch {
		case r.Phase != agent.Running || r.Revision == 0:
			return nil
		case revision != 0 && r.Revision != revision:
			return nil // some have not heard the last yet
		case r.Exhausted && first == nil:
			first = h
		case !r.Exhausted && !h.wired:
			return nil
		}
		revision = r.Revision
	}
	return first
}

// tellChanges tells those who watch that the status is another. The caller
// holds mu.
func (s *Supervisor) tellChanges() {
	if len(s.watchers) == 0 {
		return
	}
	now := s.statusLocked()
	for i := range now.Nodes {
		now.Nodes[i].Traffic = nil // whoever asks has it told; that is no change
		now.Nodes[i].BGP = nil
	}
	if s.told == nil || !reflect.DeepEqual(*s.told, *now) {
		s.told = now
		s.emitLocked(lab.Event{Changed: true})
	}
}

// reasons are why the lab is not what it should be. The caller holds mu.
func (s *Supervisor) reasons() []string {
	var why []string
	add := func(format string, a ...any) { why = append(why, fmt.Sprintf(format, a...)) }
	if s.etcd != nil && !s.etcdReady {
		add("etcd: %s", processReason(s.etcd))
	}
	for _, r := range s.routers {
		for _, why := range r.reasons() {
			add("%s: %s", r.name, why)
		}
	}
	digest, leases, agents, others := "", 0, 0, false
	for _, h := range s.hosts {
		for _, r := range s.hostReasons(h) {
			add("%s: %s", h.name, r)
		}
		if h.agent != nil && h.out == "" {
			agents++
			if h.agent.command == nil {
				digest, leases = h.agent.report.Digest, h.agent.report.Leases
			} else {
				others = true
			}
		}
	}
	if others {
		digest, leases = s.outside.digest, s.outside.leases
	}
	if agents > 0 && len(why) == 0 {
		// Leases of real machines may be in the store as well.
		for _, h := range s.hosts {
			if h.out == "" && h.agent.command == nil && h.agent.report.Digest != digest {
				add("%s: knows other leases than its peers", h.name)
			}
		}
		if leases < agents {
			add("store: %d leases for %d nodes", leases, agents)
		}
	}
	for _, c := range s.conflicts() {
		add("store: %s", c)
	}
	var unlike []string
	for name, e := range s.endpoints {
		if r := e.reconciler.Report(); r.Err != "" {
			unlike = append(unlike, fmt.Sprintf("%s: %s", name, r.Err))
		} else if len(r.Drift) > 0 {
			unlike = append(unlike, fmt.Sprintf("%s: %s from what it should be", name, differences(len(r.Drift))))
		}
	}
	slices.Sort(unlike)
	return append(why, unlike...)
}

// conflicts are blocks of a Calico network of which it is not clear whose they
// are, as the agents see it. The caller holds mu.
func (s *Supervisor) conflicts() []string {
	var all []string
	for _, h := range s.hosts {
		if h.agent != nil && h.out == "" {
			all = append(all, h.agent.report.Conflicts...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// hostReasons are why a node is not ready. One that is stopped or dead is as it
// was ordered to be. The caller holds mu.
func (s *Supervisor) hostReasons(h *host) []string {
	var why []string
	if h.out == lab.Dead {
		return nil
	}
	switch {
	case h.agent == nil || h.out != "":
	case h.agent.command != nil:
		if r := h.agent.reason(s.dir.SubnetEnv(h.name), h.plan.NIC.Addr.Addr().String()); r != "" {
			return []string{r}
		}
	default:
		r := h.agent.report
		switch {
		case h.agent.orders == nil:
			why = append(why, "agent: "+processReason(&h.agent.process))
		case r.Phase != agent.Running:
			p := string(r.Phase)
			if p == "" {
				p = "starting"
			}
			if r.Error != "" {
				p += ": " + r.Error
			}
			why = append(why, "agent: "+p)
		case r.Error != "":
			why = append(why, "agent: "+r.Error)
		}
		if len(r.Drift) > 0 && h.agent.orders != nil && !h.held { // held, it is to differ
			why = append(why, differences(len(r.Drift))+" from what the backend wants")
		}
	}
	if h.wireErr != "" {
		why = append(why, "containers: "+h.wireErr)
	} else if !h.wired {
		why = append(why, "containers: no address yet")
	}
	return why
}

func differences(n int) string {
	if n == 1 {
		return "1 difference"
	}
	return fmt.Sprintf("%d differences", n)
}

func processReason(p *process) string {
	st := p.status()
	switch {
	case st.State == running:
		return "starting"
	case st.LastExit != "":
		return "not running: " + st.LastExit
	}
	return "not running"
}
