package calico

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/nodes"
)

// The gateway of a route is the host to send to. The kernel's device has a rule
// about who may send; a path of ours needs none.
func TestDesiredIPIP(t *testing.T) {
	t.Parallel()
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	host := Host{
		Config:   Config{Pool: prefix("10.244.0.0/16"), BlockSize: 26, Routes: FromStore, MaxBlocks: 1},
		Name:     "node1",
		Underlay: nodes.Underlay{Dev: "eth0", Addr: addr("192.168.51.1"), Prefix: prefix("192.168.51.1/24"), MTU: 1500},
		Tunnel:   addr("10.244.1.0"),
		Remotes: []Remote{
			{prefix("10.244.2.0/26"), "node2", addr("192.168.51.2"), addr("10.244.2.0")},
			{prefix("10.244.3.0/26"), "node3", addr("192.168.52.1"), netip.Addr{}},
			{prefix("10.244.2.7/32"), "node3", addr("192.168.52.1"), netip.Addr{}},
		},
	}
	near := func(dev string) nodes.Route {
		return nodes.Route{Dst: prefix("10.244.2.0/26"), Via: addr("192.168.51.2"), Dev: dev, OnLink: true}
	}
	for _, tt := range []struct {
		encapsulation Encapsulation
		path          bool
		near          nodes.Route
		senders       []netip.Addr
	}{
		{IPIP, false, near("tunl0"), []netip.Addr{addr("192.168.51.2"), addr("192.168.52.1")}},
		{IPIPCrossSubnet, false, near("eth0"), []netip.Addr{addr("192.168.52.1")}},
		{IPIPCrossSubnet, true, near("eth0"), nil},
	} {
		t.Run(string(tt.encapsulation), func(t *testing.T) {
			t.Parallel()
			h := host
			h.Encapsulation, h.Path = tt.encapsulation, tt.path
			got, problems := Desired(h)
			if err := nodes.Check(got); err != nil || len(problems) > 0 {
				t.Error(err, problems)
			}
			want := nodes.State{
				Links: []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "tunl0", MTU: 1480}}},
				Addrs: []nodes.Addr{{Dev: "tunl0", Prefix: prefix("10.244.1.0/32")}},
				Routes: []nodes.Route{
					tt.near,
					{Dst: prefix("10.244.3.0/26"), Via: addr("192.168.52.1"), Dev: "tunl0", OnLink: true},
					{Dst: prefix("10.244.2.7/32"), Via: addr("192.168.52.1"), Dev: "tunl0", OnLink: true},
				},
			}
			table := nodes.Table{Name: "labctl-ipip", Chains: []nodes.Chain{{Name: "forward", Hook: nodes.Forward, Rules: []nodes.Rule{
				{Protocol: "ipip", Src: h.Pool, Verdict: nodes.Drop, Comment: "ipip of a container"},
			}}}}
			if !tt.path {
				table.Sets = []nodes.Set{{Name: "hosts", Addrs: tt.senders}}
				table.Chains = append(table.Chains, nodes.Chain{Name: "input", Hook: nodes.Input, Rules: []nodes.Rule{
					{Protocol: "ipip", SrcSet: "hosts", Verdict: nodes.Accept, Comment: "ipip of the network's hosts"},
					{Protocol: "ipip", Verdict: nodes.Drop, Comment: "ipip of anybody else"},
				}})
			}
			want.Tables = []nodes.Table{table}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
				t.Errorf("Desired() (-want +got):\n%s", diff)
			}
		})
	}
}
