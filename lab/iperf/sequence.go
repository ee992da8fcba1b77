package iperf

import "time"

// window is how far back an arrival is recognised as a duplicate.
const window = 4096

// sequence makes loss, reordering and jitter out of arrivals.
type sequence struct {
	next       int64 // the highest number so far, and one
	received   int64 // without duplicates
	reordered  int64
	duplicates int64
	seen       [window / 64]uint64 // by number modulo window, of those below next

	jitter  float64 // ns
	transit time.Duration
	slowest time.Duration // the longest transit
	any     bool
}

// add counts packet n, and says whether it was new.
func (s *sequence) add(n int64) bool {
	switch {
	case n >= s.next:
		if n-s.next >= window {
			clear(s.seen[:])
		} else {
			for i := s.next; i < n; i++ {
				s.seen[i%window/64] &^= 1 << (i % 64)
			}
		}
		s.next = n + 1
	case s.next-n > window:
		// Too late to tell it from a duplicate; those are rarer.
		s.reordered++
		s.received++
		return true
	case s.seen[n%window/64]&(1<<(n%64)) != 0:
		s.duplicates++
		return false
	default:
		s.reordered++
	}
	s.seen[n%window/64] |= 1 << (n % 64)
	s.received++
	return true
}

// time follows the interarrival jitter of RFC 3550, section 6.4.1.
func (s *sequence) time(sent, arrived time.Duration) {
	transit := arrived - sent
	if s.any {
		d := transit - s.transit
		if d < 0 {
			d = -d
		}
		s.jitter += (float64(d) - s.jitter) / 16
	}
	s.transit, s.any = transit, true
	s.slowest = max(s.slowest, transit)
}
