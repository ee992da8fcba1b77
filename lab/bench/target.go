package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"labctl/lab"
	"labctl/lab/iperf"
	"labctl/lab/trial"
)

// target is a variant whose lab runs.
type target struct {
	Entry
	client *lab.Client
	from   iperf.End
	to     iperf.End
	health *health
	seat   *seat // in the ring of a round whose trials are under way at once; else nil
}

// upTimeout is how long all labs together may take to be there.
const upTimeout = 2 * time.Minute

// running are the labs of a run.
type running struct {
	labs []string // names
	keep []func() error
	stop context.CancelFunc // of the watches
	wg   sync.WaitGroup
}

// up brings all labs up at once. A variant whose lab cannot be is marked as
// missing. Whatever happens, close removes what was made.
func (s *running) up(ctx context.Context, entries []Entry) ([]*target, error) {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	targets := make([]*target, len(entries))
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	var mu sync.Mutex // guards labs and keep
	for i, e := range entries {
		targets[i] = &target{Entry: e}
		if e.Share != "" {
			continue
		}
		wg.Go(func() {
			spec := *e.File.Spec
			if errs[i] = spec.Rename(trial.FreshName(spec.Name)); errs[i] != nil {
				return
			}
			plan, err := lab.NewPlan(&spec, lab.ThisMachine())
			if err == nil {
				err = lab.CheckLimits(plan)
			}
			if err != nil {
				errs[i] = err
				return
			}
			release, err := lab.Keep(plan.Name)
			if err != nil {
				errs[i] = err
				return
			}
			mu.Lock()
			s.labs, s.keep = append(s.labs, plan.Name), append(s.keep, release)
			mu.Unlock()
			_, _, errs[i] = lab.Up(ctx, lab.UpOptions{Plan: plan, Spec: e.File.Data, From: time.Now()})
			if d, err := lab.DirOf(plan.Name); err == nil {
				targets[i].client = &lab.Client{Dir: d}
			}
		})
	}
	wg.Wait()
	for i, t := range targets {
		if t.Share != "" {
			for k, of := range targets[:i] {
				if of.Name == t.Share {
					t.client, errs[i] = of.client, errs[k]
				}
			}
		}
		if errs[i] == nil {
			errs[i] = t.open(ctx)
		}
	}
	return targets, s.missing(targets, errs)
}

// missing marks the variants that could not be made. That somebody ended it is
// an error, and so is that none is left.
func (s *running) missing(targets []*target, errs []error) error {
	left := 0
	for i, t := range targets {
		f, known := errors.AsType[*lab.Failure](errs[i])
		switch {
		case errs[i] == nil:
			left++
			continue
		case known && f.Kind == lab.Interrupted:
			return errs[i]
		case known:
			t.Cure = f.Cure
		}
		t.Missing = strings.Join(strings.Fields(errs[i].Error()), " ")
	}
	if left == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// open finds the ends, and what lies between them.
func (t *target) open(ctx context.Context) (err error) {
	if t.from, err = t.end(ctx, t.From); err != nil {
		return err
	}
	if t.to, err = t.end(ctx, t.To); err != nil {
		return err
	}
	if t.Loopback {
		t.to.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	t.Path, err = hops(ctx, t.client, t.From, host(t.From), host(t.To), t.To)
	return err
}

// host is the node that an endpoint is on.
func host(endpoint string) string {
	name, _, _ := strings.Cut(endpoint, ".")
	return name
}

func (t *target) end(ctx context.Context, name string) (iperf.End, error) {
	e := iperf.End{Name: name, Socket: func(ctx context.Context, domain, typ, proto int) (*os.File, error) {
		return t.client.Socket(ctx, name, domain, typ, proto)
	}}
	var err error
	e.Addr, err = t.client.EndpointAddress(ctx, name)
	return e, err
}

// watch follows how the labs are until the run's end.
func (s *running) watch(ctx context.Context, targets []*target) {
	ctx, s.stop = context.WithCancel(ctx)
	byLab := map[lab.Dir]*health{}
	for _, t := range targets {
		if t.Missing != "" {
			continue
		}
		if t.health = byLab[t.client.Dir]; t.health == nil {
			t.health = &health{}
			byLab[t.client.Dir] = t.health
			s.wg.Go(func() { t.health.follow(ctx, t.client) })
		}
	}
}

// close takes all labs down, at once.
func (s *running) close(ctx context.Context) error {
	if s.stop != nil {
		s.stop()
	}
	s.wg.Wait()
	errs := make([]error, len(s.labs))
	var wg sync.WaitGroup
	for i, name := range s.labs {
		wg.Go(func() {
			_, err := lab.Down(ctx, name)
			errs[i] = errors.Join(err, s.keep[i]())
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// health is how a lab is while it is measured.
type health struct {
	mu     sync.Mutex
	bad    string // why it is not ready now, "" when it is
	events int    // how often something went wrong
	last   string // what it was
}

func (h *health) follow(ctx context.Context, c *lab.Client) {
	err := c.Watch(ctx, func(e lab.Event) bool { h.hear(e); return true })
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() == nil {
		h.bad = fmt.Sprintf("the lab is gone: %v", err)
		h.note(h.bad)
	}
}

// hear takes an event of the lab's.
func (h *health) hear(e lab.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e.State == lab.Ready:
		h.bad = ""
	case e.State != "":
		h.bad = "the lab was " + string(e.State)
		h.note(h.bad)
	case e.Process != "":
		h.note(fmt.Sprintf("%s: %s", e.Process, e.Message))
	}
}

// note counts what went wrong. The caller holds mu.
func (h *health) note(what string) {
	h.events++
	h.last = what
}

// look is the state to compare with later.
func (h *health) look() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events
}

// since says what was wrong since look, "" for nothing.
func (h *health) since(events int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.bad != "":
		return h.bad
	case h.events > events:
		return h.last
	}
	return ""
}
