package iperf

import (
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// pacer spreads units of the same size over time so that the rate is exact on
// average: unit k is due at k*size/rate, whenever those before were sent.
type pacer struct {
	rate uint64 // bits a second, above 0
	size uint64 // bits of a unit
}

// due is how many units should have been sent when elapsed has gone by.
func (p pacer) due(elapsed time.Duration) int64 {
	if elapsed < 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(elapsed), p.rate)
	q, _ := bits.Div64(hi, lo, p.size*uint64(time.Second))
	return int64(q) + 1
}

// at is when unit k (from 0) is due, rounded up.
func (p pacer) at(k int64) time.Duration {
	hi, lo := bits.Mul64(uint64(k), p.size*uint64(time.Second))
	q, r := bits.Div64(hi, lo, p.rate)
	if r > 0 {
		q++
	}
	return time.Duration(q)
}

// tick is the shortest sleep, iperf3's pacing timer: what becomes due meanwhile
// is sent together, as a wake-up costs as much as sending some packets.
const tick = time.Millisecond

// next says what to do when sent units were sent by elapsed: send n, at most
// most, then sleep for pause. A sender that is late by more than two ticks
// does not flood the receiver's buffer: it sends half of what is late, and goes
// on at twice its rate.
func (p pacer) next(elapsed time.Duration, sent int64, most int) (n int, pause time.Duration) {
	late := p.due(elapsed) - sent
	if late <= 0 {
		return 0, max(p.at(sent)-elapsed, tick)
	}
	soon := min(p.due(2*tick), int64(most))
	if late <= soon {
		return int(late), 0
	}
	n = int(min(max(late/2, soon), int64(most)))
	return n, p.at(int64(n)) / 2
}

// napMost bounds a sleep, after which a thread sees that it is to stop.
const napMost = 50 * time.Millisecond

// nap sleeps; the thread's timer slack decides how exactly.
func nap(d time.Duration) {
	if d <= 0 {
		return
	}
	ts := unix.NsecToTimespec(int64(min(d, napMost)))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // interrupted: the caller looks at the clock
}

// exactTimer lets the calling thread, which is the caller's alone, wake up in
// time: by default the kernel may be 50 us late.
func exactTimer() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // else it is only less even
}
