package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"labctl/nodes"
)

// Unwritten is a best path that is not in the kernel, and why.
type Unwritten struct {
	Prefix netip.Prefix `json:"prefix"`
	Peer   string       `json:"peer"`
	Why    string       `json:"why"`
}

// Tunnel is the device that wraps what goes to a next hop; "" for none, when
// packets go as they are. A nil Tunnel wraps nothing.
type Tunnel func(nextHop netip.Addr) (dev string)

// Kernel is what best paths come to in the kernel: a route for each prefix,
// through the device that the next hop is on, or the tunnel to it. own are the
// speaker's own prefixes, which stay the agent's.
//
//	172.17.9.0/24 via 192.168.100.101 dev eth0 proto bgp onlink
//	172.17.10.0/24 via 192.168.101.1 dev tunl0 proto bgp onlink
//
// Without a tunnel the next hop must be on a device's own network. A route by way of another
// route would work as long as that one does, and send the packets of hosts that
// are neighbours through a gateway: a path with such a next hop is left out and
// told.
func Kernel(best []Route, own []netip.Prefix, devices []nodes.Device, tunnel Tunnel) (routes []nodes.Route, unwritten []Unwritten) {
	hops := map[netip.Prefix][]nodes.Hop{}
	for _, r := range best {
		dev, ok := onLink(r.NextHop, devices)
		if tunnel != nil {
			if through := tunnel(r.NextHop); through != "" {
				dev, ok = through, true
			}
		}
		switch {
		case slices.Contains(own, r.Prefix):
			unwritten = append(unwritten, Unwritten{r.Prefix, r.Peer, "it is this host's own: two hosts announce it"})
		case !ok:
			unwritten = append(unwritten, Unwritten{r.Prefix, r.Peer, fmt.Sprintf("next hop %s is not on-link: no device of this host has an address in its network", r.NextHop)})
		default:
			h := nodes.Hop{Via: r.NextHop, Dev: dev, OnLink: true}
			if !slices.Contains(hops[r.Prefix], h) {
				hops[r.Prefix] = append(hops[r.Prefix], h)
			}
		}
	}
	for prefix, hs := range hops {
		slices.SortFunc(hs, func(a, b nodes.Hop) int { return a.Via.Compare(b.Via) })
		r := nodes.Route{Dst: prefix}
		if len(hs) == 1 {
			r.Via, r.Dev, r.OnLink = hs[0].Via, hs[0].Dev, true
		} else {
			r.Hops = hs
		}
		routes = append(routes, r)
	}
	slices.SortFunc(routes, func(a, b nodes.Route) int { return comparePrefixes(a.Dst, b.Dst) })
	return routes, unwritten
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// onLink is the device on whose network an address is, the narrowest if there
// are several.
func onLink(a netip.Addr, devices []nodes.Device) (dev string, ok bool) {
	bits := -1
	for _, d := range devices {
		for _, p := range d.Addrs {
			if p.Masked().Contains(a) && p.Addr() != a && p.Bits() > bits {
				dev, ok, bits = d.Name, true, p.Bits()
			}
		}
	}
	return dev, ok
}

// keepStale adds the routes of an earlier speaker that nothing newer stands
// against yet.
func keepStale(routes, stale []nodes.Route) []nodes.Route {
	have := map[netip.Prefix]bool{}
	for _, r := range routes {
		have[r.Dst] = true
	}
	for _, r := range stale {
		if !have[r.Dst] {
			routes = append(routes, r)
		}
	}
	return routes
}
