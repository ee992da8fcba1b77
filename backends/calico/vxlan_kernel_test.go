package calico

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// Whoever sends VXLAN's packets by a device of his own (ip link add type vxlan)
// gets his packets to the containers of a host that looks at nothing: a
// container, whose packets natOutgoing makes its host's, and a stranger on the
// underlay. With the rules both are dropped and counted, and hosts' pass.
//
//	c1 -- h1 192.168.50.1 -- 192.168.50.2 h2 -- c2
//	                         192.168.60.2    -- 192.168.60.9 stranger
func TestVXLANInjected(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Netns, nodestest.NFT, nodestest.VXLAN, nodestest.Tool("nft"), nodestest.Tool("ip"), nodestest.Tool("ping"))
	all, err := nodes.NewNamespaces([]string{"h1", "h2", "c1", "c2", "stranger"})
	if err != nil {
		t.Fatal(err)
	}
	h1, h2, c1, c2, stranger := all[0], all[1], all[2], all[3], all[4]
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	hosts := [2]Host{}
	for i := range hosts {
		n := i + 1
		at := prefix(fmt.Sprintf("192.168.50.%d/24", n))
		hosts[i] = Host{
			Config:   Config{Pool: prefix("10.244.0.0/16"), BlockSize: 26, Encapsulation: VXLAN, Routes: FromStore, MaxBlocks: 1, NATOutgoing: true},
			Name:     fmt.Sprintf("node%d", n),
			Underlay: nodes.Underlay{Dev: "eth0", Addr: at.Addr(), Prefix: at, MTU: 1500},
			Blocks:   []netip.Prefix{prefix(fmt.Sprintf("10.244.%d.0/26", n))},
			Locals:   []Local{{addr(fmt.Sprintf("10.244.%d.1", n)), "veth1"}},
			Tunnel:   addr(fmt.Sprintf("10.244.%d.0", n)),
		}
	}
	for i := range hosts {
		o := hosts[1-i]
		hosts[i].Remotes = []Remote{{o.Blocks[0], o.Name, o.Underlay.Addr, o.Tunnel}}
	}
	reconcilers := map[*nodes.Namespace]*nodes.Reconciler{}
	for _, n := range all {
		t.Cleanup(func() { n.Close() })
		if reconcilers[n], err = nodes.NewReconciler(n, nodes.Owner{Name: "test", Protocol: 91}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { reconcilers[n].Close() })
	}
	apply := func(n *nodes.Namespace, s nodes.State) {
		t.Helper()
		reconcilers[n].Set(s)
		if _, err := reconcilers[n].Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A host is a machine, what Felix makes, and the rules in question or not.
	host := func(i int, guarded bool, links ...nodes.Link) nodes.State {
		s, problems := Desired(hosts[i])
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if !guarded {
			s.Tables = s.Tables[1:]
		}
		s.Links = append(links, s.Links...)
		s.Addrs = append(s.Addrs, nodes.Addr{Dev: "eth0", Prefix: hosts[i].Underlay.Prefix})
		if i == 1 {
			s.Addrs = append(s.Addrs, nodes.Addr{Dev: "eth1", Prefix: prefix("192.168.60.2/24")})
		}
		s.Sysctls = append(s.Sysctls, nodes.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"})
		return s
	}
	port := nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}}
	veth := func(name string, to *nodes.Namespace) nodes.Link {
		return nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: name}, PeerNamespace: to, PeerName: "eth0"}
	}
	build := func(guarded bool) {
		t.Helper()
		apply(h1, host(0, guarded, veth("eth0", h2), veth("veth1", c1)))
		apply(h2, host(1, guarded, port, veth("veth1", c2), veth("eth1", stranger)))
	}
	build(false)
	everywhere := prefix("0.0.0.0/0")
	quiet := []nodes.Sysctl{{Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"}} // else a device asks for routers
	for i, c := range []*nodes.Namespace{c1, c2} {
		apply(c, nodes.State{Links: []nodes.Link{port}, Addrs: []nodes.Addr{{Dev: "eth0", Prefix: single(hosts[i].Locals[0].Addr)}}, Routes: []nodes.Route{{Dst: everywhere, Dev: "eth0"}}, Sysctls: quiet})
	}
	apply(stranger, nodes.State{Links: []nodes.Link{port}, Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.60.9/24")}}, Sysctls: quiet})

	run := func(n *nodes.Namespace, line string) string {
		t.Helper()
		out, err := nodestest.Run(n, strings.Fields(line)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	target := hosts[1].Locals[0].Addr
	for n, remote := range map[*nodes.Namespace]string{c1: "192.168.50.2", stranger: "192.168.60.2"} {
		run(n, "ip link add evil type vxlan id 4096 dstport 4789 dev eth0 remote "+remote)
		run(n, "ip link set evil up")
		run(n, "ip address add 198.51.100.66/32 dev evil")
		run(n, fmt.Sprintf("ip neighbour add %s lladdr %s dev evil", target, VTEPMAC("node2")))
		run(n, fmt.Sprintf("ip route add %s dev evil table 66", target))
		run(n, "ip rule add from 198.51.100.66 table 66")
	}
	// What a container gets from the address that nobody has.
	run(c2, "nft add table ip oracle")
	run(c2, "nft add chain ip oracle input { type filter hook input priority 0 ; }")
	run(c2, "nft add rule ip oracle input ip saddr 198.51.100.66 counter")
	first := regexp.MustCompile(`counter packets (\d+)`)
	delivered := func() string { return first.FindStringSubmatch(run(c2, "nft list table ip oracle"))[1] }
	// Nobody answers 198.51.100.66.
	inject := func(from *nodes.Namespace) {
		_, _ = nodestest.Run(from, "ping", "-n", "-c1", "-W0.01", "-I", "198.51.100.66", target.String())
	}

	for i, from := range []*nodes.Namespace{c1, stranger} {
		inject(from)
		want := fmt.Sprint(i + 1)
		nodestest.Eventually(t, 5*time.Second, func() error {
			if got := delivered(); got != want {
				return fmt.Errorf("without rules: of the packets of %s %s were delivered, want %s", from.Name(), got, want)
			}
			return nil
		})
	}
	build(true)
	for _, tt := range []struct {
		from, at *nodes.Namespace
		comment  string
	}{{c1, h1, "vxlan of a container"}, {stranger, h2, "vxlan of anybody else"}} {
		inject(tt.from)
		counted := regexp.MustCompile(`udp dport 4789 counter packets 1 bytes 134 drop comment "` + tt.comment + `"`)
		nodestest.Eventually(t, 5*time.Second, func() error {
			if rules := run(tt.at, "nft list table inet labctl-vxlan"); !counted.MatchString(rules) {
				return fmt.Errorf("want %s in\n%s", counted, rules)
			}
			return nil
		})
	}
	if got := delivered(); got != "2" {
		t.Errorf("with the rules %s packets were delivered, want the 2 of before", got)
	}
	if out, err := nodestest.Run(c1, "ping", "-n", "-c1", "-W2", target.String()); err != nil {
		t.Errorf("from container to container: %v: %s", err, out)
	}
	run(h2, fmt.Sprintf("ping -n -c1 -W2 %s", hosts[0].Locals[0].Addr)) // of the tunnel's own address
}
