package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"labctl/backends/calico"
	"labctl/nodes"
)

// spot is a packet at an interface, on its way in or out.
type spot struct {
	endpoint, dev string
	out           bool
	frame         Frame
}

// where is the interface, node1:eth0.
func (s spot) where() string { return s.endpoint + ":" + s.dev }

// move is what the tables say happens next to a packet: it is seen at spot,
// because of why, unless it has arrived or cannot go on.
type move struct {
	spot
	why    []Decision
	faults []*Cause // what is wrong; the way goes on as if it were not
	end    bool     // nothing comes after it: faults tell why, none for a packet that arrived
}

// walk follows packets of one trace through a network.
type walk struct {
	*network
	nat []translation
	// state is what connection tracking says of the packets: New on the way
	// there, Established on the way back.
	state nodes.ConnState
}

// translation is what a node's connection tracking undoes for answers.
type translation struct {
	endpoint string
	was, is  netip.Addr
	source   bool
}

func (m *move) because(kind, where, format string, args ...any) {
	m.why = append(m.why, Decision{kind, where, fmt.Sprintf(format, args...)})
}

func (m *move) blame(code Code, where string, evidence ...string) *Cause {
	c := &Cause{Code: code, Where: where, Evidence: evidence}
	m.faults = append(m.faults, c)
	return c
}

// stop ends the way with a fault.
func (m *move) stop(code Code, where string, evidence ...string) {
	m.blame(code, where, evidence...)
	m.end = true
}

// start is where a packet that an endpoint sends itself is seen first.
func (w *walk) start(endpoint string, f Frame) move {
	var m move
	w.send(&m, endpoint, "", f)
	return m
}

// next is what happens to a packet at s.
func (w *walk) next(s spot) move {
	var m move
	l := w.link(s.endpoint, s.dev)
	switch {
	case l == nil:
		m.stop(LinkDown, s.endpoint, fmt.Sprintf("%s: is not there any more", s.where()))
	case s.out:
		w.leave(&m, s, l)
	case l.Master != "":
		w.bridged(&m, s, l.Master)
	default:
		w.receive(&m, s, l)
	}
	return m
}

// to sets where the packet is seen next.
func (m *move) to(endpoint, dev string, out bool, f Frame) {
	m.spot = spot{endpoint, dev, out, f}
}

// leave is what a device does with what it is given to send.
func (w *walk) leave(m *move, s spot, l *nodes.TableLink) {
	switch {
	case l.Name == "lo":
		m.to(s.endpoint, "lo", false, s.frame)
	case l.Kind == "bridge":
		w.bridged(m, s, l.Name)
	case l.Kind == "vxlan":
		w.encapsulate(m, s, l)
	case l.Kind == "ipip":
		w.gateway(m, s, l)
	case tun(l):
		w.agent(m, s, l)
	default:
		w.cable(m, s, l)
	}
}

func tun(l *nodes.TableLink) bool { return l.Kind == "tuntap" || l.Kind == "tun" }

// cable is the veth pair from one namespace to another.
func (w *walk) cable(m *move, s spot, l *nodes.TableLink) {
	peer := w.peers[s.where()]
	endpoint, dev, ok := strings.Cut(peer, ":")
	if !ok {
		m.stop(Unknown, s.endpoint, fmt.Sprintf("%s: labctl does not know its other end", s.where()))
		return
	}
	m.because("veth", s.endpoint, "%s is joined to %s", s.dev, peer)
	m.to(endpoint, dev, false, s.frame)
	p := w.link(endpoint, dev)
	switch {
	case w.dead[endpoint]:
		m.stop(NodeDead, endpoint, endpoint+": was killed (labctl node start brings it back)")
	case w.tables[endpoint] == nil:
		m.stop(ContainerGone, endpoint, endpoint+": its namespace is gone")
	case p == nil:
		m.stop(LinkDown, endpoint, fmt.Sprintf("%s: is not there", peer))
	case !p.Up:
		m.stop(LinkDown, endpoint, append([]string{fmt.Sprintf("%s: is down", peer)}, w.driftOf(endpoint, dev)...)...)
	case !l.Up:
		m.stop(LinkDown, s.endpoint, fmt.Sprintf("%s: is down", s.where()))
	case s.frame.Len > p.MTU+4 && !s.frame.Aggregate: // the kernel leaves room for a VLAN tag
		m.blame(MTUTooSmall, endpoint, append([]string{fmt.Sprintf("%s: mtu %d; the packet has %d bytes", peer, p.MTU, s.frame.Len)}, w.driftOf(endpoint, dev)...)...)
	}
}

// bridged is a bridge's decision: up to the host, or out of one port.
func (w *walk) bridged(m *move, s spot, bridge string) {
	t := w.tables[s.endpoint]
	b := t.Link(bridge)
	if b == nil {
		m.stop(LinkDown, s.endpoint, fmt.Sprintf("%s:%s: is not there", s.endpoint, bridge))
		return
	}
	dmac := s.frame.DstMAC
	if !s.out && s.dev != bridge && (dmac == b.MAC || w.ownMAC(t, bridge, dmac)) {
		m.because("fdb", s.endpoint, "%s is %s's own MAC: up to the host", dmac, bridge)
		m.to(s.endpoint, bridge, false, s.frame)
		return
	}
	// Who has the MAC, whatever the table says?
	port := ""
	for _, o := range w.withMAC(dmac, func(kind string) bool { return kind != "vxlan" }) {
		endpoint, dev, _ := strings.Cut(w.peers[o.String()], ":")
		if l := w.link(endpoint, dev); endpoint == s.endpoint && l != nil && l.Master == bridge {
			port = dev
		}
	}
	i := slices.IndexFunc(t.FDB, func(e nodes.TableFDB) bool {
		return e.MAC == dmac && e.Master == bridge && !e.Own && t.Link(e.Dev) != nil && !e.Dst.IsValid()
	})
	switch {
	case i >= 0 && (port == "" || t.FDB[i].Dev == port):
		port = t.FDB[i].Dev
		how := "learned"
		if t.FDB[i].Static {
			how = "static"
		}
		m.because("fdb", s.endpoint, "%s dev %s master %s (%s)", dmac, port, bridge, how)
	case i >= 0:
		m.blame(WrongFDB, s.endpoint, fmt.Sprintf("%s: fdb of %s: %s dev %s, but it is behind port %s", s.endpoint, bridge, dmac, t.FDB[i].Dev, port))
	case port == "":
		m.stop(WrongNeighbour, s.endpoint, fmt.Sprintf("%s: %s floods the frame to all ports: no interface there has MAC %s", s.endpoint, bridge, dmac))
		return
	default:
		m.because("fdb", s.endpoint, "%s not in the fdb of %s: flooded to all ports, %s answers", dmac, bridge, port)
	}
	w.switched(m, s, bridge, port)
	l := t.Link(port)
	if l != nil && !l.Carrier {
		peer := w.peers[s.endpoint+":"+port]
		endpoint, dev, _ := strings.Cut(peer, ":")
		where := endpoint
		evidence := fmt.Sprintf("%s: is down: port %s of %s in %s has no carrier", peer, port, bridge, s.endpoint)
		if !l.Up {
			where, evidence = s.endpoint, fmt.Sprintf("%s:%s: the port is down", s.endpoint, port)
		}
		if w.dead[endpoint] {
			m.blame(NodeDead, endpoint, endpoint+": was killed (labctl node start brings it back)")
		} else {
			m.blame(LinkDown, where, append([]string{evidence}, w.driftOf(endpoint, dev)...)...)
		}
	} else if l != nil && s.frame.Len > l.MTU+4 && !s.frame.Aggregate {
		m.blame(MTUTooSmall, s.endpoint, fmt.Sprintf("%s:%s: mtu %d; the packet has %d bytes", s.endpoint, port, l.MTU, s.frame.Len))
	}
	m.to(s.endpoint, port, true, s.frame)
}

// ownMAC says whether a bridge takes frames to a MAC for itself.
func (w *walk) ownMAC(t *nodes.Tables, bridge, mac string) bool {
	return slices.ContainsFunc(t.FDB, func(e nodes.TableFDB) bool { return e.Own && e.MAC == mac && (e.Master == bridge || e.Dev == bridge) })
}

// receive is what a host does with what comes in.
func (w *walk) receive(m *move, s spot, l *nodes.TableLink) {
	f := s.frame
	t := w.tables[s.endpoint]
	if f.DstMAC != "" && l.MAC != "" && l.Name != "lo" && f.DstMAC != l.MAC {
		w.notOurs(m, s, l)
		return
	}
	for _, n := range w.nat {
		if n.endpoint == s.endpoint && n.source && f.Dst == n.is && f.Inner == nil {
			m.because("netfilter", s.endpoint, "connection tracking: destination %s was masqueraded, back to %s", n.is, n.was)
			f.Dst = n.was
		}
	}
	w.rules(m, "prerouting", s.endpoint, s.dev, "", &f)
	w.reversePath(m, s, f)
	r := t.Route(f.Dst)
	if r != nil && (r.Kind == "local" || r.Kind == "broadcast") {
		w.deliver(m, s, f, r)
		return
	}
	if on, key := w.forwarding(t, s.dev); !on {
		m.blame(ForwardOff, s.endpoint, fmt.Sprintf("%s: %s = 0: %s is for another host, and is not forwarded", s.endpoint, strings.ReplaceAll(key, "/", "."), f.Dst))
	}
	if f.TTL <= 1 {
		m.stop(TTLExpired, s.endpoint, fmt.Sprintf("%s: ttl %d: came to its end here", s.endpoint, f.TTL))
		return
	}
	f.TTL--
	w.send(m, s.endpoint, s.dev, f)
}

// forwarding reads the sysctl that decides for a device.
func (w *walk) forwarding(t *nodes.Tables, dev string) (on bool, key string) {
	key = "net/ipv4/conf/" + dev + "/forwarding"
	v, ok := t.Sysctls[key]
	if g := t.Sysctls["net/ipv4/ip_forward"]; g == "0" && v == "0" {
		key = "net/ipv4/ip_forward"
	}
	return !ok || v != "0", key
}

// notOurs is a frame that came to a host whose MAC it does not bear: somebody
// before had a wrong entry.
func (w *walk) notOurs(m *move, s spot, l *nodes.TableLink) {
	m.stop(WrongNeighbour, s.endpoint, fmt.Sprintf("%s: its MAC is %s; frames to %s are not for it", s.where(), l.MAC, s.frame.DstMAC))
}

// reversePath is rp_filter's check: would the answer leave by this device?
func (w *walk) reversePath(m *move, s spot, f Frame) {
	t := w.tables[s.endpoint]
	own := t.Sysctls["net/ipv4/conf/"+s.dev+"/rp_filter"]
	mode := max(own, t.Sysctls["net/ipv4/conf/all/rp_filter"])
	if mode != "1" && mode != "2" || s.dev == "lo" {
		return
	}
	r := t.Route(f.Src)
	has := fmt.Sprintf("%s: net.ipv4.conf.%s.rp_filter = %s", s.endpoint, s.dev, mode)
	switch {
	case r == nil || r.Kind != "unicast" && r.Kind != "local":
		m.blame(RPFilter, s.endpoint, has, fmt.Sprintf("%s: no route back to %s", s.endpoint, f.Src))
	case mode == "1" && r.Dev != s.dev && r.Kind != "local":
		m.blame(RPFilter, s.endpoint, has+" (strict)", fmt.Sprintf("%s: %s came in by %s, but the route back is %s", s.endpoint, f.Src, s.dev, routeText(r)))
	}
}

// deliver hands a packet to the host itself: to a tunnel's end, or it has arrived.
func (w *walk) deliver(m *move, s spot, f Frame, r *nodes.TableRoute) {
	w.rules(m, "input", s.endpoint, s.dev, "", &f)
	t := w.tables[s.endpoint]
	if f.Inner == nil {
		m.because("deliver", s.endpoint, "%s is %s's own address", f.Dst, s.endpoint)
		m.end = true
		return
	}
	switch f.Tunnel {
	case "vxlan":
		var other *nodes.TableLink
		for i, l := range t.Links {
			if l.Kind != "vxlan" || l.Port != int(f.DstPort) && l.Port != 0 {
				continue
			}
			if other = &t.Links[i]; l.VNI == f.VNI {
				break
			}
		}
		switch {
		case other == nil:
			m.stop(LinkDown, s.endpoint, append([]string{fmt.Sprintf("%s: no vxlan device listens on udp port %d", s.endpoint, f.DstPort)}, w.driftOf(s.endpoint)...)...)
			return
		case other.VNI != f.VNI:
			m.blame(VNIMismatch, s.endpoint, append([]string{fmt.Sprintf("%s: %s has vni %d, the packet vni %d", s.endpoint, other.Name, other.VNI, f.VNI)},
				w.driftOf(s.endpoint, other.Name+" ", other.Name+":")...)...)
		case !other.Up:
			m.blame(LinkDown, s.endpoint, append([]string{fmt.Sprintf("%s:%s: is down", s.endpoint, other.Name)}, w.driftOf(s.endpoint, other.Name)...)...)
		}
		m.because("tunnel", s.endpoint, "udp port %d, vni %d: %s unwraps it", f.DstPort, f.VNI, other.Name)
		m.to(s.endpoint, other.Name, false, *f.Inner)
	case "udp":
		w.toAgent(m, s, f, fmt.Sprintf("udp port %d", f.DstPort))
	default:
		if w.devices[s.endpoint] != "" {
			w.toAgent(m, s, f, "protocol 4 (ipip)")
			return
		}
		i := slices.IndexFunc(t.Links, func(l nodes.TableLink) bool { return l.Kind == "ipip" })
		if i < 0 {
			m.stop(LinkDown, s.endpoint, s.endpoint+": no ipip device takes protocol 4")
			return
		}
		dev := t.Links[i]
		if !dev.Up {
			m.blame(LinkDown, s.endpoint, append([]string{fmt.Sprintf("%s:%s: is down", s.endpoint, dev.Name)}, w.driftOf(s.endpoint, dev.Name)...)...)
		}
		m.because("tunnel", s.endpoint, "protocol 4 (ipip): %s unwraps it", dev.Name)
		m.to(s.endpoint, dev.Name, false, *f.Inner)
	}
}

// toAgent is a packet that an agent unwraps; what says what it listens on.
func (w *walk) toAgent(m *move, s spot, f Frame, what string) {
	dev, l := w.devices[s.endpoint], w.leaseOf(s.endpoint)
	if l != nil && !l.alive || w.link(s.endpoint, dev) == nil {
		m.blame(AgentDead, s.endpoint, append([]string{fmt.Sprintf("%s: its agent does not run: nobody listens on %s", s.endpoint, what)}, w.driftOf(s.endpoint, dev)...)...)
	}
	m.because("tunnel", s.endpoint, "%s: the agent (user space) unwraps it and writes it to %s", what, dev)
	m.to(s.endpoint, dev, false, *f.Inner)
}

// send routes a packet out of an endpoint; in is the device that it came by, ""
// for its own.
func (w *walk) send(m *move, endpoint, in string, f Frame) {
	t := w.tables[endpoint]
	if t == nil {
		m.stop(ContainerGone, endpoint, endpoint+": its namespace is gone")
		return
	}
	r := w.route(m, endpoint, f.Dst)
	if r == nil {
		return
	}
	if in == "" && !f.Src.IsValid() {
		f.Src = w.source(t, r)
	}
	if r.Kind == "local" {
		m.to(endpoint, "lo", true, f)
		return
	}
	l := t.Link(r.Dev)
	if l == nil || !l.Up {
		w.noLink(m, endpoint, r)
		if l == nil {
			m.to(endpoint, r.Dev, true, f)
			return
		}
	}
	if f.DF && f.Len > l.MTU && !f.Aggregate {
		m.blame(MTUTooSmall, endpoint, append([]string{fmt.Sprintf("%s:%s: mtu %d; the packet has %d bytes and may not be fragmented", endpoint, l.Name, l.MTU, f.Len)},
			w.driftOf(endpoint, l.Name)...)...)
	}
	hook := "forward"
	if in == "" {
		hook = "output"
	}
	w.rules(m, hook, endpoint, in, l.Name, &f)
	w.rules(m, "postrouting", endpoint, in, l.Name, &f)
	for _, n := range w.nat {
		if n.endpoint == endpoint && !n.source && f.Src == n.is && f.Inner == nil {
			m.because("netfilter", endpoint, "connection tracking: source %s back to %s", n.is, n.was)
			f.Src = n.was
		}
	}
	hop := f.Dst
	if r.Via.IsValid() {
		hop = r.Via
	}
	f.SrcMAC, f.DstMAC = "", ""
	if l.MAC != "" && !tun(l) && l.Kind != "ipip" {
		f.SrcMAC = l.MAC
		f.DstMAC = w.neighbour(m, endpoint, l, hop)
	}
	m.to(endpoint, l.Name, true, f)
}

// source is the address that a host gives a packet of its own.
func (w *walk) source(t *nodes.Tables, r *nodes.TableRoute) netip.Addr {
	if r.Src.IsValid() {
		return r.Src
	}
	if l := t.Link(r.Dev); l != nil && len(l.Addrs) > 0 {
		return l.Addrs[0].Addr()
	}
	return netip.Addr{}
}

// noLink blames a device that a route needs and that is down or not there.
func (w *walk) noLink(m *move, endpoint string, r *nodes.TableRoute) {
	if l := w.leaseOf(endpoint); r.Dev == w.devices[endpoint] && l != nil && !l.alive {
		m.blame(AgentDead, endpoint, append([]string{fmt.Sprintf("%s: its agent does not run, and with it went %s", endpoint, r.Dev)}, w.driftOf(endpoint, r.Dev)...)...)
		return
	}
	state := "is down"
	if w.link(endpoint, r.Dev) == nil {
		state = "is not there"
	}
	m.blame(LinkDown, endpoint, append([]string{fmt.Sprintf("%s:%s: %s", endpoint, r.Dev, state)}, w.driftOf(endpoint, "link "+r.Dev, r.Dev+":")...)...)
}

// route looks a destination up, and blames the tables when what they say is
// not what the reconciler wants there.
func (w *walk) route(m *move, endpoint string, a netip.Addr) *nodes.TableRoute {
	t := w.tables[endpoint]
	r := t.Route(a)
	if len(t.PolicyRules) > 0 {
		m.because("route", endpoint, "policy rules (ip rule) may decide otherwise: %s", strings.Join(t.PolicyRules, "; "))
	}
	want, drift := w.wanted(endpoint, a)
	if want != nil && (r == nil || r.Dst.Bits() <= want.Dst.Bits()) {
		l := t.Link(want.Dev)
		switch {
		case r != nil && dead(r.Kind) && r.Dst.Bits() == want.Dst.Bits():
			m.blame(BlackholeRoute, endpoint, fmt.Sprintf("%s: route %s", endpoint, routeText(r)), fmt.Sprintf("%s: drift: %s", endpoint, drift))
		case l == nil || !l.Up:
			w.noLink(m, endpoint, want)
		case r != nil && r.Dst.Bits() == want.Dst.Bits():
			m.blame(WrongRoute, endpoint, fmt.Sprintf("%s: route %s", endpoint, routeText(r)), fmt.Sprintf("%s: drift: %s", endpoint, drift))
		default:
			has := fmt.Sprintf("%s: no route to %s", endpoint, a)
			if r != nil {
				has = fmt.Sprintf("%s: the best route to %s is %s", endpoint, a, routeText(r))
			}
			m.blame(MissingRoute, endpoint, has, fmt.Sprintf("%s: drift: %s", endpoint, drift))
		}
		m.because("route", endpoint, "%s, as it should be", routeText(want))
		return want
	}
	switch {
	case r == nil:
		m.stop(MissingRoute, endpoint, append([]string{fmt.Sprintf("%s: no route to %s", endpoint, a)}, w.driftOf(endpoint, "route")...)...)
		return nil
	case dead(r.Kind):
		m.stop(BlackholeRoute, endpoint, append([]string{fmt.Sprintf("%s: route %s", endpoint, routeText(r))}, w.driftOf(endpoint, r.Dst.String())...)...)
		return nil
	}
	m.because("route", endpoint, "%s", routeText(r))
	return r
}

// dead says of a kind of route that it takes packets nowhere.
func dead(kind string) bool {
	return kind == "blackhole" || kind == "unreachable" || kind == "prohibit"
}

// neighbour is the MAC of the next hop on a device. What the table says is
// held against who really has the address.
func (w *walk) neighbour(m *move, endpoint string, l *nodes.TableLink, hop netip.Addr) string {
	t := w.tables[endpoint]
	var owners []iface
	here := iface{endpoint, l}
	for _, o := range w.withAddr(hop) {
		if o.endpoint != endpoint && w.reaches(here, o) {
			owners = append(owners, o)
		}
	}
	i := slices.IndexFunc(t.Neighbours, func(n nodes.TableNeighbour) bool { return n.Dev == l.Name && n.Addr == hop })
	entry := nodes.TableNeighbour{}
	if i >= 0 {
		entry = t.Neighbours[i]
	}
	at := fmt.Sprintf("%s lladdr %s dev %s %s", hop, entry.MAC, l.Name, strings.ToLower(entry.State))
	right := slices.ContainsFunc(owners, func(o iface) bool { return o.link.MAC == entry.MAC })
	switch {
	case entry.MAC != "" && entry.State != "FAILED" && (right || len(owners) == 0):
		m.because("neighbour", endpoint, "%s", at)
		return entry.MAC
	case entry.MAC != "" && entry.State != "FAILED":
		m.blame(WrongNeighbour, endpoint, append([]string{fmt.Sprintf("%s: neighbour %s; %s has %s", endpoint, at, owners[0], owners[0].link.MAC)}, w.driftOf(endpoint, hop.String())...)...)
		return owners[0].link.MAC
	case l.Kind == "vxlan":
		m.blame(WrongNeighbour, endpoint, append([]string{fmt.Sprintf("%s: no neighbour entry for %s dev %s: which VTEP has it is not known", endpoint, hop, l.Name)}, w.driftOf(endpoint, hop.String())...)...)
	case len(owners) == 0 && w.routed[endpoint]:
		return w.onBehalf(m, endpoint, l, hop)
	case len(owners) == 0:
		w.nobody(m, endpoint, l, hop)
		return ""
	default:
		down := slices.IndexFunc(owners, func(o iface) bool { return !o.link.Up })
		if down >= 0 && len(owners) == 1 {
			o := owners[down]
			m.blame(LinkDown, o.endpoint, append([]string{fmt.Sprintf("%s: is down: nobody answers ARP for %s", o, hop)}, w.driftOf(o.endpoint, o.link.Name)...)...)
		} else if entry.State == "FAILED" || entry.State == "INCOMPLETE" {
			m.blame(HostUnreachable, endpoint, fmt.Sprintf("%s: ARP for %s dev %s is not answered (%s), though %s has it", endpoint, hop, l.Name, entry.State, owners[0]))
		} else {
			m.because("neighbour", endpoint, "%s dev %s: asked by ARP, %s has it", hop, l.Name, owners[0])
		}
	}
	if len(owners) > 0 {
		return owners[0].link.MAC
	}
	return ""
}

// reaches says whether ARP on one interface can ask another.
func (w *walk) reaches(a, b iface) bool {
	if w.onSegment(a, b) {
		return true
	}
	// A veth pair without a bridge.
	return w.peers[a.String()] == b.String()
}

// onBehalf is a next hop that no interface has, asked for by a container that
// has a link of its own to its host. The host's kernel (arp_process) answers
// for what it would forward.
func (w *walk) onBehalf(m *move, endpoint string, l *nodes.TableLink, hop netip.Addr) string {
	peer := w.peers[endpoint+":"+l.Name]
	host, dev, _ := strings.Cut(peer, ":")
	t, end := w.tables[host], w.link(host, dev)
	if t == nil || end == nil {
		w.nobody(m, endpoint, l, hop)
		return ""
	}
	r := t.Route(hop)
	switch v := t.Sysctls["net/ipv4/conf/"+dev+"/proxy_arp"]; {
	case v == "0":
		m.blame(NoProxyARP, host, append([]string{fmt.Sprintf("%s: net.ipv4.conf.%s.proxy_arp = 0: it does not answer ARP for %s", host, dev, hop)}, w.driftOf(host, dev)...)...)
	case r == nil || r.Kind != "unicast" || r.Dev == dev:
		m.blame(NoProxyARP, host, fmt.Sprintf("%s: has no route to %s by another interface than %s: with proxy_arp the kernel answers only for what it would forward", host, hop, dev),
			fmt.Sprintf("%s: a default route, or ip route add %s dev lo, is the cure", host, hop))
	default:
		m.because("neighbour", endpoint, "%s dev %s: asked by ARP, %s answers for it (proxy_arp)", hop, l.Name, peer)
		return end.MAC
	}
	m.end = true
	return ""
}

// nobody is a next hop that no interface has.
func (w *walk) nobody(m *move, endpoint string, l *nodes.TableLink, hop netip.Addr) {
	unanswered := fmt.Sprintf("%s: ARP for %s dev %s is not answered", endpoint, hop, l.Name)
	if h := w.hosts[hop]; w.dead[h] {
		m.stop(NodeDead, h, h+": was killed (labctl node start brings it back)", unanswered)
		return
	}
	m.stop(ContainerGone, endpoint, unanswered+": no interface of the lab has the address")
}

// encapsulate is a VXLAN device: its FDB tells the host for a MAC.
func (w *walk) encapsulate(m *move, s spot, l *nodes.TableLink) {
	t := w.tables[s.endpoint]
	mac := s.frame.DstMAC
	var remote netip.Addr
	for _, e := range t.FDB {
		if e.Dev == l.Name && e.Dst.IsValid() && (e.MAC == mac || e.MAC == "00:00:00:00:00:00" && !remote.IsValid()) {
			remote = e.Dst
		}
	}
	owners := slices.DeleteFunc(w.withMAC(mac, func(kind string) bool { return kind == "vxlan" }), func(o iface) bool { return o.endpoint == s.endpoint })
	switch {
	case len(owners) == 0:
		m.blame(WrongNeighbour, s.endpoint, append([]string{fmt.Sprintf("%s: no VTEP has MAC %s, which the neighbour table of %s gave", s.endpoint, mac, l.Name)}, w.driftOf(s.endpoint)...)...)
		if !remote.IsValid() {
			m.end = true
			return
		}
	case !remote.IsValid():
		remote = owners[0].link.Local
		m.blame(WrongFDB, s.endpoint, append([]string{fmt.Sprintf("%s: no fdb entry for %s dev %s; it is the VTEP of %s, %s", s.endpoint, mac, l.Name, owners[0].endpoint, remote)}, w.driftOf(s.endpoint, mac)...)...)
	case !slices.ContainsFunc(owners, func(o iface) bool { return o.link.Local == remote }):
		right := owners[0].link.Local
		m.blame(WrongFDB, s.endpoint, append([]string{fmt.Sprintf("%s: fdb %s dev %s dst %s, but it is the VTEP of %s, %s", s.endpoint, mac, l.Name, remote, owners[0].endpoint, right)}, w.driftOf(s.endpoint, mac)...)...)
		remote = right
	default:
		m.because("fdb", s.endpoint, "%s dev %s dst %s: the VTEP of %s", mac, l.Name, remote, owners[0].endpoint)
	}
	m.because("tunnel", s.endpoint, "%s wraps it: vxlan vni %d, udp port %d, %s > %s", l.Name, l.VNI, l.Port, l.Local, remote)
	inner := s.frame
	outer := Frame{Src: l.Local, Dst: remote, TTL: 64, Len: s.frame.Len + 50, Protocol: "udp", DstPort: uint16(l.Port), Tunnel: "vxlan", VNI: l.VNI, Inner: &inner}
	w.send(m, s.endpoint, "", outer)
}

// gateway is the kernel's IPIP device: the gateway of the route tells the host.
func (w *walk) gateway(m *move, s spot, l *nodes.TableLink) {
	r := w.tables[s.endpoint].Route(s.frame.Dst)
	if r == nil || r.Dev != l.Name || !r.Via.IsValid() {
		m.stop(WrongRoute, s.endpoint, append([]string{fmt.Sprintf("%s: no route to %s by %s has a gateway, which tells the host", s.endpoint, s.frame.Dst, l.Name)}, w.driftOf(s.endpoint, "route")...)...)
		return
	}
	own := w.leaseOf(s.endpoint)
	if own == nil {
		m.stop(Unknown, s.endpoint, s.endpoint+": has no block, and labctl does not know its address")
		return
	}
	m.because("tunnel", s.endpoint, "%s wraps it: protocol 4 (ipip), %s > %s, the route's gateway", l.Name, own.publicIP, r.Via)
	w.send(m, s.endpoint, "", ipip(s.frame, own.publicIP, r.Via))
}

// ipip wraps a packet as the kernel does, and an agent in its place.
func ipip(inner Frame, src, dst netip.Addr) Frame {
	return Frame{Src: src, Dst: dst, TTL: inner.TTL, DF: inner.DF, Len: inner.Len + 20, Protocol: "ipip", Tunnel: "ipip", Inner: &inner}
}

// agent is what an agent does with what it reads from its TUN device: its table
// of leases or blocks tells the host.
func (w *walk) agent(m *move, s spot, l *nodes.TableLink) {
	own := w.leaseOf(s.endpoint)
	if own != nil && !own.alive {
		m.blame(AgentDead, s.endpoint, fmt.Sprintf("%s: its agent does not run: nobody reads from %s", s.endpoint, l.Name))
	}
	to := w.owner(s.frame.Dst)
	if to == nil {
		m.stop(AgentDrop, s.endpoint, fmt.Sprintf("%s: no lease has %s: the agent drops it (no-route)", s.endpoint, s.frame.Dst))
		return
	}
	m.because("lease", s.endpoint, "the agent (user space): %s is %s's, public address %s", to.subnet, to.node, to.publicIP)
	var src netip.Addr
	if own != nil {
		src = own.publicIP
	}
	if l.Name == calico.IPIPDevice {
		m.because("tunnel", s.endpoint, "it wraps it: protocol 4 (ipip), %s > %s", src, to.publicIP)
		w.send(m, s.endpoint, "", ipip(s.frame, src, to.publicIP))
		return
	}
	m.because("tunnel", s.endpoint, "it wraps it: udp port %d, %s > %s", w.port, src, to.publicIP)
	inner := s.frame
	outer := Frame{Src: src, Dst: to.publicIP, TTL: 64, Len: s.frame.Len + 28, Protocol: "udp", SrcPort: w.port, DstPort: w.port, Tunnel: "udp", Inner: &inner}
	w.send(m, s.endpoint, "", outer)
}
