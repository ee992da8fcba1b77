package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"labctl/lab"
)

// Recovery is how long a lab may take, after the last fault has been healed,
// until packets pass on every path and it is ready.
const Recovery = 30 * time.Second

// Report is what became of a timeline.
type Report struct {
	Faults int          `json:"faults"`
	TookMs float64      `json:"tookMs"` // until the last was healed
	Paths  []PathReport `json:"paths"`
	// ReadyMs is how long after that the lab was ready and all paths whole.
	ReadyMs float64 `json:"readyMs"`
}

// event is one thing to do.
type event struct {
	at    time.Duration
	lasts bool // until an event that heals it
	heal  bool
	lab.Fault
}

// events are those of a timeline in the order of their times: each fault, and
// the end of those that last a given time.
func events(faults []lab.FaultSpec) ([]event, error) {
	var all []event
	for _, f := range faults {
		parsed, err := lab.ParseFault(strings.Fields(f.Do))
		if err != nil {
			return nil, err
		}
		all = append(all, event{at: f.At, lasts: f.For > 0, Fault: parsed})
		if f.For > 0 {
			all = append(all, event{at: f.At + f.For, Fault: parsed, heal: true})
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return int(a.at - b.at) })
	return all, nil
}

// Play does the faults at their times, with probes on each path all the while,
// heals what is left, and waits until the lab is as it was. Also what is late
// lasts as long as it says. When ctx ends, everything is healed all the same.
func Play(ctx context.Context, c *lab.Client, faults []lab.FaultSpec, paths []Path) (r *Report, err error) {
	todo, err := events(faults)
	if err != nil {
		return nil, err
	}
	var probers []*prober
	defer func() {
		for _, p := range probers {
			p.pinger.Close()
		}
	}()
	for _, p := range paths {
		pr, err := newProber(ctx, c, p)
		if err != nil {
			return nil, err
		}
		probers = append(probers, pr)
	}
	r = &Report{Faults: len(faults)}
	begin, stop := time.Now(), make(chan struct{})
	var probing sync.WaitGroup
	for _, p := range probers {
		p.begin = begin
		probing.Go(func() { p.run(stop) })
	}
	finished := sync.OnceFunc(func() { close(stop); probing.Wait() })
	defer finished()
	defer func() {
		if err != nil { // nobody is to find the lab broken
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Recovery)
			defer cancel()
			_, herr := c.Fault(ctx, string(lab.HealFault))
			err = errors.Join(err, herr)
		}
	}()
	if err := inTime(ctx, begin, todo, func(e event) error {
		if err := e.do(ctx, c); err != nil || e.Kind != lab.RestartFault {
			return err
		}
		for _, p := range probers {
			if err := p.renew(ctx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if _, err := c.Fault(ctx, string(lab.HealFault)); err != nil {
		return nil, err
	}
	healed := time.Now()
	r.TookMs = float64(healed.Sub(begin).Microseconds()) / 1000
	if err := recovered(ctx, c, probers); err != nil {
		return nil, err
	}
	r.ReadyMs = float64(time.Since(healed).Microseconds()) / 1000
	finished()
	for _, p := range probers {
		r.Paths = append(r.Paths, p.report())
	}
	return r, nil
}

// inTime does the events at their times after begin. When one is late, because
// doing the one before it or, if it lasts, doing itself took long, all that follow
// are as late.
func inTime(ctx context.Context, begin time.Time, todo []event, do func(event) error) error {
	late := time.Duration(0)
	for _, e := range todo {
		if err := until(ctx, begin.Add(e.at+late)); err != nil {
			return err
		}
		late = max(late, time.Since(begin.Add(e.at)))
		if err := do(e); err != nil {
			return err
		}
		if e.lasts {
			late = max(late, time.Since(begin.Add(e.at)))
		}
	}
	return nil
}

// do does the event.
func (e event) do(ctx context.Context, c *lab.Client) error {
	if !e.heal {
		return e.Inject(ctx, c)
	}
	switch e.Kind {
	case lab.HoldFault:
		return lab.Fault{Kind: lab.ReleaseFault, Nodes: e.Nodes}.Inject(ctx, c)
	case lab.PauseFault:
		return lab.Fault{Kind: lab.ResumeFault, On: e.On}.Inject(ctx, c)
	}
	active, err := c.Fault(ctx)
	if err != nil {
		return err
	}
	// Another may have taken its place, or it was healed before its time.
	for _, a := range active {
		if a.Fault == e.Fault.String() {
			return lab.Fault{Kind: lab.HealFault, IDs: []int{a.ID}}.Inject(ctx, c)
		}
	}
	return nil
}

func until(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// recovered waits until all paths are whole and the lab is ready.
func recovered(ctx context.Context, c *lab.Client, probers []*prober) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Recovery, errors.New("timed out"))
	defer cancel()
	why := ""
	for {
		st, err := c.Status(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			why = ""
			if st.State != lab.Ready {
				why = "the lab is " + string(st.State) + ": " + strings.Join(st.Reasons, "; ")
			}
			for _, p := range probers {
				if !p.whole() {
					why = fmt.Sprintf("packets do not pass from %s to %s", p.From, p.To)
				}
			}
			if why == "" {
				return nil
			}
		}
		if err := until(ctx, time.Now().Add(Interval)); err != nil {
			return fmt.Errorf("after the faults: %s %v later", why, Recovery)
		}
	}
}
