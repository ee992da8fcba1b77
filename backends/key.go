package backends

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Key is the last part of a lease's key in the store: the host's subnet as
// 10.5.52.0-24, in a dual-stack network 10.12.13.0-24&fd00:12:13::-56. (The
// slash is etcd v2's path separator, which is why it is not used.)
type Key struct {
	Subnet netip.Prefix // IPv4
	IPv6   netip.Prefix // zero without one
}

// String is the key as flannel writes it.
func (k Key) String() string {
	s := fmt.Sprintf("%s-%d", k.Subnet.Addr(), k.Subnet.Bits())
	if k.IPv6.IsValid() {
		s += fmt.Sprintf("&%s-%d", k.IPv6.Addr(), k.IPv6.Bits())
	}
	return s
}

// ParseKey reads a key. It takes exactly what String returns: flannel's
// pattern also matches other spellings of the same subnet, and two keys for
// one subnet would be two owners.
func ParseKey(s string) (Key, error) {
	v4, v6, dual := strings.Cut(s, "&")
	var k Key
	var err error
	if k.Subnet, err = parseKeyPart(v4, false); err != nil {
		return Key{}, fmt.Errorf("subnet key %q: %w", s, err)
	}
	if dual {
		if k.IPv6, err = parseKeyPart(v6, true); err != nil {
			return Key{}, fmt.Errorf("subnet key %q: IPv6: %w", s, err)
		}
	}
	if got := k.String(); got != s {
		return Key{}, fmt.Errorf("subnet key %q: not in flannel's form, which is %q", s, got)
	}
	return k, nil
}

func parseKeyPart(s string, v6 bool) (netip.Prefix, error) {
	text, length, ok := strings.Cut(s, "-")
	if !ok {
		return netip.Prefix{}, fmt.Errorf("no prefix length in %q", s)
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Is6() != v6 || a.Is4In6() || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an address of this family", text)
	}
	// flannel reads the lengths in 5 and 7 bits: a subnet is never one address.
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || int(n) >= a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix length from 0 to %d", length, a.BitLen()-1)
	}
	p := netip.PrefixFrom(a, int(n))
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits, the subnet is %s", p, p.Masked())
	}
	return p, nil
}
