package nodes

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a dump is repeated that a change interrupted.
const dumpTries = 30

// openHandle opens a route netlink handle inside ns. It works from every
// thread afterwards. Strict checks stay off: the netlink package leaves padding
// in neighbour requests unset, which they refuse.
func openHandle(ns *Namespace) (h *netlink.Handle, err error) {
	err = ns.Do(func() error {
		if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if err = h.SetSocketTimeout(10 * time.Second); err != nil {
			h.Close()
		}
		return err
	})
	return h, err
}

// dump calls list until a change in the kernel does not interrupt it.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the prefix of n; the zero Prefix when n is none.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), bits)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func sameMAC(a, b net.HardwareAddr) bool { return bytes.Equal(a, b) }
