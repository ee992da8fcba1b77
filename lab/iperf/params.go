package iperf

import (
	"fmt"
	"time"

	"labctl/lab"
)

// Params are what to measure.
type Params struct {
	UDP        bool
	Duration   time.Duration // without Omit
	Omit       time.Duration // the first part, which does not count
	Interval   time.Duration // between two samples
	Streams    int
	Reverse    bool   // from B to A
	Rate       uint64 // bits of payload a second, each stream; 0: as fast as possible
	Length     int    // of a write or datagram; 0: what suits
	Congestion string // TCP's algorithm; "": the kernel's default
	// Rest is the part of the time that a TCP sender rests, with nothing under
	// way: a known slowness, to see whether it is found.
	Rest float64
	// Pin are processors for the threads, in turn: the first stream's sender,
	// then its receiver, the second's sender beside that. None: wherever the
	// kernel likes.
	Pin []int
}

// DefaultUDPRate is iperf3's: a test of UDP must not flood by accident.
const DefaultUDPRate = 1_000_000

// What Params may be at most.
const (
	MaxStreams  = 128
	MaxTCPWrite = 1 << 20
	MaxDatagram = 65507 // in IPv4
	MaxDuration = 24 * time.Hour
)

// tcpWrite is iperf3's default, too.
const tcpWrite = 128 << 10

// Check refuses what cannot be measured.
func (p Params) Check() error {
	wrong := func(cure, format string, args ...any) error {
		return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf(format, args...), Cure: cure}
	}
	most, least := MaxTCPWrite, 1
	if p.UDP {
		most, least = MaxDatagram, headerSize
	}
	switch {
	case p.Duration <= 0 || p.Duration > MaxDuration:
		return wrong("give seconds, such as 10 or 0.5", "--time %v: not above 0 and at most %v", p.Duration, MaxDuration)
	case p.Omit < 0 || p.Omit > MaxDuration:
		return wrong("give seconds, such as 1", "--omit %v: not between 0 and %v", p.Omit, MaxDuration)
	case p.Interval < 10*time.Millisecond:
		return wrong("give seconds, such as 1 or 0.1", "--interval %v: less than 10ms", p.Interval)
	case (p.Duration+p.Omit)/p.Interval > 100_000:
		return wrong("give a longer --interval", "--interval %v: more than 100000 samples", p.Interval)
	case p.Streams < 1 || p.Streams > MaxStreams:
		return wrong("", "--parallel %d: not between 1 and %d", p.Streams, MaxStreams)
	case p.Length != 0 && (p.Length < least || p.Length > most):
		return wrong("", "--length %d: not between %d and %d", p.Length, least, most)
	case p.UDP && p.Congestion != "":
		return wrong("leave out one of them", "--congestion %s: UDP has none", p.Congestion)
	case p.Rate > 1e12:
		return wrong("0 is as fast as possible", "--bitrate %d: more than 1T", p.Rate)
	}
	return nil
}

// writeSize is the length of a TCP stream's writes: at a low rate smaller ones,
// so that bytes do not come in lumps.
func (p Params) writeSize() int {
	switch {
	case p.Length != 0:
		return p.Length
	case p.Rate == 0:
		return tcpWrite
	}
	const aSecond = 200 // writes
	return int(min(max(p.Rate/8/aSecond, 1024), tcpWrite))
}
