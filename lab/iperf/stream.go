package iperf

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one connection with a thread at each end.
type stream struct {
	id       int
	from, to int // descriptors: data go from one to the other
	params   Params
	cookie   uint64

	stopping atomic.Bool // the sender is to end
	wg       sync.WaitGroup
	sent     atomic.Int64 // bytes
	arrived  atomic.Int64
	readAt   atomic.Int64 // TCP: when the last bytes arrived, in ns since made
	made     time.Time
	packets  atomic.Int64 // UDP: sent
	seen     published
	allSent  chan struct{} // closed when the sender has ended

	sender, receiver time.Duration // CPU; read after wg.Wait
	failed           chan<- error
}

// published is what the meter sees of a UDP receiver's sequence.
type published struct {
	next, received, reordered, duplicates atomic.Int64
	jitter                                atomic.Uint64 // float64's bits, ns
}

// start starts both ends once begin is closed.
func (s *stream) start(begin <-chan struct{}) {
	send, receive := s.sendTCP, s.receiveTCP
	if s.params.UDP {
		send, receive = s.sendUDP, s.receiveUDP
	}
	s.startWith(begin, send, receive)
}

func (s *stream) startWith(begin <-chan struct{}, send, receive func() error) {
	s.allSent = make(chan struct{})
	s.wg.Go(func() {
		defer close(s.allSent)
		s.sender = onThread(begin, s.params.processor(s.id-1), send, s.fail)
	})
	s.wg.Go(func() { s.receiver = onThread(begin, s.params.processor(s.id), receive, s.fail) })
}

// anywhere is the processor of threads that are not pinned.
const anywhere = -1

// processor is that of the i-th thread.
func (p Params) processor(i int) int {
	if len(p.Pin) == 0 {
		return anywhere
	}
	return p.Pin[i%len(p.Pin)]
}

// onThread runs f on a thread of its own, which ends with it, and returns the
// CPU time that f took.
func onThread(begin <-chan struct{}, cpu int, f func() error, fail func(error)) time.Duration {
	runtime.LockOSThread() // and never unlock: its timer slack is changed
	exactTimer()
	if cpu != anywhere {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			fail(fmt.Errorf("processor %d: pin a thread: %w", cpu, err))
		}
	}
	<-begin
	from := threadTime()
	if err := f(); err != nil {
		fail(err)
	}
	return threadTime() - from
}

// fail reports an error unless the stream is being stopped, which ends calls
// with errors.
func (s *stream) fail(err error) {
	if s.stopping.Load() {
		return
	}
	select {
	case s.failed <- err:
	default: // one is enough
	}
}

// stop ends both ends and waits for them. A UDP receiver first takes what is
// still under way.
func (s *stream) stop() {
	s.stopping.Store(true)
	if !s.params.UDP {
		// Whoever waits in a call is woken up. The peer may have reset it already.
		_ = unix.Shutdown(s.from, unix.SHUT_RDWR)
		_ = unix.Shutdown(s.to, unix.SHUT_RDWR)
	}
	s.wg.Wait()
}

// close closes the descriptors; nobody may use them any more.
func (s *stream) close() error {
	return errors.Join(unix.Close(s.from), unix.Close(s.to))
}

// counters are a stream's at one moment.
type counters struct {
	sent, arrived                         int64
	retransmits, cwnd                     int64
	rtt                                   time.Duration
	packets                               int64 // that should have arrived
	received, reordered, duplicates, full int64
	jitter                                float64 // ns
}

// count reads the counters. After the end of a UDP stream all that was sent
// should have arrived.
func (s *stream) count(ended bool) counters {
	c := counters{arrived: s.arrived.Load(), sent: s.sent.Load()}
	if !s.params.UDP {
		c.sent = max(c.sent, c.arrived) // a write is counted when it returns
		if info, err := unix.GetsockoptTCPInfo(s.from, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			c.retransmits = int64(info.Total_retrans)
			c.cwnd = int64(info.Snd_cwnd) * int64(info.Snd_mss)
			c.rtt = time.Duration(info.Rtt) * time.Microsecond
		}
		return c
	}
	c.received, c.packets = s.seen.received.Load(), s.seen.next.Load()
	c.reordered, c.duplicates = s.seen.reordered.Load(), s.seen.duplicates.Load()
	c.jitter = math.Float64frombits(s.seen.jitter.Load())
	c.full = socketDrops(s.to)
	if ended {
		c.packets = s.packets.Load()
	}
	return c
}

// since is the sample of the time between two counts.
func (c counters) since(before counters, p Params, id int, seconds float64) Sample {
	s := Sample{ID: id, Bytes: c.arrived - before.arrived, SentBytes: c.sent - before.sent}
	if p.UDP {
		packets := c.packets - before.packets
		s.UDP = &UDPSample{Packets: packets, Lost: max(packets-(c.received-before.received), 0),
			OutOfOrder: c.reordered - before.reordered, Duplicates: c.duplicates - before.duplicates,
			SocketDrops: c.full - before.full, JitterMs: c.jitter / 1e6}
	} else {
		s.TCP = &TCPSample{Retransmits: c.retransmits - before.retransmits, CwndBytes: c.cwnd,
			RTTMs: float64(c.rtt) / float64(time.Millisecond)}
	}
	s.per(seconds)
	return s
}
