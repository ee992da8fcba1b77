package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"labctl/backends/calico"
	"labctl/lab"
	"labctl/lab/packet"
	"labctl/nodes"
)

// network is the lab as the walk sees it: every namespace's tables, how they are
// wired, and who has which subnet.
type network struct {
	tables map[string]*nodes.Tables // by endpoint
	peers  map[string]string        // the other end of a veth pair, by interface
	leases []lease
	drift  []lab.Drift
	dead   map[string]bool       // nodes without power, and their containers
	known  map[string]bool       // endpoints of the plan
	routed map[string]bool       // containers with a link of their own to a host that routes
	hosts  map[netip.Addr]string // nodes, by their planned address
	// devices are those that agents read from and write to themselves, by node.
	devices map[string]string
	pool    netip.Prefix // of all containers
	port    uint16       // of backend udp's agents
}

// lease is a row of the agents' table: a subnet or block, or an address that a
// host has borrowed.
type lease struct {
	node     string
	subnet   netip.Prefix
	publicIP netip.Addr
	alive    bool // its agent runs
}

// newNetwork reads plan and status. The tables come later.
func newNetwork(p *lab.Plan, st *lab.Status) *network {
	n := &network{peers: map[string]string{}, dead: map[string]bool{}, known: map[string]bool{}, routed: map[string]bool{}, hosts: map[netip.Addr]string{}, devices: map[string]string{}, pool: p.Pool,
		port: cmp.Or(tunnelPort(p), packet.Tunnels().Flannel[0])}
	join := func(a, b string) { n.peers[a], n.peers[b] = b, a }
	nic := func(endpoint string, c lab.NICPlan) { join(endpoint+":"+c.Name, c.Segment+":"+c.Port) }
	for _, s := range p.Segments {
		n.known[s.Name] = true
	}
	for _, r := range p.Routers {
		n.known[r.Name] = true
		for _, c := range r.NICs {
			nic(r.Name, c)
		}
	}
	if p.Internet != nil {
		n.known["internet"] = true
		join("internet:eth0", p.Internet.Router+":internet")
	}
	if p.Etcd != nil {
		n.known["etcd"] = true
		nic("etcd", p.Etcd.NIC)
	}
	for _, h := range p.Nodes {
		n.known[h.Name] = true
		for _, c := range h.NICs() {
			n.hosts[c.Addr.Addr()] = h.Name
			nic(h.Name, c)
		}
		for _, c := range h.Containers {
			n.known[h.Name+"."+c.Name] = true
			join(h.Name+"."+c.Name+":eth0", h.Name+":"+c.Port)
			if h.Wiring == lab.RoutedWiring {
				n.routed[h.Name+"."+c.Name] = true
			}
		}
	}
	for _, h := range st.Nodes {
		n.drift = append(n.drift, h.Drift...)
		if h.State == lab.Dead {
			n.dead[h.Name] = true
			for _, c := range h.Containers {
				n.dead[h.Name+"."+c.Name] = true
			}
		}
		switch {
		case p.Backend == "udp":
			n.devices[h.Name] = "flannel0"
		case h.Tunnel == calico.UserspaceIPIP:
			n.devices[h.Name] = calico.IPIPDevice
		}
		public, _ := netip.ParseAddr(h.PublicIP)
		for _, s := range h.Subnets {
			if subnet, err := netip.ParsePrefix(s); err == nil {
				n.leases = append(n.leases, lease{h.Name, subnet.Masked(), public, h.AgentPid != 0})
			}
		}
		for _, c := range h.Containers {
			if a, err := netip.ParseAddr(c.IP); err == nil && !slices.ContainsFunc(n.leases, func(l lease) bool { return l.node == h.Name && l.subnet.Contains(a) }) {
				n.leases = append(n.leases, lease{h.Name, netip.PrefixFrom(a, a.BitLen()), public, h.AgentPid != 0})
			}
		}
	}
	return n
}

// owner is the lease that an address belongs to, the longest.
func (n *network) owner(a netip.Addr) *lease {
	var best *lease
	for i, l := range n.leases {
		if l.subnet.Contains(a) && (best == nil || l.subnet.Bits() > best.subnet.Bits()) {
			best = &n.leases[i]
		}
	}
	return best
}

// leaseOf is a node's.
func (n *network) leaseOf(node string) *lease {
	i := slices.IndexFunc(n.leases, func(l lease) bool { return l.node == node })
	if i < 0 {
		return nil
	}
	return &n.leases[i]
}

// link is an interface, nil when it is not there.
func (n *network) link(endpoint, dev string) *nodes.TableLink {
	if t := n.tables[endpoint]; t != nil {
		return t.Link(dev)
	}
	return nil
}

// device names an interface of which a packet socket told the index.
func (n *network) device(endpoint string, index int) string {
	if t := n.tables[endpoint]; t != nil {
		for _, l := range t.Links {
			if l.Index == index {
				return l.Name
			}
		}
	}
	return fmt.Sprintf("if%d", index) // gone meanwhile
}

// iface is an interface somewhere.
type iface struct {
	endpoint string
	link     *nodes.TableLink
}

func (i iface) String() string { return i.endpoint + ":" + i.link.Name }

// withAddr finds the interfaces that have an address.
func (n *network) withAddr(a netip.Addr) (found []iface) {
	for endpoint, t := range n.tables {
		for i := range t.Links {
			if slices.ContainsFunc(t.Links[i].Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
				found = append(found, iface{endpoint, &t.Links[i]})
			}
		}
	}
	slices.SortFunc(found, func(a, b iface) int { return strings.Compare(a.String(), b.String()) })
	return found
}

// withMAC finds the interfaces of a kind that have a MAC.
func (n *network) withMAC(mac string, kind func(string) bool) (found []iface) {
	for endpoint, t := range n.tables {
		for i := range t.Links {
			if t.Links[i].MAC == mac && kind(t.Links[i].Kind) {
				found = append(found, iface{endpoint, &t.Links[i]})
			}
		}
	}
	slices.SortFunc(found, func(a, b iface) int { return strings.Compare(a.String(), b.String()) })
	return found
}

// onSegment says whether two interfaces are on one layer 2 network: their veth
// pairs end in one bridge's namespace, one is the bridge itself, or both are
// end points of tunnels.
func (n *network) onSegment(a, b iface) bool {
	return n.segment(a) != "" && n.segment(a) == n.segment(b)
}

func (n *network) segment(i iface) string {
	switch i.link.Kind {
	case "vxlan":
		return fmt.Sprint("vxlan ", i.link.VNI)
	case "bridge":
		return i.String()
	}
	peer := n.peers[i.String()]
	endpoint, dev, _ := strings.Cut(peer, ":")
	if l := n.link(endpoint, dev); l != nil && l.Master != "" {
		return endpoint + ":" + l.Master
	}
	return peer
}

// wanted is the route to a that the reconciler misses at an endpoint, and the
// words of the drift: what is not there tells where a packet should have gone.
func (n *network) wanted(endpoint string, a netip.Addr) (*nodes.TableRoute, string) {
	var best *nodes.TableRoute
	text := ""
	for _, d := range n.drift {
		if d.Endpoint != endpoint || d.Kind != "route" || d.Action == nodes.Remove {
			continue
		}
		dst, err := netip.ParsePrefix(d.Object)
		if err != nil || !dst.Contains(a) || best != nil && best.Dst.Bits() >= dst.Bits() {
			continue
		}
		detail := d.Detail
		if _, want, ok := strings.Cut(detail, ", want "); ok {
			detail = want
		}
		r := &nodes.TableRoute{Kind: "unicast", Dst: dst}
		words := strings.Fields(detail)
		for i := 0; i+1 < len(words); i++ {
			switch words[i] {
			case "via":
				r.Via, _ = netip.ParseAddr(words[i+1])
			case "dev":
				r.Dev = words[i+1]
			case "src":
				r.Src, _ = netip.ParseAddr(words[i+1])
			}
		}
		r.OnLink = slices.Contains(words, "onlink")
		best, text = r, d.Text
	}
	if best == nil {
		return n.wantedTUN(endpoint, a)
	}
	return best, text
}

// wantedTUN is the route to the agent's device on a node whose agent died: with
// the agent went its device, the route, and whoever would report them missing.
func (n *network) wantedTUN(endpoint string, a netip.Addr) (*nodes.TableRoute, string) {
	dev, own, to := n.devices[endpoint], n.leaseOf(endpoint), n.owner(a)
	if dev == "" || own == nil || own.alive || to == nil || to.node == endpoint || n.link(endpoint, dev) != nil {
		return nil, ""
	}
	r := &nodes.TableRoute{Kind: "unicast", Dst: n.pool.Masked(), Dev: dev}
	if dev == calico.IPIPDevice {
		r.Dst, r.Via, r.OnLink = to.subnet, to.publicIP, true
	}
	return r, "missing route " + routeText(r)
}

// driftOf is what the reconciler found wrong at an endpoint, in words that
// contain one of those given.
func (n *network) driftOf(endpoint string, words ...string) (found []string) {
	for _, d := range n.drift {
		if d.Endpoint != endpoint {
			continue
		}
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return w != "" && strings.Contains(d.Text, w) }) {
			found = append(found, fmt.Sprintf("%s: drift: %s", endpoint, d.Text))
		}
	}
	return found
}

// protocols are the names of rtnetlink's rtm_protocol: ip route's, and labctl's
// own two.
var protocols = map[int]string{2: "kernel", 3: "boot", 4: "static", 12: "bird", 16: "dhcp", 80: "80 (labctl agent)", 96: "96 (labctl)", 97: "97 (labctl agent)", 186: "bgp", 187: "isis", 188: "ospf"}

// routeText is a route as ip route prints it.
func routeText(r *nodes.TableRoute) string {
	s := ""
	if r.Kind != "unicast" {
		s = r.Kind + " "
	}
	if r.Dst.Bits() == 0 {
		s += "default"
	} else if r.Dst.IsSingleIP() {
		s += r.Dst.Addr().String()
	} else {
		s += r.Dst.String()
	}
	add := func(word, v string) { s += " " + word + " " + v }
	if r.Via.IsValid() {
		add("via", r.Via.String())
	}
	if r.Dev != "" {
		add("dev", r.Dev)
	}
	if r.Protocol != 0 {
		name, ok := protocols[r.Protocol]
		if !ok {
			name = fmt.Sprint(r.Protocol)
		}
		add("proto", name)
	}
	if r.Src.IsValid() {
		add("src", r.Src.String())
	}
	if r.OnLink {
		s += " onlink"
	}
	if r.LinkDown {
		s += " linkdown"
	}
	return s
}
