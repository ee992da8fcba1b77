package backends

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff spaces out attempts: each wait is about twice the last, with jitter
// so that many agents do not knock in step.
type backoff struct {
	least, most time.Duration
	next        time.Duration
}

// wait sleeps, or returns the context's error as soon as it ends.
func (b *backoff) wait(ctx context.Context) error {
	b.next = min(max(b.next, b.least), b.most)
	d := b.next/2 + rand.N(b.next/2+1)
	b.next *= 2
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (b *backoff) reset() { b.next = 0 }
