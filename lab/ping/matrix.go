package ping

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Endpoint is one row and column of a matrix.
type Endpoint struct {
	Name   string
	Addr   netip.Addr
	Pinger *Pinger
}

// Matrix is what All found: Cells[i][j] is from endpoint i to endpoint j, nil
// for i == j.
type Matrix struct {
	Names    []string    `json:"names"`
	Cells    [][]*Result `json:"cells"`
	Sent     int         `json:"sent"`
	Received int         `json:"received"`
}

// concurrent is how many probes are under way at once. More would measure
// the queue in front of the scheduler.
const concurrent = 64

// All sends probe (its To apart) from each endpoint to each other.
func All(ctx context.Context, eps []Endpoint, probe Probe) (*Matrix, error) {
	m := &Matrix{Cells: make([][]*Result, len(eps))}
	type pair struct{ i, j int }
	work := make(chan pair)
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range concurrent {
		wg.Go(func() {
			for p := range work {
				pr := probe
				pr.To = eps[p.j].Addr
				r, err := eps[p.i].Pinger.Probe(ctx, pr)
				if err != nil {
					once.Do(func() { failed = err; cancel() })
					return
				}
				m.Cells[p.i][p.j] = &r
			}
		})
	}
	for i, e := range eps {
		m.Names = append(m.Names, e.Name)
		m.Cells[i] = make([]*Result, len(eps))
	}
feed:
	for i := range eps {
		// Start each row at another column, so that no receiver gets them all.
		for k := 1; k < len(eps); k++ {
			select {
			case work <- pair{i, (i + k) % len(eps)}:
			case <-ctx.Done():
				break feed
			}
		}
	}
	close(work)
	wg.Wait()
	if failed == nil {
		failed = ctx.Err()
	}
	for _, row := range m.Cells {
		for _, r := range row {
			if r == nil {
				continue
			}
			m.Sent++
			if r.Lost == "" {
				m.Received++
			}
		}
	}
	return m, failed
}

// DefaultWait is how long an answer may take.
const DefaultWait = 2 * time.Second

// Lost lists the pairs that lost their packet, with the reason.
func (m *Matrix) Lost() []string {
	var lost []string
	for i, row := range m.Cells {
		for j, r := range row {
			if r != nil && r.Lost != "" {
				lost = append(lost, m.Names[i]+" -> "+m.Names[j]+": "+r.Lost)
			}
		}
	}
	return lost
}

// FirstLost is the first pair that lost its packet.
func (m *Matrix) FirstLost() (from, to string, ok bool) {
	for i, row := range m.Cells {
		for j, r := range row {
			if r != nil && r.Lost != "" {
				return m.Names[i], m.Names[j], true
			}
		}
	}
	return "", "", false
}
