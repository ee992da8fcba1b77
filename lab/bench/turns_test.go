package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// One at a time goes on, each has its turn, and one that ends early, or never
// begins, holds up nobody.
func TestTurns(t *testing.T) {
	t.Parallel()
	const n = 5
	var on atomic.Int32
	var had [n]int
	var wg sync.WaitGroup
	for i, s := range newTurns(n, turn) {
		wg.Go(func() {
			defer s.leave()
			if i == 0 || i == 3 {
				return // it could not connect
			}
			for had[i] < i { // some end before others
				if s.take(t.Context(), time.Now()) {
					if on.Add(1) != 1 {
						t.Errorf("%d goes on beside another", i)
					}
					had[i]++
				}
				if s.take(t.Context(), time.Now()) {
					t.Errorf("%d: its turn was over at once", i)
				}
				on.Add(-1)
				s.until = time.Now().Add(-1) // it is over
			}
		})
	}
	wg.Wait()
	if want := [n]int{0, 1, 2, 0, 4}; had != want {
		t.Errorf("turns: %v, want %v", had, want)
	}
}

// Who waits for a turn that does not come ends with the context.
func TestTurnsEnd(t *testing.T) {
	t.Parallel()
	seats := newTurns(2, turn)
	ctx, cancel := context.WithCancel(t.Context())
	seats[0].take(ctx, time.Now()) // and keeps it
	done := make(chan bool)
	go func() { done <- seats[1].take(ctx, time.Now()) }()
	cancel()
	if !<-done {
		t.Error("take() = false, want that it waited")
	}
	seats[1].leave()
	seats[0].leave()
}

// A few slices that others were in decide on nothing.
func TestMiddle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"one", []float64{7}, 7},
		{"two", []float64{3, 5}, 4},
		{"four", []float64{100, 3, 5, 0}, 4},
		{"a quarter and less", []float64{4, 0, 6, 5, 0, 900, 5, 5, 5}, 4.8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := middle(tt.values); got != tt.want {
				t.Errorf("middle(%v) = %v, want %v", tt.values, got, tt.want)
			}
		})
	}
}
