package iperf

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SliceParams are what to measure with one TCP stream that sends for a while,
// waits until all has arrived, and sends again: in between others can have the
// machine.
type SliceParams struct {
	Duration   time.Duration // of the slices that count, beginning and all
	Omit       time.Duration // of those before them
	Slice      time.Duration // how long one sends
	Congestion string        // TCP's algorithm; "": the kernel's default
	// Rest is the part of each slice's time that the sender does nothing, with
	// nothing under way: a known slowness, to see whether it is found.
	Rest float64
	// Pin are the processors of sender and receiver. None: wherever the kernel
	// likes.
	Pin []int
	// Turn is called before each slice, with nothing under way, and returns when
	// it may begin, or ctx ends. It may be nil.
	Turn func(ctx context.Context)
}

// Slices are what was sent and has arrived.
type Slices struct {
	Speeds []float64 // of those that count, in their order; bytes a second
	Bytes  int64     // also those that do not count
}

// RunSlices sends from a to b.
func RunSlices(ctx context.Context, a, b End, p SliceParams) (*Slices, error) {
	streams, at, err := connectTCP(ctx, a, b, Params{Streams: 1, Congestion: p.Congestion, Pin: p.Pin})
	if err != nil {
		return nil, err
	}
	defer closeAll(streams)
	s := streams[0]
	if err := impatient(s.from); err != nil {
		return nil, err
	}
	var r Slices
	failed := make(chan error, 1)
	s.failed = failed
	begin := make(chan struct{})
	s.startWith(begin, func() error { return s.sendSlices(ctx, p, &r) }, s.receiveTCP)
	close(begin)
	select {
	case <-s.allSent:
	case err = <-failed:
	case <-ctx.Done():
	}
	s.stop()
	r.Bytes = s.arrived.Load()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		select {
		case err = <-failed: // the sender ended with it
		default:
			return &r, nil
		}
	}
	return nil, unreached(a, b, at, "tcp", err)
}

// sendSlices sends until enough was measured. The first bytes of a slice do not
// count: what they need has left the caches. The others do until the last of
// them has arrived.
func (s *stream) sendSlices(ctx context.Context, p SliceParams, r *Slices) error {
	buf := payload(tcpWrite)
	var omitted, counted time.Duration
	for counted < p.Duration && !s.stopping.Load() {
		if p.Turn != nil {
			p.Turn(ctx)
		}
		begin := time.Now()
		if err := s.sendFor(rewarm, buf); err != nil {
			return err
		}
		from, before := time.Now(), s.arrived.Load()
		if err := s.sendFor(p.Slice, buf); err != nil {
			return err
		}
		if err := s.drain(); err != nil {
			return err
		}
		took := s.lastRead().Sub(from)
		if p.Rest > 0 {
			rests := time.Now()
			for time.Since(rests) < time.Duration(float64(took)*p.Rest/(1-p.Rest)) { // a sleep would be longer
			}
			took += time.Since(rests)
		}
		if omitted < p.Omit {
			omitted += time.Since(begin)
			continue
		}
		counted += time.Since(begin)
		r.Speeds = append(r.Speeds, float64(s.sent.Load()-before)/took.Seconds())
	}
	return nil
}

// sendFor sends for so long.
func (s *stream) sendFor(long time.Duration, buf []byte) error {
	from := time.Now()
	for units := 0; time.Since(from) < long && !s.stopping.Load(); units++ {
		if units%burst == 0 {
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

// drain waits until all that was sent has arrived.
func (s *stream) drain() error {
	last, since := s.arrived.Load(), time.Now()
	for last < s.sent.Load() && !s.stopping.Load() {
		nap(10 * time.Microsecond)
		switch now := s.arrived.Load(); {
		case now > last:
			last, since = now, time.Now()
		case time.Since(since) > connectTimeout:
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// lastRead is when the last bytes arrived.
func (s *stream) lastRead() time.Time { return s.made.Add(time.Duration(s.readAt.Load())) }

// sendBlock writes a block whole.
func (s *stream) sendBlock(b []byte) error {
	for len(b) > 0 {
		n, err := send(s.from, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN): // it is impatient
			return os.ErrDeadlineExceeded
		case err != nil:
			return err
		}
		s.sent.Add(int64(n))
		b = b[n:]
	}
	return nil
}
