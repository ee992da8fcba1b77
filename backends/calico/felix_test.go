package calico

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/nodes"
)

// Seeds F3: a route for each container, one for each other host's block.
func TestDesired(t *testing.T) {
	t.Parallel()
	pool := netip.MustParsePrefix("172.17.0.0/16")
	host := Host{
		Config:   Config{Pool: pool, BlockSize: 24, Encapsulation: None, Routes: FromStore, NATOutgoing: true, MaxBlocks: 1},
		Underlay: nodes.Underlay{Dev: "eth0", Addr: netip.MustParseAddr("192.168.100.100"), Prefix: netip.MustParsePrefix("192.168.100.100/24"), MTU: 1500},
		Blocks:   []netip.Prefix{netip.MustParsePrefix("172.17.8.0/24"), netip.MustParsePrefix("172.17.7.1/32")},
		Locals:   []Local{{netip.MustParseAddr("172.17.8.2"), "veth1"}},
		Remotes: []Remote{
			{Dst: netip.MustParsePrefix("172.17.9.0/24"), Host: "node2", NextHop: netip.MustParseAddr("192.168.100.101")},
			{Dst: netip.MustParsePrefix("172.17.10.0/24"), Host: "node3", NextHop: netip.MustParseAddr("192.168.101.1")},
		},
	}
	s, problems := Desired(host)
	if err := nodes.Check(s); err != nil {
		t.Error(err)
	}
	want := []nodes.Route{
		{Dst: netip.MustParsePrefix("172.17.8.2/32"), Dev: "veth1"},
		{Dst: netip.MustParsePrefix("172.17.8.0/24"), Kind: nodes.Blackhole}, // none for a /32: the container's route is there
		{Dst: netip.MustParsePrefix("172.17.9.0/24"), Via: netip.MustParseAddr("192.168.100.101"), Dev: "eth0", OnLink: true},
	}
	if diff := cmp.Diff(want, s.Routes, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "172.17.10.0/24 of node3: next hop 192.168.101.1 is not on-link") {
		t.Errorf("problems = %v, want node3's block", problems)
	}
	if len(s.Tables) != 1 || s.Tables[0].Chains[0].Rules[0].NotDst != pool {
		t.Errorf("tables = %+v, want one that masquerades what leaves the pool", s.Tables)
	}
	host.NATOutgoing = false
	if s, _ := Desired(host); len(s.Tables) != 0 {
		t.Errorf("without natOutgoing: %+v", s.Tables)
	}
}

func TestWay(t *testing.T) {
	t.Parallel()
	u := nodes.Underlay{Prefix: netip.MustParsePrefix("192.168.100.100/24")}
	near, far := netip.MustParseAddr("192.168.100.101"), netip.MustParseAddr("192.168.101.1")
	for _, tt := range []struct {
		e         Encapsulation
		near, far Way
	}{
		{None, Direct, Unrouted},
		{VXLAN, ByVXLAN, ByVXLAN},
		{VXLANCrossSubnet, Direct, ByVXLAN},
		{IPIP, ByIPIP, ByIPIP},
		{IPIPCrossSubnet, Direct, ByIPIP},
	} {
		if n, f := tt.e.Way(u, near), tt.e.Way(u, far); n != tt.near || f != tt.far {
			t.Errorf("%s: near %v, far %v; want %v, %v", tt.e, n, f, tt.near, tt.far)
		}
	}
}
