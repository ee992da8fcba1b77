package calico

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Block is a part of the pool, and who has which of its addresses. One host
// has affinity to it; others may borrow single addresses.
type Block struct {
	CIDR netip.Prefix
	Host string // who has affinity to it; "" after that host has left
	// allocations has for each address the index of its attribute, nil for a
	// free one; unallocated are the free ones, the longest free first.
	allocations []*int
	unallocated []int
	attributes  []attribute
	revision    int64 // the key's; 0 for one that is not stored yet
}

// attribute tells whose an address is.
type attribute struct {
	Handle    string            `json:"handle_id"`
	Secondary map[string]string `json:"secondary"`
}

// newAttribute is of a container's address, or of the host's tunnel device.
func newAttribute(host, name string) attribute {
	second := map[string]string{attrNode: host, attrPod: name}
	if t, ok := tunnels[name]; ok {
		second = map[string]string{attrNode: host, attrType: t.typ}
	}
	return attribute{handle(host, name), second}
}

// allocation is what the attribute says of an address.
func (at attribute) allocation(a netip.Addr) Allocation {
	name := at.Secondary[attrPod]
	for tunnel, in := range tunnels {
		if at.Secondary[attrType] == in.typ {
			name = tunnel
		}
	}
	return Allocation{a, at.Secondary[attrNode], name}
}

// The names of tunnel devices among those of containers; see
// Encapsulation.TunnelName.
const (
	vxlanTunnel = "vxlan.calico"
	ipipTunnel  = "ipip.calico"
)

// tunnels is how the address of a tunnel device, by its name, stands in IPAM.
var tunnels = map[string]struct{ handle, typ string }{
	vxlanTunnel: {"vxlan-tunnel-addr-", "vxlanTunnelAddress"},
	ipipTunnel:  {"ipip-tunnel-addr-", "ipipTunnelAddress"},
}

// What Secondary has.
const (
	attrNode = "node"
	attrPod  = "pod"
	attrType = "type"
)

// Allocation is one address that is taken.
type Allocation struct {
	Addr       netip.Addr
	Host, Name string // the container's host, and its name there; or a tunnel device's
}

type blockValue struct {
	CIDR        netip.Prefix `json:"cidr"`
	Affinity    *string      `json:"affinity"` // host:NAME
	Allocations []*int       `json:"allocations"`
	Unallocated []int        `json:"unallocated"`
	Attributes  []attribute  `json:"attributes"`
}

func newBlock(cidr netip.Prefix, host string) *Block {
	size := 1 << (cidr.Addr().BitLen() - cidr.Bits())
	b := &Block{CIDR: cidr, Host: host, allocations: make([]*int, size), unallocated: make([]int, size)}
	for i := range b.unallocated {
		b.unallocated[i] = i
	}
	return b
}

func (b *Block) value() (string, error) {
	v := blockValue{CIDR: b.CIDR, Allocations: b.allocations, Unallocated: b.unallocated, Attributes: b.attributes}
	if b.Host != "" {
		a := "host:" + b.Host
		v.Affinity = &a
	}
	data, err := json.Marshal(v)
	return string(data), err
}

func parseBlock(value []byte, revision int64) (*Block, error) {
	var v blockValue
	if err := json.Unmarshal(value, &v); err != nil {
		return nil, err
	}
	if !v.CIDR.Addr().Is4() || v.CIDR != v.CIDR.Masked() || v.CIDR.Addr().BitLen()-v.CIDR.Bits() > 12 {
		return nil, fmt.Errorf("cidr %s: not a block", v.CIDR)
	}
	b := &Block{CIDR: v.CIDR, allocations: v.Allocations, unallocated: v.Unallocated, attributes: v.Attributes, revision: revision}
	if v.Affinity != nil {
		b.Host = strings.TrimPrefix(*v.Affinity, "host:")
	}
	size := 1 << (v.CIDR.Addr().BitLen() - v.CIDR.Bits())
	if len(b.allocations) != size {
		return nil, fmt.Errorf("%d allocations, want %d", len(b.allocations), size)
	}
	for i, a := range b.allocations {
		if a != nil && (*a < 0 || *a >= len(b.attributes)) {
			return nil, fmt.Errorf("allocation %d: no attribute %d", i, *a)
		}
	}
	free := make([]bool, size)
	for _, i := range b.unallocated {
		if i < 0 || i >= size || b.allocations[i] != nil || free[i] {
			return nil, fmt.Errorf("unallocated has %d, which is not free, or twice", i)
		}
		free[i] = true
	}
	return b, nil
}

// clone is a copy that can be changed.
func (b *Block) clone() *Block {
	c := *b
	c.allocations, c.unallocated = slices.Clone(b.allocations), slices.Clone(b.unallocated)
	c.attributes = slices.Clone(b.attributes)
	return &c
}

// Free is how many addresses are left.
func (b *Block) Free() int { return len(b.unallocated) }

// Allocations are the addresses that are taken, in order.
func (b *Block) Allocations() []Allocation {
	var all []Allocation
	for i, a := range b.allocations {
		if a != nil {
			all = append(all, b.attributes[*a].allocation(b.addr(i)))
		}
	}
	return all
}

func (b *Block) addr(ordinal int) netip.Addr {
	base := b.CIDR.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(ordinal))
	return netip.AddrFrom4(a)
}

func (b *Block) ordinal(a netip.Addr) int {
	base, addr := b.CIDR.Addr().As4(), a.As4()
	return int(binary.BigEndian.Uint32(addr[:]) - binary.BigEndian.Uint32(base[:]))
}

// handle is what a container's addresses are found by, or a tunnel device's.
func handle(host, name string) string {
	if t, ok := tunnels[name]; ok {
		return t.handle + host
	}
	return host + "." + name
}

// of finds the address of a container.
func (b *Block) of(host, name string) (netip.Addr, bool) {
	for i, a := range b.allocations {
		if a != nil && b.attributes[*a].Handle == handle(host, name) {
			return b.addr(i), true
		}
	}
	return netip.Addr{}, false
}

// take gives a container the address that has been free the longest; there is one.
func (b *Block) take(host, name string) netip.Addr {
	a := b.addr(b.unallocated[0])
	b.takeAddr(host, name, a)
	return a
}

// takeAddr gives a container an address, if it is free.
func (b *Block) takeAddr(host, name string, a netip.Addr) bool {
	n := b.ordinal(a)
	i := slices.Index(b.unallocated, n)
	if i < 0 {
		return false
	}
	b.unallocated = slices.Delete(b.unallocated, i, i+1)
	index := len(b.attributes)
	b.attributes = append(b.attributes, newAttribute(host, name))
	b.allocations[n] = &index
	return true
}

// release frees the addresses that gone says so of, and reports whether there
// were any.
func (b *Block) release(gone func(Allocation) bool) bool {
	var keep []attribute
	index := map[int]int{} // of attributes, old to new
	changed := false
	for n, a := range b.allocations {
		if a == nil {
			continue
		}
		at := b.attributes[*a]
		if gone(at.allocation(b.addr(n))) {
			b.allocations[n] = nil
			b.unallocated = append(b.unallocated, n)
			changed = true
			continue
		}
		i, ok := index[*a]
		if !ok {
			i = len(keep)
			index[*a] = i
			keep = append(keep, at)
		}
		b.allocations[n] = &i
	}
	b.attributes = keep
	return changed
}
