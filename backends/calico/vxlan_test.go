package calico

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/nodes"
)

// The MAC is what `printf node1 | sha1sum` begins with, after 66.
func TestVTEPMAC(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"node1": "66:f9:37:c3:7e:94",
		"node2": "66:2d:bf:44:a6:8b",
	} {
		if got := VTEPMAC(host).String(); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// Two blocks of one host in another subnet cost one neighbour and one FDB
// entry; a host in the same subnet costs neither unless all is wrapped.
func TestDesiredVXLAN(t *testing.T) {
	t.Parallel()
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	host := Host{
		Config:   Config{Pool: prefix("10.244.0.0/16"), BlockSize: 26, Encapsulation: VXLANCrossSubnet, Routes: FromStore, MaxBlocks: 1},
		Name:     "node1",
		Underlay: nodes.Underlay{Dev: "eth0", Addr: addr("192.168.51.1"), Prefix: prefix("192.168.51.1/24"), MTU: 1500},
		Blocks:   []netip.Prefix{prefix("10.244.1.0/26")},
		Tunnel:   addr("10.244.1.0"),
		Remotes: []Remote{
			{prefix("10.244.2.0/26"), "node2", addr("192.168.51.2"), addr("10.244.2.0")},
			{prefix("10.244.3.0/26"), "node3", addr("192.168.52.1"), addr("10.244.3.0")},
			{prefix("10.244.3.64/26"), "node3", addr("192.168.52.1"), addr("10.244.3.0")},
			{prefix("10.244.4.0/26"), "node4", addr("192.168.52.2"), netip.Addr{}},
		},
	}
	mac2, mac3 := VTEPMAC("node2"), VTEPMAC("node3")
	far := []nodes.Route{
		{Dst: prefix("10.244.3.0/26"), Via: addr("10.244.3.0"), Dev: "vxlan.calico", OnLink: true},
		{Dst: prefix("10.244.3.64/26"), Via: addr("10.244.3.0"), Dev: "vxlan.calico", OnLink: true},
	}
	for _, tt := range []struct {
		encapsulation Encapsulation
		near          nodes.Route
		neighbours    []nodes.Neighbour
		fdb           []nodes.FDBEntry
		senders       []netip.Addr
	}{
		{
			VXLANCrossSubnet, nodes.Route{Dst: prefix("10.244.2.0/26"), Via: addr("192.168.51.2"), Dev: "eth0", OnLink: true},
			[]nodes.Neighbour{{Dev: "vxlan.calico", Addr: addr("10.244.3.0"), MAC: mac3}},
			[]nodes.FDBEntry{{Dev: "vxlan.calico", MAC: mac3, Dst: addr("192.168.52.1")}},
			[]netip.Addr{addr("192.168.52.1"), addr("192.168.52.2")},
		},
		{
			VXLAN, nodes.Route{Dst: prefix("10.244.2.0/26"), Via: addr("10.244.2.0"), Dev: "vxlan.calico", OnLink: true},
			[]nodes.Neighbour{{Dev: "vxlan.calico", Addr: addr("10.244.2.0"), MAC: mac2}, {Dev: "vxlan.calico", Addr: addr("10.244.3.0"), MAC: mac3}},
			[]nodes.FDBEntry{{Dev: "vxlan.calico", MAC: mac2, Dst: addr("192.168.51.2")}, {Dev: "vxlan.calico", MAC: mac3, Dst: addr("192.168.52.1")}},
			[]netip.Addr{addr("192.168.51.2"), addr("192.168.52.1"), addr("192.168.52.2")},
		},
	} {
		t.Run(string(tt.encapsulation), func(t *testing.T) {
			t.Parallel()
			h := host
			h.Encapsulation = tt.encapsulation
			got, problems := Desired(h)
			if err := nodes.Check(got); err != nil {
				t.Error(err)
			}
			want := nodes.State{
				Links: []nodes.Link{nodes.VXLAN{
					LinkAttrs: nodes.LinkAttrs{Name: "vxlan.calico", MTU: 1450, MAC: VTEPMAC("node1")},
					VNI:       4096, Port: 4789, Local: addr("192.168.51.1"), Dev: "eth0",
				}},
				Addrs:      []nodes.Addr{{Dev: "vxlan.calico", Prefix: prefix("10.244.1.0/32")}},
				Routes:     append([]nodes.Route{{Dst: prefix("10.244.1.0/26"), Kind: nodes.Blackhole}, tt.near}, far...),
				Neighbours: tt.neighbours,
				FDB:        tt.fdb,
				Tables: []nodes.Table{{
					Name: "labctl-vxlan", Sets: []nodes.Set{{Name: "hosts", Addrs: tt.senders}},
					Chains: []nodes.Chain{
						{Name: "forward", Hook: nodes.Forward, Rules: []nodes.Rule{
							{Protocol: "udp", DstPort: 4789, Src: h.Pool, Verdict: nodes.Drop, Comment: "vxlan of a container"},
						}},
						{Name: "input", Hook: nodes.Input, Rules: []nodes.Rule{
							{Protocol: "udp", DstPort: 4789, SrcSet: "hosts", Verdict: nodes.Accept, Comment: "vxlan of the network's hosts"},
							{Protocol: "udp", DstPort: 4789, Verdict: nodes.Drop, Comment: "vxlan of anybody else"},
						}},
					},
				}},
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
				t.Errorf("Desired() (-want +got):\n%s", diff)
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), "10.244.4.0/26 of node4: the node has no tunnel address") {
				t.Errorf("problems = %v, want node4's tunnel address", problems)
			}
		})
	}
}
