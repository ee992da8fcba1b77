package calico

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"labctl/backends/internal/ipip"
	"labctl/nodes"
)

// Config is a Calico network: one IP pool, and how hosts learn the ways to its
// addresses.
type Config struct {
	Pool          netip.Prefix  `json:"pool"`
	BlockSize     int           `json:"blockSize"` // prefix length of a block
	Encapsulation Encapsulation `json:"encapsulation"`
	Routes        Source        `json:"routes"`
	// NATOutgoing lets containers reach what is outside the pool by their
	// host's address.
	NATOutgoing bool `json:"natOutgoing"`
	// StrictAffinity forbids borrowing: a host takes addresses out of its own
	// blocks only.
	StrictAffinity bool `json:"strictAffinity"`
	// MaxBlocks is how many blocks a host may claim.
	MaxBlocks int `json:"maxBlocksPerHost"`
}

// Calico's own defaults.
const (
	DefaultBlockSize = 26
	DefaultMaxBlocks = 20
)

// Backend names the whole, as lists of backends show it: calico-routed.
func (c Config) Backend() string {
	switch {
	case c.Encapsulation.ipip():
		return "calico-ipip"
	case c.Encapsulation.vxlan():
		return "calico-vxlan"
	case c.Routes == BGP:
		return "calico-bgp"
	}
	return Routed
}

// Routed is Backend of a network without encapsulation whose routes come from
// the store.
const Routed = "calico-routed"

// MTU is what is left for containers on an underlay.
func (c Config) MTU(u nodes.Underlay) int { return u.MTU - c.Encapsulation.overhead() }

// Source is where a host learns the routes to other hosts' blocks.
type Source string

// The sources of routes. The zero Source is FromStore.
const (
	FromStore Source = "store" // Felix programs them from the datastore
	BGP       Source = "bgp"   // a BGP speaker on each host
)

// Sources are all sources.
func Sources() []Source { return []Source{FromStore, BGP} }

// Encapsulation is when packets between hosts are wrapped, in the words of
// Calico's operator.
type Encapsulation string

// The encapsulations. The zero Encapsulation is None.
const (
	None             Encapsulation = "None"
	VXLAN            Encapsulation = "VXLAN"
	VXLANCrossSubnet Encapsulation = "VXLANCrossSubnet"
	IPIP             Encapsulation = "IPIP"
	IPIPCrossSubnet  Encapsulation = "IPIPCrossSubnet"
)

// Encapsulations are all encapsulations.
func Encapsulations() []Encapsulation {
	return []Encapsulation{None, VXLAN, VXLANCrossSubnet, IPIP, IPIPCrossSubnet}
}

// Device is the tunnel device of each host, "" for None. It has an address of
// its own, which IPAM gives to a Claim of TunnelName.
func (e Encapsulation) Device() string {
	switch {
	case e.vxlan():
		return VXLANDevice
	case e.ipip():
		return IPIPDevice
	}
	return ""
}

// TunnelName is what the tunnel device is called among the claims of a host's
// containers, whose names have no dot; "" for None.
func (e Encapsulation) TunnelName() string {
	switch {
	case e.vxlan():
		return vxlanTunnel
	case e.ipip():
		return ipipTunnel
	}
	return ""
}

func (e Encapsulation) ipip() bool  { return e == IPIP || e == IPIPCrossSubnet }
func (e Encapsulation) vxlan() bool { return e == VXLAN || e == VXLANCrossSubnet }

// overhead is the bytes that wrapping costs on an IPv4 underlay.
func (e Encapsulation) overhead() int {
	switch {
	case e.ipip():
		return ipip.Overhead
	case e.vxlan():
		return 50 // outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14
	}
	return 0
}

// Way is how packets get from a host to a next hop.
type Way int

// The ways to a next hop.
const (
	Direct   Way = iota + 1 // over the underlay, as they are
	ByVXLAN                 // wrapped by the VXLAN device
	ByIPIP                  // wrapped by the IPIP device
	Unrouted                // not at all: a router is in between, and nothing is wrapped
)

// Way decides how packets go from a host with underlay u to nextHop.
func (e Encapsulation) Way(u nodes.Underlay, nextHop netip.Addr) Way {
	switch near := u.OnLink(nextHop); {
	case e == VXLAN, e == VXLANCrossSubnet && !near:
		return ByVXLAN
	case e == IPIP, e == IPIPCrossSubnet && !near:
		return ByIPIP
	case near:
		return Direct
	}
	return Unrouted
}

// Through is the device that wraps what goes from a host with underlay u to
// nextHop; "" for none.
func (e Encapsulation) Through(u nodes.Underlay, nextHop netip.Addr) string {
	switch e.Way(u, nextHop) {
	case ByVXLAN:
		return VXLANDevice
	case ByIPIP:
		return IPIPDevice
	}
	return ""
}

// Check finds what is wrong with a configuration. The error is a *ConfigError.
func (c Config) Check() error {
	bad := func(field, hint, format string, args ...any) error {
		return &ConfigError{Field: field, Text: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch p := c.Pool; {
	case !p.IsValid():
		return bad("pool", "add pool: 10.244.0.0/16", "missing")
	case !p.Addr().Is4():
		return bad("pool", "use one such as 10.244.0.0/16", "%s is not IPv4, the only family built yet", p)
	case p != p.Masked():
		return bad("pool", "write "+p.Masked().String(), "%s has host bits set", p)
	case p.Bits() < 8 || p.Bits() > 28:
		return bad("pool", "use a /8 to /28, such as 10.244.0.0/16", "%s is no size for a pool", p)
	case c.BlockSize < 20 || c.BlockSize > 32:
		return bad("blockSize", "Calico allows 20 to 32; 26 is its default, 64 addresses", "%d is no size for a block", c.BlockSize)
	case c.BlockSize < p.Bits():
		return bad("blockSize", fmt.Sprintf("use %d to 32", max(20, p.Bits())), "a /%d block does not fit into the pool %s", c.BlockSize, p)
	case !slices.Contains(Encapsulations(), c.Encapsulation):
		return bad("encapsulation", "use one of "+join(Encapsulations()), "%q is unknown", c.Encapsulation)
	case !slices.Contains(Sources(), c.Routes):
		return bad("routes", "use one of "+join(Sources()), "%q is unknown", c.Routes)
	case c.Routes == BGP && c.Encapsulation.vxlan():
		return bad("routes", "use routes: store, whose agents make such routes in Calico, too", "by BGP without encapsulation or with IPIP only, and here it is %s", c.Encapsulation)
	case c.MaxBlocks < 1:
		return bad("maxBlocksPerHost", "use 1 or more; 20 is Calico's default", "%d leaves a host without addresses", c.MaxBlocks)
	}
	return nil
}

func join[T ~string](all []T) string {
	var words []string
	for _, v := range all {
		words = append(words, string(v))
	}
	return strings.Join(words, ", ")
}

// ConfigError says which key of a Config is wrong, and the cure. Keys are
// those of Config's JSON, which are the lab file's.
type ConfigError struct{ Field, Text, Hint string }

func (e *ConfigError) Error() string { return "calico: " + e.Field + ": " + e.Text + "; " + e.Hint }
