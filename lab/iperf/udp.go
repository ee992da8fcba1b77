package iperf

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// udpBuffer is asked for on both sockets; the kernel gives an ordinary user
	// as much as net.core.rmem_max allows.
	udpBuffer = 4 << 20
	// helloEvery is how often a sender says hello until it is heard.
	helloEvery = 100 * time.Millisecond
	// quiet is how long a receiver waits for what is under way at the end, when
	// nothing that came took longer.
	quiet     = 250 * time.Millisecond
	quietMost = 5 * time.Second
)

// connectUDP connects n streams from a to b. A NAT on the way may change the
// sender's address: b answers to where the hello came from.
func connectUDP(ctx context.Context, a, b End, p Params) (streams []*stream, at netip.AddrPort, err error) {
	for i := range p.Streams {
		s := newStream(i+1, p)
		near, far, to, err := s.connectUDP(ctx, a, b)
		at = to
		if err != nil {
			closeAll(streams)
			return nil, at, unreached(a, b, at, "udp", err)
		}
		s.from, s.to = near, far
		if p.Reverse {
			s.from, s.to = far, near
		}
		streams = append(streams, s)
	}
	return streams, at, nil
}

func (s *stream) connectUDP(ctx context.Context, a, b End) (near, far int, at netip.AddrPort, err error) {
	var fds []int
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}()
	for _, e := range []End{b, a} {
		fd, err := e.open(ctx, b.domain(), unix.SOCK_DGRAM)
		if err != nil {
			return -1, -1, at, err
		}
		fds = append(fds, fd)
		if err := setUpUDP(fd); err != nil {
			return -1, -1, at, fmt.Errorf("%s: socket: %w", e.Name, err)
		}
	}
	far, near = fds[0], fds[1]
	if at, err = b.bind(far); err != nil {
		return -1, -1, at, err
	}
	if err := unix.Connect(near, sockaddr(at)); err != nil {
		return -1, -1, at, err
	}
	src, err := s.sayHello(ctx, near, far)
	if err != nil {
		return -1, -1, at, err
	}
	return near, far, at, unix.Connect(far, src)
}

func setUpUDP(fd int) error {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], udpBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], udpBuffer) // as much as is allowed
		}
	}
	tv := unix.NsecToTimeval(int64(look))
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

// sayHello sends from near until far hears it, and returns where it came from.
func (s *stream) sayHello(ctx context.Context, near, far int) (unix.Sockaddr, error) {
	deadline := time.Now().Add(connectTimeout)
	msg := make([]byte, headerSize)
	putHeader(msg, s.cookie, hello, 0)
	got := make([]byte, headerSize)
	for {
		// An ICMP error about the one before comes with the next; only no route
		// will not pass.
		if _, err := send(near, msg); err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return nil, err
		}
		err := wait(ctx, far, unix.POLLIN, minTime(deadline, time.Now().Add(helloEvery)))
		switch {
		case err == nil:
			n, src, err := unix.Recvfrom(far, got, unix.MSG_DONTWAIT)
			if cookie, _, _, ok := header(got[:max(n, 0)]); err == nil && ok && cookie == s.cookie {
				return src, nil
			}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, os.ErrDeadlineExceeded
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// datagramSize is the payload of the largest packet that is not fragmented on
// its first link.
func (s *stream) datagramSize() (int, error) {
	level, option, overhead := unix.IPPROTO_IP, unix.IP_MTU, 28
	if sa, err := unix.Getsockname(s.from); err == nil {
		if _, ok := sa.(*unix.SockaddrInet6); ok {
			level, option, overhead = unix.IPPROTO_IPV6, unix.IPV6_MTU, 48
		}
	}
	mtu, err := unix.GetsockoptInt(s.from, level, option)
	if err != nil {
		return 0, fmt.Errorf("path MTU: %w", err)
	}
	return min(max(mtu-overhead, headerSize), MaxDatagram), nil
}

// sendUDP sends numbered datagrams at the rate until the stream is stopped.
func (s *stream) sendUDP() error {
	b := newBatch(s.params.Length, false)
	most := len(b.msgs)
	var pace *pacer
	if s.params.Rate > 0 {
		pace = &pacer{rate: s.params.Rate, size: uint64(s.params.Length) * 8}
	}
	begin := time.Now()
	for next := int64(0); !s.stopping.Load(); {
		n, pause := most, time.Duration(0)
		if pace != nil {
			n, pause = pace.next(time.Since(begin), next, most)
		}
		if n > 0 {
			from := time.Now()
			at := wallClock()
			for i := range n {
				putHeader(b.bufs[i], s.cookie, next+int64(i), at)
			}
			sent, err := s.sendSome(b, n)
			if err != nil {
				return err
			}
			next += int64(sent)
			s.packets.Store(next)
			pause -= time.Since(from)
			// Late, but the receiver has taken what was sent: its buffer has room.
			if next-s.seen.next.Load() < int64(most) {
				pause = 0
			}
		}
		nap(pause)
	}
	return nil
}

// sendSome sends up to n datagrams and returns how many numbers are used up:
// one that the kernel refuses to send on is lost like any other.
func (s *stream) sendSome(b *batch, n int) (int, error) {
	sent, err := b.send(s.from, n)
	switch {
	case err == nil:
		s.sent.Add(int64(sent) * int64(s.params.Length))
		return sent, nil
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return 0, nil
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EPERM), errors.Is(err, unix.ECONNREFUSED),
		errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return 1, nil
	}
	return 0, fmt.Errorf("send a datagram of %d bytes: %w", s.params.Length, err)
}

// receiveUDP counts what arrives until the stream is stopped and nothing more
// comes.
func (s *stream) receiveUDP() error {
	b := newBatch(s.params.Length, true)
	var q sequence
	last := time.Now()
	for {
		n, err := b.receive(s.to)
		switch {
		case err == nil:
			last = time.Now()
			s.take(b, n, &q)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN),
			// An ICMP error about what this end once sent.
			errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		default:
			return err
		}
		select {
		case <-s.allSent:
			if q.received == s.packets.Load() || time.Since(last) > min(max(quiet, 2*q.slowest), quietMost) {
				return nil
			}
		default:
		}
	}
}

// take counts n datagrams.
func (s *stream) take(b *batch, n int, q *sequence) {
	var bytes int64
	for i := range n {
		d, arrived := b.datagram(i)
		cookie, number, sent, ok := header(d)
		if !ok || cookie != s.cookie || number < 0 || number == math.MaxInt64 {
			continue // hello, or a stranger; there is no number after the last
		}
		if q.add(number) {
			bytes += int64(len(d))
			q.time(sent, arrived)
		}
	}
	s.arrived.Add(bytes)
	s.seen.received.Store(q.received)
	s.seen.next.Store(q.next)
	s.seen.reordered.Store(q.reordered)
	s.seen.duplicates.Store(q.duplicates)
	s.seen.jitter.Store(math.Float64bits(q.jitter))
}

// socketDrops is how many datagrams found the socket's buffer full.
func socketDrops(fd int) int64 {
	const drops = 8 // SK_MEMINFO_DROPS
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0 // before Linux 4.12
	}
	return int64(info[drops])
}
