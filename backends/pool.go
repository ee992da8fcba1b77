package backends

import (
	"fmt"
	"iter"
	"math/big"
	"net/netip"
)

// Pool is the range of one address family that hosts take their subnets from.
type Pool struct {
	Network   netip.Prefix
	SubnetLen int        // prefix length of one host's subnet
	SubnetMin netip.Addr // base address of the first subnet that is given out
	SubnetMax netip.Addr // base address of the last
}

// poolFields is what differs between the families: names in the config, and
// flannel's bounds.
type poolFields struct {
	network, length, min, max string
	family, example           string
	bits                      int // of an address
	defaultLen                int // SubnetLen when the config gives none and the network is large enough
}

func ipv4Fields() poolFields {
	return poolFields{
		network: "Network", length: "SubnetLen", min: "SubnetMin", max: "SubnetMax",
		family: "IPv4", example: "10.244.0.0/16", bits: 32, defaultLen: 24,
	}
}

func ipv6Fields() poolFields {
	return poolFields{
		network: "IPv6Network", length: "IPv6SubnetLen", min: "IPv6SubnetMin", max: "IPv6SubnetMax",
		family: "IPv6", example: "fd00:10:244::/48", bits: 128, defaultLen: 64,
	}
}

// parsePool applies flannel's defaults and checks: the same for both families,
// with other numbers.
func parsePool(f poolFields, network string, length uint, lowest, highest string) (Pool, error) {
	if network == "" {
		return Pool{}, &ConfigError{Field: f.network, Text: "missing", Hint: fmt.Sprintf("write %q: %q", f.network, f.example)}
	}
	net, err := netip.ParsePrefix(network)
	if err != nil || net.Addr().BitLen() != f.bits || net.Addr().Is4In6() {
		return Pool{}, &ConfigError{
			Field: f.network, Text: fmt.Sprintf("%q is not an %s prefix", network, f.family),
			Hint: fmt.Sprintf("write an address and a prefix length, like %s", f.example),
		}
	}
	p := Pool{Network: net.Masked()}
	if p.SubnetLen, err = subnetLen(f, p.Network, length); err != nil {
		return Pool{}, err
	}
	// The first subnet is skipped by default, as flannel does.
	first := p.Network.Addr()
	if p.SubnetMin, err = p.bound(f, f.min, lowest, addSubnets(first, p.SubnetLen, 1)); err != nil {
		return Pool{}, err
	}
	last := netip.PrefixFrom(lastAddr(p.Network), p.SubnetLen).Masked().Addr()
	if p.SubnetMax, err = p.bound(f, f.max, highest, last); err != nil {
		return Pool{}, err
	}
	if p.SubnetMax.Less(p.SubnetMin) {
		return Pool{}, &ConfigError{
			Field: f.min, Text: fmt.Sprintf("%s is above %s %s, which leaves no subnet", p.SubnetMin, f.max, p.SubnetMax),
			Hint: "exchange the two",
		}
	}
	return p, nil
}

// subnetLen checks that the network holds at least four subnets, each with
// room for a bridge and a tunnel.
func subnetLen(f poolFields, network netip.Prefix, length uint) (int, error) {
	longest := f.bits - 2 // /30, /126
	if length == 0 {
		if network.Bits() > f.bits-4 {
			return 0, &ConfigError{
				Field: f.network, Text: fmt.Sprintf("%s is too small for four subnets", network),
				Hint: fmt.Sprintf("use a /%d or a larger network", f.bits-4),
			}
		}
		return max(f.defaultLen, network.Bits()+2), nil
	}
	if length > uint(longest) {
		return 0, &ConfigError{
			Field: f.length, Text: fmt.Sprintf("/%d leaves no room for a bridge and containers", length),
			Hint: fmt.Sprintf("use /%d or shorter", longest),
		}
	}
	if int(length) < network.Bits()+2 {
		hint := fmt.Sprintf("use /%d or longer", network.Bits()+2)
		if network.Bits()+2 > longest {
			hint = "use a larger " + f.network
		}
		return 0, &ConfigError{
			Field: f.length, Text: fmt.Sprintf("/%d leaves fewer than four subnets in %s", length, network), Hint: hint,
		}
	}
	return int(length), nil
}

// bound parses SubnetMin or SubnetMax. The unspecified address stands for the
// default, as it does for flannel.
func (p Pool) bound(f poolFields, field, text string, fallback netip.Addr) (netip.Addr, error) {
	if text == "" {
		return fallback, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.BitLen() != f.bits || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, &ConfigError{
			Field: field, Text: fmt.Sprintf("%q is not an %s address", text, f.family),
			Hint: fmt.Sprintf("write the base address of a subnet, like %s", fallback),
		}
	}
	if a.IsUnspecified() {
		return fallback, nil
	}
	if !p.Network.Contains(a) {
		return netip.Addr{}, &ConfigError{
			Field: field, Text: fmt.Sprintf("%s is outside %s %s", a, f.network, p.Network),
			Hint: fmt.Sprintf("write the base address of a subnet, like %s", fallback),
		}
	}
	if base := netip.PrefixFrom(a, p.SubnetLen).Masked().Addr(); base != a {
		return netip.Addr{}, &ConfigError{
			Field: field, Text: fmt.Sprintf("%s is not the base address of a /%d", a, p.SubnetLen),
			Hint: fmt.Sprintf("write %s", base),
		}
	}
	return a, nil
}

// Allows reports whether subnet is one that the pool gives out.
func (p Pool) Allows(subnet netip.Prefix) bool {
	return subnet.IsValid() && subnet == subnet.Masked() && subnet.Bits() == p.SubnetLen &&
		p.Network.Contains(subnet.Addr()) &&
		!subnet.Addr().Less(p.SubnetMin) && !p.SubnetMax.Less(subnet.Addr())
}

// Subnets yields all subnets that the pool gives out, upward from SubnetMin.
func (p Pool) Subnets() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		if !p.SubnetMin.IsValid() {
			return
		}
		for a := p.SubnetMin; !p.SubnetMax.Less(a); {
			if !yield(netip.PrefixFrom(a, p.SubnetLen)) {
				return
			}
			next := addSubnets(a, p.SubnetLen, 1)
			if !a.Less(next) { // past the end of the address family
				return
			}
			a = next
		}
	}
}

// Size is how many subnets the pool gives out, or the largest int.
func (p Pool) Size() int {
	if !p.SubnetMin.IsValid() {
		return 0
	}
	lo, hi := new(big.Int).SetBytes(p.SubnetMin.AsSlice()), new(big.Int).SetBytes(p.SubnetMax.AsSlice())
	n := hi.Sub(hi, lo)
	n.Rsh(n, uint(p.SubnetMin.BitLen()-p.SubnetLen))
	n.Add(n, big.NewInt(1))
	if !n.IsInt64() {
		return int(^uint(0) >> 1)
	}
	return int(n.Int64())
}

// addSubnets is a plus n subnets of the given length. It wraps at the end of
// the address family.
func addSubnets(a netip.Addr, length, n int) netip.Addr {
	b := a.AsSlice()
	i := (length - 1) / 8
	carry := n << (7 - (length-1)%8)
	for ; i >= 0 && carry > 0; i-- {
		carry += int(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	next, _ := netip.AddrFromSlice(b)
	return next
}

// lastAddr is the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if keep := p.Bits() - 8*i; keep <= 0 {
			b[i] = 0xff
		} else if keep < 8 {
			b[i] |= 0xff >> keep
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
