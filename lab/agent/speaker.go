package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"labctl/backends/bgp"
	"labctl/backends/calico"
	"labctl/nodes"
)

// speaker is the host's BGP speaker. The methods that are said so do nothing on
// a nil speaker, which is that of a host without one.
type speaker struct {
	program bgp.Speaker
	host    *bgp.Host
	ns      *nodes.Namespace
	news    chan struct{} // capacity 1

	// Guarded by Agent.mu.
	trouble string // what it waits for
}

// openSpeaker starts the speaker that an order asks for, in this process's
// namespace. It has nothing to say yet. tunnel is for what it hears.
func openSpeaker(name string, o *Speaker, tunnel bgp.Tunnel, log *slog.Logger) (*speaker, error) {
	ns, err := nodes.CurrentNamespace(name)
	if err != nil {
		return nil, err
	}
	s := &speaker{ns: ns, news: make(chan struct{}, 1)}
	protocol := bgp.Protocol
	if o.Program == bgp.BirdProgram {
		protocol = bgp.BirdProtocol
	}
	stale, err := bgp.Earlier(ns, protocol)
	if err == nil {
		if o.Program == bgp.BirdProgram {
			s.program, err = bgp.NewBird(o.Dir, log, len(stale) > 0)
		} else {
			s.program = bgp.NewGoBGP(log, len(stale) > 0)
		}
	}
	if err == nil {
		s.host, err = bgp.NewHost(ns, s.program, stale, tunnel, log)
	}
	if err != nil {
		if s.program != nil {
			err = errors.Join(err, s.program.Close())
		}
		return nil, errors.Join(err, ns.Close())
	}
	return s, nil
}

func (s *speaker) close() error {
	return errors.Join(s.host.Close(), s.program.Close(), s.ns.Close())
}

// newSpeaker starts the speaker of the last order.
func (c *calicoSystem) newSpeaker() (*speaker, error) {
	c.mu.Lock()
	o := c.order.BGP
	hold := c.order.Hold
	c.mu.Unlock()
	if o == nil {
		return nil, fmt.Errorf("%s: routes come by BGP, and nobody said who the peers are; such a network is only for hosts of a lab", c.Node)
	}
	s, err := openSpeaker(c.Node, o, func(nextHop netip.Addr) string { return c.config.Encapsulation.Through(c.underlay, nextHop) }, c.Log)
	if err != nil {
		return nil, err
	}
	s.host.Hold(hold)
	c.mu.Lock()
	c.speaker = s
	c.mu.Unlock()
	return s, nil
}

// run keeps the kernel in step and the report up to date until ctx ends.
func (s *speaker) run(ctx context.Context, a *Agent) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		s.reports(ctx, func(r bgp.Report) {
			a.update(func(rep *Report) { rep.BGP = &r })
			select {
			case s.news <- struct{}{}:
			default:
			}
		})
	})
	err := s.host.Run(ctx)
	wg.Wait()
	a.mu.Lock()
	a.speaker = nil
	a.mu.Unlock()
	return errors.Join(err, s.close())
}

// reports calls tell with what the speaker knows, after each change until ctx
// ends.
func (s *speaker) reports(ctx context.Context, tell func(bgp.Report)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.host.Changed():
			tell(s.host.Report())
		}
	}
}

// heard receives after each change; never on a nil speaker.
func (s *speaker) heard() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.news
}

// detailTimeout bounds the wait for a speaker that is asked what it knows.
const detailTimeout = 300 * time.Millisecond

// obey does what an order says at once, and returns what the speaker knows;
// nil on a nil speaker.
func (s *speaker) obey(o Order, log *slog.Logger) *bgp.Report {
	if s == nil {
		return nil
	}
	s.host.Hold(o.Hold)
	if o.Ask == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), detailTimeout)
	defer cancel()
	r, err := s.host.Detail(ctx)
	if err != nil {
		log.Warn("bgp", "err", err)
	}
	return &r
}

// announce tells the speaker who its peers are and what it originates: the
// aggregates of the host's blocks, and the addresses that it has borrowed.
func (c *calicoSystem) announce(snap calico.Snapshot) {
	c.mu.Lock()
	o := c.order.BGP
	c.mu.Unlock()
	if o == nil {
		return
	}
	config := o.Config
	config.Originate = snap.BlocksOf(c.Node)
	for _, b := range snap.Borrowed() {
		if b.Host == c.Node {
			config.Originate = append(config.Originate, netip.PrefixFrom(b.Addr, b.Addr.BitLen()))
		}
	}
	c.bgp.host.Set(context.Background(), config)
}

// learned are the destinations that the speaker knows a way to, each once.
func (s *speaker) learned() []calico.Remote {
	r := s.host.Report()
	var all []calico.Remote
	for _, b := range r.Best {
		if slices.ContainsFunc(r.Unwritten, func(u bgp.Unwritten) bool { return u.Prefix == b.Prefix }) || slices.ContainsFunc(all, func(m calico.Remote) bool { return m.Dst == b.Prefix }) {
			continue
		}
		all = append(all, calico.Remote{Dst: b.Prefix, Host: b.Peer, NextHop: b.NextHop})
	}
	return all
}

// await says which hosts' routes are not there yet.
func (c *calicoSystem) await(snap calico.Snapshot) {
	r := c.bgp.host.Report()
	c.mu.Lock()
	out := c.order.Out
	c.mu.Unlock()
	remotes, _ := snap.Remotes(c.Node)
	var missing []string
	for _, m := range remotes {
		if slices.Contains(out, m.Host) || slices.ContainsFunc(r.Best, func(b bgp.Route) bool { return b.Prefix == m.Dst }) && !slices.ContainsFunc(r.Unwritten, func(u bgp.Unwritten) bool { return u.Prefix == m.Dst }) {
			continue
		}
		missing = append(missing, fmt.Sprintf("%s of %s: %s", m.Dst, m.Host, whyMissing(r, m)))
	}
	trouble := ""
	if len(missing) > 0 {
		trouble = "no route by BGP yet: " + strings.Join(missing[:min(len(missing), 3)], "; ")
		if n := len(missing) - 3; n > 0 {
			trouble += fmt.Sprintf("; and %d more", n)
		}
	}
	c.mu.Lock()
	c.speaker.say(trouble)
	c.mu.Unlock()
	c.update(func(*Report) {})
}

func (s *speaker) say(trouble string) {
	if s != nil {
		s.trouble = trouble
	}
}

// whyMissing is the likely cause that a host's route is not there.
func whyMissing(r bgp.Report, m calico.Remote) string {
	for _, u := range r.Unwritten {
		if u.Prefix == m.Dst {
			return u.Why
		}
	}
	direct := false
	for _, s := range r.Sessions {
		if s.Peer == m.Host {
			direct = true
			if what, _ := s.Explain(); what != "" {
				return "session with " + s.Peer + ": " + what
			}
		}
	}
	if !direct { // a reflector or a router is to tell it
		for _, s := range r.Sessions {
			if what, _ := s.Explain(); what != "" {
				return "session with " + s.Peer + ": " + what
			}
		}
	}
	return "nobody told it"
}
