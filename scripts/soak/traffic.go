package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// traffic is what went through the lab.
type traffic struct {
	tables int // that were read

	pause sync.RWMutex // held for reading by a flow, for writing by who wants quiet

	mu                  sync.Mutex // guards all below
	bytes               int64
	datagrams, received int64
	flows, cut          int
}

// flow keeps one TCP and one UDP flow going, each between two hosts' containers
// that change, until ctx ends. That a fault cuts one is to be expected.
func (s *soak) flow(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i, more := range [][]string{{"-b", "100M"}, {"-u", "-b", "5M", "--length", "500"}} {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				s.traffic.pause.RLock()
				s.one(ctx, n, more)
				s.traffic.pause.RUnlock()
			}
		})
	}
	return &wg
}

// one is the n-th flow, half a second long.
func (s *soak) one(ctx context.Context, n int, more []string) {
	s.mu.Lock()
	from, to := s.hosts[n%len(s.hosts)], s.hosts[(n+1)%len(s.hosts)]
	s.mu.Unlock()
	out, err := s.command(ctx, append([]string{"iperf", from + ".c1", to + ".c1", "-l", s.name, "-t", "0.5", "-o", "json"}, more...)...)
	var r struct {
		Sum struct {
			Bytes int64
			UDP   *struct{ Packets, Lost int64 }
		}
	}
	t := &s.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows++
	if jerr := json.Unmarshal(out, &r); err != nil || jerr != nil {
		t.cut++
	}
	if r.Sum.UDP != nil {
		t.datagrams += r.Sum.UDP.Packets
		t.received += r.Sum.UDP.Packets - r.Sum.UDP.Lost
	} else {
		t.bytes += r.Sum.Bytes
	}
	if err != nil { // its end was gone: the next two, after a moment
		_ = rest(ctx, 100*time.Millisecond)
	}
}
