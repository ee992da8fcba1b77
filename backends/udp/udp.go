package udp

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"

	"labctl/backends"
	"labctl/nodes"
)

// Type is flannel's name of the backend. In leases it is left out.
const Type = backends.DefaultBackendType

// Overhead is the bytes that wrapping costs: outer IP 20, UDP 8.
const Overhead = 28

// device is the name of the TUN device. flannel asks for "flannel%d" and gets
// this one.
const device = "flannel0"

// leastMTU is what every IPv4 host can receive in one piece (RFC 791).
const leastMTU = 576

// Backend is flannel's udp on one host.
type Backend struct {
	Config
	network netip.Prefix
}

var _ backends.Carrier = (*Backend)(nil)

// New returns the backend for a network config's Backend object (nil for the
// defaults) in the network of all containers.
func New(options json.RawMessage, network netip.Prefix) (*Backend, error) {
	c, err := parseConfig(options)
	if err != nil {
		return nil, err
	}
	return &Backend{Config: c, network: network}, nil
}

// Type is "udp".
func (b *Backend) Type() string { return Type }

// MTU is what is left of the underlay's.
func (b *Backend) MTU(u nodes.Underlay) int { return u.MTU - Overhead }

// Data publishes nothing: all that peers need is in every lease.
func (b *Backend) Data(json.RawMessage) (json.RawMessage, error) { return nil, nil }

// Desired is an address and a route for the device that Open makes. Which
// host has which subnet the kernel does not know: the Path does.
//
//	flannel0 10.244.1.0/32                  the source of what this host itself sends
//	10.244.0.0/16 dev flannel0              to the agent, unless a bridge's route is more specific
func (b *Backend) Desired(self backends.Lease, peers []backends.Lease, u nodes.Underlay) (s nodes.State, problems []error) {
	_, problems = usable(self, peers)
	if err := b.checkUnderlay(u); err != nil {
		problems = append(problems, err)
	}
	s.Links = []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: device, MTU: b.MTU(u)}}}
	s.Addrs = []nodes.Addr{{Dev: device, Prefix: single(self.Subnet.Addr())}}
	if b.network.IsValid() {
		s.Routes = []nodes.Route{{Dst: b.network.Masked(), Dev: device}}
	}
	return s, problems
}

// Open opens flannel0 and the socket; see [backends.Carrier].
func (b *Backend) Open(self backends.Lease, u nodes.Underlay, log *slog.Logger) (backends.Path, error) {
	if err := b.checkUnderlay(u); err != nil {
		return nil, err
	}
	p, err := open(b.Config, self, u.Addr, b.MTU(u), log)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (b *Backend) checkUnderlay(u nodes.Underlay) error {
	switch {
	case !u.Addr.Is4():
		return fmt.Errorf("%s: address %s: backend udp needs IPv4; give the device an IPv4 address", u.Dev, u.Addr)
	case b.MTU(u) < leastMTU:
		return fmt.Errorf("%s: mtu %d leaves %d for containers, IPv4 needs %d; set it to %d or more",
			u.Dev, u.MTU, b.MTU(u), leastMTU, leastMTU+Overhead)
	}
	return nil
}

// usable is the peers that packets can be carried to, and what is wrong with
// the others.
func usable(self backends.Lease, peers []backends.Lease) ([]backends.Lease, []error) {
	all, problems := backends.Usable(self, peers, func(t string) bool { return t == "" || t == Type })
	var good []backends.Lease
	for _, p := range all {
		if !p.PublicIP.Is4() {
			problems = append(problems, fmt.Errorf("peer %s: %s: its public address is not IPv4", p.PublicIP, p.Subnet))
			continue
		}
		good = append(good, p)
	}
	return good, problems
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
