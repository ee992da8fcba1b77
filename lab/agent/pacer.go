package agent

import (
	"sync"
	"time"
)

// pacer keeps many hosts that come up at once from starving each other. Each
// new lease is work for every host, a square of it in all; so leases that come
// in a flock are taken together. A lone change is never made to wait.
type pacer struct {
	last     time.Time // of the last set
	burst    int       // sets that came one upon the other
	complete bool      // all hosts have been there once: the lab's start is over
	flock    flock
}

// The pace of a flock.
const (
	freeSets = 4                      // taken at once
	apart    = 250 * time.Millisecond // sets further apart than this are no flock

	perLease = time.Millisecond // of waiting, when more leases come than the lab has hosts
	perHost  = 5 * time.Millisecond
	least    = 20 * time.Millisecond // while hosts are missing
	most     = 500 * time.Millisecond
)

// wait is how long a snapshot of so many leases waits for more, when hosts
// (0: unknown) are expected.
func (p *pacer) wait(leases, hosts int) time.Duration {
	if !p.complete && leases >= hosts {
		p.complete = true
		return 0
	}
	if d := p.gather(leases, hosts); d > 0 {
		return d
	}
	switch {
	case p.last.IsZero():
		return 0 // the first one makes the devices
	case !p.complete:
		return min(max(time.Duration(hosts)*perHost, least), most)
	case time.Since(p.last) > apart || p.burst < freeSets:
		return 0
	}
	return min(time.Duration(leases)*perLease, most)
}

// gather is how much longer a snapshot waits because the lab is a big one that
// comes up.
func (p *pacer) gather(leases, hosts int) time.Duration {
	if p.complete {
		return 0
	}
	return p.flock.left(leases, hosts)
}

// set notes that a snapshot was taken.
func (p *pacer) set() {
	if time.Since(p.last) > apart {
		p.burst = 0
	}
	p.burst++
	p.last = time.Now()
}

// flock is the start of a lab of many hosts. They get in each other's way: one
// that takes leases as they come does so a dozen times, and one that watches
// them is told of each, which together costs more than all the rest of the
// start. So they wait for each other, as long as more and more leases come.
//
// Its methods are safe for concurrent use: who waits for leases and who takes
// them have one in common.
type flock struct {
	mu     sync.Mutex // guards all below
	leases int        // the most that were seen
	grew   time.Time  // since when
	over   bool
}

const (
	many        = 16                    // hosts; fewer do not get in each other's way
	perMissing  = 10 * time.Millisecond // between two counts, for each lease that is missing
	perStalled  = 30 * time.Millisecond // without any new lease, for each host: then the rest does not come
	mostBetween = time.Second
	nearlyAll   = 20 // when one of so many is missing, events are cheaper than waiting
)

// stalled is how long no lease comes in a start that does not get on: longer
// than the time between two counts.
func stalled(hosts int) time.Duration {
	return max(time.Duration(hosts)*perStalled, 2*mostBetween)
}

// left is how long to wait for the next lease at most: 0 when all are there, or
// none has come for too long.
func (f *flock) left(leases, hosts int) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || hosts < many || leases >= hosts {
		f.over = true
		return 0
	}
	if leases > f.leases {
		f.leases, f.grew = leases, time.Now()
	}
	d := stalled(hosts) - time.Since(f.grew)
	if d <= 0 {
		f.over = true
	}
	return max(d, 0)
}

// between is how long to wait before the leases are counted again, 0 to be told
// of each from now on.
func (f *flock) between(leases, hosts int) time.Duration {
	missing := hosts - leases
	if f.left(leases, hosts) == 0 || missing <= hosts/nearlyAll {
		return 0
	}
	return time.Duration(min(missing, int(mostBetween/perMissing))) * perMissing
}

// gather is for backends.Store.Watch.
func (a *flannelSystem) gather(f *flock) func(leases int) time.Duration {
	return func(leases int) time.Duration { return f.between(leases, a.expected()) }
}

// expected is how many hosts the supervisor says there are.
func (a *Agent) expected() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.order.Hosts
}
