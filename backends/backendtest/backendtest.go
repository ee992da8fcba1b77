// Package backendtest is the conformance suite that every backend runs: Run
// for what it decides, RunKernel for what becomes of that on a running kernel.
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, func(options string) backends.Backend { ... })
//	}
//
// The trap: it says what all backends have in common and nothing about what
// one of them should do; that is for its own tests.
//
// To add a backend: write its folder, run both suites, list it in
// backends/catalogue, write its README.md with the sections of the others, and
// add a lab to labs.
package backendtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"labctl/backends"
	"labctl/nodes"
)

// Factory makes a new backend from a Backend object ({"Type": ...}); "" is
// the defaults.
type Factory func(options string) backends.Backend

// Run checks what must hold for Desired of every backend.
func Run(t *testing.T, factory Factory) {
	for name, test := range map[string]func(*testing.T, Factory){
		"deterministic":          testDeterministic,
		"sound":                  testSound,
		"grows with hosts":       testGrowth,
		"own lease is ignored":   testOwnLease,
		"peer that changed":      testChange,
		"bad peers cost nothing": testBadPeers,
		"data is kept":           testData,
		"MTU":                    testMTU,
	} {
		t.Run(name, func(t *testing.T) { test(t, factory) })
	}
}

// underlay is host n's.
func underlay(n int) nodes.Underlay {
	return nodes.Underlay{Dev: "eth0", Addr: hostAddr(n), Prefix: netip.PrefixFrom(hostAddr(n), 24), MTU: 1500}
}

func hostAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 50, byte(n)}) }

// storedType is the BackendType as it stands in leases: flannel omits udp's.
func storedType(b backends.Backend) string {
	if b.Type() == backends.DefaultBackendType {
		return ""
	}
	return b.Type()
}

// lease is what a new host n publishes.
func lease(t *testing.T, factory Factory, n int) backends.Lease {
	t.Helper()
	b := factory("")
	return leaseOf(t, b, n, nil)
}

func leaseOf(t *testing.T, b backends.Backend, n int, previous json.RawMessage) backends.Lease {
	t.Helper()
	data, err := b.Data(previous)
	if err != nil {
		t.Fatalf("Data(%s): %v", previous, err)
	}
	return backends.Lease{
		Subnet:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24),
		PublicIP: hostAddr(n), BackendType: storedType(b), BackendData: data,
	}
}

// desired is the state of host 1, with all problems as errors of the test.
func desired(t *testing.T, b backends.Backend, self backends.Lease, peers []backends.Lease) nodes.State {
	t.Helper()
	s, problems := b.Desired(self, peers, underlay(1))
	for _, p := range problems {
		t.Errorf("problem: %v", p)
	}
	return s
}

func hosts(t *testing.T, factory Factory, n int) (b backends.Backend, self backends.Lease, peers []backends.Lease) {
	t.Helper()
	b = factory("")
	self = leaseOf(t, b, 1, nil)
	for i := range n {
		peers = append(peers, lease(t, factory, i+2))
	}
	return b, self, peers
}

// same compares regardless of order.
func same(a, b nodes.State) bool { return reflect.DeepEqual(lines(a), lines(b)) }

// lines is a State as sorted text.
func lines(s nodes.State) []string {
	var out []string
	for _, v := range []any{s.Links, s.Addrs, s.Routes, s.Neighbours, s.FDB, s.Sysctls, s.Tables} {
		r := reflect.ValueOf(v)
		for i := range r.Len() {
			out = append(out, fmt.Sprintf("%T %+v", r.Index(i).Interface(), r.Index(i).Interface()))
		}
	}
	slices.Sort(out)
	return out
}

func testDeterministic(t *testing.T, factory Factory) {
	b, self, peers := hosts(t, factory, 5)
	first := desired(t, b, self, peers)
	slices.Reverse(peers)
	if second := desired(t, b, self, peers); !same(first, second) {
		t.Errorf("peers in another order:\n%v\nfirst:\n%v", lines(second), lines(first))
	}
}

func testSound(t *testing.T, factory Factory) {
	for _, n := range []int{0, 1, 100} {
		b, self, peers := hosts(t, factory, n)
		if err := nodes.Check(desired(t, b, self, peers)); err != nil {
			t.Errorf("%d peers: %v", n, err)
		}
	}
}

// testGrowth is seed D6 and E3: each peer costs the same, at most one route,
// neighbour and FDB entry, and nothing else.
func testGrowth(t *testing.T, factory Factory) {
	b, self, peers := hosts(t, factory, 10)
	none := desired(t, b, self, nil)
	one := desired(t, b, self, peers[:1])
	ten := desired(t, b, self, peers)
	check := func(what string, of func(nodes.State) int, most int) {
		t.Helper()
		each := of(one) - of(none)
		if each < 0 || each > most || of(ten)-of(none) != 10*each {
			t.Errorf("%s: %d without peers, %d with one, %d with ten", what, of(none), of(one), of(ten))
		}
	}
	check("links", func(s nodes.State) int { return len(s.Links) }, 0)
	check("addresses", func(s nodes.State) int { return len(s.Addrs) }, 0)
	check("routes", func(s nodes.State) int { return len(s.Routes) }, 1)
	check("neighbours", func(s nodes.State) int { return len(s.Neighbours) }, 1)
	check("FDB", func(s nodes.State) int { return len(s.FDB) }, 1)
}

func testOwnLease(t *testing.T, factory Factory) {
	b, self, peers := hosts(t, factory, 3)
	if got, want := desired(t, b, self, append(peers, self)), desired(t, b, self, peers); !same(got, want) {
		t.Errorf("with our own lease among the peers:\n%v\nwithout:\n%v", lines(got), lines(want))
	}
}

// testChange: what a peer had before is gone (flannel leaks the FDB entry of
// an old MAC, and misses a change while its watch is cut: #1247).
func testChange(t *testing.T, factory Factory) {
	b, self, peers := hosts(t, factory, 3)
	before := desired(t, b, self, peers)
	moved := lease(t, factory, 3)  // made anew: other data
	moved.PublicIP = hostAddr(200) // and another address
	changed := slices.Clone(peers)
	changed[1] = moved
	after := desired(t, b, self, changed)
	if len(lines(after)) != len(lines(before)) {
		t.Errorf("%d entries, were %d", len(lines(after)), len(lines(before)))
	}
	if want := desired(t, factoryLike(t, factory, self), self, changed); !same(after, want) {
		t.Errorf("after a change:\n%v\nfrom scratch:\n%v", lines(after), lines(want))
	}
	if back := desired(t, b, self, peers); !same(back, before) {
		t.Errorf("changed back:\n%v\nwant:\n%v", lines(back), lines(before))
	}
}

// factoryLike is a backend that was restarted with the lease self.
func factoryLike(t *testing.T, factory Factory, self backends.Lease) backends.Backend {
	t.Helper()
	b := factory("")
	if _, err := b.Data(self.BackendData); err != nil {
		t.Fatal(err)
	}
	return b
}

// testBadPeers: a lease that is of no use costs that peer only.
func testBadPeers(t *testing.T, factory Factory) {
	b, self, peers := hosts(t, factory, 3)
	want := desired(t, b, self, peers)
	stolen := lease(t, factory, 20)
	stolen.Subnet = self.Subnet
	twin := lease(t, factory, 21)
	twin.PublicIP = self.PublicIP
	inside := lease(t, factory, 22)
	inside.Subnet = netip.PrefixFrom(peers[0].Subnet.Addr(), 25)
	nobody := lease(t, factory, 23)
	nobody.PublicIP = netip.IPv4Unspecified()
	for name, bad := range map[string]backends.Lease{"our subnet": stolen, "our address": twin, "overlap": inside, "no address": nobody, "zero": {}} {
		got, problems := b.Desired(self, append(slices.Clone(peers), bad), underlay(1))
		if !same(got, want) {
			t.Errorf("%s:\n%v\nwant:\n%v", name, lines(got), lines(want))
		}
		if len(problems) == 0 {
			t.Errorf("%s: no problem was told", name)
		}
	}
}

// testData: what peers have in their tables outlives a restart, and a lease
// that is acquired anew.
func testData(t *testing.T, factory Factory) {
	b := factory("")
	first := leaseOf(t, b, 1, nil)
	if again := leaseOf(t, b, 1, nil); string(again.BackendData) != string(first.BackendData) {
		t.Errorf("Data() again = %s, first %s", again.BackendData, first.BackendData)
	}
	restarted := leaseOf(t, factory(""), 1, first.BackendData)
	if string(restarted.BackendData) != string(first.BackendData) {
		t.Errorf("Data() after a restart = %s, before %s", restarted.BackendData, first.BackendData)
	}
	leaseOf(t, factory(""), 1, json.RawMessage(`"junk"`)) // of another backend, say
}

func testMTU(t *testing.T, factory Factory) {
	b := factory("")
	if got := b.MTU(underlay(1)); got <= 0 || got > 1500 {
		t.Errorf("MTU() = %d on an underlay of 1500", got)
	}
	large := underlay(1)
	large.MTU = 9000
	if got, want := b.MTU(large)-b.MTU(underlay(1)), 7500; got != want {
		t.Errorf("an underlay with 7500 more gives %d more", got)
	}
}
