package nodes

import "net/netip"

// Underlay is the network that a host's tunnels run over, seen from the host.
type Underlay struct {
	Dev    string       // eth0
	Addr   netip.Addr   // the host's own address
	Prefix netip.Prefix // Addr with its prefix length: what is on-link
	MTU    int
}

// OnLink says whether a is reached without a router.
func (u Underlay) OnLink(a netip.Addr) bool { return u.Prefix.Masked().Contains(a) }
