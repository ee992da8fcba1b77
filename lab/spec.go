package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Spec is a lab file as its author wrote it: a plain value, nothing looked up
// or filled in beyond the short forms (nodes: 3, containers: 2). Parse makes
// one from YAML with a position for every mistake; NewPlan decides what the
// file leaves open. Lists that are mappings in the file keep the file's order,
// because addresses are given out in it.
//
// The comments on the fields are the descriptions of the lab file's JSON
// schema (labs/lab.schema.json).
type Spec struct {
	// Name is the lab's name: lower case letters, digits and dashes, at most 31. Left out, it is the file's name without .yaml.
	Name string `yaml:"name,omitempty" jsonschema:"pattern=^[a-z][a-z0-9-]{0\\,30}$"`
	// About says in a sentence what the lab shows; labctl labs prints it.
	About string `yaml:"about,omitempty"`
	// Network is flannel's network config, which goes into etcd as it is. A lab without it and without calico has neither etcd nor agents: each node then needs a subnet.
	Network json.RawMessage `yaml:"network,omitempty"`
	// Calico is a Calico network, in the place of network: containers have a /32 each, and hosts route.
	Calico *CalicoSpec `yaml:"calico,omitempty"`
	// Segments are the underlay: each is one layer 2 network, a switch. Nodes get the addresses .1, .2 and so on in the order of the file; etcd gets the last usable address, a router the one before it.
	Segments Segments `yaml:"segments,omitempty"`
	// Routers join segments; a router is the default route of its segments' nodes.
	Routers Routers `yaml:"routers,omitempty"`
	// Internet is an outside world with one HTTP server, which knows the way to the segments but not to containers: it shows what NAT is for.
	Internet *InternetSpec `yaml:"internet,omitempty"`
	// Etcd says where the store stands.
	Etcd EtcdSpec `yaml:"etcd,omitempty"`
	// LeaseTTL is how long the lease of a dead agent lives on, 30s when left out. flannel's own is 24h.
	LeaseTTL time.Duration `yaml:"leaseTTL,omitempty"`
	// Nodes are the hosts. A number n is short for node1 to node<n> on the only segment, with one container each.
	Nodes Nodes `yaml:"nodes,omitempty"`
	// Policies are network policies by name, as Kubernetes has them; nftables rules of each node enforce them.
	Policies Policies `yaml:"policies,omitempty"`
	// Checks are what labctl test asserts on the running lab, beside convergence.
	Checks []CheckSpec `yaml:"checks,omitempty"`
	// Faults are a timeline of what labctl test breaks when the checks have been run, while it counts the packets that do not get through.
	Faults []FaultSpec `yaml:"faults,omitempty"`
}

// Segments are the lab's segments by name, in file order.
type Segments []SegmentSpec

// Routers are the lab's routers by name, in file order.
type Routers []RouterSpec

// Nodes are the lab's nodes by name, in file order.
type Nodes []NodeSpec

// Containers are a node's containers, in file order.
type Containers []ContainerSpec

// SegmentSpec is one layer 2 network of the underlay.
type SegmentSpec struct {
	Name string `yaml:"-"`
	// Subnet is the segment's IPv4 network, 192.168.50.0/24.
	Subnet netip.Prefix `yaml:"subnet,omitempty" jsonschema:"required"`
	// MTU of the segment's links, 1500 when left out.
	MTU int `yaml:"mtu,omitempty" jsonschema:"minimum=68,maximum=65535"`
	// Offload off turns checksum and segmentation offload off on the segment's links, so that a capture shows packets as a wire would carry them. On when left out.
	Offload Switch `yaml:"offload,omitempty"`
	// Management on sets the segment apart for the store: etcd stands there, every node has an interface mgmt0 on it beside its own, and no router joins it. Agents reach the store whatever becomes of the other segments. Off when left out.
	Management Switch `yaml:"management,omitempty"`
}

// RouterSpec is an IP router.
type RouterSpec struct {
	Name string `yaml:"-"`
	// Segments are the segments that the router joins.
	Segments []string `yaml:"segments,omitempty" jsonschema:"required"`
	// AS makes the router a BGP speaker of that autonomous system, in a Calico lab with routes by BGP. It peers with all speakers on its segments.
	AS int `yaml:"as,omitempty" jsonschema:"minimum=1,maximum=4294967294"`
	// Speaker is the router's BGP speaker: gobgp, the default, or bird.
	Speaker string `yaml:"speaker,omitempty" jsonschema:"enum=gobgp,enum=bird"`
}

// CalicoSpec is a Calico network. The keys have Calico's names and mean what
// they do there.
type CalicoSpec struct {
	// Pool is where containers' addresses come from, 10.244.0.0/16.
	Pool netip.Prefix `yaml:"pool,omitempty" jsonschema:"required"`
	// BlockSize is the prefix length of the blocks that hosts take out of the pool, 26 when left out.
	BlockSize int `yaml:"blockSize,omitempty" jsonschema:"minimum=20,maximum=32"`
	// Encapsulation says when packets between hosts are wrapped: None, the default; VXLAN; VXLANCrossSubnet, which wraps only those for a host in another subnet; IPIP and IPIPCrossSubnet likewise.
	Encapsulation string `yaml:"encapsulation,omitempty" jsonschema:"enum=None,enum=VXLAN,enum=VXLANCrossSubnet,enum=IPIP,enum=IPIPCrossSubnet"`
	// Routes says who makes the routes to other hosts' blocks: store (each agent, from etcd), the default, or bgp (a BGP speaker on each host).
	Routes string `yaml:"routes,omitempty" jsonschema:"enum=store,enum=bgp"`
	// BGP is how the speakers speak, where routes come by BGP.
	BGP *BGPSpec `yaml:"bgp,omitempty"`
	// NATOutgoing lets containers reach what is outside the pool by their host's address. Off when left out.
	NATOutgoing Switch `yaml:"natOutgoing,omitempty"`
	// StrictAffinity forbids hosts to borrow single addresses from the blocks of others. Off when left out.
	StrictAffinity Switch `yaml:"strictAffinity,omitempty"`
	// MaxBlocksPerHost is how many blocks a host may take, 20 when left out.
	MaxBlocksPerHost int `yaml:"maxBlocksPerHost,omitempty" jsonschema:"minimum=1"`
	// GatewayRoute off leaves out the route to 169.254.1.1 that hosts without a default route get: the kernel then does not answer containers that ask for it. On when left out.
	GatewayRoute Switch `yaml:"gatewayRoute,omitempty"`
}

// BGPSpec is how the BGP speakers of a Calico network speak. Times are whole
// seconds, but bfd.
type BGPSpec struct {
	// AS is the number of the nodes' autonomous system, 64512 when left out.
	AS int `yaml:"as,omitempty" jsonschema:"minimum=1,maximum=4294967294"`
	// Timers are lab, which find out in seconds that a host is gone (the default), or calico, which are what BIRD has in Calico: 240 seconds.
	Timers string `yaml:"timers,omitempty" jsonschema:"enum=lab,enum=calico"`
	// HoldTime is how long a silent peer is believed in, 3s or more.
	HoldTime time.Duration `yaml:"holdTime,omitempty"`
	// KeepAlive is how often a sign of life is sent, a third of holdTime when left out.
	KeepAlive time.Duration `yaml:"keepAlive,omitempty"`
	// GracefulRestart is how long peers keep the routes of a speaker that ended; 0s: not at all.
	GracefulRestart *time.Duration `yaml:"gracefulRestart,omitempty"`
	// BFD is the interval of BFD's packets, 100ms say; three that are missing end a session. No BFD when left out.
	BFD time.Duration `yaml:"bfd,omitempty"`
}

// InternetSpec is the outside world.
type InternetSpec struct {
	// Subnet is the network between the outside server and the router that leads to it; the server has the first address.
	Subnet netip.Prefix `yaml:"subnet,omitempty" jsonschema:"required"`
	// Router is the router that leads outside: the first one when left out; in a lab without routers one named gw, joined to all segments, is added.
	Router string `yaml:"router,omitempty"`
}

// EtcdSpec is the store's place.
type EtcdSpec struct {
	// Segment is where etcd's host is connected: the segment with management on, else the first one when left out.
	Segment string `yaml:"segment,omitempty"`
}

// NodeSpec is one host.
type NodeSpec struct {
	Name string `yaml:"-"`
	// Segment is where the node is connected; it may be left out when there is just one.
	Segment string `yaml:"segment,omitempty"`
	// Address pins the node's address on its segment; left out, it is the next free one.
	Address netip.Addr `yaml:"address,omitempty"`
	// Management pins the node's address on the segment with management on; left out, it is the next free one.
	Management netip.Addr `yaml:"management,omitempty"`
	// Subnet pins the containers' subnet. In a lab with a network it is reserved for the node, left out the agent picks one; in a Calico lab it is the node's first block; in a lab without either it is required, and nodes may share it.
	Subnet netip.Prefix `yaml:"subnet,omitempty"`
	// Bridge is the name of the containers' bridge: cni0 in a lab with a network, docker0 in one without.
	Bridge string `yaml:"bridge,omitempty"`
	// Containers is a number (c1, c2 and so on), or a list of names and objects. One container when left out.
	Containers Containers `yaml:"containers,omitempty"`
	// Agent is a program that runs as the node's agent in the place of labctl's own, such as a real flanneld.
	Agent *AgentSpec `yaml:"agent,omitempty"`
	// Speaker is the node's BGP speaker, where routes come by BGP: gobgp, inside the agent, the default; or bird, which is Debian's package bird2.
	Speaker string `yaml:"speaker,omitempty" jsonschema:"enum=gobgp,enum=bird"`
	// AS is the node's autonomous system: its router's, if that speaks BGP, else the lab's when left out.
	AS int `yaml:"as,omitempty" jsonschema:"minimum=1,maximum=4294967294"`
	// Reflector makes the node a route reflector with this cluster id, 1.0.0.1 say. The other nodes then have sessions with reflectors only.
	Reflector netip.Addr `yaml:"reflector,omitempty"`
	// Wiring is how containers are joined to the node: bridge, or in Calico labs routed, where each container has a link of its own to its host, which answers ARP for 169.254.1.1 there.
	Wiring string `yaml:"wiring,omitempty" jsonschema:"enum=bridge,enum=routed"`
}

// AgentSpec is somebody's program as a node's agent. It takes a lease in etcd,
// writes subnet.env and sets the node's routes, as flanneld does. In its
// command and the values of its environment, ${...} stands for one of
// AgentVariables.
type AgentSpec struct {
	// Command is the program and its arguments, no shell. ${ETCD_ENDPOINTS}, ${ETCD_PREFIX}, ${IFACE}, ${PUBLIC_IP}, ${SUBNET_FILE}, ${NODE} and ${LABCTL} (labctl's own program) are put in; the program has them as environment variables too.
	Command []string `yaml:"command,omitempty" jsonschema:"required"`
	// Env are further environment variables.
	Env map[string]string `yaml:"env,omitempty"`
}

// ContainerSpec is one container.
type ContainerSpec struct {
	// Name of the container, which its node must not have twice.
	Name string `yaml:"name,omitempty" jsonschema:"required"`
	// Address pins the container's address, in a node whose subnet is pinned, and in a Calico lab in any. Left out, it is the next free one.
	Address netip.Addr `yaml:"address,omitempty"`
	// Labels are what policies choose containers by.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Serve are TCP ports that answer HTTP with the address of the client as the container sees it.
	Serve []int `yaml:"serve,omitempty"`
	// Publish are ports of the node that lead to ports of the container, HOST:CONTAINER as docker's -p.
	Publish []PublishSpec `yaml:"publish,omitempty"`
}

// PublishSpec is docker's -p HOST:CONTAINER, TCP.
type PublishSpec struct{ HostPort, ContainerPort uint16 }

// UnmarshalText reads HOST:CONTAINER.
func (p *PublishSpec) UnmarshalText(text []byte) error {
	host, container, ok := strings.Cut(string(text), ":")
	if ok {
		h, errHost := strconv.ParseUint(host, 10, 16)
		c, errContainer := strconv.ParseUint(container, 10, 16)
		if errHost == nil && errContainer == nil && h > 0 && c > 0 {
			p.HostPort, p.ContainerPort = uint16(h), uint16(c)
			return nil
		}
	}
	return fmt.Errorf(`%q is not HOST:CONTAINER with ports from 1 to 65535; write it as "8080:80"`, text)
}

// String writes HOST:CONTAINER.
func (p PublishSpec) String() string { return fmt.Sprintf("%d:%d", p.HostPort, p.ContainerPort) }

// Switch is on, off, or left out.
type Switch int

// The positions of a Switch.
const (
	Unset Switch = iota
	On
	Off
)

// UnmarshalText reads on, off, true and false.
func (s *Switch) UnmarshalText(text []byte) error {
	switch string(text) {
	case "on", "true":
		*s = On
	case "off", "false":
		*s = Off
	default:
		return fmt.Errorf("%q is neither on nor off; write on or off", text)
	}
	return nil
}
