package udp

import (
	"time"

	"golang.org/x/sys/unix"
)

// patience is for how long a thread that found nothing to do looks again
// before it sleeps. To be woken costs as much as carrying dozens of packets,
// and under load the next packet is a few microseconds away. Meanwhile others
// may run: a thread that yields takes nobody's time.
type patience struct {
	none  bool      // sleep at once, as flannel does
	since time.Time // zero while there is work
}

const patienceLimit = 20 * time.Microsecond

// reset is for when there was something to do.
func (p *patience) reset() { p.since = time.Time{} }

// again lets others run, and says whether to look once more.
func (p *patience) again() bool {
	if p.none {
		return false
	}
	if p.since.IsZero() {
		p.since = time.Now()
	} else if time.Since(p.since) > patienceLimit {
		return false
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	return true
}
