package datapath

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the prefixes, inside one another too, the longest decides.
func TestLongestPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var routes []route
		seen := map[netip.Prefix]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "routes") {
			// Few different addresses, so that prefixes nest and touch.
			a := addr(rapid.SampledFrom([]uint32{0, 0x0a000000, 0x0af40000, 0xffffff00}).Draw(t, "base") + rapid.Uint32Range(0, 255).Draw(t, "host"))
			p := netip.PrefixFrom(netip.AddrFrom4(a.bytes()), rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
			if seen[p] {
				continue
			}
			seen[p] = true
			routes = append(routes, route{p, addr(rapid.Uint32Range(1, 1000).Draw(t, "to"))})
		}
		slow := func(a addr) (to addr) {
			best := -1
			for _, r := range routes {
				if r.prefix.Contains(netip.AddrFrom4(a.bytes())) && r.prefix.Bits() > best {
					best, to = r.prefix.Bits(), r.to
				}
			}
			return to
		}
		tb := &table{ranges: flatten(append([]route(nil), routes...))}
		probe := []addr{0, 1, ^addr(0), ^addr(0) - 1, addr(rapid.Uint32().Draw(t, "a"))}
		for _, r := range routes {
			s := spanOf(r.prefix)
			probe = append(probe, s.first-1, s.first, s.first+1, s.last-1, s.last, s.last+1)
		}
		for _, a := range probe {
			if got, want := tb.lookup(a), slow(a); got != want {
				t.Fatalf("lookup(%v) = %d, want %d of %v", a.bytes(), got, want, routes)
			}
		}
	})
}

func TestTable(t *testing.T) {
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	tb := newTable(Self{Addr: a("10.244.1.0"), Takes: p("10.244.1.0/24")}, []Peer{
		{Addr: a("192.168.50.2"), Has: []netip.Prefix{p("10.244.2.0/24")}, Sends: p("10.244.2.0/24")},
		{Addr: a("192.168.50.2"), Has: []netip.Prefix{p("10.244.9.0/24")}, Sends: p("10.244.9.0/24")}, // a reservation beside its lease
		{Addr: a("192.168.50.3"), Has: []netip.Prefix{p("10.244.3.0/26"), p("10.244.2.7/32")}, Sends: Everything()},
	})
	two, three := addrOf(a("192.168.50.2")), addrOf(a("192.168.50.3"))
	for s, want := range map[string]addr{
		"10.244.1.255": 0, "10.244.2.0": two, "10.244.2.255": two, "10.244.2.7": three, "10.244.2.8": two,
		"10.244.3.63": three, "10.244.3.64": 0, "255.255.255.255": 0,
	} {
		if got := tb.lookup(addrOf(a(s))); got != want {
			t.Errorf("lookup(%s) = %v, want %v", s, got.bytes(), want.bytes())
		}
	}
	for _, tt := range []struct {
		from addr
		src  string
		want bool
	}{{two, "10.244.2.9", true}, {two, "10.244.9.9", true}, {two, "10.244.3.0", false}, {three, "0.0.0.0", true}, {three, "255.255.255.255", true}} {
		if got := anyContains(tb.senders[tt.from], addrOf(a(tt.src))); got != tt.want {
			t.Errorf("%v may send what comes from %s: %t, want %t", tt.from.bytes(), tt.src, got, tt.want)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	var routes []route
	for i := range 1000 {
		routes = append(routes, route{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), addr(i + 1)})
	}
	tb := &table{ranges: flatten(routes)}
	a := addrOf(netip.MustParseAddr("10.1.77.9"))
	for b.Loop() {
		a += addr(tb.lookup(a) & 1)
	}
}
