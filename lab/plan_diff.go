package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"labctl/backends/calico"
)

// DiffPlans tells in lines for people what b has that a has not, as in
// "node2: containers 2, was 1". It is empty when the plans are the same but
// for what depends on the machine.
func DiffPlans(a, b *Plan) []string {
	d := new(planDiff)
	d.value("name", a.Name, b.Name)
	d.value("about", a.About, b.About)
	d.value("backend", a.Backend, b.Backend)
	if !sameJSON(a.Network, b.Network) {
		d.value("network", string(a.Network), string(b.Network))
	}
	d.calico(a.Calico, b.Calico)
	d.value("bgp", describeTimers(a.BGP), describeTimers(b.BGP))
	d.value("leaseTTL", a.LeaseTTL, b.LeaseTTL)
	diffNamed(d, "segment", a.Segments, b.Segments, func(s SegmentPlan) string { return s.Name }, d.segment)
	diffNamed(d, "router", a.Routers, b.Routers, func(r RouterPlan) string { return r.Name }, d.router)
	d.internet(a.Internet, b.Internet)
	d.etcd(a.Etcd, b.Etcd)
	diffNamed(d, "", a.Nodes, b.Nodes, func(n NodePlan) string { return n.Name }, d.node)
	diffNamed(d, "policy", a.Policies, b.Policies, func(p PolicySpec) string { return p.Name }, d.policy)
	if len(d.lines) == 0 && !sameLab(a, b) {
		d.lines = append(d.lines, "order of nodes, containers or segments: changed")
	}
	return d.lines
}

// sameLab compares all that the file decides: what is left of two plans when
// every line above is the same is the order in which things stand.
func sameLab(a, b *Plan) bool {
	without := func(p *Plan) []byte {
		c := *p
		c.Neighbours, c.Network = NeighbourPlan{}, nil
		data, _ := json.Marshal(c)
		return data
	}
	return bytes.Equal(without(a), without(b))
}

type planDiff struct{ lines []string }

// value notes "WHAT NEW, was OLD".
func (d *planDiff) value(what string, old, new any) {
	if !reflect.DeepEqual(old, new) {
		d.lines = append(d.lines, fmt.Sprintf("%s %s, was %s", what, plain(new), plain(old)))
	}
}

func plain(v any) string {
	if s := fmt.Sprint(v); s != "" && s != "[]" && s != "invalid Prefix" && s != "invalid IP" {
		return s
	}
	return "none"
}

func sameJSON(a, b json.RawMessage) bool {
	var compactA, compactB bytes.Buffer
	if json.Compact(&compactA, a) != nil || json.Compact(&compactB, b) != nil {
		return bytes.Equal(a, b)
	}
	return bytes.Equal(compactA.Bytes(), compactB.Bytes())
}

// diffNamed pairs what has the same name and notes what came and went.
func diffNamed[T any](d *planDiff, kind string, a, b []T, name func(T) string, diff func(a, b T)) {
	object := func(v T) string { return strings.TrimSpace(kind + " " + name(v)) }
	for _, old := range a {
		if !slices.ContainsFunc(b, func(v T) bool { return name(v) == name(old) }) {
			d.lines = append(d.lines, object(old)+": removed")
		}
	}
	for _, new := range b {
		i := slices.IndexFunc(a, func(v T) bool { return name(v) == name(new) })
		if i < 0 {
			d.lines = append(d.lines, object(new)+": new")
			continue
		}
		diff(a[i], new)
	}
}

func (d *planDiff) segment(a, b SegmentPlan) {
	object := "segment " + b.Name + ": "
	d.value(object+"subnet", a.Subnet, b.Subnet)
	d.value(object+"mtu", a.MTU, b.MTU)
	d.value(object+"offload", onOff(a.Offload), onOff(b.Offload))
	d.value(object+"management", onOff(a.Management), onOff(b.Management))
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (d *planDiff) router(a, b RouterPlan) {
	d.value("router "+b.Name+": segments", describeNICs(a.NICs), describeNICs(b.NICs))
	d.value("router "+b.Name+": routes", describeRoutes(a.Routes), describeRoutes(b.Routes))
	d.value("router "+b.Name+": speaker", a.Speaker.describe(), b.Speaker.describe())
}

func describeNICs(nics []NICPlan) []string {
	var s []string
	for _, n := range nics {
		s = append(s, n.Segment+" "+n.Addr.Addr().String())
	}
	return s
}

func describeRoutes(routes []RoutePlan) []string {
	var s []string
	for _, r := range routes {
		dst := r.Dst.String()
		if r.Dst.Bits() == 0 {
			dst = "default"
		}
		if r.Via.IsValid() {
			s = append(s, dst+" via "+r.Via.String())
		} else {
			s = append(s, dst+" dev "+r.Dev)
		}
	}
	return s
}

func (d *planDiff) internet(a, b *InternetPlan) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.lines = append(d.lines, "internet: new")
	case b == nil:
		d.lines = append(d.lines, "internet: removed")
	default:
		d.value("internet: subnet", a.Subnet, b.Subnet)
		d.value("internet: router", a.Router, b.Router)
	}
}

func (d *planDiff) calico(a, b *calico.Config) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.lines = append(d.lines, "calico: new")
	case b == nil:
		d.lines = append(d.lines, "calico: removed")
	default:
		d.value("calico: pool", a.Pool, b.Pool)
		d.value("calico: blockSize", a.BlockSize, b.BlockSize)
		d.value("calico: encapsulation", a.Encapsulation, b.Encapsulation)
		d.value("calico: routes", a.Routes, b.Routes)
		d.value("calico: natOutgoing", onOff(a.NATOutgoing), onOff(b.NATOutgoing))
		d.value("calico: strictAffinity", onOff(a.StrictAffinity), onOff(b.StrictAffinity))
		d.value("calico: maxBlocksPerHost", a.MaxBlocks, b.MaxBlocks)
	}
}

func (d *planDiff) etcd(a, b *EtcdPlan) {
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.lines = append(d.lines, "etcd: new")
	case b == nil:
		d.lines = append(d.lines, "etcd: removed")
	default:
		d.value("etcd: segment", a.NIC.Segment, b.NIC.Segment)
		d.value("etcd: address", a.NIC.Addr.Addr(), b.NIC.Addr.Addr())
	}
}

func (d *planDiff) policy(a, b PolicySpec) {
	for _, part := range []struct {
		key      string
		old, new any
	}{
		{"podSelector", a.PodSelector, b.PodSelector}, {"policyTypes", a.Types(), b.Types()}, {"order", a.Order, b.Order},
		{"ingress", a.Ingress, b.Ingress}, {"egress", a.Egress, b.Egress},
	} {
		old, errOld := json.Marshal(part.old)
		new, errNew := json.Marshal(part.new)
		if errOld != nil || errNew != nil || !bytes.Equal(old, new) {
			d.value(fmt.Sprintf("policy %s: %s", b.Name, part.key), string(old), string(new))
		}
	}
}

func (d *planDiff) node(a, b NodePlan) {
	d.value(b.Name+": speaker", a.Speaker.describe(), b.Speaker.describe())
	object := b.Name + ": "
	d.value(object+"segment", a.NIC.Segment, b.NIC.Segment)
	d.value(object+"address", a.NIC.Addr.Addr(), b.NIC.Addr.Addr())
	d.value(object+"management", describeNICs(a.NICs()[1:]), describeNICs(b.NICs()[1:]))
	d.value(object+"routes", describeRoutes(a.Routes), describeRoutes(b.Routes))
	d.value(object+"subnet", a.Subnet, b.Subnet)
	d.value(object+"wiring", a.Wiring, b.Wiring)
	d.value(object+"bridge", a.Bridge, b.Bridge)
	d.value(object+"agent", a.Command.describe(), b.Command.describe())
	d.value(object+"containers", len(a.Containers), len(b.Containers))
	named := func(c ContainerPlan) string { return c.Name }
	diffNamed(d, b.Name+": container", a.Containers, b.Containers, named, func(a, b ContainerPlan) {
		object := object + "container " + b.Name + ": "
		d.value(object+"address", a.Addr, b.Addr)
		d.value(object+"labels", a.Labels, b.Labels)
		d.value(object+"serve", a.Serve, b.Serve)
		d.value(object+"publish", a.Publish, b.Publish)
	})
}
