package nodes_test

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// genState draws a State for a host with an underlay device eth0.
func genState(t *rapid.T) nodes.State {
	var s nodes.State
	bit := func(label string) bool { return rapid.Bool().Draw(t, label) }
	num := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
	mtu := func() int { return []int{0, 1300, 1400}[num("mtu", 3)] }
	hw := func(n int) []byte {
		if bit("mac") {
			return mac(n + 16*num("variant", 3))
		}
		return nil
	}
	var devs []string
	for i := range num("bridges", 3) {
		name := fmt.Sprintf("br%d", i)
		s.Links = append(s.Links, nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: name, MTU: mtu(), MAC: hw(0x100 + i)}})
		devs = append(devs, name)
	}
	for i := range num("veths", 3) {
		v := nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: fmt.Sprintf("ve%d", i), MTU: mtu(), MAC: hw(0x200 + i)}, PeerName: fmt.Sprintf("peer%d", i)}
		if len(devs) > 0 && bit("master") {
			v.Master = devs[0]
		}
		s.Links = append(s.Links, v)
	}
	if bit("vxlan") {
		s.Links = append(s.Links, nodes.VXLAN{
			LinkAttrs: nodes.LinkAttrs{Name: "vx0", MTU: mtu(), MAC: hw(0x300)}, VNI: 1 + num("vni", 2), Port: 8472 + num("port", 2),
			Local: addr("192.168.0.1"), Dev: "eth0", Learning: bit("learning"), GBP: bit("gbp"),
		})
		devs = append(devs, "vx0")
		for i := range num("fdb", 5) {
			s.FDB = append(s.FDB, nodes.FDBEntry{Dev: "vx0", MAC: mac(0x400 + i), Dst: addr(fmt.Sprintf("192.168.0.%d", 10+num("dst", 3)))})
		}
		for i := range num("flood", 3) {
			s.FDB = append(s.FDB, nodes.FDBEntry{Dev: "vx0", MAC: make([]byte, 6), Dst: addr(fmt.Sprintf("192.168.0.%d", 20+i))})
		}
	}
	devs = append(devs, "eth0")
	dev := func() string { return devs[num("dev", len(devs))] }
	for i := range num("addresses", 4) {
		d := dev()
		s.Addrs = append(s.Addrs, nodes.Addr{Dev: d, Prefix: prefix(fmt.Sprintf("10.%d.0.%d/%d", 50+i, 1+num("host", 2), []int{24, 32, 16}[num("bits", 3)]))})
		if bit("ipv6") {
			s.Addrs = append(s.Addrs, nodes.Addr{Dev: d, Prefix: prefix(fmt.Sprintf("fd00:%d::%d/64", 50+i, 1+num("host", 2)))})
		}
	}
	for i := range num("neighbours", 5) {
		a := netip.AddrFrom4([4]byte{10, 200, 0, byte(i)})
		if bit("ipv6") {
			a = addr(fmt.Sprintf("fd00:200::%d", i+1))
		}
		s.Neighbours = append(s.Neighbours, nodes.Neighbour{Dev: dev(), Addr: a, MAC: mac(0x500 + num("variant", 3)), ExternLearned: bit("learned")})
	}
	for i := range num("routes", 8) {
		r := nodes.Route{Dst: prefix(fmt.Sprintf("10.1%d.0.0/16", i))}
		v6 := bit("ipv6")
		if v6 {
			r.Dst = prefix(fmt.Sprintf("fd00:1%d::/48", i))
		}
		switch num("kind", 5) {
		case 0:
			r.Kind = nodes.Blackhole
		case 1:
			r.Kind = nodes.Unreachable
		case 2:
			r.Dev, r.LinkScope = dev(), bit("scope")
		case 3:
			r.Dev, r.OnLink = dev(), true
			r.Via = addr(fmt.Sprintf("10.201.0.%d", 1+num("via", 3)))
			if v6 {
				r.Via = addr(fmt.Sprintf("fd00:201::%d", 1+num("via", 3)))
			}
		case 4:
			for i := range 2 + num("hops", 2) {
				h := nodes.Hop{Via: addr(fmt.Sprintf("10.201.0.%d", 1+i)), Dev: dev(), OnLink: true}
				if v6 {
					h.Via = addr(fmt.Sprintf("fd00:201::%d", 1+i))
				}
				r.Hops = append(r.Hops, h)
			}
		}
		s.Routes = append(s.Routes, r)
	}
	if bit("default") {
		s.Routes = append(s.Routes, nodes.Route{Dst: prefix("0.0.0.0/0"), Via: addr("192.168.0.2"), Dev: "eth0", Src: addr("192.168.0.1")})
	}
	s.Sysctls = append(s.Sysctls, nodes.Sysctl{Key: "net/ipv4/ip_forward", Value: fmt.Sprint(num("forward", 2))})
	if bit("tables") {
		t := testTable()
		t.Chains = t.Chains[:num("chains", len(t.Chains)+1)]
		s.Tables = append(s.Tables, t)
	}
	return s
}

// TestAnyToAny goes from one State to another, and expects the kernel to hold
// the second and nothing of the first.
func TestAnyToAny(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Bridge, nodestest.NFT, nodestest.Tool("ip"), nodestest.Tool("nft"))
	// Deleting devices makes the kernel wait: -rapid.checks=100 takes 20 s.
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		f.Value.Set("20")
	}
	var host *nodes.Namespace // serves until a check fails
	t.Cleanup(func() { host.Close() })
	clean := false
	rapid.Check(t, func(rt *rapid.T) {
		if !clean {
			if host != nil {
				host.Close()
			}
			var err error
			if host, err = nodes.NewNamespace("host"); err != nil {
				rt.Fatal(err)
			}
		}
		clean = false
		step := func(r *nodes.Reconciler, s nodes.State) {
			if err := nodes.Check(s); err != nil {
				rt.Fatal(err)
			}
			r.Set(s)
			if d, err := r.Apply(t.Context()); err != nil || len(d.Foreign) > 0 {
				rt.Fatalf("Apply() = %v, foreign %v, %v", d.Changes, d.Foreign, err)
			}
			if d, err := r.Diff(t.Context()); err != nil || len(d.Changes) > 0 || len(d.Foreign) > 0 {
				rt.Fatalf("Diff() = %v, foreign %v, %v", d.Changes, d.Foreign, err)
			}
		}
		holds := func() string {
			var b strings.Builder
			for l := range strings.Lines(must(t, host, "ip -br link")) {
				b.WriteString(strings.Fields(l)[0] + "\n") // the carrier may still change
			}
			for _, line := range []string{"ip -4 -o addr show up", "ip route", "ip -6 route show proto 91", "ip neigh show nud permanent", "nft list ruleset"} {
				b.WriteString(must(t, host, line))
			}
			return b.String()
		}
		reconciler := func(protocol int) *nodes.Reconciler {
			r, err := nodes.NewReconciler(host, nodes.Owner{Name: "test", Protocol: protocol})
			if err != nil {
				rt.Fatal(err)
			}
			return r
		}
		underlay := reconciler(protocol + 1)
		defer underlay.Close()
		step(underlay, nodes.State{
			Links: []nodes.Link{nodes.Veth{LinkAttrs: attrs("eth0"), PeerName: "far"}, nodes.Port{LinkAttrs: attrs("far")}},
			Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.0.1/16")}},
		})
		empty := holds()
		r := reconciler(protocol)
		defer r.Close()
		step(r, genState(rt))
		step(r, genState(rt))
		step(r, nodes.State{})
		if now := holds(); now != empty {
			rt.Fatalf("something is left:\n%s\nwant\n%s", now, empty)
		}
		clean = true
	})
}
