package vxlan

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"labctl/backends"
	"labctl/nodes"
)

// Type is flannel's name of the backend.
const Type = "vxlan"

// Overhead is the bytes that wrapping costs on an IPv4 underlay: outer IP 20,
// UDP 8, VXLAN 8, inner Ethernet 14.
const Overhead = 50

// overhead6 is the same for an IPv6 underlay, whose IP header has 40 bytes.
const overhead6 = Overhead + 20

// Backend is flannel's VXLAN on one host.
type Backend struct {
	Config
	mac net.HardwareAddr // of our VTEP, once Data has been called
}

var _ backends.Backend = (*Backend)(nil)

// New returns the backend for a network config's Backend object; nil for the
// defaults.
func New(options json.RawMessage) (*Backend, error) {
	c, err := parseConfig(options)
	if err != nil {
		return nil, err
	}
	return &Backend{Config: c}, nil
}

// Type is "vxlan".
func (b *Backend) Type() string { return Type }

// MTU is what is left of the underlay's, or of the MTU that the config says
// the underlay has.
func (b *Backend) MTU(u nodes.Underlay) int {
	mtu := u.MTU
	if b.Config.MTU > 0 {
		mtu = b.Config.MTU
	}
	if u.Addr.Is6() {
		return mtu - overhead6
	}
	return mtu - Overhead
}

// Data publishes the MAC of our VTEP. It is decided before the device is made
// and kept for as long as peers may have it in their tables: a device that is
// made anew gets the same one.
func (b *Backend) Data(previous json.RawMessage) (json.RawMessage, error) {
	if b.mac == nil {
		if _, mac, err := decodeData(previous); err == nil {
			b.mac = mac
		} else {
			b.mac = newMAC()
		}
	}
	return encodeData(b.VNI, b.mac)
}

// Desired is all there is to vxlan: one device of our own, and for each peer
// one neighbour, one FDB entry, one route.
//
//	10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink     which way
//	10.244.2.0 lladdr 6a:..:01 dev flannel.1 permanent    which VTEP (L3 -> L2)
//	6a:..:01 dev flannel.1 dst 192.168.50.2 permanent     which host (L2 -> underlay)
func (b *Backend) Desired(self backends.Lease, peers []backends.Lease, u nodes.Underlay) (s nodes.State, problems []error) {
	mac := b.mac
	if _, published, err := decodeData(self.BackendData); err == nil {
		mac = published
	} else {
		problems = append(problems, fmt.Errorf("own lease %s: %w", self.Subnet, err))
	}
	dev := b.device()
	s.Links = []nodes.Link{nodes.VXLAN{
		LinkAttrs: nodes.LinkAttrs{Name: dev, MTU: b.MTU(u), MAC: mac},
		VNI:       b.VNI, Port: b.Port, Local: u.Addr, Dev: u.Dev, Learning: b.Learning, GBP: b.GBP,
	}}
	// One address and not the whole subnet, which is the bridge's: it is only
	// the source of what this host itself sends into the tunnel.
	s.Addrs = []nodes.Addr{{Dev: dev, Prefix: single(self.Subnet.Addr())}}

	usable, more := backends.Usable(self, peers, func(t string) bool { return t == Type })
	problems = append(problems, more...)
	s.Neighbours, s.FDB, s.Routes = make([]nodes.Neighbour, 0, len(usable)), make([]nodes.FDBEntry, 0, len(usable)), make([]nodes.Route, 0, len(usable))
	seen := map[string]netip.Addr{mac.String(): self.PublicIP}
	for _, p := range usable {
		if b.DirectRouting && u.OnLink(p.PublicIP) {
			s.Routes = append(s.Routes, nodes.Route{Dst: p.Subnet, Via: p.PublicIP, Dev: u.Dev})
			continue
		}
		mac, first, err := b.vtep(p, seen)
		if err != nil {
			problems = append(problems, fmt.Errorf("peer %s: %s: %w", p.PublicIP, p.Subnet, err))
			continue
		}
		base := p.Subnet.Addr()
		s.Neighbours = append(s.Neighbours, nodes.Neighbour{Dev: dev, Addr: base, MAC: mac})
		if first {
			s.FDB = append(s.FDB, nodes.FDBEntry{Dev: dev, MAC: mac, Dst: p.PublicIP})
		}
		s.Routes = append(s.Routes, nodes.Route{Dst: p.Subnet, Via: base, Dev: dev, OnLink: true})
	}
	return s, problems
}

// vtep is the MAC of a peer's VTEP. seen is who has which so far: the FDB
// holds one host for a MAC. first is false for a further lease of that host,
// which has one VTEP for all of them.
func (b *Backend) vtep(p backends.Lease, seen map[string]netip.Addr) (mac net.HardwareAddr, first bool, err error) {
	vni, mac, err := decodeData(p.BackendData)
	if err != nil {
		return nil, false, err
	}
	if vni >= 0 && vni != b.VNI {
		return nil, false, fmt.Errorf("VNI %d, ours is %d; give the network one VNI and restart its agents", vni, b.VNI)
	}
	other, ok := seen[mac.String()]
	if ok && other != p.PublicIP {
		return nil, false, fmt.Errorf("VtepMAC %s is also that of %s; delete flannel.%d and the lease on one of them", mac, other, b.VNI)
	}
	seen[mac.String()] = p.PublicIP
	return mac, !ok, nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
