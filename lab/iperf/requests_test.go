package iperf

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

func TestRunRequests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		p    RequestParams
	}{
		{"one after the other", RequestParams{}},
		{"the first part omitted", RequestParams{Omit: 50 * time.Millisecond, Congestion: "cubic"}},
		{"at a rate", RequestParams{Rate: 500}},
		{"pinned", RequestParams{Pin: []int{0, 0}}},
		{"connections", RequestParams{Connect: true}},
		{"connections at a rate", RequestParams{Connect: true, Rate: 300, Congestion: "cubic"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.p
			p.Duration, p.Bytes = 200*time.Millisecond, 64
			begun := 0
			r, err := RunRequests(t.Context(), here("a"), here("b"), p, func() { begun++ })
			if err != nil {
				t.Fatal(err)
			}
			if begun != 1 || r.Seconds < 0.2 || len(r.Times) == 0 {
				t.Errorf("begun %d times, %v s, %d requests; want once, 0.2 s, some", begun, r.Seconds, len(r.Times))
			}
			if p.Rate > 0 && float64(len(r.Times)) > p.Rate*r.Seconds+1 {
				t.Errorf("%d requests in %v s, want %v a second at most", len(r.Times), r.Seconds, p.Rate)
			}
			if i := slices.IndexFunc(r.Times, func(d time.Duration) bool { return d <= 0 }); i >= 0 {
				t.Errorf("request %d took %v", i, r.Times[i])
			}
		})
	}
}

// What is dragged is longer by that much: both have the same machine, in turn.
func TestRunRequestsDrag(t *testing.T) {
	t.Parallel()
	var least [2]time.Duration
	for range 4 {
		for i, drag := range []float64{0, 3} {
			r, err := RunRequests(t.Context(), here("a"), here("b"), RequestParams{Duration: 50 * time.Millisecond, Bytes: 1, Drag: drag}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := slices.Min(r.Times); least[i] == 0 || d < least[i] {
				least[i] = d
			}
		}
	}
	if least[1] < 2*least[0] {
		t.Errorf("%v at best, dragged by 3 %v: want four times as long", least[0], least[1])
	}
}

func TestRunRequestsEnds(t *testing.T) {
	t.Parallel()
	for _, connect := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		p := RequestParams{Duration: time.Hour, Bytes: 1, Connect: connect}
		if _, err := RunRequests(ctx, here("a"), here("b"), p, cancel); !errors.Is(err, context.Canceled) {
			t.Errorf("connect %v: RunRequests() = %v, want it called off", connect, err)
		}
		cancel()
		broken := here("b")
		broken.Socket = func(context.Context, int, int, int) (*os.File, error) { return nil, errors.ErrUnsupported }
		if _, err := RunRequests(t.Context(), here("a"), broken, p, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("connect %v: RunRequests() = %v, want %v", connect, err, errors.ErrUnsupported)
		}
	}
}

// A sender that rests nine tenths of its time computes for a tenth of it, but for
// its first turn, however busy the machine is.
func TestRunRests(t *testing.T) {
	t.Parallel()
	r, err := Run(t.Context(), here("a"), here("b"), Params{Streams: 1, Duration: 240 * time.Millisecond, Interval: time.Second, Rest: 0.9}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if most := 0.1*r.Seconds + restEvery.Seconds() + 0.005; r.CPU.Sender > most || !r.Delivered() {
		t.Errorf("%d bytes, %v s of processor time in %v s; want some, %v s at most", r.Sum.Bytes, r.CPU.Sender, r.Seconds, most)
	}
}
