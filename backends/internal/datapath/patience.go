package datapath

import (
	"time"
	"unsafe"

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

// sleep waits until there is something to do.
//
// The Go scheduler is told only of a long sleep. Of a thread that runs for
// longer than 10 ms it takes note of each short one, and looks for further
// work every 20 us from then on, which takes an eighth of a processor.
func sleep(on []unix.PollFd) error {
	short := unix.NsecToTimespec(int64(time.Millisecond))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&on[0])), uintptr(len(on)), uintptr(unsafe.Pointer(&short)), 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return errno
	}
	if n > 0 || errno == unix.EINTR { // another thread of this process may need this one to stop for a moment
		return nil
	}
	if _, err := unix.Poll(on, -1); err != nil && err != unix.EINTR {
		return err
	}
	return nil
}
