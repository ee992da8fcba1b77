package agent

import "time"

// pacer keeps many hosts that come up at once from starving each other. Each
// new lease is work for every host, a square of it in all; so leases that come
// in a flock are taken together. A lone change is never made to wait.
type pacer struct {
	last     time.Time // of the last set
	burst    int       // sets that came one upon the other
	complete bool      // all hosts have been there once: the lab's start is over
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

// set notes that a snapshot was taken.
func (p *pacer) set() {
	if time.Since(p.last) > apart {
		p.burst = 0
	}
	p.burst++
	p.last = time.Now()
}

// expected is how many hosts the supervisor says there are.
func (a *Agent) expected() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.order.Hosts
}
