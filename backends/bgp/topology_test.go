package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// clustered makes the first hosts reflectors of one cluster, and the rest their
// clients.
func clustered(reflectors, clients []*host) {
	for _, r := range reflectors {
		r.config.ClusterID = netip.MustParseAddr("1.0.0.1")
		r.config.Transit = true
	}
	mesh(reflectors)
	for _, r := range reflectors {
		for _, c := range clients {
			peer(r, c)
			r.config.Peers[len(r.config.Peers)-1].Client = true
		}
	}
}

// A reflector tells each client of the others; next hops stay what they are,
// and each route says where it came from (RFC 4456).
func TestReflector(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		bird func(hosts []*host) []*host
	}{
		{"gobgp", func([]*host) []*host { return nil }},
		{"bird reflects", func(hs []*host) []*host { return hs[:1] }},
		{"bird is a client", func(hs []*host) []*host { return hs[1:2] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hosts := network(t, 3)
			if birds := tt.bird(hosts); len(birds) > 0 {
				withBird(t, birds...)
			}
			clustered(hosts[:1], hosts[1:])
			for _, h := range hosts {
				h.start()
			}
			nodestest.Eventually(t, long, converged(hosts))
			nodestest.Eventually(t, long, func() error {
				r := hosts[2].now()
				if len(r.Sessions) != 1 {
					return fmt.Errorf("%d sessions, want one, with the reflector", len(r.Sessions))
				}
				i := slices.IndexFunc(r.Sessions[0].In, func(r Route) bool { return r.Prefix == hosts[1].config.Originate[0] })
				if i < 0 {
					return fmt.Errorf("the other client's route was not told: %+v", r.Sessions[0])
				}
				got := r.Sessions[0].In[i]
				if got.NextHop != hosts[1].addr || got.Originator != hosts[1].addr || !slices.Equal(got.Clusters, []netip.Addr{netip.MustParseAddr("1.0.0.1")}) || !got.Best {
					return fmt.Errorf("the other client's route: %+v", got)
				}
				return nil
			})
		})
	}
}

// rack is a router of an AS with one host in it, and two spines that lead to
// the other rack.
//
//	h1 -- t1 -- s1, s2 -- t2 -- h2
func racks(t *testing.T, as1, as2 uint32) (hosts map[string]*host) {
	t.Helper()
	nodestest.Require(t, nodestest.Netns, nodestest.Bridge, nodestest.Tool("ip"))
	hosts = map[string]*host{}
	for name, as := range map[string]uint32{"h1": as1, "t1": as1, "s1": 65000, "s2": 65000, "t2": as2, "h2": as2} {
		ns, err := nodes.NewNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		hosts[name] = &host{t: t, name: name, ns: ns, config: Config{ASN: as, Timers: LabTimers}}
	}
	link := func(net byte, a, b *host) {
		an, bn := fmt.Sprintf("eth%d", len(a.config.Listen)), fmt.Sprintf("eth%d", len(b.config.Listen))
		aa, ba := netip.AddrFrom4([4]byte{192, 0, 2, net + 1}), netip.AddrFrom4([4]byte{192, 0, 2, net + 2})
		apply(t, a.ns, nodes.State{
			Links: []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: an}, PeerNamespace: b.ns, PeerName: bn}},
			Addrs: []nodes.Addr{{Dev: an, Prefix: netip.PrefixFrom(aa, 30)}},
		})
		apply(t, b.ns, nodes.State{
			Links: []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: bn}}},
			Addrs: []nodes.Addr{{Dev: bn, Prefix: netip.PrefixFrom(ba, 30)}},
		})
		a.config.Listen, b.config.Listen = append(a.config.Listen, aa), append(b.config.Listen, ba)
		same := a.config.ASN == b.config.ASN // b is the router then
		a.config.Peers = append(a.config.Peers, Peer{Name: b.name, Addr: ba, Local: aa, ASN: b.config.ASN, Passive: true})
		b.config.Peers = append(b.config.Peers, Peer{Name: a.name, Addr: aa, Local: ba, ASN: a.config.ASN, Client: same, NextHopSelf: same})
	}
	link(0, hosts["h1"], hosts["t1"])
	link(4, hosts["h2"], hosts["t2"])
	link(8, hosts["t1"], hosts["s1"])
	link(12, hosts["t1"], hosts["s2"])
	link(16, hosts["t2"], hosts["s1"])
	link(20, hosts["t2"], hosts["s2"])
	for name, h := range hosts {
		h.config.RouterID = h.config.Listen[0]
		h.config.Transit = name[0] != 'h'
		if name[0] == 't' {
			h.config.ClusterID = h.config.RouterID
		}
	}
	hosts["h1"].config.Originate = []netip.Prefix{netip.MustParsePrefix("10.1.1.0/26")}
	hosts["h2"].config.Originate = []netip.Prefix{netip.MustParsePrefix("10.1.2.0/26")}
	return hosts
}

// Each rack is an AS of its own: a route crosses two borders, two spines make
// two ways of equal cost, and a host's next hop is its own router.
func TestRacks(t *testing.T) {
	t.Parallel()
	hosts := racks(t, 65001, 65002)
	for _, h := range hosts {
		h.start()
	}
	contains := func(h *host, want ...string) error {
		have := strings.Join(strings.Fields(h.ip("route")), " ")
		for _, w := range want {
			if !strings.Contains(have, w) {
				return fmt.Errorf("%s: no %q in:\n%s", h.name, w, h.ip("route"))
			}
		}
		return nil
	}
	nodestest.Eventually(t, long, func() error {
		if err := contains(hosts["h1"], "10.1.2.0/26 via 192.0.2.2 dev eth0 proto bgp onlink"); err != nil {
			return err
		}
		return contains(hosts["t1"], "10.1.1.0/26 via 192.0.2.1 dev eth0 proto bgp onlink",
			"10.1.2.0/26 proto bgp nexthop via 192.0.2.10 dev eth1 weight 1 onlink nexthop via 192.0.2.14 dev eth2 weight 1 onlink")
	})
	nodestest.Eventually(t, long, func() error {
		in := hosts["h1"].now().Sessions[0].In
		if len(in) != 1 || !slices.Equal(in[0].Path, []uint32{65000, 65002}) {
			return fmt.Errorf("h1 hears %+v, want one route with AS path 65000 65002", in)
		}
		return nil
	})
	// One spine gone, the other carries all.
	hosts["s1"].ip("link", "set", "eth0", "down")
	nodestest.Eventually(t, long, func() error { return contains(hosts["t1"], "10.1.2.0/26 via 192.0.2.14 dev eth2 proto bgp onlink") })
}

// Two racks of one AS never hear of each other: each would find its own number
// in the path, so GoBGP does not even tell it.
func TestASLoop(t *testing.T) {
	t.Parallel()
	hosts := racks(t, 65001, 65001)
	for _, h := range hosts {
		h.start()
	}
	nodestest.Eventually(t, long, func() error {
		for _, s := range hosts["s1"].now().Sessions {
			if s.Peer == "t1" && slices.ContainsFunc(s.Withheld, func(r Route) bool {
				return r.Prefix == hosts["h2"].config.Originate[0] && strings.Contains(r.Rejected, "AS loop: AS 65001, which is t1's")
			}) {
				return nil
			}
		}
		return fmt.Errorf("the spine does not tell of a loop: %+v", hosts["s1"].now().Sessions)
	})
	if have := hosts["t1"].ip("route"); strings.Contains(have, "10.1.2.0") {
		t.Errorf("the looped route is in the kernel:\n%s", have)
	}
}

// Why a session does not come up is told by each speaker in its own words, and
// by us in the same.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		cause Cause
		spoil func(t *testing.T, a, b *host) // a dials
		start bool                           // whether b runs
		what  string
	}{
		{"nobody listens", Refused, func(t *testing.T, a, b *host) {}, false, "refused: 192.0.2.1 answers"},
		{"a firewall drops port 179", Filtered, func(t *testing.T, a, b *host) { b.drop("tcp dport 179") }, true, "filtered: 192.0.2.1 does not answer on TCP 179"},
		{"another AS", WrongAS, func(t *testing.T, a, b *host) { a.config.Peers[0].ASN = 64999 }, true, "wrong AS: AS 64999 is expected here"},
		{"another source address", WrongSource, func(t *testing.T, a, b *host) {
			a.ip("address", "add", "192.0.2.77/24", "dev", "eth0")
			a.config.Peers[0].Local = netip.MustParseAddr("192.0.2.77")
		}, true, "192.0.2.77 is not a peer of it"},
	} {
		for _, speaker := range []string{"gobgp", "bird"} {
			t.Run(tt.name+", "+speaker, func(t *testing.T) {
				t.Parallel()
				hosts := network(t, 2)
				a, b := hosts[1], hosts[0]
				if speaker == "bird" {
					withBird(t, a)
				}
				mesh(hosts)
				tt.spoil(t, a, b)
				a.start()
				if tt.start {
					b.start()
				}
				nodestest.Eventually(t, long, func() error {
					r := a.now()
					if len(r.Sessions) != 1 || r.Sessions[0].Failure == nil {
						return fmt.Errorf("nothing is told: %+v", r)
					}
					s := r.Sessions[0]
					what, cure := s.Explain()
					if s.Failure.Cause != tt.cause || !strings.Contains(what, tt.what) || cure == "" {
						return fmt.Errorf("%+v: %q, %q, want %s: %q", *s.Failure, what, cure, tt.cause, tt.what)
					}
					return nil
				})
				if tt.cause == WrongSource {
					nodestest.Eventually(t, long, func() error {
						if ss := b.now().Strangers; len(ss) != 1 || ss[0].Addr.String() != "192.0.2.77" {
							return fmt.Errorf("the other side has seen %v", ss)
						}
						return nil
					})
				}
			})
		}
	}
}

// With BFD a host that falls silent is forgotten in a fraction of the hold time.
func TestBFD(t *testing.T) {
	t.Parallel()
	hosts := network(t, 3)
	withBird(t, hosts[2])
	mesh(hosts)
	for _, h := range hosts {
		h.config.Timers.BFD = nodestest.Slow(t, 100*time.Millisecond)
		h.config.Timers.Hold, h.config.Timers.KeepAlive = time.Minute, 20*time.Second
	}
	hosts[0].drop("udp dport 3784")
	for _, h := range hosts {
		h.start()
	}
	nodestest.Eventually(t, long, converged(hosts))
	// BFD may come up when nothing else changes any more, and is told then too.
	hosts[0].nft("delete table inet f")
	nodestest.Eventually(t, long, func() error {
		for _, s := range hosts[0].now().Sessions {
			if !s.BFD {
				return fmt.Errorf("no BFD with %s", s.Peer)
			}
		}
		return nil
	})
	began := time.Now()
	hosts[1].ip("link", "set", "eth0", "down")
	nodestest.Eventually(t, long, func() error {
		for _, h := range []*host{hosts[0], hosts[2]} {
			if have := h.ip("route"); strings.Contains(have, "10.1.2.0") {
				return fmt.Errorf("%s: still there:\n%s", h.name, have)
			}
		}
		return nil
	})
	t.Logf("gone after %v", time.Since(began))
}
