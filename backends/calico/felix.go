package calico

import (
	"fmt"
	"net/netip"
	"strings"

	"labctl/nodes"
)

// Protocol is what Felix marks its routes with (rtnetlink's rtm_protocol);
// routes that a BGP speaker makes have that speaker's number.
const Protocol = 80

// Local is one container of a host.
type Local struct {
	Addr netip.Addr
	Dev  string // the host's end of its veth pair
}

// Remote is a destination that another host has.
type Remote struct {
	Dst     netip.Prefix // a block, or a borrowed address
	Host    string       // for messages
	NextHop netip.Addr   // that host's address on the underlay
	Tunnel  netip.Addr   // its tunnel device's; invalid when it has none, or has not said
}

// Host is all that the kernel state of one host follows from.
type Host struct {
	Config
	Underlay nodes.Underlay
	Blocks   []netip.Prefix // our own, confirmed
	Locals   []Local        // our containers
	Remotes  []Remote       // of other hosts
	Name     string         // which the MAC of the VXLAN device follows from
	Tunnel   netip.Addr     // of our own tunnel device; invalid while it has none
	Path     bool           // an IPIPPath wraps, not the kernel
}

// Desired is all there is to a host of a Calico network: a route to each
// container, one for each block of another host, and a blackhole for what is
// left of our own.
//
//	172.17.8.2 dev veth1 scope link                       a container
//	172.17.9.0/24 via 192.168.100.101 dev eth0 onlink     another host's block
//	blackhole 172.17.8.0/24                               nobody's, else it went to the default route, and came back
//
// Where packets are wrapped there is a tunnel device besides; see vtep, tunl and
// guard.
//
// Problems are remotes without a way; they cost nobody else a route.
func Desired(h Host) (s nodes.State, problems []error) {
	for _, l := range h.Locals {
		s.Routes = append(s.Routes, nodes.Route{Dst: single(l.Addr), Dev: l.Dev})
		s.Sysctls = append(s.Sysctls, endSettings(l.Dev)...)
	}
	for _, b := range h.Blocks {
		if !b.IsSingleIP() { // in whose place the container's own route stands
			s.Routes = append(s.Routes, nodes.Route{Dst: b, Kind: nodes.Blackhole})
		}
	}
	switch e := h.Encapsulation; {
	case e.vxlan():
		problems = append(problems, h.vtep(&s)...)
	case e.ipip():
		h.tunl(&s)
	}
	if dev := h.Encapsulation.Device(); dev != "" && h.Tunnel.IsValid() {
		s.Addrs = append(s.Addrs, nodes.Addr{Dev: dev, Prefix: single(h.Tunnel)})
	}
	if h.Routes != BGP { // whose speaker writes them
		problems = append(problems, h.ways(&s)...)
	}
	if h.NATOutgoing {
		s.Tables = append(s.Tables, nodes.Table{Name: "labctl-calico", Chains: []nodes.Chain{{
			Name: "postrouting", Hook: nodes.PostroutingNAT,
			Rules: []nodes.Rule{{Src: h.Pool, NotDst: h.Pool, Verdict: nodes.Masquerade, Comment: "calico natOutgoing: containers to outside the pool"}},
		}}})
	}
	return s, problems
}

// ways adds the routes to other hosts. Problems are remotes without a way.
func (h Host) ways(s *nodes.State) (problems []error) {
	for _, r := range h.Remotes {
		switch h.Encapsulation.Way(h.Underlay, r.NextHop) {
		case Direct:
			s.Routes = append(s.Routes, nodes.Route{Dst: r.Dst, Via: r.NextHop, Dev: h.Underlay.Dev, OnLink: true})
		case ByVXLAN:
			if r.Tunnel.IsValid() {
				s.Routes = append(s.Routes, nodes.Route{Dst: r.Dst, Via: r.Tunnel, Dev: VXLANDevice, OnLink: true})
			}
		case ByIPIP:
			s.Routes = append(s.Routes, nodes.Route{Dst: r.Dst, Via: r.NextHop, Dev: IPIPDevice, OnLink: true})
		default:
			problems = append(problems, fmt.Errorf("%s of %s: next hop %s is not on-link: %s is in %s; put all hosts on one segment, or set an encapsulation",
				r.Dst, r.Host, r.NextHop, h.Underlay.Dev, h.Underlay.Prefix.Masked()))
		}
	}
	return problems
}

// by is the remotes that are reached in a way.
func (h Host) by(way Way) []Remote {
	var all []Remote
	for _, r := range h.Remotes {
		if h.Encapsulation.Way(h.Underlay, r.NextHop) == way {
			all = append(all, r)
		}
	}
	return all
}

// endSettings are the sysctls of a container's veth end in the host.
func endSettings(dev string) []nodes.Sysctl {
	conf := "net/ipv4/conf/" + dev + "/"
	return []nodes.Sysctl{
		// The host answers ARP for 169.254.1.1, at once: by default an answer
		// on behalf of another waits up to 0.8 s.
		{Key: conf + "proxy_arp", Value: "1"},
		{Key: "net/ipv4/neigh/" + dev + "/proxy_delay", Value: "0"},
		{Key: conf + "forwarding", Value: "1"},
		{Key: conf + "route_localnet", Value: "1"},
		// A packet whose source is not the container's address is dropped, and
		// counted in TcpExtIPReversePathFilter.
		{Key: conf + "rp_filter", Value: "1"},
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// WorkloadMAC is the MAC of every container's veth end in its host. They may be
// the same, as each is alone on its link.
const WorkloadMAC = "ee:ee:ee:ee:ee:ee"

// Gateway is what containers have as default route. No interface has it: the
// host answers ARP for it.
func Gateway() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

// key is a prefix as Calico writes it in keys: 10.1.2.0-26.
func key(p netip.Prefix) string { return strings.ReplaceAll(p.String(), "/", "-") }

// parseKey undoes key.
func parseKey(s string) (netip.Prefix, error) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("%q is not ADDRESS-LENGTH", s)
	}
	p, err := netip.ParsePrefix(s[:i] + "/" + s[i+1:])
	if err != nil {
		return netip.Prefix{}, err
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set", p)
	}
	return p, nil
}
