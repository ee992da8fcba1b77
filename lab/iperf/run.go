package iperf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// Run measures from a to b, which may be reversed, and calls each with every
// interval. When ctx ends, the report of what was measured so far is marked as
// interrupted. With an error there may be a report too: of what was measured
// before.
func Run(ctx context.Context, a, b End, p Params, agents []Agent, each func(Interval)) (*Report, error) {
	connect := connectTCP
	protocol := "tcp"
	if p.UDP {
		connect, protocol = connectUDP, "udp"
	}
	streams, at, err := connect(ctx, a, b, p)
	if err != nil {
		return nil, err
	}
	defer closeAll(streams)
	r := &Report{SchemaVersion: 1, Engine: "labctl", Protocol: protocol, From: a.Name, To: b.Name, Address: at,
		Reverse: p.Reverse, Rate: p.Rate, Omit: p.Omit.Seconds(), Intervals: []Interval{}}
	if err := r.describe(streams, p); err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, err)
	}
	m := &meter{params: p, streams: streams, report: r, each: each, failed: make(chan error, 1)}
	return r, m.run(ctx, agents)
}

// describe settles what was left to us.
func (r *Report) describe(streams []*stream, p Params) error {
	first := streams[0]
	if !p.UDP {
		r.Length = p.writeSize()
		name, err := unix.GetsockoptString(first.from, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		r.Congestion = name
		return err
	}
	r.Length = p.Length
	if r.Length == 0 {
		var err error
		if r.Length, err = first.datagramSize(); err != nil {
			return err
		}
	}
	for _, s := range streams {
		s.params.Length = r.Length
	}
	return nil
}

func newStream(id int, p Params) *stream {
	return &stream{id: id, from: -1, to: -1, params: p, cookie: rand.Uint64(), made: time.Now()}
}

// closeAll closes streams that have ended or were never started.
func closeAll(streams []*stream) {
	for _, s := range streams {
		_ = s.close() // nothing was promised to the peer, which is us
	}
}

// meter looks at the streams' counters at each interval.
type meter struct {
	params  Params
	streams []*stream
	report  *Report
	each    func(Interval)
	failed  chan error

	begun time.Time  // of the phase
	base  []counters // at its begin
	last  []counters // at the end of the last interval
}

var errInterrupted = errors.New("interrupted")

func (m *meter) run(ctx context.Context, agents []Agent) error {
	before, err := readUsage(agents)
	if err != nil {
		return err
	}
	begin := make(chan struct{})
	for _, s := range m.streams {
		s.failed = m.failed
		s.start(begin)
	}
	m.open() // before anything is under way
	close(begin)
	if m.params.Omit > 0 {
		err = m.phase(ctx, m.params.Omit, true)
		m.open()
	}
	if err == nil {
		err = m.phase(ctx, m.params.Duration, false)
	}
	took := time.Since(m.begun)
	// What a stream that failed had moved stands in its counters.
	ends := m.count(false)
	after, uerr := readUsage(agents)
	for _, s := range m.streams {
		s.stopping.Store(true) // all at once
	}
	for _, s := range m.streams {
		s.stop()
	}
	m.total(ends, took)
	var bytes int64
	for _, s := range m.streams {
		bytes += s.arrived.Load()
	}
	m.report.CPU = after.since(before, bytes)
	for _, s := range m.streams {
		m.report.CPU.Sender += s.sender.Seconds()
		m.report.CPU.Receiver += s.receiver.Seconds()
	}
	if errors.Is(err, errInterrupted) {
		m.report.Interrupted = true
		err = nil
	}
	return errors.Join(err, uerr)
}

// open begins a phase.
func (m *meter) open() {
	m.begun = time.Now()
	m.base = m.count(false)
	m.last = m.base
}

func (m *meter) count(ended bool) []counters {
	all := make([]counters, len(m.streams))
	for i, s := range m.streams {
		all[i] = s.count(ended)
	}
	return all
}

// phase is the omitted part or the measured one.
func (m *meter) phase(ctx context.Context, length time.Duration, omitted bool) error {
	start := 0.0
	for k := int64(1); ; k++ {
		at := min(time.Duration(k)*m.params.Interval, length)
		err := m.wait(ctx, at)
		took := time.Since(m.begun)
		now := m.count(false)
		end := took.Seconds()
		// The rest of an interrupted interval counts when it is more than a jot.
		if err == nil || end-start > 0.001 {
			m.interval(now, start, end, omitted)
		}
		start, m.last = end, now
		if err != nil || at == length {
			return err
		}
	}
}

// wait waits until the phase is so old.
func (m *meter) wait(ctx context.Context, at time.Duration) error {
	t := time.NewTimer(time.Until(m.begun.Add(at)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case err := <-m.failed:
		return fmt.Errorf("iperf: %s -> %s: %w", m.report.From, m.report.To, err)
	case <-ctx.Done():
		return errInterrupted
	}
}

func (m *meter) interval(now []counters, start, end float64, omitted bool) {
	i := Interval{Start: start, End: end, Omitted: omitted}
	for k, s := range m.streams {
		i.Streams = append(i.Streams, now[k].since(m.last[k], m.params, s.id, end-start))
	}
	i.Sum = sum(i.Streams, end-start)
	m.report.Intervals = append(m.report.Intervals, i)
	if m.each != nil {
		m.each(i)
	}
}

// total makes the report's sums: bytes of the measured time, and of UDP what
// became of every packet, those that were still under way at its end included.
func (m *meter) total(ends []counters, took time.Duration) {
	m.report.Seconds = took.Seconds()
	for k, s := range m.streams {
		now := ends[k]
		if m.params.UDP {
			now = s.count(true)
		}
		m.report.Streams = append(m.report.Streams, now.since(m.base[k], m.params, s.id, took.Seconds()))
	}
	m.report.Sum = sum(m.report.Streams, took.Seconds())
}

// Delivered says whether anything arrived.
func (r *Report) Delivered() bool { return r.Sum.Bytes > 0 }

// Target is where the data go: B, or A when reversed.
func (r *Report) Target() (from, to string) {
	if r.Reverse {
		return r.To, r.From
	}
	return r.From, r.To
}
