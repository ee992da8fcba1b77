package nodes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestVXLANState(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN)
	host := newHost(t)
	r := newReconciler(t, host)
	d := apply(t, r, vxlanState(2))
	t.Log(d.Changes)
	if len(d.Foreign) > 0 {
		t.Errorf("foreign: %v", d.Foreign)
	}
	clean(t, r)
	out := must(t, host, "ip -d link show flannel.1")
	for _, w := range []string{
		"vxlan id 1 local 192.168.0.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx",
		"mtu 1450", "02:00:00:00:00:01",
	} {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in:\n%s", w, out)
		}
	}
	prints(t, host, "ip route", "10.1.2.0/24 via 10.1.2.0 dev flannel.1 proto 91 onlink")
	prints(t, host, "ip neigh show dev flannel.1", "10.1.3.0 lladdr 02:00:00:00:00:03 PERMANENT")
	prints(t, host, "bridge fdb show dev flannel.1", "02:00:00:00:00:02 dst 192.168.0.2 self permanent")
	if d := apply(t, r, vxlanState(2)); len(d.Changes) > 0 {
		t.Errorf("a second pass changes %v", d.Changes)
	}
}

// TestHeal breaks each kind of entry as a person would, with the ordinary
// tools, and expects it back.
func TestHeal(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Bridge, nodestest.NFT, nodestest.Tool("ip"), nodestest.Tool("bridge"), nodestest.Tool("nft"), nodestest.Tool("ethtool"))
	host := newHost(t)
	r := newReconciler(t, host)
	s := vxlanState(3)
	s.Links = append(s.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", NoOffload: true}}, nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "cni0", MTU: 1450, MAC: mac(77)}})
	s.Addrs = append(s.Addrs,
		nodes.Addr{Dev: "eth0", Prefix: prefix("192.168.0.1/16")},
		nodes.Addr{Dev: "cni0", Prefix: prefix("10.1.0.1/24")},
		nodes.Addr{Dev: "cni0", Prefix: prefix("fd00:1::1/64")},
		nodes.Addr{Dev: "flannel.1", Prefix: prefix("fd00:1::/128")})
	s.Neighbours = append(s.Neighbours,
		nodes.Neighbour{Dev: "flannel.1", Addr: addr("fd00:2::"), MAC: mac(2)},
		nodes.Neighbour{Dev: "eth0", Addr: addr("192.168.0.9"), MAC: mac(9), ExternLearned: true})
	s.Routes = append(s.Routes,
		nodes.Route{Dst: prefix("fd00:2::/64"), Via: addr("fd00:2::"), Dev: "flannel.1", OnLink: true},
		nodes.Route{Dst: prefix("10.9.0.0/16"), Kind: nodes.Blackhole},
		nodes.Route{Dst: prefix("fd00:9::/64"), Kind: nodes.Unreachable},
		nodes.Route{Dst: prefix("10.8.0.0/24"), Dev: "cni0", Src: addr("10.1.0.1")},
		nodes.Route{Dst: prefix("0.0.0.0/0"), Via: addr("192.168.0.2"), Dev: "eth0"})
	s.Sysctls = append(s.Sysctls,
		nodes.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"},
		nodes.Sysctl{Key: "net/ipv6/conf/flannel.1/accept_ra", Value: "0"},
		nodes.Sysctl{Key: "net/ipv4/conf/cni0/rp_filter", Value: "2"})
	s.Tables = []nodes.Table{testTable()}
	apply(t, r, s)
	clean(t, r)
	run(t, r)

	dump := func() (string, error) {
		var b strings.Builder
		for _, line := range []string{
			"ip -br link", "ip -br addr", "ip route show table main", "ip -6 route show table main", "ip neigh show nud permanent",
			"bridge fdb show dev flannel.1", "ethtool -k eth0", "nft list table inet labctl-test",
			"cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/flannel.1/accept_ra /proc/sys/net/ipv4/conf/cni0/rp_filter",
		} {
			out, err := try(t, host, line)
			if err != nil {
				return "", err
			}
			lines := strings.Split(out, "\n")
			if !strings.HasPrefix(line, "nft") {
				slices.Sort(lines) // entries come in the order of their making
			}
			for _, l := range lines {
				// Link-local addresses are the kernel's affair, counters count.
				if strings.Contains(l, "fe80::") && strings.Contains(line, "route") || strings.Contains(l, "ff00::") {
					continue
				}
				for _, f := range strings.Fields(l) {
					if !strings.HasPrefix(f, "fe80::") {
						b.WriteString(f + " ")
					}
				}
				b.WriteString("\n")
			}
		}
		return b.String(), nil
	}
	var before string
	nodestest.Eventually(t, 3*time.Second, func() error { // until IPv6 has settled
		now, err := dump()
		if err != nil {
			return err
		}
		same := now == before
		before = now
		if !same {
			return fmt.Errorf("still changing")
		}
		return nil
	})

	for _, test := range []struct{ name, lines string }{
		{"route", "ip route del 10.1.2.0/24"},
		{"all routes", "ip route flush proto 91"},
		{"ipv6 route", "ip -6 route del fd00:2::/64"},
		{"blackhole", "ip route del blackhole 10.9.0.0/16"},
		{"unreachable", "ip -6 route del unreachable fd00:9::/64"},
		{"default route", "ip route del default"},
		{"connected route", "ip route del 192.168.0.0/16 dev eth0 ; ip route del 10.1.0.0/24 dev cni0"},
		{"route changed", "ip route replace 10.1.2.0/24 via 192.168.0.2 dev eth0 proto 91"},
		{"route taken over", "ip route replace 10.1.3.0/24 via 192.168.0.2"},
		{"extra route of ours", "ip route add 10.77.0.0/16 via 192.168.0.2 proto 91"},
		{"neighbour", "ip neigh del 10.1.2.0 dev flannel.1"},
		{"neighbour changed", "ip neigh replace 10.1.2.0 lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent"},
		{"neighbour made dynamic", "ip neigh replace 10.1.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud reachable"},
		{"neighbours flushed", "ip neigh flush dev flannel.1 nud permanent"},
		{"extern_learn", "ip neigh del 192.168.0.9 dev eth0"},
		{"ipv6 neighbour", "ip neigh del fd00:2:: dev flannel.1"},
		{"fdb", "bridge fdb del 02:00:00:00:00:02 dev flannel.1"},
		{"fdb changed", "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.168.0.44 self permanent"},
		{"address", "ip addr del 10.1.0.0/32 dev flannel.1"},
		{"bridge address", "ip addr del 10.1.0.1/24 dev cni0"},
		{"ipv6 address", "ip addr del fd00:1::1/64 dev cni0"},
		{"addresses flushed", "ip addr flush dev flannel.1"},
		{"link down", "ip link set flannel.1 down"},
		{"bridge down", "ip link set cni0 down"},
		{"underlay down", "ip link set eth0 down ; ip link set eth0 up"},
		{"mtu", "ip link set flannel.1 mtu 1400"},
		{"mac", "ip link set flannel.1 address 02:00:00:00:12:34"},
		{"offload", "ethtool -K eth0 tx on"},
		{"offload", "ethtool -K eth0 gro on"},
		{"device deleted", "ip link del flannel.1"},
		{"device of another vni", "ip link del flannel.1 ; ip link add flannel.1 type vxlan id 7 dev eth0 dstport 8472"},
		{"device of another kind", "ip link del flannel.1 ; ip link add flannel.1 type bridge"},
		{"bridge deleted", "ip link del cni0"},
		{"lo down", "ip link set lo down"},
		{"sysctl", "sysctl -q -w net.ipv4.ip_forward=0"},
		{"device's sysctl", "sysctl -q -w net.ipv4.conf.cni0.rp_filter=0"},
		{"rule deleted", "nft flush chain inet labctl-test post"},
		{"table flushed", "nft flush table inet labctl-test"},
		{"table deleted", "nft delete table inet labctl-test"},
		{"rule added", "nft add rule inet labctl-test post drop"},
		{"rule inserted", "nft insert rule inet labctl-test post counter accept"},
		{"chain added", "nft add chain inet labctl-test extra"},
		{"everything flushed", "nft flush ruleset"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.lines, "link add") {
				r.Hold(true) // healing must not come between the commands
			}
			for line := range strings.SplitSeq(test.lines, ";") {
				must(t, host, strings.TrimSpace(line))
			}
			start := time.Now()
			if strings.Contains(test.lines, "link add") {
				r.Hold(false)
			}
			nodestest.Eventually(t, time.Second, func() error {
				now, err := dump()
				if err != nil {
					return err
				}
				if d := cmp.Diff(before, now); d != "" {
					return fmt.Errorf("(-before +now):\n%s\n%+v", d, r.Report())
				}
				return nil
			})
			t.Logf("healed within %v", time.Since(start).Round(time.Millisecond))
		})
	}
	// What the last pass has mended is seen before it reports.
	nodestest.Eventually(t, time.Second, func() error {
		if rep := r.Report(); len(rep.Healed) == 0 || rep.Err != "" || len(rep.Drift) > 0 {
			return fmt.Errorf("Report() = %+v, want healed things and no error", rep)
		}
		return nil
	})
}

func testTable() nodes.Table {
	cluster, subnet := prefix("10.0.0.0/8"), prefix("10.1.0.0/24")
	return nodes.Table{Name: "labctl-test", Chains: []nodes.Chain{
		{Name: "post", Hook: nodes.PostroutingNAT, Rules: []nodes.Rule{
			{Mark: 0x4000, MarkMask: 0x4000, Verdict: nodes.Return, Comment: "marked"},
			{Src: subnet, Dst: cluster, Verdict: nodes.Return, Comment: "inside"},
			{Src: cluster, NotDst: prefix("224.0.0.0/4"), Verdict: nodes.Masquerade, Comment: "to the outside"},
			{NotSrc: cluster, Dst: cluster, NotOutDev: "cni0", Verdict: nodes.Masquerade},
			{Src: prefix("fd00::/16"), NotDst: prefix("fd00::1/128"), Verdict: nodes.Masquerade},
		}},
		{Name: "pre", Hook: nodes.PreroutingNAT, Rules: []nodes.Rule{
			{Local: true, Protocol: "tcp", DstPort: 8080, Verdict: nodes.DNAT, To: mustAddrPort("10.1.0.2:80"), Comment: "publish"},
		}},
		{Name: "out", Hook: nodes.OutputNAT, Rules: []nodes.Rule{
			{Dst: prefix("192.0.2.1/32"), Protocol: "udp", Verdict: nodes.DNAT, To: mustAddrPort("10.1.0.2:0")},
		}},
		{Name: "fwd", Hook: nodes.Forward, Rules: []nodes.Rule{
			{Src: cluster, Verdict: nodes.Accept}, {InDev: "cni0", OutDev: "eth0", Verdict: nodes.Accept},
			{Mark: 7, MarkMask: 0xffffffff, Verdict: nodes.Drop},
		}},
		{Name: "in", Hook: nodes.Input},
		{Name: "raw", Hook: nodes.PreroutingRaw, Rules: []nodes.Rule{{Src: cluster, Dst: cluster, Verdict: nodes.NoTrack}}},
		{Name: "filterout", Hook: nodes.Output, Rules: []nodes.Rule{{Protocol: "udp", DstPort: 9, Verdict: nodes.Drop}}},
	}}
}
