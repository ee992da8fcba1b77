package lab

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"labctl/backends"
	"labctl/backends/calico"
)

// gateway is the router that an internet brings with it in a lab without routers.
const gateway = "gw"

// layout is what a Spec comes to before addresses are given out: defaults
// filled in, names looked up. It is made of wrong specs too, for validate.
type layout struct {
	*Spec
	network     *backends.Network // nil in a lab without one, or with one that does not parse
	networkErr  error
	calico      *calico.Config // nil in a lab without one; not checked yet
	routers     []RouterSpec   // gw included
	etcd        string         // the segment of etcd, "" when there is none
	internet    string         // the router that leads to the internet, "" when there is none
	lone        string         // the only segment's name, management apart; "" when there are several
	management  string         // the segment with management on, "" when there is none
	segmentSpec map[string]SegmentSpec
}

func newLayout(s *Spec) *layout {
	l := &layout{Spec: s, routers: s.Routers, segmentSpec: map[string]SegmentSpec{}}
	for _, seg := range s.Segments {
		l.segmentSpec[seg.Name] = seg
		if seg.Management == On && l.management == "" {
			l.management = seg.Name
		}
	}
	if f := l.fabric(); len(f) == 1 {
		l.lone = f[0]
	}
	if len(s.Network) > 0 {
		n, err := backends.ParseNetwork(s.Network)
		if err == nil {
			err = n.Supported()
		}
		if l.networkErr = err; err == nil {
			l.network = &n
		}
	}
	if s.Calico != nil {
		c := s.Calico.config()
		l.calico = &c
	}
	if l.hasNetwork() {
		l.etcd = cmp.Or(s.Etcd.Segment, l.management)
		if l.etcd == "" && len(s.Segments) > 0 {
			l.etcd = s.Segments[0].Name
		}
	}
	if s.Internet != nil {
		if len(s.Routers) == 0 {
			l.routers = []RouterSpec{{Name: gateway, Segments: l.fabric()}}
		}
		l.internet = s.Internet.Router
		if l.internet == "" {
			l.internet = l.routers[0].Name
		}
	}
	return l
}

// hasNetwork says whether the lab has a store and agents, also when the
// network's configuration is wrong.
func (l *layout) hasNetwork() bool { return len(l.Network) > 0 || l.calico != nil }

// fabric are the names of the segments that carry nodes' packets: all but the
// one for management.
func (l *layout) fabric() []string {
	var names []string
	for _, s := range l.Segments {
		if s.Management != On {
			names = append(names, s.Name)
		}
	}
	return names
}

// on says whether a node has an interface on a segment.
func (l *layout) on(n NodeSpec, segment string) bool {
	return l.segmentOf(n) == segment || l.management == segment
}

// pinnedOn is the address that the file gives a node on a segment that it is
// on, invalid without one; path is where in the file that is.
func (l *layout) pinnedOn(n NodeSpec, segment string) (a netip.Addr, path string) {
	if segment == l.management {
		return n.Management, join("nodes", n.Name) + ".management"
	}
	return n.Address, join("nodes", n.Name) + ".address"
}

// segmentOf is the name of a node's segment, "" when it cannot be known.
func (l *layout) segmentOf(n NodeSpec) string {
	if n.Segment != "" {
		return n.Segment
	}
	return l.lone
}

// mtuOf is a segment's MTU.
func (l *layout) mtuOf(segment string) int {
	if mtu := l.segmentSpec[segment].MTU; mtu != 0 {
		return mtu
	}
	return 1500
}

// bridgeOf is the name of a node's bridge.
func (l *layout) bridgeOf(n NodeSpec) string {
	switch {
	case n.Bridge != "":
		return n.Bridge
	case l.hasNetwork():
		return "cni0"
	}
	return "docker0"
}

// wiringOf is how a node's containers are joined to it.
func (l *layout) wiringOf(n NodeSpec) Wiring {
	switch {
	case n.Wiring != "":
		return Wiring(n.Wiring)
	case l.calico != nil:
		return RoutedWiring
	}
	return BridgeWiring
}

// containersOf are a node's containers: one when the file does not say.
func containersOf(n NodeSpec) Containers {
	if n.Containers == nil {
		return Containers{{Name: "c1"}}
	}
	return n.Containers
}

// routersOf are the routers on a segment.
func (l *layout) routersOf(segment string) []string {
	var names []string
	for _, r := range l.routers {
		if slices.Contains(r.Segments, segment) {
			names = append(names, r.Name)
		}
	}
	return names
}

// infrastructure are the addresses that etcd and the routers have on a
// segment: etcd the last usable one, the routers from the one before it
// downward, wherever etcd is. The segment must have room for them.
func (l *layout) infrastructure(segment string) map[string]netip.Addr {
	subnet := l.segmentSpec[segment].Subnet
	last := hosts(subnet)
	addrs := map[string]netip.Addr{}
	if l.etcd == segment {
		addrs["etcd"] = host(subnet, last)
	}
	for i, name := range l.routersOf(segment) {
		n := last - 1 - i
		if n < 1 { // a segment full of routers, without etcd
			n = last
		}
		addrs[name] = host(subnet, n)
	}
	return addrs
}

// islands are the segments' groups that routers join.
func (l *layout) islands() map[string]string {
	group := map[string]string{}
	for _, s := range l.Segments {
		group[s.Name] = s.Name
	}
	for _, r := range l.routers {
		for _, name := range r.Segments[min(1, len(r.Segments)):] {
			from, to := group[name], group[r.Segments[0]]
			for s, g := range group {
				if g == from && from != "" && to != "" {
					group[s] = to
				}
			}
		}
	}
	return group
}

// hosts is the number of usable addresses of an IPv4 subnet: all but the
// network address and the broadcast address.
func hosts(p netip.Prefix) int {
	if !p.IsValid() || p.Bits() > 30 {
		return 0
	}
	return 1<<(32-p.Bits()) - 2
}

// host is the n-th usable address of an IPv4 subnet, from 1.
func host(p netip.Prefix, n int) netip.Addr {
	base := p.Masked().Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(a)
}

// hostNumber is the reverse of host; 0 is the network address, hosts+1 the
// broadcast address.
func hostNumber(p netip.Prefix, a netip.Addr) int {
	base, addr := p.Masked().Addr().As4(), a.As4()
	return int(binary.BigEndian.Uint32(addr[:])) - int(binary.BigEndian.Uint32(base[:]))
}
