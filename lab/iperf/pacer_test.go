package iperf

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Unit k is due at its time and not before.
func TestPacerIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := pacer{rate: rapid.Uint64Range(1, 1e12).Draw(t, "rate"), size: 8 * rapid.Uint64Range(1, MaxTCPWrite).Draw(t, "bytes")}
		// As many as go in a day.
		k := rapid.Int64Range(0, p.due(MaxDuration)).Draw(t, "k")
		at := p.at(k)
		if n := p.due(at); n < k+1 {
			t.Fatalf("at(%d) = %v, when only %d are due", k, at, n)
		}
		if at > 0 && p.due(at-1) > k {
			t.Fatalf("at(%d) = %v, but %d were due before", k, at, p.due(at-1))
		}
	})
}

// However late a sender wakes up, it comes back to the exact rate, without
// sending all that is late at once.
func TestPacerCatchesUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := pacer{rate: rapid.Uint64Range(100_000, 1e9).Draw(t, "rate"), size: 8 * rapid.Uint64Range(64, 1400).Draw(t, "bytes")}
		const most = 64
		late := rapid.SliceOfN(rapid.IntRange(0, 3000), 20, 20).Draw(t, "late wake-ups, us")
		now, sent := time.Duration(0), int64(0)
		step := func(extra time.Duration) {
			n, pause := p.next(now, sent, most)
			if n > most || n < 0 || n == 0 && pause <= 0 {
				t.Fatalf("next(%v, %d) = %d, %v", now, sent, n, pause)
			}
			if int64(n) > p.due(now)-sent {
				t.Fatalf("next(%v, %d) = %d, before their time", now, sent, n)
			}
			sent += int64(n)
			now += max(pause, 0) + extra
		}
		for _, us := range late {
			step(time.Duration(us) * time.Microsecond)
		}
		// 60 ms late at most: as long again and it has caught up.
		for end := now + 200*time.Millisecond; now < end; {
			step(0)
		}
		for p.at(sent) <= now {
			before := sent
			step(0)
			if sent == before {
				break
			}
		}
		if behind := p.due(now) - sent; behind > max(p.due(2*tick), 1) {
			t.Errorf("after %v %d are missing", now, behind)
		}
	})
}
