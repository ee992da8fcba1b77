package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"labctl/nodes/nodestest"
)

// long is the patience of tests on a loaded machine.
const long = 30 * time.Second

// routes says whether the host has a route to each other's block.
func (h *host) knows(others ...*host) error {
	have := h.ip("route")
	for _, o := range others {
		want := fmt.Sprintf("%s via %s dev eth0 proto bgp onlink", o.config.Originate[0], o.addr)
		if h.dir != "" {
			want = fmt.Sprintf("%s via %s dev eth0 proto bird", o.config.Originate[0], o.addr)
		}
		if !strings.Contains(have, want) {
			return fmt.Errorf("%s: no route %q in:\n%s", h.name, want, have)
		}
	}
	return nil
}

func others(hosts []*host, but *host) []*host {
	var all []*host
	for _, h := range hosts {
		if h != but {
			all = append(all, h)
		}
	}
	return all
}

func converged(hosts []*host) func() error {
	return func() error {
		for _, h := range hosts {
			if err := h.knows(others(hosts, h)...); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestMesh(t *testing.T) {
	t.Parallel()
	hosts := network(t, 3)
	mesh(hosts)
	began := time.Now()
	for _, h := range hosts {
		h.start()
	}
	nodestest.Eventually(t, long, converged(hosts))
	t.Logf("converged after %v", time.Since(began))

	t.Run("a withdrawn route goes", func(t *testing.T) {
		began := time.Now()
		hosts[2].config.Originate = nil
		hosts[2].set()
		nodestest.Eventually(t, long, func() error {
			if have := hosts[0].ip("route"); strings.Contains(have, "10.1.3.0") {
				return fmt.Errorf("still there:\n%s", have)
			}
			return nil
		})
		t.Logf("gone after %v", time.Since(began))
	})
	t.Run("a silent host's routes go with the hold time", func(t *testing.T) {
		began := time.Now()
		hosts[1].ip("link", "set", "eth0", "down")
		nodestest.Eventually(t, long, func() error {
			if have := hosts[0].ip("route"); strings.Contains(have, "10.1.2.0") {
				return fmt.Errorf("still there:\n%s", have)
			}
			return nil
		})
		t.Logf("gone after %v", time.Since(began))
	})
}

func TestRestart(t *testing.T) {
	t.Parallel()
	hosts := network(t, 3)
	mesh(hosts)
	for _, h := range hosts {
		h.config.Timers.Hold = time.Minute // a busy machine must not look like a silent host
		h.start()
	}
	nodestest.Eventually(t, long, converged(hosts))
	all := func() error { return converged(hosts)() }
	hosts[0].kill()
	if err := all(); err != nil {
		t.Fatalf("killed: %v", err)
	}
	hosts[0].start()
	// Until everybody has heard everything again, and each has cleaned up, no
	// route is missing anywhere for a moment.
	deadline := time.Now().Add(nodestest.Slow(t, long))
	for {
		if err := all(); err != nil {
			t.Fatalf("started again: %v", err)
		}
		if r := hosts[0].now(); r.Established() == 2 && r.Stale == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("started again: %+v", hosts[0].now())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Without graceful restart the routes of a speaker that ended go at once, and
// come back with it.
func TestNoGracefulRestart(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"gobgp", "bird"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			hosts := network(t, 3)
			if program == "bird" {
				withBird(t, hosts[1])
			}
			mesh(hosts)
			for _, h := range hosts {
				// What is heard is the connection's end, not silence.
				h.config.Timers.Hold, h.config.Timers.KeepAlive, h.config.Timers.GracefulRestart = time.Minute, 20*time.Second, 0
				h.start()
			}
			nodestest.Eventually(t, long, converged(hosts))
			hosts[0].kill()
			gone := fmt.Sprintf("%s via %s", hosts[0].config.Originate[0], hosts[0].addr)
			for _, h := range hosts[1:] {
				nodestest.Eventually(t, long, func() error {
					if have := h.ip("route"); strings.Contains(have, gone) {
						return fmt.Errorf("%s keeps the route of a speaker that was killed:\n%s", h.name, have)
					}
					return nil
				})
			}
			hosts[0].start()
			nodestest.Eventually(t, long, converged(hosts))
		})
	}
}

// A next hop that is on no network of the host's own is used as soon as it is
// on one, though nobody told anything anew.
func TestLaterAddress(t *testing.T) {
	t.Parallel()
	hosts := network(t, 2)
	mesh(hosts)
	h := hosts[0]
	h.ip("address", "replace", h.addr.String()+"/32", "dev", "eth0")
	h.ip("address", "del", h.addr.String()+"/24", "dev", "eth0")
	h.ip("route", "add", hosts[1].addr.String()+"/32", "dev", "eth0")
	for _, h := range hosts {
		h.config.Timers.Hold, h.config.Timers.KeepAlive = time.Minute, 20*time.Second // nothing is heard meanwhile
		h.start()
	}
	nodestest.Eventually(t, long, func() error {
		if u := h.now().Unwritten; len(u) != 1 || !strings.Contains(u[0].Why, "not on-link") {
			return fmt.Errorf("unwritten: %+v, want one route whose next hop is not on-link", u)
		}
		return nil
	})
	h.ip("address", "add", "192.0.2.200/24", "dev", "eth0")
	nodestest.Eventually(t, long, func() error {
		if u := h.now().Unwritten; len(u) > 0 {
			return fmt.Errorf("unwritten: %+v, want none", u)
		}
		return h.knows(hosts[1])
	})
}

// A speaker may end as soon as it is made, and an event that comes meanwhile
// makes it no more work.
func TestClosedFlushesNothing(t *testing.T) {
	t.Parallel()
	g := NewGoBGP(slog.New(slog.DiscardHandler), false)
	peer := netip.MustParseAddr("192.0.2.2")
	t.Cleanup(g.server.Stop) // BFD's part, which otherwise ends with the process
	g.log.note(about{peer: peer, silent: true})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g.flushSilent()
	if left := g.log.takeSilent(); len(left) != 1 || left[0] != peer {
		t.Errorf("silent peers that nobody has taken: %v, want %s", left, peer)
	}
}

// A speaker whose second address is not there yet does not begin; it does when
// the address is there, though it had opened the first.
func TestLaterListenAddress(t *testing.T) {
	t.Parallel()
	hosts := network(t, 2)
	mesh(hosts)
	h := hosts[0]
	h.config.Listen = append(h.config.Listen, netip.MustParseAddr("192.0.2.200"))
	for _, h := range hosts {
		h.start()
	}
	nodestest.Eventually(t, long, func() error {
		if r := h.now(); !strings.Contains(r.Err, "192.0.2.200") {
			return fmt.Errorf("error %q, want one about the address", r.Err)
		}
		return nil
	})
	h.ip("address", "add", "192.0.2.200/24", "dev", "eth0")
	nodestest.Eventually(t, long, converged(hosts))
	if r := h.now(); r.Err != "" {
		t.Errorf("error %q, want none", r.Err)
	}
}
