package iperf

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSequence(t *testing.T) {
	t.Parallel()
	upTo := func(n int64, more ...int64) (all []int64) {
		for i := range n {
			all = append(all, i)
		}
		return append(all, more...)
	}
	tests := []struct {
		name                              string
		in                                []int64
		next, received, reordered, double int64
	}{
		{"all in order", upTo(5), 5, 5, 0, 0},
		{"one lost", []int64{0, 1, 3, 4}, 5, 4, 0, 0},
		{"the first lost", []int64{2, 3}, 4, 2, 0, 0},
		{"two changed places", []int64{0, 2, 1, 3}, 4, 4, 1, 0},
		{"a late one fills its gap", []int64{0, 3, 4, 1}, 5, 4, 1, 0},
		{"the same twice", []int64{0, 1, 1, 2, 0}, 3, 3, 0, 2},
		{"a late one twice", []int64{0, 2, 1, 1}, 3, 3, 1, 1},
		{"a gap wider than the window", []int64{0, window + 10, window + 9, 5}, window + 11, 4, 2, 0},
		{"numbers come round in the window", upTo(window+3, window+1), window + 3, window + 3, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s sequence
			for _, n := range tt.in {
				s.add(n)
			}
			if s.next != tt.next || s.received != tt.received || s.reordered != tt.reordered || s.duplicates != tt.double {
				t.Errorf("next %d, received %d, reordered %d, duplicates %d; want %d, %d, %d, %d",
					s.next, s.received, s.reordered, s.duplicates, tt.next, tt.received, tt.reordered, tt.double)
			}
		})
	}
}

// Inside the window it is what a set would tell.
func TestSequenceIsASet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s sequence
		seen := map[int64]bool{}
		highest, reordered, duplicates := int64(-1), int64(0), int64(0)
		for _, n := range rapid.SliceOf(rapid.Int64Range(0, window-1)).Draw(t, "arrivals") {
			// Far along, so that the window has come round.
			n += 3*window - window/2
			switch {
			case seen[n]:
				duplicates++
			case n < highest:
				reordered++
			}
			if fresh := s.add(n); fresh == seen[n] {
				t.Fatalf("add(%d) = %v, want %v", n, fresh, !seen[n])
			}
			seen[n] = true
			highest = max(highest, n)
		}
		if s.received != int64(len(seen)) || s.next != highest+1 || s.reordered != reordered || s.duplicates != duplicates {
			t.Errorf("received %d, next %d, reordered %d, duplicates %d; want %d, %d, %d, %d",
				s.received, s.next, s.reordered, s.duplicates, len(seen), highest+1, reordered, duplicates)
		}
	})
}

func TestJitter(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	var even, uneven sequence
	for i := range 2000 {
		sent := time.Duration(i) * 10 * ms
		even.time(sent, sent+5*ms)
		uneven.time(sent, sent+5*ms+time.Duration(i%2)*4*ms)
	}
	if even.jitter != 0 {
		t.Errorf("even arrivals: jitter %v, want 0", even.jitter)
	}
	// RFC 3550's filter ends at the mean of the differences.
	if got := time.Duration(math.Round(uneven.jitter)); got < 4*ms-time.Microsecond || got > 4*ms {
		t.Errorf("arrivals early and 4ms late in turn: jitter %v, want 4ms", got)
	}
	if uneven.slowest != 9*ms {
		t.Errorf("slowest %v, want 9ms", uneven.slowest)
	}
	var one sequence
	one.time(0, 5*ms)
	one.time(10*ms, 31*ms)
	if got, want := one.jitter, float64(16*ms)/16; got != want {
		t.Errorf("one difference of 16ms: jitter %v, want its 16th part, %v", got, want)
	}
}
