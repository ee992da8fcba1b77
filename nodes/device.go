package nodes

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a network device that may be a host's underlay.
type Device struct {
	Name  string
	Kind  string // veth, ipip, tuntap ...
	MTU   int
	Addrs []netip.Prefix // IPv4, the most lasting first; deprecated ones are left out
}

// Devices lists what there is in the namespace, by index.
func (n *Namespace) Devices() ([]Device, error) {
	h, err := openHandle(n)
	if err != nil {
		return nil, fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("%s: list links: %w", n.name, err)
	}
	all, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("%s: list addresses: %w", n.name, err)
	}
	slices.SortStableFunc(all, func(a, b netlink.Addr) int { return cmp.Compare(lasting(b), lasting(a)) })
	devices := make([]Device, 0, len(links))
	slices.SortFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	for _, l := range links {
		d := Device{Name: l.Attrs().Name, Kind: l.Type(), MTU: l.Attrs().MTU}
		for _, a := range all {
			if a.LinkIndex == l.Attrs().Index && a.Flags&unix.IFA_F_DEPRECATED == 0 {
				d.Addrs = append(d.Addrs, prefixOf(a.IPNet))
			}
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// lasting orders addresses as flannel does: global before link-local, permanent
// before leased, primary before secondary.
func lasting(a netlink.Addr) int {
	v := 0
	if !addrOf(a.IP).IsLinkLocalUnicast() {
		v += 4
	}
	if a.Flags&unix.IFA_F_PERMANENT != 0 {
		v += 2
	}
	if a.Flags&unix.IFA_F_SECONDARY == 0 {
		v++
	}
	return v
}

// DefaultDevice is the device of the main table's IPv4 default route, the one
// with the least metric; "" when there is none.
func (n *Namespace) DefaultDevice() (string, error) {
	h, err := openHandle(n)
	if err != nil {
		return "", fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	routes, err := dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return "", fmt.Errorf("%s: list routes: %w", n.name, err)
	}
	index, metric := 0, math.MaxInt
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).Bits() != 0 || r.Type != unix.RTN_UNICAST || r.Priority >= metric {
			continue
		}
		dev := r.LinkIndex
		if dev == 0 && len(r.MultiPath) > 0 {
			dev = r.MultiPath[0].LinkIndex
		}
		if dev > 0 {
			index, metric = dev, r.Priority
		}
	}
	if index == 0 {
		return "", nil
	}
	return linkName(n, h, index)
}

// RouteTo is the device that packets to a leave by, their source address, and
// the gateway they go to (the zero Addr for none), as ip route get tells.
func (n *Namespace) RouteTo(a netip.Addr) (dev string, src, via netip.Addr, err error) {
	h, err := openHandle(n)
	if err != nil {
		return "", src, via, fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	routes, err := h.RouteGet(a.AsSlice())
	if err == nil && len(routes) == 0 {
		err = unix.ENETUNREACH
	}
	if err != nil {
		return "", src, via, fmt.Errorf("%s: route to %s: %w", n.name, a, err)
	}
	dev, err = linkName(n, h, routes[0].LinkIndex)
	return dev, addrOf(routes[0].Src), addrOf(routes[0].Gw), err
}

func linkName(n *Namespace, h *netlink.Handle, index int) (string, error) {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("%s: link %d: %w", n.name, index, err)
	}
	return l.Attrs().Name, nil
}

// MayChange is nil when this process may change the namespace's network, else
// EPERM. It asks for a link to be removed that cannot exist: the kernel looks
// at the privilege first.
func (n *Namespace) MayChange() error {
	h, err := openHandle(n)
	if err != nil {
		return fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	none := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: math.MaxInt32}}
	if err := h.LinkDel(none); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: change the network: %w", n.name, err)
	}
	return nil
}
