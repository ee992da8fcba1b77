package lab

import (
	"encoding/json"
	"net/netip"
	"time"

	"labctl/backends/bgp"
	"labctl/backends/calico"
)

// Plan is a lab with every address, name, MAC and MTU decided, before
// anything is made: a pure function of the Spec and of what Machine says.
// `labctl up --dry-run` prints it. Everything that touches the kernel takes a
// Plan (or a part of one) and never sees YAML.
type Plan struct {
	SchemaVersion int    `json:"schemaVersion"`
	Name          string `json:"name"`
	About         string `json:"about,omitempty"`
	// Backend is flannel's Backend.Type in lower case, or a Calico network's
	// kind (calico-routed), "" for a lab without one.
	Backend string `json:"backend,omitempty"`
	// Network is flannel's network config exactly as it goes into etcd.
	Network json.RawMessage `json:"network,omitempty"`
	// Calico is what goes into etcd in a Calico lab, nil in any other.
	Calico *calico.Config `json:"calico,omitempty"`
	// BGP are the timers of all speakers, nil where routes do not come by BGP.
	BGP *bgp.Timers `json:"bgp,omitempty"`
	// Pool is the containers' network (Network.Network, or Calico's pool);
	// invalid without one.
	Pool     netip.Prefix `json:"pool,omitzero"`
	LeaseTTL Duration     `json:"leaseTTL,omitzero"`

	Segments []SegmentPlan `json:"segments"`
	Routers  []RouterPlan  `json:"routers,omitempty"`
	Internet *InternetPlan `json:"internet,omitempty"`
	Etcd     *EtcdPlan     `json:"etcd,omitempty"` // nil for a lab without a store
	Nodes    []NodePlan    `json:"nodes"`
	Policies Policies      `json:"policies,omitempty"` // in file order

	Neighbours NeighbourPlan `json:"neighbours"`
}

// NICPlan is one end of a veth pair that joins an endpoint to a segment: the
// device Name in the endpoint, and a port of the segment's bridge named Port.
type NICPlan struct {
	Name    string       `json:"name"` // eth0
	Segment string       `json:"segment"`
	Port    string       `json:"port"` // the endpoint's name, unless it is on the segment twice
	Addr    netip.Prefix `json:"addr"` // 192.168.50.1/24
	MAC     string       `json:"mac"`
	MTU     int          `json:"mtu"`
	Offload bool         `json:"offload"`
}

// SegmentPlan is one layer 2 network: a namespace with a bridge br0.
type SegmentPlan struct {
	Name    string       `json:"name"`
	Netns   string       `json:"netns"`
	Subnet  netip.Prefix `json:"subnet"`
	MTU     int          `json:"mtu"`
	Offload bool         `json:"offload"`
	// Management is true for the segment that is the store's and its clients' alone.
	Management bool `json:"management,omitempty"`
}

// RoutePlan is a static route that the plan gives an endpoint.
type RoutePlan struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"` // invalid for a route without a gateway
	Dev string       `json:"dev"`
}

// RouterPlan is an IP router that joins segments.
type RouterPlan struct {
	Name   string      `json:"name"`
	Netns  string      `json:"netns"`
	NICs   []NICPlan   `json:"nics"`
	Routes []RoutePlan `json:"routes,omitempty"`
	// Speaker is nil for a router that does not speak BGP.
	Speaker *SpeakerPlan `json:"speaker,omitempty"`
}

// SpeakerPlan is a BGP speaker.
type SpeakerPlan struct {
	Program string `json:"program"` // gobgp or bird
	ASN     uint32 `json:"asn"`
	// ClusterID is a route reflector's, invalid for others.
	ClusterID netip.Addr `json:"clusterID,omitzero"`
}

// InternetPlan is the outside world: one namespace whose server answers HTTP
// on port 80 of Addr with the client's address as it saw it. It is joined to
// Router by a veth pair (eth0 here, "internet" there) and has routes to the
// segments only, none to container networks: without NAT nothing comes back.
type InternetPlan struct {
	Netns      string       `json:"netns"`
	Subnet     netip.Prefix `json:"subnet"`
	Addr       netip.Prefix `json:"addr"`
	Router     string       `json:"router"`
	RouterAddr netip.Prefix `json:"routerAddr"`
	Routes     []RoutePlan  `json:"routes"`
}

// EtcdPlan is the store's host.
type EtcdPlan struct {
	Netns     string      `json:"netns"`
	NIC       NICPlan     `json:"nic"`
	Routes    []RoutePlan `json:"routes,omitempty"`
	Endpoints []string    `json:"endpoints"` // http://192.168.50.254:2379
	// Reservations are subnets pinned to a node: flannel's lease keys without
	// a TTL, written before the first agent starts.
	Reservations []ReservationPlan `json:"reservations,omitempty"`
}

// ReservationPlan pins Subnet to the node whose public address is PublicIP, or
// in a Calico lab, which knows hosts by name, to Node.
type ReservationPlan struct {
	Subnet   netip.Prefix `json:"subnet"`
	PublicIP netip.Addr   `json:"publicIP"`
	Node     string       `json:"node,omitempty"`
}

// NodePlan is one host.
type NodePlan struct {
	Name  string  `json:"name"`
	Netns string  `json:"netns"`
	NIC   NICPlan `json:"nic"`
	// Management is the interface on the segment for management, nil without one.
	Management *NICPlan    `json:"management,omitempty"`
	Routes     []RoutePlan `json:"routes,omitempty"`
	Wiring     Wiring      `json:"wiring,omitempty"` // "" is BridgeWiring
	// Speaker is nil where routes do not come by BGP.
	Speaker *SpeakerPlan `json:"speaker,omitempty"`
	// Bridge joins the node's containers: cni0, or docker0; "" with another
	// wiring.
	Bridge string `json:"bridge,omitempty"`
	// MTU is the containers' MTU: the underlay's less the backend's overhead.
	MTU int `json:"mtu"`
	// Subnet is fixed when the lab file says so; else the lease decides.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Agent is true when an agent runs here (every node of a lab with a network).
	Agent bool `json:"agent"`
	// Command is the agent when it is not labctl's own.
	Command *CommandPlan `json:"command,omitempty"`
	// Masquerade is true in a lab without agent: containers reach the outside
	// through the node's address (with an agent it is the agent's work).
	Masquerade bool            `json:"masquerade,omitempty"`
	Containers []ContainerPlan `json:"containers"`
}

// NICs are the node's underlay interfaces, NIC first.
func (n *NodePlan) NICs() []NICPlan {
	if n.Management == nil {
		return []NICPlan{n.NIC}
	}
	return []NICPlan{n.NIC, *n.Management}
}

// Wiring is how a node's containers are joined to it.
type Wiring string

// The wirings.
const (
	BridgeWiring Wiring = "bridge" // ports of one bridge, whose address is their gateway
	RoutedWiring Wiring = "routed" // a link each, with the host as router: Calico's way
)

// ContainerPlan is one container: a namespace joined to its node by a veth pair
// (eth0 here, Port there, a port of the node's bridge if that has one).
type ContainerPlan struct {
	Name  string `json:"name"`
	Netns string `json:"netns"`
	Port  string `json:"port"` // veth1, veth2 ... in file order
	// Addr is fixed when the lab file says so; else the container takes the
	// next free address of the node's subnet after the bridge's, in file order.
	Addr    netip.Addr        `json:"addr,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`  // what policies choose it by
	Serve   []uint16          `json:"serve,omitempty"`   // TCP ports that answer HTTP with the client's address
	Publish []PublishPlan     `json:"publish,omitempty"` // ports of the node that lead to the container
}

// PublishPlan is docker's -p HOST:CONTAINER, TCP.
type PublishPlan struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
}

// NeighbourPlan is how many neighbour entries the lab can come to need on the
// underlay, counted over all namespaces as the kernel counts them against
// gc_thresh3. Above half of it they are set beforehand as extern_learn, which
// the kernel does not count.
type NeighbourPlan struct {
	Expected int  `json:"expected"`
	Limit    int  `json:"limit"` // the machine's net.ipv4.neigh.default.gc_thresh3
	Static   bool `json:"static"`
}

// Machine is what the plan depends on beside the lab file.
type Machine struct {
	GCThresh3 int // net.ipv4.neigh.default.gc_thresh3
}

// Duration is a time.Duration that JSON has as text, 30s.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText undoes MarshalText.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
