package iperf

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

func TestRunSlices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		p    SliceParams
	}{
		{"slices", SliceParams{}},
		{"the first omitted", SliceParams{Omit: 20 * time.Millisecond, Congestion: "cubic"}},
		{"pinned", SliceParams{Pin: []int{0, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.p
			p.Duration, p.Slice = 30*time.Millisecond, 5*time.Millisecond
			turns := 0
			p.Turn = func(context.Context) { turns++ }
			s, err := RunSlices(t.Context(), here("a"), here("b"), p)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(s.Speeds); n == 0 || n > turns || p.Omit == 0 && n != turns || p.Omit > 0 && n == turns {
				t.Errorf("%d slices count of %d, with %v omitted", n, turns, p.Omit)
			}
			if slices.Min(s.Speeds) <= 0 || float64(s.Bytes) < slices.Max(s.Speeds)*p.Slice.Seconds() {
				t.Errorf("%d bytes, speeds %v", s.Bytes, s.Speeds)
			}
		})
	}
}

// Nothing is under way when others have their turn.
func TestSendSlicesDrains(t *testing.T) {
	t.Parallel()
	streams, _, err := connectTCP(t.Context(), here("a"), here("b"), Params{Streams: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(streams)
	s := streams[0]
	failed := make(chan error, 1)
	s.failed = failed
	turns := 0
	p := SliceParams{Duration: time.Hour, Slice: time.Millisecond, Turn: func(context.Context) {
		turns++
		if sent, arrived := s.sent.Load(), s.arrived.Load(); sent != arrived || turns > 1 && sent == 0 {
			t.Errorf("turn %d: %d bytes sent before, %d arrived", turns, sent, arrived)
		}
		s.stopping.Store(turns == 10)
	}}
	begin := make(chan struct{})
	s.startWith(begin, func() error { return s.sendSlices(t.Context(), p, &Slices{}) }, s.receiveTCP)
	close(begin)
	<-s.allSent
	s.stop()
	if len(failed) > 0 || turns != 10 {
		t.Errorf("%d failures, %d turns; want none, 10", len(failed), turns)
	}
}

// A sender that rests nine tenths of its time has a tenth of the speed; both
// have the same machine, in turn.
func TestRunSlicesRests(t *testing.T) {
	t.Parallel()
	var most [2]float64
	for range 3 {
		for i, rest := range []float64{0, 0.9} {
			s, err := RunSlices(t.Context(), here("a"), here("b"), SliceParams{Duration: 20 * time.Millisecond, Slice: time.Millisecond, Rest: rest})
			if err != nil {
				t.Fatal(err)
			}
			most[i] = max(most[i], slices.Max(s.Speeds))
		}
	}
	if most[1] > most[0]/2 {
		t.Errorf("%g bytes a second at best, resting 9 of 10 parts %g; want a tenth", most[0], most[1])
	}
}

func TestRunSlicesEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := SliceParams{Duration: time.Hour, Slice: time.Millisecond, Turn: func(context.Context) { cancel() }}
	if _, err := RunSlices(ctx, here("a"), here("b"), p); !errors.Is(err, context.Canceled) {
		t.Errorf("RunSlices() = %v, want it called off", err)
	}
	broken := here("b")
	broken.Socket = func(context.Context, int, int, int) (*os.File, error) { return nil, errors.ErrUnsupported }
	if _, err := RunSlices(t.Context(), here("a"), broken, SliceParams{Duration: time.Second}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("RunSlices() = %v, want %v", err, errors.ErrUnsupported)
	}
}
