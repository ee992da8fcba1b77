package fault

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"labctl/lab"
	"labctl/lab/ping"
)

const (
	// Interval is the time between two probes of a path.
	Interval = 10 * time.Millisecond
	// late is how long a probe's answer may take: later it counts as lost.
	late = time.Second
	// steady is how many answers in a row say that a path is whole again.
	steady = 20
)

// Path is a way on which probes are sent.
type Path struct{ From, To string } // an endpoint, and an endpoint or address

// Outage is a time without an answer: from the first probe that was lost until
// the next that was not.
type Outage struct {
	AtMs float64 `json:"atMs"` // after the timeline began
	Ms   float64 `json:"ms"`
	Lost int     `json:"lost"`
	// Open says that no answer came any more.
	Open bool `json:"open,omitempty"`
}

// PathReport is what became of one path's probes.
type PathReport struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Sent    int      `json:"sent"`
	Lost    int      `json:"lost"`
	Outages []Outage `json:"outages"`
}

// Longest is the longest outage; zero when there was none.
func (r PathReport) Longest() Outage {
	var longest Outage
	for _, o := range r.Outages {
		if o.Ms > longest.Ms {
			longest = o
		}
	}
	return longest
}

// sample is one probe: when it was sent, and whether an answer came in time.
type sample struct {
	at time.Duration
	ok bool
}

// outages are the runs of lost probes. end is when probing ended.
func outages(samples []sample, end time.Duration) []Outage {
	list := []Outage{}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for i := 0; i < len(samples); {
		if samples[i].ok {
			i++
			continue
		}
		o := Outage{AtMs: ms(samples[i].at), Open: true}
		until := end
		from := samples[i].at
		for ; i < len(samples); i++ {
			if samples[i].ok {
				until, o.Open = samples[i].at, false
				break
			}
			o.Lost++
		}
		o.Ms = ms(until - from)
		list = append(list, o)
	}
	return list
}

// prober sends probes on one path.
type prober struct {
	Path
	client *lab.Client
	to     netip.Addr
	begin  time.Time

	mu      sync.Mutex // guards all below
	pinger  *ping.Pinger
	samples []sample
	probes  sync.WaitGroup
}

func newProber(ctx context.Context, c *lab.Client, p Path) (*prober, error) {
	to, err := c.Address(ctx, p.To)
	if err != nil {
		return nil, err
	}
	pr := &prober{Path: p, client: c, to: to}
	return pr, pr.renew(ctx)
}

// renew opens the probes' socket anew: that of a node that had no power in
// between leads nowhere.
func (p *prober) renew(ctx context.Context) error {
	fresh, err := p.client.Pinger(ctx, p.From)
	if err != nil {
		return err
	}
	p.mu.Lock()
	old := p.pinger
	p.pinger = fresh
	p.mu.Unlock()
	if old != nil {
		old.Close() // its probes count as lost
	}
	return nil
}

// run sends a probe each Interval until stop ends, and waits for all answers.
func (p *prober) run(stop <-chan struct{}) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		p.probe()
		select {
		case <-tick.C:
		case <-stop:
			p.probes.Wait()
			return
		}
	}
}

func (p *prober) probe() {
	p.mu.Lock()
	i, pinger := len(p.samples), p.pinger
	p.samples = append(p.samples, sample{at: time.Since(p.begin)})
	p.mu.Unlock()
	p.probes.Go(func() {
		r, err := pinger.Probe(context.Background(), ping.Probe{To: p.to, Size: 56, Wait: late})
		p.mu.Lock()
		defer p.mu.Unlock()
		p.samples[i].ok = err == nil && r.Lost == ""
	})
}

// whole says whether the last probes were all answered, but for those that are
// under way.
func (p *prober) whole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range slices.Backward(p.samples) {
		switch {
		case s.ok:
			n++
		case n > 0 || time.Since(p.begin)-s.at > 100*time.Millisecond:
			return n >= steady
		}
		if n >= steady {
			return true
		}
	}
	return false
}

// report is for when run has returned.
func (p *prober) report() PathReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := PathReport{From: p.From, To: p.To, Sent: len(p.samples), Outages: outages(p.samples, time.Since(p.begin))}
	for _, o := range r.Outages {
		r.Lost += o.Lost
	}
	return r
}
