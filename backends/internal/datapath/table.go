package datapath

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// addr is an IPv4 address as a number, so that it can be compared.
type addr uint32

func addrOf(a netip.Addr) addr {
	b := a.As4()
	return addr(binary.BigEndian.Uint32(b[:]))
}

func (a addr) bytes() (b [4]byte) {
	binary.BigEndian.PutUint32(b[:], uint32(a))
	return b
}

// span is a range of addresses, both ends included.
type span struct{ first, last addr }

func spanOf(p netip.Prefix) span {
	first := addrOf(p.Masked().Addr())
	return span{first, first | addr(uint64(1)<<(32-p.Bits())-1)}
}

func (s span) contains(a addr) bool { return s.first <= a && a <= s.last }

// anyContains says whether one of spans contains a.
func anyContains(spans []span, a addr) bool {
	for _, s := range spans {
		if s.contains(a) {
			return true
		}
	}
	return false
}

// table says who owns which address. It never changes: a new one takes its
// place, so that looking up needs no lock.
type table struct {
	self    span
	base    addr // our own address on the device
	ranges  []owned
	senders map[addr][]span // what a peer's packets may come from, by its address; a host may be a peer more than once
}

// owned is that to, a host's public address, has all addresses from first up
// to the next owned's; 0 for nobody.
type owned struct {
	first addr
	to    addr
}

// Self is what is taken from peers, and the source of ICMP errors.
type Self struct {
	Addr  netip.Addr   // of the device
	Takes netip.Prefix // destinations; what is for others is dropped
}

// Peer is another host.
type Peer struct {
	Addr  netip.Addr     // on the underlay
	Has   []netip.Prefix // what is behind it; of several peers' the longest decides
	Sends netip.Prefix   // sources that it may have, besides its own address
}

// Everything is all addresses, for Takes and Sends.
func Everything() netip.Prefix { return netip.PrefixFrom(netip.IPv4Unspecified(), 0) }

// newTable is of IPv4 addresses.
func newTable(self Self, peers []Peer) *table {
	t := &table{self: spanOf(self.Takes), base: addrOf(self.Addr), senders: make(map[addr][]span, len(peers))}
	routes := make([]route, 0, len(peers))
	for _, p := range peers {
		to := addrOf(p.Addr)
		for _, has := range p.Has {
			routes = append(routes, route{has, to})
		}
		t.senders[to] = append(t.senders[to], spanOf(p.Sends))
	}
	t.ranges = flatten(routes)
	return t
}

// route is a prefix and the host that has it.
type route struct {
	prefix netip.Prefix
	to     addr
}

// flatten turns prefixes, of which the longest decides, into ranges, of which
// there is one for each address: the search is then a plain binary one.
func flatten(routes []route) []owned {
	slices.SortStableFunc(routes, func(a, b route) int {
		return cmp.Or(a.prefix.Masked().Addr().Compare(b.prefix.Masked().Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	out := []owned{{0, 0}}
	put := func(o owned) {
		if out[len(out)-1].first == o.first {
			out[len(out)-1] = o
		} else if out[len(out)-1].to != o.to {
			out = append(out, o)
		}
	}
	var open []route // each inside the one before it
	closeUntil := func(next uint64) {
		for len(open) > 0 {
			end := uint64(spanOf(open[len(open)-1].prefix).last) + 1
			if end > next {
				return
			}
			open = open[:len(open)-1]
			if end > uint64(^addr(0)) {
				continue
			}
			o := owned{first: addr(end)}
			if len(open) > 0 {
				o.to = open[len(open)-1].to
			}
			put(o)
		}
	}
	for _, r := range routes {
		s := spanOf(r.prefix)
		closeUntil(uint64(s.first))
		put(owned{s.first, r.to})
		open = append(open, r)
	}
	closeUntil(1 << 32)
	return out
}

// lookup is the host that has an address, 0 for none.
func (t *table) lookup(a addr) addr {
	lo, hi := 0, len(t.ranges)
	for hi-lo > 1 {
		if m := (lo + hi) / 2; t.ranges[m].first <= a {
			lo = m
		} else {
			hi = m
		}
	}
	return t.ranges[lo].to
}
