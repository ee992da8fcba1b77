package nodes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ipv6Metric is what the kernel gives IPv6 routes that are added without one.
const ipv6Metric = 1024

// kroute is a route as the kernel has it, in comparable form.
type kroute struct {
	dst      netip.Prefix
	via      netip.Addr
	dev      string
	src      netip.Addr
	onlink   bool
	kind     int
	scope    netlink.Scope
	protocol int
	priority int
	tos      int
	hops     string // of a route with several, as ip route prints them, sorted
}

func (k kroute) String() string {
	s := ""
	switch k.kind {
	case unix.RTN_BLACKHOLE:
		s += "blackhole "
	case unix.RTN_UNREACHABLE:
		s += "unreachable "
	case unix.RTN_UNICAST:
	default:
		s += fmt.Sprintf("type %d ", k.kind)
	}
	add := func(word, v string) { s += word + " " + v + " " }
	if k.via.IsValid() {
		add("via", k.via.String())
	}
	if k.hops != "" {
		s += k.hops + " "
	}
	if k.dev != "" {
		add("dev", k.dev)
	}
	if k.src.IsValid() {
		add("src", k.src.String())
	}
	if k.priority != 0 && (k.dst.Addr().Is4() || k.priority != ipv6Metric) {
		add("metric", fmt.Sprint(k.priority))
	}
	if k.dst.Addr().Is4() && k.kind == unix.RTN_UNICAST && k.hops == "" && k.via.IsValid() == (k.scope == netlink.SCOPE_LINK) {
		add("scope", k.scope.String())
	}
	if k.onlink {
		s += "onlink "
	}
	if s != "" {
		s = s[:len(s)-1]
	}
	return s
}

// kroute is r as the kernel is to have it.
func (p *pass) kroute(r Route) kroute {
	k := kroute{dst: r.Dst, via: r.Via, dev: r.Dev, src: r.Src, onlink: r.OnLink, kind: unix.RTN_UNICAST, protocol: p.r.owner.Protocol}
	switch r.Kind {
	case Blackhole:
		k.kind = unix.RTN_BLACKHOLE
	case Unreachable:
		k.kind = unix.RTN_UNREACHABLE
	}
	var hops []string
	for _, h := range r.Hops {
		hops = append(hops, hopText(h))
	}
	k.hops = hopList(hops)
	if r.Dst.Addr().Is6() {
		k.priority = ipv6Metric
	} else if r.Kind == Unicast && len(r.Hops) == 0 && (r.LinkScope || !r.Via.IsValid()) {
		k.scope = netlink.SCOPE_LINK
	}
	return k
}

// kernelRoute is a listed route in comparable form.
func (p *pass) kernelRoute(r netlink.Route) kroute {
	k := kroute{
		dst: prefixOf(r.Dst), via: addrOf(r.Gw), dev: p.byIndex[r.LinkIndex], src: addrOf(r.Src), onlink: r.Flags&unix.RTNH_F_ONLINK != 0,
		kind: r.Type, scope: r.Scope, protocol: int(r.Protocol), priority: r.Priority, tos: r.Tos,
	}
	var hops []string
	for _, h := range r.MultiPath {
		text := hopText(Hop{Via: addrOf(h.Gw), Dev: p.byIndex[h.LinkIndex], OnLink: h.Flags&unix.RTNH_F_ONLINK != 0})
		if h.Hops > 0 { // the kernel's counts from 0
			text += fmt.Sprintf(" weight %d", h.Hops+1)
		}
		hops = append(hops, text)
	}
	k.hops = hopList(hops)
	if !k.dst.IsValid() {
		k.dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Family == unix.AF_INET6 {
			k.dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if k.kind != unix.RTN_UNICAST {
		k.dev = "" // IPv6 shows lo
	}
	if k.dst.Addr().Is6() {
		k.scope = 0 // IPv6 has none
	}
	return k
}

func hopText(h Hop) string {
	s := fmt.Sprintf("nexthop via %s dev %s", h.Via, h.Dev)
	if h.OnLink {
		s += " onlink"
	}
	return s
}

// hopList joins next hops in an order of their own: a route's have none.
func hopList(hops []string) string {
	slices.Sort(hops)
	return strings.Join(hops, " ")
}

type listedRoute struct {
	kroute
	multipath []*netlink.NexthopInfo // what hops are to the kernel
}

// routeList is what the main tables of the families that were listed have.
type routeList struct {
	families map[int]bool
	have     map[netip.Prefix][]listedRoute
}

// routes makes the main table's routes what the State says.
func (p *pass) routes() {
	connected := p.connected()
	need4, need6 := p.first, p.first
	for _, list := range [][]Route{p.want.Routes, connected} {
		for _, r := range list {
			need4, need6 = need4 || r.Dst.Addr().Is4(), need6 || r.Dst.Addr().Is6()
		}
	}
	need4, need6 = need4 || p.r.made.routes4, need6 || p.r.made.routes6

	if p.r.routes == nil {
		p.r.routes = &routeList{families: map[int]bool{}, have: map[netip.Prefix][]listedRoute{}}
	}
	have := p.r.routes.have
	if need4 && !p.listRoutes(unix.AF_INET) || need6 && !p.listRoutes(unix.AF_INET6) {
		return
	}
	want := make(map[netip.Prefix]kroute, len(p.want.Routes))
	has4, has6 := false, false
	for _, r := range p.want.Routes {
		want[r.Dst] = p.kroute(r)
		has4, has6 = has4 || r.Dst.Addr().Is4(), has6 || r.Dst.Addr().Is6()
	}

	for dst, list := range have {
		w, wanted := want[dst]
		for _, r := range slices.Clone(list) {
			if p.ctx.Err() != nil {
				return
			}
			switch {
			case wanted && r.kroute == w:
			case r.protocol == p.r.owner.Protocol:
				// One that is in the wanted one's place is replaced below.
				if !wanted || r.priority != w.priority || contains(list, w) {
					if p.do(routeChange(Remove, r.kroute), "delete route", func() error { return p.delRoute(r) }) {
						have[dst] = slices.DeleteFunc(have[dst], func(l listedRoute) bool { return l.kroute == r.kroute })
					}
				}
			case wanted && (r.priority != w.priority || r.tos != 0):
				p.foreign = append(p.foreign, routeChange(Remove, r.kroute))
			}
		}
	}
	if !p.dry {
		p.r.made.routes4, p.r.made.routes6 = has4, has6
	}

	for _, c := range connected {
		if p.ctx.Err() != nil {
			return
		}
		p.connect(c, have[c.Dst])
	}
	for _, r := range p.want.Routes {
		p.route(want[r.Dst], r.Hops, have[r.Dst])
	}
	p.flush()
}

// route puts one wanted route there.
func (p *pass) route(w kroute, hops []Hop, list []listedRoute) {
	if contains(list, w) {
		return
	}
	ch := routeChange(Add, w)
	verb := "add route"
	for _, r := range list {
		if r.priority != w.priority || r.tos != 0 {
			continue
		}
		ch = Change{Modify, "route", w.dst.String(), r.String() + ", want " + w.String()}
		if r.String() == w.String() {
			ch.Detail = fmt.Sprintf("%s: proto %d, want %d", w, r.protocol, w.protocol)
		}
		verb = "replace route"
		if r.protocol == unix.RTPROT_KERNEL {
			if p.found = append(p.found, ch); !p.dry {
				p.failed = append(p.failed, ch)
				p.fail("route "+w.dst.String(), verb, fmt.Errorf("the kernel's own route dev %s is in its place: %w", r.dev, unix.EEXIST))
			}
			return
		}
		break
	}
	dev := 0
	if w.dev != "" {
		var ok bool
		if dev, ok = p.device(ch, w.dev); !ok {
			return
		}
	}
	next := make([]nextHop, len(hops))
	for i, h := range hops {
		index, ok := p.device(ch, h.Dev)
		if !ok {
			return
		}
		next[i] = nextHop{h, index}
	}
	p.later(queued{change: ch, verb: verb, request: setRoute(w, dev, next), done: func() { p.putRoute(w, list) }})
}

// putRoute notes a route that has been set, as the kernel lists it.
func (p *pass) putRoute(w kroute, list []listedRoute) {
	if w.hops != "" {
		// How the kernel has its next hops is seen when it is listed.
		p.r.drop(lists{routes: true})
		return
	}
	if p.r.routes == nil {
		return
	}
	list = slices.DeleteFunc(list, func(r listedRoute) bool { return r.priority == w.priority && r.tos == 0 })
	p.r.routes.have[w.dst] = append(list, listedRoute{kroute: w})
}

// connect puts one of the kernel's own routes back.
func (p *pass) connect(c Route, list []listedRoute) {
	link := p.byName[c.Dev]
	if link == nil || p.down[c.Dev] {
		return // told with the address, or gone on purpose
	}
	for _, r := range list {
		if r.dev == c.Dev && !r.via.IsValid() && r.kind == unix.RTN_UNICAST {
			return
		}
	}
	r := &netlink.Route{
		Dst: ipNet(c.Dst), LinkIndex: link.Attrs().Index, Src: c.Src.AsSlice(), Type: unix.RTN_UNICAST,
		Protocol: unix.RTPROT_KERNEL, Table: unix.RT_TABLE_MAIN,
	}
	detail := "dev " + c.Dev + " proto kernel"
	if c.Dst.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
		detail += " scope link src " + c.Src.String()
	} else {
		r.Priority = 256
		detail += " metric 256"
	}
	p.do(Change{Add, "route", c.Dst.String(), detail}, "add route", func() error { return p.r.h.RouteReplace(r) })
	p.r.drop(lists{routes: true})
}

// delRoute deletes exactly the listed route.
func (p *pass) delRoute(l listedRoute) error {
	r := netlink.Route{
		Dst: ipNet(l.dst), Gw: l.via.AsSlice(), Src: l.src.AsSlice(), Type: l.kind, Scope: l.scope, Table: unix.RT_TABLE_MAIN,
		Protocol: netlink.RouteProtocol(l.protocol), Priority: l.priority, Tos: l.tos, MultiPath: l.multipath,
	}
	if dev := p.byName[l.dev]; dev != nil {
		r.LinkIndex = dev.Attrs().Index
	}
	err := p.r.h.RouteDel(&r)
	if errors.Is(err, unix.ESRCH) {
		return nil // gone meanwhile
	}
	return err
}

// listRoutes has the routes of a family in r.routes. It says whether they are.
func (p *pass) listRoutes(family int) bool {
	if p.r.routes.families[family] {
		return true
	}
	list, err := dump(func() ([]netlink.Route, error) {
		return p.r.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	// In a namespace that never had a route the main table does not exist.
	if err != nil && !errors.Is(err, unix.ENOENT) {
		p.fail("routes", "list", err)
		return false
	}
	for _, r := range list {
		k := p.kernelRoute(r)
		p.r.routes.have[k.dst] = append(p.r.routes.have[k.dst], listedRoute{k, r.MultiPath})
	}
	p.r.routes.families[family] = true
	return true
}

func contains(list []listedRoute, w kroute) bool {
	for _, r := range list {
		if r.kroute == w {
			return true
		}
	}
	return false
}

func routeChange(a Action, k kroute) Change {
	return Change{a, "route", k.dst.String(), k.String()}
}

// RoutesOf lists the main table's routes with a protocol number: what an
// earlier process of the same kind left.
func (n *Namespace) RoutesOf(protocol int) ([]Route, error) {
	h, err := openHandle(n)
	if err != nil {
		return nil, fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", n.name, err)
	}
	p := &pass{byIndex: map[int]string{}}
	for _, l := range links {
		p.byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	var all []Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: netlink.RouteProtocol(protocol)},
				netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%s: list routes: %w", n.name, err)
		}
		for _, r := range list {
			all = append(all, p.asRoute(r))
		}
	}
	return all, nil
}

// asRoute is a listed route as a State would have it.
func (p *pass) asRoute(r netlink.Route) Route {
	k := p.kernelRoute(r)
	out := Route{Dst: k.dst, Via: k.via, Dev: k.dev, Src: k.src, OnLink: k.onlink}
	switch k.kind {
	case unix.RTN_BLACKHOLE:
		out.Kind = Blackhole
	case unix.RTN_UNREACHABLE:
		out.Kind = Unreachable
	}
	out.LinkScope = k.dst.Addr().Is4() && k.via.IsValid() && k.scope == netlink.SCOPE_LINK
	for _, h := range r.MultiPath {
		out.Hops = append(out.Hops, Hop{Via: addrOf(h.Gw), Dev: p.byIndex[h.LinkIndex], OnLink: h.Flags&unix.RTNH_F_ONLINK != 0})
	}
	return out
}
