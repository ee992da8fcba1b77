package nodes_test

import (
	"fmt"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// BenchmarkPass is the cost of a pass on a host with 200 peers: idle when
// nothing differs, full when all of the peers' 600 entries are missing; and of two
// that remove and add one peer's while nobody else changes anything.
func BenchmarkPass(b *testing.B) {
	nodestest.Require(b, nodestest.VXLAN)
	host := newHost(b)
	r := newReconciler(b, host)
	none, all := vxlanState(0), vxlanState(200)
	b.Run("idle", func(b *testing.B) {
		apply(b, r, all)
		for b.Loop() {
			if d, err := r.Apply(b.Context()); err != nil || len(d.Changes) > 0 {
				b.Fatal(d.Changes, err)
			}
		}
	})
	b.Run("one comes and goes", func(b *testing.B) {
		r := newReconciler(b, newHost(b))
		r.Alone(make(chan struct{}))
		less := vxlanState(199)
		apply(b, r, all)
		for b.Loop() {
			for _, s := range []nodes.State{less, all} {
				if d := apply(b, r, s); len(d.Changes) != 3 {
					b.Fatal(d.Changes)
				}
			}
		}
	})
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			apply(b, r, none)
			b.StartTimer()
			if d := apply(b, r, all); len(d.Changes) != 600 {
				b.Fatal(len(d.Changes))
			}
		}
	})
	b.Run("small", func(b *testing.B) {
		apply(b, r, vxlanState(2))
		for b.Loop() {
			if d, err := r.Apply(b.Context()); err != nil || len(d.Changes) > 0 {
				b.Fatal(d.Changes, err)
			}
		}
	})
	b.Run("tables", func(b *testing.B) {
		s := vxlanState(2)
		s.Tables = []nodes.Table{testTable()}
		apply(b, r, s)
		for b.Loop() {
			if d, err := r.Apply(b.Context()); err != nil || len(d.Changes) > 0 {
				b.Fatal(d.Changes, err)
			}
		}
	})
}

// BenchmarkBuild builds and drops a lab of three nodes on a segment, with a
// bridge and a container in each.
func BenchmarkBuild(b *testing.B) {
	nodestest.Require(b, nodestest.Bridge)
	for b.Loop() {
		names := []string{"lan"}
		for i := range 3 {
			names = append(names, fmt.Sprintf("node%d", i), fmt.Sprintf("node%d.c1", i))
		}
		all, err := nodes.NewNamespaces(names)
		if err != nil {
			b.Fatal(err)
		}
		states := make([]nodes.State, len(all))
		states[0].Links = []nodes.Link{nodes.Bridge{LinkAttrs: attrs("br0")}}
		for i := range 3 {
			host, c := 1+2*i, 2+2*i
			states[0].Links = append(states[0].Links, nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: fmt.Sprintf("node%d", i), Master: "br0"}, PeerNamespace: all[host], PeerName: "eth0"})
			states[host] = nodes.State{
				Links: []nodes.Link{
					nodes.Port{LinkAttrs: attrs("eth0")}, nodes.Bridge{LinkAttrs: attrs("cni0")},
					nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "veth1", Master: "cni0"}, PeerNamespace: all[c], PeerName: "eth0"},
				},
				Addrs:   []nodes.Addr{{Dev: "eth0", Prefix: prefix(fmt.Sprintf("192.168.0.%d/24", i+1))}, {Dev: "cni0", Prefix: prefix(fmt.Sprintf("10.1.%d.1/24", i))}},
				Sysctls: []nodes.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}, {Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"}},
			}
			states[c] = nodes.State{
				Links:  []nodes.Link{nodes.Port{LinkAttrs: attrs("eth0")}},
				Addrs:  []nodes.Addr{{Dev: "eth0", Prefix: prefix(fmt.Sprintf("10.1.%d.2/24", i))}},
				Routes: []nodes.Route{{Dst: prefix("0.0.0.0/0"), Via: addr(fmt.Sprintf("10.1.%d.1", i)), Dev: "eth0"}},
			}
		}
		rs := make([]*nodes.Reconciler, len(all))
		for i, ns := range all {
			if rs[i], err = nodes.NewReconciler(ns, nodes.Owner{Protocol: protocol}); err != nil {
				b.Fatal(err)
			}
			rs[i].Set(states[i])
			if _, err := rs[i].Apply(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		for i := range all {
			rs[i].Close()
			all[i].Close()
		}
		b.StartTimer()
	}
}

// TestManyRoutes guards against a pass that is far slower than its requests.
func TestManyRoutes(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN)
	r := newReconciler(t, newHost(t))
	start := time.Now()
	if d := apply(t, r, vxlanState(300)); len(d.Changes) < 900 {
		t.Errorf("Apply made %d changes, want at least 900", len(d.Changes))
	}
	clean(t, r)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("300 peers took %v", took)
	}
}
