package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/ping"
)

// verify sends a packet from one host to another and back, between containers
// where there are some that can reach each other, and ends the build.
func (s *Supervisor) verify(ctx context.Context) {
	from, to, name := s.verifyPair()
	pairs := s.commandPairs()
	cure := lab.BugCure
	if len(pairs) > 0 {
		cure = "see what the nodes' own agents do: labctl's own in their place tells whether it is them"
	}
	if from != nil {
		pairs = append([]pair{{from, to, name}}, pairs...)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, p := range pairs {
		if err := crossed(ctx, p.from, p.to); err != nil {
			s.mu.Lock()
			s.verifying = false
			s.emitLocked(lab.Event{Error: fmt.Sprintf("%s: converged, but no packet from %s to %s: %v", s.plan.Name, p.from.name, p.name, err), Kind: lab.Failed, Cure: cure})
			s.mu.Unlock()
			return
		}
	}
	s.mu.Lock()
	s.timings.FirstPingMs = s.sinceStart()
	s.verified, s.verifying = true, false
	s.comeUp()
	// A build that took too long for one who waited is good for the next.
	s.events = slices.DeleteFunc(s.events, func(e lab.Event) bool { return e.Error != "" })
	if from != nil {
		s.emitLocked(lab.Event{Step: fmt.Sprintf("packet from %s to %s and back", from.name, name)})
	}
	s.mu.Unlock()
	s.evaluate(ctx) // whoever waits for the build need not wait for evaluate's rest
}

// verifyPair picks two endpoints on different hosts. Without a network that
// joins the containers, or where policies let none of them through, hosts are
// as far as a packet gets.
func (s *Supervisor) verifyPair() (from *endpoint, to netip.Addr, name string) {
	lets := s.lets()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.hosts { // nobody is stopped or dead yet
		for _, b := range s.hosts[i+1:] {
			if a.agent == nil || b.agent == nil || !a.plan.AnswersGateway() || !b.plan.AnswersGateway() {
				continue
			}
			for _, ends := range [][2]*host{{a, b}, {b, a}} {
				if x, y := between(ends[0], ends[1], lets); x != nil {
					return x.endpoint, y.addr.Addr(), y.name
				}
			}
		}
	}
	if len(s.hosts) < 2 {
		return nil, netip.Addr{}, ""
	}
	return s.hosts[0].endpoint, s.hosts[1].plan.NIC.Addr.Addr(), s.hosts[1].name
}

// between finds the first containers of two hosts that may ping each other.
func between(a, b *host, lets func(from, to *container) bool) (from, to *container) {
	for _, x := range a.containers {
		for _, y := range b.containers {
			if lets(x, y) {
				return x, y
			}
		}
	}
	return nil, nil
}

// crossed pings until an answer comes or ctx ends. Each probe waits a little
// longer than the one before: the first may wait for ARP.
func crossed(ctx context.Context, from *endpoint, to netip.Addr) error {
	var f *os.File
	err := from.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		f = os.NewFile(uintptr(fd), "icmp")
		return nil
	})
	if err != nil {
		return err
	}
	p, err := ping.New(f)
	if err != nil {
		return err
	}
	defer p.Close()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		r, err := p.Probe(ctx, ping.Probe{To: to, Size: 56, Wait: wait})
		if err == nil && r.Lost == "" {
			return nil
		}
		if ctx.Err() != nil {
			if err == nil {
				err = fmt.Errorf("%s", r.Lost)
			}
			return err
		}
	}
}
