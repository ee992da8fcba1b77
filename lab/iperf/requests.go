package iperf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RequestParams are what to measure with requests that are answered, one at a
// time.
type RequestParams struct {
	Duration   time.Duration // without Omit
	Omit       time.Duration // the first part, which does not count
	Bytes      int           // of a request, and of its answer
	Congestion string        // TCP's algorithm; "": the kernel's default
	// Rate is how many are sent a second; 0 is the next as soon as the answer
	// is there. At a rate the time of a request that could not be sent because
	// the one before was not answered counts from when it was due.
	Rate float64
	// Connect makes a connection for each.
	Connect bool
	// Drag makes each longer by so large a part of its time: a known slowness,
	// to see whether it is found.
	Drag float64
	// Pin are the processors of who asks and who answers. None: wherever the
	// kernel likes.
	Pin []int
	// Turn is called before each request, with the time, and returns when it may
	// be sent, and whether it had to wait. That time does not count, nor does
	// that of the first requests after it. It may be nil; there is none at a Rate.
	Turn func(ctx context.Context, now time.Time) (waited bool)
}

// rewarm is how long requests do not count after the others' turn: what they
// need has left the caches.
const rewarm = 500 * time.Microsecond

// Requests are the answered ones.
type Requests struct {
	Times   []time.Duration // from a request to its answer, in their order
	Seconds float64         // measured
}

// RunRequests sends requests from a to b. begun is called when the omitted part
// is over; it may be nil.
func RunRequests(ctx context.Context, a, b End, p RequestParams, begun func()) (*Requests, error) {
	if p.Connect {
		return runConnections(ctx, a, b, p, begun)
	}
	streams, at, err := connectTCP(ctx, a, b, Params{Streams: 1, Congestion: p.Congestion})
	if err != nil {
		return nil, err
	}
	defer closeAll(streams)
	near, far := streams[0].from, streams[0].to
	for _, fd := range []int{near, far} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, err
		}
	}
	if err := impatient(near); err != nil {
		return nil, err
	}
	hangUp := func() { // ends the server, too
		_ = unix.Shutdown(near, unix.SHUT_RDWR)
		_ = unix.Shutdown(far, unix.SHUT_RDWR)
	}
	request, answer := payload(p.Bytes), make([]byte, p.Bytes)
	return p.run(ctx, begun, hangUp, func() error {
		return answerAll(far, make([]byte, p.Bytes))
	}, func() error {
		if err := exchange(near, request, answer); err != nil {
			return unreached(a, b, at, "tcp", err)
		}
		return nil
	})
}

// run has a thread answer and this goroutine's thread ask until the time is
// over. hangUp makes the server end, and a request that waits.
func (p RequestParams) run(ctx context.Context, begun, hangUp func(), server, ask func() error) (*Requests, error) {
	start := make(chan struct{})
	served := make(chan error, 1)
	asked := make(chan error, 1)
	r := &Requests{}
	threads := Params{Pin: p.Pin}
	go func() {
		var failed error
		onThread(start, threads.processor(1), server, func(err error) { failed = err })
		served <- failed
	}()
	go func() {
		var failed error
		onThread(start, threads.processor(0), func() error { return p.ask(ctx, r, begun, ask) }, func(err error) { failed = err })
		asked <- failed
	}()
	hung := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(hung); hangUp() })
	close(start)
	err := <-asked
	if !stop() {
		<-hung // or it would act on descriptors that are somebody else's by then
	}
	hangUp()
	serr := <-served
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		return r, err
	}
	return r, serr
}

// ask sends one request after the other.
func (p RequestParams) ask(ctx context.Context, r *Requests, begun func(), one func() error) error {
	var rate *pacer
	if p.Rate > 0 {
		rate = &pacer{rate: uint64(p.Rate * 1000), size: 1000} // of a thousandth
	}
	begin := time.Now()
	measured := begin
	counts := p.Omit == 0
	if counts && begun != nil {
		begun()
	}
	for k := int64(0); ctx.Err() == nil; k++ {
		from := time.Now()
		if p.Turn != nil && p.Turn(ctx, from) {
			for back := time.Now(); time.Since(back) < rewarm && ctx.Err() == nil; {
				if err := one(); err != nil {
					return err
				}
			}
			away := time.Since(from)
			from, begin, measured = from.Add(away), begin.Add(away), measured.Add(away)
		}
		if rate != nil {
			due := begin.Add(rate.at(k))
			for d := time.Until(due); d > 0; d = time.Until(due) {
				nap(d)
				from = time.Now()
			}
			if k > 0 && due.Before(from) && from.Sub(due) > wake {
				from = due
			}
		}
		if !counts && from.Sub(begin) >= p.Omit {
			counts, measured = true, from
			if begun != nil {
				begun()
			}
			from = time.Now()
		}
		if counts && from.Sub(measured) >= p.Duration {
			r.Seconds = from.Sub(measured).Seconds()
			return nil
		}
		if err := one(); err != nil {
			return err
		}
		took := time.Since(from)
		if p.Drag > 0 {
			until := from.Add(took + time.Duration(p.Drag*float64(took)))
			for time.Now().Before(until) { // a sleep would be longer
			}
			took = time.Since(from)
		}
		if counts {
			r.Times = append(r.Times, took)
		}
	}
	r.Seconds = time.Since(measured).Seconds()
	return ctx.Err()
}

// wake is how late a sleep may end on its own account: what is later was held
// up by the request before.
const wake = 500 * time.Microsecond

// answerAll answers until the connection ends.
func answerAll(fd int, buf []byte) error {
	for {
		if err := readAll(fd, buf); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
				return nil
			}
			return err
		}
		if err := writeAll(fd, buf); err != nil {
			if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
				return nil
			}
			return err
		}
	}
}

func exchange(fd int, request, answer []byte) error {
	if err := writeAll(fd, request); err != nil {
		return err
	}
	return readAll(fd, answer)
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := send(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return os.ErrDeadlineExceeded
		case err != nil:
			return err
		}
		b = b[n:]
	}
	return nil
}

func readAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return os.ErrDeadlineExceeded
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		}
		b = b[n:]
	}
	return nil
}

// impatient bounds how long a call on fd waits.
func impatient(fd int) error {
	tv := unix.NsecToTimeval(int64(connectTimeout))
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

// runConnections makes one connection after the other with the same socket: the
// lab opens sockets for us, which would take longer than a connection. Each is
// reset at its end, so that its port is free at once.
func runConnections(ctx context.Context, a, b End, p RequestParams, begun func()) (*Requests, error) {
	listener, err := b.open(ctx, b.domain(), unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener)
	near, err := a.open(ctx, b.domain(), unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer unix.Close(near)
	for _, fd := range []int{listener, near} {
		if p.Congestion != "" {
			if err := setCongestion(fd, p.Congestion); err != nil {
				return nil, err
			}
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil { // accepted ones inherit it
			return nil, err
		}
	}
	if err := impatient(near); err != nil {
		return nil, err
	}
	at, err := b.bind(listener)
	if err != nil {
		return nil, err
	}
	if err := unix.Listen(listener, 16); err != nil {
		return nil, err
	}
	hangUp := func() {
		_ = unix.Shutdown(listener, unix.SHUT_RDWR)
		_ = unix.Shutdown(near, unix.SHUT_RDWR)
	}
	request, answer := payload(p.Bytes), make([]byte, p.Bytes)
	return p.run(ctx, begun, hangUp, func() error {
		return acceptAll(listener, make([]byte, p.Bytes))
	}, func() error {
		err := connectOnce(ctx, near, at)
		if err == nil {
			err = exchange(near, request, answer)
		}
		if err == nil {
			err = disconnect(near)
		}
		if err != nil {
			return unreached(a, b, at, "tcp", err)
		}
		return nil
	})
}

// acceptAll answers one request of each connection until the listener ends.
func acceptAll(listener int, buf []byte) error {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case errors.Is(err, unix.EINVAL): // it was shut down
			return nil
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		if err := impatient(fd); err == nil && readAll(fd, buf) == nil {
			_ = writeAll(fd, buf) // a client that went away tells so itself
		}
		unix.Close(fd)
	}
}

func connectOnce(ctx context.Context, fd int, at netip.AddrPort) error {
	err := unix.Connect(fd, sockaddr(at))
	if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if err := wait(ctx, fd, unix.POLLOUT, time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// disconnect resets the connection; the socket can be connected again
// (connect(2), AF_UNSPEC).
func disconnect(fd int) error {
	var none unix.RawSockaddr // AF_UNSPEC is 0
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
	if errno != 0 && errno != unix.EINTR {
		return errno
	}
	return nil
}
