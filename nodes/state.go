package nodes

import (
	"net"
	"net/netip"
)

// State is everything the kernel should hold in one network namespace, as
// far as one owner is concerned. It is a value: build it anew from what is
// known now, hand it to a Reconciler, and forget the old one.
//
// Order inside the slices does not matter. Two entries with the same key (a
// link's name, a route's destination, ...) are an error that Check reports.
type State struct {
	Links      []Link
	Addrs      []Addr
	Routes     []Route
	Neighbours []Neighbour
	FDB        []FDBEntry
	Sysctls    []Sysctl
	Tables     []Table
}

// Link is one network device: Bridge, Veth, VXLAN or Port.
type Link interface {
	// LinkName is the device's name inside the namespace.
	LinkName() string
	link()
}

// LinkAttrs is what every kind of link has. Links in a State are always up.
type LinkAttrs struct {
	Name   string
	MTU    int              // 0: whatever the kernel chooses
	MAC    net.HardwareAddr // nil: whatever the kernel chooses
	Master string           // bridge that the link is a port of; "" for none
	// Offload false turns checksum, segmentation and receive offloads off
	// (ethtool -K tx off tso off gso off gro off); true leaves them alone.
	NoOffload bool
}

func (a LinkAttrs) LinkName() string { return a.Name }
func (LinkAttrs) link()              {}

// Bridge is a Linux bridge, the switch of a segment or of a node's containers.
type Bridge struct{ LinkAttrs }

// Veth is the near end of a veth pair whose far end is created directly in
// another namespace. The far end's other attributes (address, master, being
// up) belong to that namespace's State, where it stands as a Port.
type Veth struct {
	LinkAttrs
	PeerNamespace *Namespace
	PeerName      string
	PeerMAC       net.HardwareAddr // nil: whatever the kernel chooses
	PeerMTU       int              // 0: as the near end
}

// VXLAN is a VXLAN tunnel end point (RFC 7348). Its identity (VNI, Port,
// Local, Dev, Learning, GBP) cannot be changed in place: a device that differs
// is removed and made anew; MTU and MAC are changed in place.
type VXLAN struct {
	LinkAttrs
	VNI      int
	Port     int        // UDP destination port, 8472 for flannel
	Local    netip.Addr // source address of the outer packet
	Dev      string     // the underlay device
	Learning bool
	GBP      bool // group based policy extension
}

// Port is a link that somebody else makes (the far end of a veth pair, lo,
// a TUN opened by a process). The Reconciler sets its attributes when it is
// there and counts it as drift when it is not; it never creates or removes it.
type Port struct{ LinkAttrs }

// Addr is an address on a link.
type Addr struct {
	Dev    string
	Prefix netip.Prefix // address and prefix length, 10.244.1.1/24
}

// RouteKind is the kernel's route type.
type RouteKind int

// The kinds of route that labctl makes.
const (
	Unicast RouteKind = iota
	Blackhole
	Unreachable
)

// Route is a route in the main table. It is written with the owner's protocol
// number, which is how the Reconciler knows its own.
type Route struct {
	Dst    netip.Prefix // 0.0.0.0/0 for the default route
	Via    netip.Addr   // the zero Addr for none
	Dev    string       // "" only for kinds other than Unicast
	Src    netip.Addr   // preferred source; the zero Addr for none
	OnLink bool         // the gateway is reachable on Dev whatever the other routes say
	// LinkScope marks a destination as directly reachable on Dev (scope link);
	// otherwise routes without Via have scope link too, as ip route does.
	LinkScope bool
	Kind      RouteKind
	// Hops are several next hops of equal cost (ECMP), in the place of Via, Dev
	// and OnLink; a route through one has none.
	Hops []Hop
}

// Hop is one next hop of several.
type Hop struct {
	Via    netip.Addr
	Dev    string
	OnLink bool
}

// Neighbour is a static entry of the neighbour (ARP, NDP) table.
type Neighbour struct {
	Dev  string
	Addr netip.Addr
	MAC  net.HardwareAddr
	// ExternLearned marks it as set by a control plane (extern_learn). It is
	// permanent all the same: a reachable one would go stale and be probed, a
	// noarp one is hidden by ip neigh. Neither kind counts against the
	// machine's gc_thresh3.
	ExternLearned bool
}

// FDBEntry is a static, permanent entry of a VXLAN device's own forwarding
// database (bridge fdb ... dst ADDR self permanent).
type FDBEntry struct {
	Dev string
	MAC net.HardwareAddr
	Dst netip.Addr
}

// Sysctl is a setting under /proc/sys, which for net/ is the namespace's own.
type Sysctl struct {
	Key   string // with slashes: net/ipv4/ip_forward
	Value string
}
