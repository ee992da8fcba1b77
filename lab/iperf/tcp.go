package iperf

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connectTCP connects n streams from a to b. The first bytes of each are its
// cookie, so that strangers are not taken for streams.
func connectTCP(ctx context.Context, a, b End, p Params) (streams []*stream, at netip.AddrPort, err error) {
	listener, err := b.open(ctx, b.domain(), unix.SOCK_STREAM)
	if err != nil {
		return nil, at, err
	}
	defer unix.Close(listener)
	if p.Congestion != "" {
		if err := setCongestion(listener, p.Congestion); err != nil {
			return nil, at, err
		}
	}
	if at, err = b.bind(listener); err != nil {
		return nil, at, err
	}
	if err := unix.Listen(listener, p.Streams); err != nil {
		return nil, at, err
	}
	for i := range p.Streams {
		s := newStream(i+1, p)
		near, far, err := s.connectTCP(ctx, a, b, listener, at)
		if err != nil {
			closeAll(streams)
			return nil, at, unreached(a, b, at, "tcp", err)
		}
		s.from, s.to = near, far
		if p.Reverse {
			s.from, s.to = far, near
		}
		streams = append(streams, s)
	}
	return streams, at, nil
}

func (s *stream) connectTCP(ctx context.Context, a, b End, listener int, at netip.AddrPort) (near, far int, err error) {
	deadline := time.Now().Add(connectTimeout)
	near, err = a.open(ctx, b.domain(), unix.SOCK_STREAM)
	if err != nil {
		return -1, -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(near)
		}
	}()
	if s.params.Congestion != "" {
		if err := setCongestion(near, s.params.Congestion); err != nil {
			return -1, -1, err
		}
	}
	if err := unix.SetNonblock(near, true); err != nil {
		return -1, -1, err
	}
	if err := unix.Connect(near, sockaddr(at)); err != nil {
		if !errors.Is(err, unix.EINPROGRESS) {
			return -1, -1, err
		}
		if err := wait(ctx, near, unix.POLLOUT, deadline); err != nil {
			return -1, -1, err
		}
		errno, err := unix.GetsockoptInt(near, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return -1, -1, err
		}
		if errno != 0 {
			return -1, -1, unix.Errno(errno)
		}
	}
	if err := unix.SetNonblock(near, false); err != nil {
		return -1, -1, err
	}
	want := cookieBytes(s.cookie)
	if _, err := send(near, want); err != nil {
		return -1, -1, err
	}
	for {
		if err := wait(ctx, listener, unix.POLLIN, deadline); err != nil {
			return -1, -1, err
		}
		far, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return -1, -1, err
		}
		got := make([]byte, len(want))
		if err := wait(ctx, far, unix.POLLIN, deadline); err == nil {
			n, _, err := unix.Recvfrom(far, got, unix.MSG_DONTWAIT)
			if err == nil && n == len(want) && bytes.Equal(got, want) {
				return near, far, nil
			}
		}
		unix.Close(far) // a stranger
		if time.Now().After(deadline) {
			return -1, -1, os.ErrDeadlineExceeded
		}
	}
}

// burst is how many blocks iperf3 writes before it looks at its descriptors
// and its clock again.
const burst = 10

// sendTCP writes until the stream is stopped: what iperf3 does for each block,
// call by call, so that both measure the same.
func (s *stream) sendTCP() error {
	buf := payload(s.params.writeSize())
	var pace *pacer
	if s.params.Rate > 0 {
		pace = &pacer{rate: s.params.Rate, size: uint64(len(buf)) * 8}
	}
	begin := time.Now()
	rested := begin
	for units := int64(0); !s.stopping.Load(); units++ {
		if s.params.Rest > 0 && time.Since(rested) > restEvery {
			if err := s.drain(); err != nil {
				return err
			}
			s.rest(time.Since(rested))
			rested = time.Now()
		}
		switch {
		case pace != nil:
			due := pace.at(units)
			for d := due - time.Since(begin); d > 0 && !s.stopping.Load(); d = due - time.Since(begin) {
				nap(d)
			}
		case units%burst == 0:
			if err := ready(s.from, unix.POLLOUT); err != nil {
				return err
			}
		}
		if err := s.sendBlock(buf); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until a descriptor is, or for a while.
func ready(fd int, events int16) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(look.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// restEvery is how long a sender that has to rest works in between.
const restEvery = 25 * time.Millisecond

// rest does nothing for as long as worked asks for. All that was sent has
// arrived by then.
func (s *stream) rest(worked time.Duration) {
	until := time.Now().Add(time.Duration(float64(worked) * s.params.Rest / (1 - s.params.Rest)))
	for d := time.Until(until); d > 0 && !s.stopping.Load(); d = time.Until(until) {
		nap(d)
	}
}

// payload is bytes to send. They are written once, as an application's would
// be: memory that nobody wrote to is one page of zeros for the kernel, always
// in the nearest cache, and a third faster than any real data.
func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// send is send(2), with its count: a signal can cut a long one short.
func send(fd int, b []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// receiveTCP reads until the stream is stopped: a block at a time, as iperf3
// does, which waits until there is something and then for a whole block.
func (s *stream) receiveTCP() error {
	buf := make([]byte, max(s.params.writeSize(), tcpWrite))
	for !s.stopping.Load() {
		if err := ready(s.to, unix.POLLIN); err != nil {
			return err
		}
		for left := buf; len(left) > 0 && !s.stopping.Load(); {
			n, err := unix.Read(s.to, left)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return nil
			}
			s.readAt.Store(int64(time.Since(s.made)))
			s.arrived.Add(int64(n))
			left = left[n:]
		}
	}
	return nil
}
