package nodes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }

const protocol = 91 // of the routes that tests own

func newNamespaces(t testing.TB, names ...string) []*nodes.Namespace {
	t.Helper()
	nodestest.Require(t, nodestest.Netns)
	all, err := nodes.NewNamespaces(names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range all {
			n.Close()
		}
	})
	return all
}

func newReconciler(t testing.TB, ns *nodes.Namespace, exclusive ...string) *nodes.Reconciler {
	t.Helper()
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "test", Protocol: protocol, Exclusive: exclusive})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// apply gives r a State and does a pass that must succeed.
func apply(t testing.TB, r *nodes.Reconciler, s nodes.State) nodes.Diff {
	t.Helper()
	if err := nodes.Check(s); err != nil {
		t.Fatal(err)
	}
	r.Set(s)
	d, err := r.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// clean fails the test when the kernel differs from what r wants.
func clean(t testing.TB, r *nodes.Reconciler) {
	t.Helper()
	d, err := r.Diff(t.Context())
	if err != nil || len(d.Changes) > 0 {
		t.Fatalf("Diff() = %v, %v, want none", d.Changes, err)
	}
}

// run starts r.Run until the test ends.
func run(t testing.TB, r *nodes.Reconciler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// try runs a command line inside ns.
func try(t testing.TB, ns *nodes.Namespace, line string) (string, error) {
	t.Helper()
	argv := strings.Fields(line)
	nodestest.Require(t, nodestest.Tool(argv[0]))
	return nodestest.Run(ns, argv...)
}

// must runs command lines inside ns that must succeed, and returns what the
// last one printed.
func must(t testing.TB, ns *nodes.Namespace, lines ...string) string {
	t.Helper()
	var out string
	for _, line := range lines {
		var err error
		if out, err = try(t, ns, line); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// query runs a command that prints JSON inside ns.
func query[T any](t testing.TB, ns *nodes.Namespace, line string) T {
	t.Helper()
	var v T
	out := must(t, ns, line)
	if strings.TrimSpace(out) == "" {
		return v
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return v
}

// prints waits until the command prints all of want within a second.
func prints(t testing.TB, ns *nodes.Namespace, line string, want ...string) {
	t.Helper()
	nodestest.Eventually(t, time.Second, func() error {
		out, err := try(t, ns, line)
		if err != nil {
			return err
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), w) {
				return fmt.Errorf("%s: no %q in:\n%s", line, w, out)
			}
		}
		return nil
	})
}

// gone waits until the command no longer prints what.
func gone(t testing.TB, ns *nodes.Namespace, line, what string) {
	t.Helper()
	nodestest.Eventually(t, time.Second, func() error {
		out := must(t, ns, line)
		if strings.Contains(out, what) {
			return fmt.Errorf("%s: still %q in:\n%s", line, what, out)
		}
		return nil
	})
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func mac(n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
}

func attrs(name string) nodes.LinkAttrs { return nodes.LinkAttrs{Name: name} }

// hasChange looks for a change by its text.
func hasChange(list []nodes.Change, text string) bool {
	for _, c := range list {
		if strings.Contains(c.String(), text) {
			return true
		}
	}
	return false
}

// vxlanState is what flannel's vxlan backend wants on a host with an underlay
// device eth0, for peers 2, 3 ... n+1.
func vxlanState(peers int) nodes.State {
	s := nodes.State{
		Links: []nodes.Link{
			nodes.VXLAN{LinkAttrs: nodes.LinkAttrs{Name: "flannel.1", MTU: 1450, MAC: mac(1)}, VNI: 1, Port: 8472, Local: addr("192.168.0.1"), Dev: "eth0"},
		},
		Addrs: []nodes.Addr{{Dev: "flannel.1", Prefix: prefix("10.1.0.0/32")}},
	}
	for i := 2; i < peers+2; i++ {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i/256), byte(i), 0}), 24)
		s.Neighbours = append(s.Neighbours, nodes.Neighbour{Dev: "flannel.1", Addr: subnet.Addr(), MAC: mac(i)})
		s.FDB = append(s.FDB, nodes.FDBEntry{Dev: "flannel.1", MAC: mac(i), Dst: netip.AddrFrom4([4]byte{192, 168, byte(i / 256), byte(i)})})
		s.Routes = append(s.Routes, nodes.Route{Dst: subnet, Via: subnet.Addr(), Dev: "flannel.1", OnLink: true})
	}
	return s
}

// newHost makes a namespace with an underlay device eth0, 192.168.0.1/16.
func newHost(t testing.TB) *nodes.Namespace {
	t.Helper()
	all := newNamespaces(t, "host", "far")
	r, err := nodes.NewReconciler(all[0], nodes.Owner{Name: "underlay", Protocol: protocol + 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	apply(t, r, nodes.State{
		Links: []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0", MTU: 1500}, PeerNamespace: all[1], PeerName: "eth0"}},
		Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.0.1/16")}},
		Sysctls: []nodes.Sysctl{
			{Key: "net/ipv6/conf/all/disable_ipv6", Value: "0"},
			{Key: "net/ipv6/conf/default/disable_ipv6", Value: "0"},
		},
	})
	far := newReconciler(t, all[1])
	apply(t, far, nodes.State{
		Links: []nodes.Link{nodes.Port{LinkAttrs: attrs("eth0")}},
		Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.0.2/16")}},
	})
	return all[0]
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
