package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func (v *validator) segment(s SegmentSpec) {
	path := join("segments", s.Name)
	v.subnet(path+".subnet", "segment "+s.Name, s.Subnet)
	if set := v.positions[path+".mtu"].value != (position{}); (set || s.MTU != 0) && !v.bad(path+".mtu") {
		if s.MTU < 68 || s.MTU > 65535 {
			v.add(path+".mtu", fmt.Sprintf("segment %s: mtu %d is out of range", s.Name, s.MTU), "use 68 to 65535; Ethernet's is 1500")
		}
	}
}

// checkManagement checks that one segment at most is for management, and that
// nothing is there but the store and the nodes' second interfaces.
func (v *validator) checkManagement() {
	for _, s := range v.Segments {
		path := join("segments", s.Name) + ".management"
		switch {
		case s.Management != On:
		case s.Name != v.management:
			v.add(path, fmt.Sprintf("segment %s: management: segment %s has it already", s.Name, v.management), "a lab has one store; remove one")
		case v.noNetwork():
			v.add(path, fmt.Sprintf("segment %s: management: a lab without network has no store", s.Name), "remove it")
		case len(v.fabric()) == 0:
			v.add(path, fmt.Sprintf("segment %s: management, and there is no other segment for the nodes", s.Name), "add segments: {lan: {subnet: 192.168.50.0/24}}")
		}
	}
	if v.management == "" {
		for _, n := range v.Nodes {
			if n.Management.IsValid() {
				v.add(join("nodes", n.Name)+".management", fmt.Sprintf("%s: management: no segment has management on", n.Name), "remove it, or add management: on to a segment")
			}
		}
		return
	}
	if e := v.Etcd.Segment; e != "" && e != v.management && v.segmentSpec[e].Name != "" {
		v.add("etcd.segment", fmt.Sprintf("etcd: segment %s, but segment %s is for management", e, v.management), "leave etcd out, or management")
	}
	for _, r := range v.Routers {
		if i := slices.Index(r.Segments, v.management); i >= 0 {
			v.add(fmt.Sprintf("%s.segments[%d]", join("routers", r.Name), i), fmt.Sprintf("router %s: segment %s is for management, and no router joins it", r.Name, v.management), "remove it")
		}
	}
	for _, n := range v.Nodes {
		if n.Segment == v.management {
			v.add(join("nodes", n.Name)+".segment", fmt.Sprintf("%s: segment %s is for management, where every node has an interface besides", n.Name, n.Segment),
				choose("", v.fabric()))
		}
	}
}

// overlaps compares the segments, the containers' network and the internet,
// which all stand in one another's route tables.
func (v *validator) overlaps() {
	if len(v.Segments) == 0 && !v.bad("segments") {
		v.add("segments", "segments: missing", "add segments: {lan: {subnet: 192.168.50.0/24}}")
	}
	if len(v.Segments) > maxSegments {
		v.add("segments", fmt.Sprintf("segments: %d, more than the %d that a lab may have", len(v.Segments), maxSegments), "")
		return
	}
	type area struct {
		path, object string
		prefix       netip.Prefix
	}
	var areas []area
	if v.network != nil {
		areas = append(areas, area{v.networkPath("Network"), "network", v.network.Pool.Network})
	}
	if v.calico != nil {
		areas = append(areas, area{"calico.pool", "calico", v.calico.Pool})
	}
	for _, s := range v.Segments {
		areas = append(areas, area{join("segments", s.Name) + ".subnet", "segment " + s.Name, s.Subnet})
	}
	if v.Internet != nil {
		areas = append(areas, area{"internet.subnet", "internet", v.Internet.Subnet})
	}
	for i, a := range areas {
		for _, b := range areas[:i] {
			if a.prefix.IsValid() && b.prefix.IsValid() && a.prefix.Overlaps(b.prefix) {
				v.add(a.path, fmt.Sprintf("%s: subnet %s overlaps %s of %s", a.object, a.prefix, b.prefix, b.object), "give each a range of its own")
			}
		}
	}
}

func (v *validator) router(r RouterSpec) {
	path := join("routers", r.Name) + ".segments"
	if len(r.Segments) == 0 && !v.bad(path) {
		v.add(path, "router "+r.Name+": segments missing", "add segments: ["+strings.Join(v.segmentNames(), ", ")+"]")
	}
	for i, s := range r.Segments {
		p := fmt.Sprintf("%s[%d]", path, i)
		if v.segmentRef(p, "router "+r.Name, s) && slices.Contains(r.Segments[:i], s) {
			v.add(p, fmt.Sprintf("router %s: segment %s is given twice", r.Name, s), "remove one")
		}
	}
}

func (v *validator) checkInternet() {
	if n := len(v.Routers); n > maxRouters {
		v.add("routers", fmt.Sprintf("routers: %d, more than the %d that a lab may have", n, maxRouters), "")
	}
	if v.Internet == nil {
		return
	}
	v.subnet("internet.subnet", "internet", v.Internet.Subnet)
	if r := v.Internet.Router; r != "" && v.names[r] != "router" {
		var names []string
		for _, r := range v.routers {
			names = append(names, r.Name)
		}
		v.add("internet.router", fmt.Sprintf("internet: router %s is unknown", quote(r)), choose(r, names))
	}
}

func (v *validator) checkEtcd() {
	switch {
	case v.Etcd.Segment == "":
	case !v.hasNetwork():
		if v.noNetwork() {
			v.add("etcd", "etcd: a lab without network has no store", "remove etcd")
		}
	default:
		v.segmentRef("etcd.segment", "etcd", v.Etcd.Segment)
	}
}

// segmentRef checks a reference to a segment.
func (v *validator) segmentRef(path, object, name string) bool {
	if _, ok := v.segmentSpec[name]; ok {
		return true
	}
	v.add(path, fmt.Sprintf("%s: segment %s is unknown", object, quote(name)), choose(name, v.segmentNames()))
	return false
}

func (v *validator) segmentNames() []string {
	var names []string
	for _, s := range v.Segments {
		names = append(names, s.Name)
	}
	return names
}

// choose is a hint for an unknown name.
func choose(word string, valid []string) string {
	if near := Nearest(word, valid); near != "" {
		return "did you mean " + near + "?"
	}
	if len(valid) == 0 {
		return "there are none"
	}
	const most = 12
	if len(valid) > most {
		return "there are " + strings.Join(valid[:most], ", ") + " and so on"
	}
	return "there are " + strings.Join(valid, ", ")
}

// addresses checks each segment's room and the addresses that nodes have
// pinned there.
func (v *validator) addresses() {
	for _, s := range v.Segments {
		path := join("segments", s.Name) + ".subnet"
		var on []NodeSpec
		for _, n := range v.Nodes {
			if v.on(n, s.Name) {
				on = append(on, n)
			}
		}
		routers := v.routersOf(s.Name)
		need := len(on) + len(routers)
		who := fmt.Sprintf("%d nodes", len(on))
		if len(routers) > 0 {
			who += " and routers (" + strings.Join(routers[:min(len(routers), 3)], ", ") + ")"
		}
		if v.etcd == s.Name {
			need++
			who += " and etcd"
		}
		if need > maxPorts {
			v.add(join("segments", s.Name), fmt.Sprintf("segment %s: %s need %d ports, a Linux bridge has %d", s.Name, who, need, maxPorts), "spread them over several segments")
			continue
		}
		if v.bad(path) || !s.Subnet.IsValid() {
			continue
		}
		if have := hosts(s.Subnet); need > have {
			bits := s.Subnet.Bits()
			for bits > 8 && 1<<(32-bits)-2 < need {
				bits--
			}
			v.add(path, fmt.Sprintf("segment %s: %s need %d addresses, %s has %d", s.Name, who, need, s.Subnet, have),
				fmt.Sprintf("use a /%d or a bigger subnet", bits))
			continue
		}
		v.pinned(s, on)
	}
}

// pinned checks the addresses that the file gives to nodes of a segment.
func (v *validator) pinned(s SegmentSpec, on []NodeSpec) {
	owner := map[netip.Addr]string{}
	for name, a := range v.infrastructure(s.Name) {
		owner[a] = name
	}
	hint := fmt.Sprintf("take a free one from %s to %s, or leave address out", host(s.Subnet, 1), host(s.Subnet, hosts(s.Subnet)))
	for _, n := range on {
		a, path := v.pinnedOn(n, s.Name)
		if !a.IsValid() || v.bad(path) {
			continue
		}
		if !s.Subnet.Contains(a) {
			v.add(path, fmt.Sprintf("%s: address %s is outside segment %s (%s)", n.Name, a, s.Name, s.Subnet), hint)
			continue
		}
		switch number := hostNumber(s.Subnet, a); {
		case number == 0:
			v.add(path, fmt.Sprintf("%s: address %s is the network address of segment %s", n.Name, a, s.Name), hint)
		case number > hosts(s.Subnet):
			v.add(path, fmt.Sprintf("%s: address %s is the broadcast address of segment %s", n.Name, a, s.Name), hint)
		case owner[a] != "":
			v.add(path, fmt.Sprintf("%s: address %s is already %s's", n.Name, a, owner[a]), hint)
		default:
			owner[a] = n.Name
		}
	}
}

// connected checks that routers join all segments with nodes or etcd.
func (v *validator) connected() {
	group := v.islands()
	inUse := map[string]bool{v.etcd: true}
	for _, n := range v.Nodes {
		inUse[v.segmentOf(n)] = true
	}
	if v.Internet != nil {
		for _, r := range v.routers {
			if r.Name == v.internet && len(r.Segments) > 0 {
				inUse[r.Segments[0]] = true
			}
		}
	}
	first := ""
	for _, s := range v.Segments {
		switch {
		case !inUse[s.Name] || v.bad("routers") || s.Name == v.management:
		case first == "":
			first = s.Name
		case group[s.Name] != group[first]:
			v.add(join("segments", s.Name), fmt.Sprintf("segment %s: no router joins it to segment %s", s.Name, first),
				fmt.Sprintf("add routers: {r1: {segments: [%s, %s]}}", first, s.Name))
		}
	}
}
