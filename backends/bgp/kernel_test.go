package bgp

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

var compare = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestKernel(t *testing.T) {
	devices := []nodes.Device{
		{Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
		{Name: "eth1", Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/30")}},
		{Name: "eth2"},
	}
	path := func(prefix, hop, peer string) Route {
		return Route{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop), Peer: peer, Best: true}
	}
	block, hop := netip.MustParsePrefix("10.1.2.0/26"), netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct {
		name      string
		best      []Route
		own       string
		tunnel    Tunnel
		want      []nodes.Route
		unwritten string
	}{
		{"on-link", []Route{path("10.1.2.0/26", "192.0.2.2", "b")}, "", nil, []nodes.Route{{Dst: block, Via: hop, Dev: "eth0", OnLink: true}}, ""},
		{"two of equal cost", []Route{path("10.1.2.0/26", "198.51.100.2", "c"), path("10.1.2.0/26", "192.0.2.2", "b")}, "", nil, []nodes.Route{{Dst: block, Hops: []nodes.Hop{
			{Via: hop, Dev: "eth0", OnLink: true}, {Via: netip.MustParseAddr("198.51.100.2"), Dev: "eth1", OnLink: true},
		}}}, ""},
		{"one hop told twice", []Route{path("10.1.2.0/26", "192.0.2.2", "b"), path("10.1.2.0/26", "192.0.2.2", "c")}, "", nil, []nodes.Route{{Dst: block, Via: hop, Dev: "eth0", OnLink: true}}, ""},
		{"behind a router", []Route{path("10.1.2.0/26", "203.0.113.9", "b")}, "", nil, nil, "next hop 203.0.113.9 is not on-link"},
		{"our own address", []Route{path("10.1.2.0/26", "192.0.2.1", "b")}, "", nil, nil, "next hop 192.0.2.1 is not on-link"},
		{"a block of two owners", []Route{path("10.1.2.0/26", "192.0.2.2", "b")}, "10.1.2.0/26", nil, nil, "two hosts announce it"},
		{"a borrowed address", []Route{path("10.1.2.9/32", "192.0.2.2", "b")}, "10.1.2.0/26", nil, []nodes.Route{{Dst: netip.MustParsePrefix("10.1.2.9/32"), Via: hop, Dev: "eth0", OnLink: true}}, ""},
		{"through a tunnel, behind a router or not", []Route{path("10.1.2.0/26", "192.0.2.2", "b"), path("10.1.3.0/26", "203.0.113.9", "c")}, "", func(netip.Addr) string { return "tunl0" }, []nodes.Route{
			{Dst: block, Via: hop, Dev: "tunl0", OnLink: true},
			{Dst: netip.MustParsePrefix("10.1.3.0/26"), Via: netip.MustParseAddr("203.0.113.9"), Dev: "tunl0", OnLink: true},
		}, ""},
		{"a tunnel to others", []Route{path("10.1.2.0/26", "192.0.2.2", "b")}, "", func(netip.Addr) string { return "" }, []nodes.Route{{Dst: block, Via: hop, Dev: "eth0", OnLink: true}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var own []netip.Prefix
			if tt.own != "" {
				own = append(own, netip.MustParsePrefix(tt.own))
			}
			got, unwritten := Kernel(tt.best, own, devices, tt.tunnel)
			if diff := cmp.Diff(tt.want, got, compare); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var why []string
			for _, u := range unwritten {
				why = append(why, u.Why)
			}
			if all := strings.Join(why, "\n"); (all != "") != (tt.unwritten != "") || !strings.Contains(all, tt.unwritten) {
				t.Errorf("unwritten %q, want %q", all, tt.unwritten)
			}
			if err := nodes.Check(nodes.State{Routes: got}); err != nil {
				t.Error(err)
			}
		})
	}
}

// What an earlier speaker wrote is read back as it was wanted.
func TestEarlier(t *testing.T) {
	t.Parallel()
	h := network(t, 1)[0]
	h.ip("address", "add", "198.51.100.1/30", "dev", "eth0")
	h.ip("route", "add", "10.1.2.0/26", "via", "192.0.2.2", "dev", "eth0", "onlink", "proto", "bgp")
	h.ip("route", "add", "10.1.3.0/26", "proto", "bgp", "nexthop", "via", "192.0.2.2", "dev", "eth0", "nexthop", "via", "198.51.100.2", "dev", "eth0")
	h.ip("route", "add", "10.1.4.0/26", "via", "192.0.2.4", "proto", "bird")
	got, err := Earlier(h.ns, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	want := []nodes.Route{
		{Dst: netip.MustParsePrefix("10.1.2.0/26"), Via: netip.MustParseAddr("192.0.2.2"), Dev: "eth0", OnLink: true},
		{Dst: netip.MustParsePrefix("10.1.3.0/26"), Hops: []nodes.Hop{{Via: netip.MustParseAddr("192.0.2.2"), Dev: "eth0"}, {Via: netip.MustParseAddr("198.51.100.2"), Dev: "eth0"}}},
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	r, err := nodes.NewReconciler(h.ns, nodes.Owner{Name: "test", Protocol: Protocol})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	nodestest.Require(t, nodestest.Netns)
	r.Set(nodes.State{Routes: got})
	if d, err := r.Diff(t.Context()); err != nil || len(d.Changes) > 0 {
		t.Errorf("to keep them something changes: %v, %v", d.Changes, err)
	}
}
