package supervisor

import (
	"context"
	"time"
)

// answerTimeout bounds the wait for agents that are asked for their traffic;
// of one that does not answer the last that it told is shown.
const answerTimeout = 500 * time.Millisecond

// askTraffic has the agents that carry packets themselves say how many.
func (s *Supervisor) askTraffic(ctx context.Context) {
	s.mu.Lock()
	s.asked++
	ask := s.asked
	for _, h := range s.hosts {
		if h.carries() {
			s.order(h)
		}
	}
	for _, r := range s.routers {
		r.orders.put()
	}
	s.mu.Unlock()
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		missing, next := false, s.answered
		for _, h := range s.hosts {
			missing = missing || h.carries() && h.agent.report.Answered < ask
		}
		for _, r := range s.routers {
			missing = missing || r.orders != nil && r.report.BGP != nil && r.report.Answered < ask
		}
		s.mu.Unlock()
		if !missing {
			return
		}
		select {
		case <-next:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// carries says whether the node has an agent that could be asked. The caller
// holds mu.
func (h *host) carries() bool {
	return h.agent != nil && h.agent.orders != nil && (h.agent.report.Traffic != nil || h.agent.report.BGP != nil)
}

// heard wakes those who wait for agents' answers. The caller holds mu.
func (s *Supervisor) heard() {
	close(s.answered)
	s.answered = make(chan struct{})
}
