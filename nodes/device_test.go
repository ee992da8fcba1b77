package nodes_test

import (
	"net/netip"
	"testing"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// What a host's underlay is chosen by, on devices made for it.
func TestDevices(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Netns, nodestest.Bridge)
	ns, err := nodes.NewNamespace("host")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if dev, err := ns.DefaultDevice(); err != nil || dev != "" {
		t.Errorf("DefaultDevice() of an empty namespace = %q, %v, want none", dev, err)
	}
	if dev, _, _, err := ns.RouteTo(netip.MustParseAddr("192.0.2.9")); err == nil {
		t.Errorf("RouteTo() in an empty namespace = %s, want an error", dev)
	}
	if err := ns.MayChange(); err != nil {
		t.Errorf("MayChange() of a namespace made here = %v", err)
	}
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "test", Protocol: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := netip.MustParsePrefix("0.0.0.0/0")
	r.Set(nodes.State{
		Links: []nodes.Link{
			nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0", MTU: 1400}},
			nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br1"}},
		},
		Addrs: []nodes.Addr{
			{Dev: "br0", Prefix: netip.MustParsePrefix("169.254.7.7/16")},
			{Dev: "br0", Prefix: netip.MustParsePrefix("192.0.2.1/24")},
			{Dev: "br1", Prefix: netip.MustParsePrefix("198.51.100.1/24")},
		},
		Routes: []nodes.Route{{Dst: all, Via: netip.MustParseAddr("198.51.100.254"), Dev: "br1"}},
	})
	if _, err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	devices, err := ns.Devices()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]nodes.Device{}
	for _, d := range devices {
		found[d.Name] = d
	}
	if d := found["br0"]; d.MTU != 1400 || len(d.Addrs) != 2 || d.Addrs[0].String() != "192.0.2.1/24" {
		t.Errorf("br0 = %+v, want MTU 1400 and the global address first", d)
	}
	if dev, err := ns.DefaultDevice(); err != nil || dev != "br1" {
		t.Errorf("DefaultDevice() = %q, %v, want br1", dev, err)
	}
	for to, want := range map[string]string{"192.0.2.9": "br0 192.0.2.1 invalid IP", "203.0.113.1": "br1 198.51.100.1 198.51.100.254"} {
		dev, src, via, err := ns.RouteTo(netip.MustParseAddr(to))
		if got := dev + " " + src.String() + " " + via.String(); err != nil || got != want {
			t.Errorf("RouteTo(%s) = %s, %v, want %s", to, got, err, want)
		}
	}
}
