package calico

import (
	"net/netip"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"labctl/backends"
	"labctl/backends/internal/datapath"
	"labctl/nodes"
)

// FuzzSnapshot holds what must be true whatever stands under Calico's keys: it
// is read or is a Problem, what follows from it is a state that a kernel can
// have, and a block gives out each of its addresses once.
func FuzzSnapshot(f *testing.F) {
	block := newBlock(netip.MustParsePrefix("10.244.2.0/29"), "node2")
	block.take("node2", "c1")
	block.take("node3", "c1") // borrowed
	v, err := block.value()
	if err != nil {
		f.Fatal(err)
	}
	n := Node{Name: "node2", Address: netip.MustParsePrefix("192.168.50.2/24"), Tunnel: netip.MustParseAddr("10.244.2.1"), Device: VXLANDevice, Labels: map[string]string{"a": "b"}}
	node, err := n.value()
	if err != nil {
		f.Fatal(err)
	}
	n.Device = IPIPDevice
	ipipNode, err := n.value()
	if err != nil {
		f.Fatal(err)
	}
	w := Workload{Host: "node2", Name: "c1", Addr: netip.MustParseAddr("10.244.2.0"), Dev: "veth1"}
	workload, err := w.value()
	if err != nil {
		f.Fatal(err)
	}
	c := Config{Pool: netip.MustParsePrefix("10.244.0.0/16"), BlockSize: 29, Encapsulation: VXLANCrossSubnet, Routes: FromStore, NATOutgoing: true, MaxBlocks: 20}
	config, err := c.values()
	if err != nil {
		f.Fatal(err)
	}
	c.Encapsulation = IPIP
	wrapped, err := c.values()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("10.244.2.0-29", v, "node2", Confirmed.value(), node, workload, config[poolKey])
	f.Add("10.244.2.0-29", v, "node2", Confirmed.value(), ipipNode, workload, wrapped[poolKey])
	f.Add("10.244.2.0-29", v, "node2", Confirmed.value(), `{"metadata":{"name":"node2"},"spec":{"bgp":{"ipv4Address":"::ffff:10.0.0.1/120","ipv4IPIPTunnelAddr":"fd00::2"}}}`, workload, wrapped[poolKey])
	f.Add("10.244.2.0-29", v, "node3", Pending.value(), node, workload, config[poolKey])
	f.Add("fd00::-125", `{"cidr":"fd00::/125","affinity":"host:node2","allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,0,1]}`, "node2", Confirmed.value(), node, workload, config[poolKey])
	f.Add("10.0.0.0-31", `{"cidr":"10.0.0.0/31","allocations":[0,null],"unallocated":[1,1],"attributes":[{"handle_id":"x"}]}`, "", `{}`,
		`{"metadata":{"name":"node2"},"spec":{"bgp":{"ipv4Address":"fd00::1/64"},"ipv4VXLANTunnelAddr":"fd00::2"}}`, `{"spec":{"node":"node2","ipNetworks":[""]}}`, config[poolKey])
	f.Fuzz(func(t *testing.T, cidr, block, host, affinity, node, workload, pool string) {
		keys := backends.Keys{All: map[string]*mvccpb.KeyValue{}, Revision: 7}
		put := func(key, value string) {
			keys.All[key] = &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: 5}
		}
		for k, v := range config {
			put(k, v)
		}
		put(poolKey, pool)
		put(blocksKey+cidr, block)
		put(affinityKey+host+affinityMid+cidr, affinity)
		put(nodesKey+"node2", node)
		put(workloads+"node2-k8s-c1-eth0", workload)
		s := snapshotOf(keys)
		if s.ConfigErr != nil {
			return
		}
		remotes, _ := s.Remotes("node1")
		h := Host{Config: s.Config, Name: "node1", Remotes: remotes, Blocks: s.BlocksOf("node1"), Tunnel: netip.MustParseAddr("10.244.1.1"),
			Underlay: nodes.Underlay{Dev: "eth0", Addr: netip.MustParseAddr("192.168.50.1"), Prefix: netip.MustParsePrefix("192.168.50.1/24"), MTU: 1500}}
		for _, w := range s.Workloads {
			if w.Host == "node1" {
				h.Locals = append(h.Locals, Local{w.Addr, "veth1"})
			}
		}
		st, _ := Desired(h)
		if err := nodes.Check(st); err != nil {
			t.Errorf("what the store says is no state: %v", err)
		}
		if s.Config.Encapsulation.ipip() {
			(&IPIPPath{&datapath.Path{}}).Set(h)
		}
		for _, n := range s.Nodes {
			s.Registered(n, s.Workloads)
		}
		for _, b := range s.Blocks {
			given := map[netip.Addr]bool{}
			for _, a := range b.Allocations() {
				given[a.Addr] = true
			}
			for c := b.clone(); c.Free() > 0; {
				a := c.take("node1", "new")
				if given[a] || !b.CIDR.Contains(a) {
					t.Fatalf("block %s gives %s to two", b.CIDR, a)
				}
				given[a] = true
			}
		}
	})
}
