package bench

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turn is how long one of several trials goes on before the next does. What
// else a machine does changes within tenths of a second, so trials that change
// places faster than that meet the same.
const turn = 10 * time.Millisecond

// slice is that of a TCP stream, whose speed in one is a single value: of more
// of them more can be left out.
const slice = 5 * time.Millisecond

// turns is a ring of trials that are under way at once, of which one goes on at
// a time.
type turns struct {
	length time.Duration
	mu     sync.Mutex // guards all below
	seats  []*seat    // those that have not ended, in their order
	holder *seat      // whose turn it is; nil when all have ended
}

// seat is one trial's place. Its methods are for that trial's goroutine.
type seat struct {
	ring  *turns
	given chan struct{} // capacity 1: the turn, on its way
	until time.Time     // the end of ours; zero while it is not
}

// newTurns is a ring of n, for turns of a length; the first has its turn first.
func newTurns(n int, length time.Duration) []*seat {
	ring := &turns{length: length}
	for range n {
		ring.seats = append(ring.seats, &seat{ring: ring, given: make(chan struct{}, 1)})
	}
	ring.give(ring.seats[0])
	return slices.Clone(ring.seats)
}

// give makes it a seat's turn. The caller holds mu, or is newTurns.
func (r *turns) give(s *seat) {
	r.holder = s
	s.given <- struct{}{}
}

// take returns whether it waited, at once while it is our turn, and else when
// it is again or ctx ends.
func (s *seat) take(ctx context.Context, now time.Time) (waited bool) {
	if now.Before(s.until) {
		return false
	}
	if !s.until.IsZero() {
		s.until = time.Time{}
		s.pass()
	}
	select {
	case <-s.given:
		s.until = time.Now().Add(s.ring.length)
	case <-ctx.Done():
	}
	return true
}

// pass gives the turn to the next.
func (s *seat) pass() {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	i := slices.Index(s.ring.seats, s)
	s.ring.give(s.ring.seats[(i+1)%len(s.ring.seats)])
}

// leave ends the trial's part. The turn is the next one's, if it was ours.
func (s *seat) leave() {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	i := slices.Index(s.ring.seats, s)
	s.ring.seats = slices.Delete(s.ring.seats, i, i+1)
	switch n := len(s.ring.seats); {
	case s.ring.holder != s:
	case n == 0:
		s.ring.holder = nil
	default:
		s.ring.give(s.ring.seats[i%n])
	}
}
