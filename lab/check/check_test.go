package check

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAgain(t *testing.T) {
	t.Parallel()
	wrong := &failure{"a route", "none"}
	after := func(d time.Duration, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-time.After(d):
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	for _, tt := range []struct {
		name  string
		tries []func(context.Context) error // the last again and again
		want  error
		took  time.Duration
	}{
		{"the third time", []func(context.Context) error{after(0, wrong), after(0, wrong), after(0, nil)}, nil, 200 * time.Millisecond},
		{"slowly", []func(context.Context) error{after(6*time.Second, nil)}, nil, 6 * time.Second},
		{"slowly, the second time", []func(context.Context) error{after(4900*time.Millisecond, wrong), after(6*time.Second, nil)}, nil, 11 * time.Second},
		{"never", []func(context.Context) error{after(900*time.Millisecond, wrong)}, wrong, 5900 * time.Millisecond},
		{"it hangs", []func(context.Context) error{after(0, wrong), after(0, wrong), after(time.Hour, nil)}, wrong, 30200 * time.Millisecond},
		{"it hangs from the beginning", []func(context.Context) error{after(time.Hour, nil)}, context.DeadlineExceeded, 30 * time.Second},
		{"it cannot", []func(context.Context) error{after(0, &unableError{"no netem"})}, &unableError{"no netem"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				from, n := time.Now(), 0
				_, err := again(t.Context(), 1, func(ctx context.Context) (string, error) {
					try := tt.tries[min(n, len(tt.tries)-1)]
					n++
					return "", try(ctx)
				})
				if got := time.Since(from); got != tt.took || (err == nil) != (tt.want == nil) || err != nil && err.Error() != tt.want.Error() {
					t.Errorf("again() = %v after %v, want %v after %v", err, got, tt.want, tt.took)
				}
				if _, cut := errors.AsType[*failure](tt.want); cut && !errors.Is(err, wrong) {
					t.Errorf("again() = %v, want what was found", err)
				}
			})
		})
	}
}
