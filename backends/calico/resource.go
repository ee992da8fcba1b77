package calico

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// The keys are Calico's (libcalico-go/lib/backend/model), so that a reader of
// its documentation finds them; of the values, what labctl needs.
const (
	// Root is what all keys begin with.
	Root = "/calico/"

	resources   = Root + "resources/v3/projectcalico.org/"
	poolKey     = resources + "ippools/default-ipv4-ippool"
	felixKey    = resources + "felixconfigurations/default"
	bgpKey      = resources + "bgpconfigurations/default"
	nodesKey    = resources + "nodes/"
	workloads   = resources + "workloadendpoints/" + namespace + "/"
	ipam        = Root + "ipam/v2/"
	ipamConfig  = ipam + "config"
	blocksKey   = ipam + "assignment/ipv4/block/"
	affinityKey = ipam + "host/"
	affinityMid = "/ipv4/block/"
)

// namespace is that of Kubernetes in which labctl's containers stand.
const namespace = "default"

func nodeKey(host string) string         { return nodesKey + host }
func blockKey(block netip.Prefix) string { return blocksKey + key(block) }
func affinityOf(host string, block netip.Prefix) string {
	return affinityKey + host + affinityMid + key(block)
}

// workloadKey is a container's: <node>-k8s-<workload>-<interface>, with the
// dashes inside each doubled.
func workloadKey(host, container string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return workloads + double(host) + "-k8s-" + double(container) + "-eth0"
}

// resource is what all of Calico's v3 objects look like.
type resource[T any] struct {
	Kind       string   `json:"kind"`
	APIVersion string   `json:"apiVersion"`
	Metadata   metadata `json:"metadata"`
	Spec       T        `json:"spec"`
}

type metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

func encode[T any](kind string, m metadata, spec T) (string, error) {
	b, err := json.Marshal(resource[T]{kind, "projectcalico.org/v3", m, spec})
	return string(b), err
}

func decode[T any](value []byte) (metadata, T, error) {
	var r resource[T]
	err := json.Unmarshal(value, &r)
	return r.Metadata, r.Spec, err
}

type poolSpec struct {
	CIDR        netip.Prefix `json:"cidr"`
	BlockSize   int          `json:"blockSize"`
	IPIPMode    string       `json:"ipipMode"`
	VXLANMode   string       `json:"vxlanMode"`
	NATOutgoing bool         `json:"natOutgoing"`
}

// The modes of a pool.
const (
	never       = "Never"
	always      = "Always"
	crossSubnet = "CrossSubnet"
)

// modes are the encapsulation as a pool has it.
func (e Encapsulation) modes() (ipip, vxlan string) {
	ipip, vxlan = never, never
	switch e {
	case IPIP:
		ipip = always
	case IPIPCrossSubnet:
		ipip = crossSubnet
	case VXLAN:
		vxlan = always
	case VXLANCrossSubnet:
		vxlan = crossSubnet
	}
	return ipip, vxlan
}

// encapsulation undoes modes.
func (p poolSpec) encapsulation() (Encapsulation, error) {
	for _, e := range Encapsulations() {
		if ipip, vxlan := e.modes(); ipip == p.IPIPMode && vxlan == p.VXLANMode {
			return e, nil
		}
	}
	return "", fmt.Errorf("ipipMode %q with vxlanMode %q; one of them is Never", p.IPIPMode, p.VXLANMode)
}

type felixSpec struct {
	// ProgramClusterRoutes says whether Felix makes the routes to other hosts'
	// blocks, or leaves them to BGP. BGPConfiguration has the reverse.
	ProgramClusterRoutes string `json:"programClusterRoutes"`
}

type bgpSpec struct {
	ProgramClusterRoutes  string `json:"programClusterRoutes"`
	ASNumber              uint32 `json:"asNumber"`
	NodeToNodeMeshEnabled bool   `json:"nodeToNodeMeshEnabled"`
}

const (
	enabled  = "Enabled"
	disabled = "Disabled"
)

// DefaultAS is the AS number of all hosts that have none of their own.
const DefaultAS = 64512

type ipamSpec struct {
	StrictAffinity     bool `json:"strict_affinity"`
	AutoAllocateBlocks bool `json:"auto_allocate_blocks"`
	MaxBlocksPerHost   int  `json:"maxBlocksPerHost"`
}

// values is the configuration as it is stored, by key.
func (c Config) values() (map[string]string, error) {
	ipip, vxlan := c.Encapsulation.modes()
	felix, bgp := enabled, disabled
	if c.Routes == BGP {
		felix, bgp = disabled, enabled
	}
	pool, err := encode("IPPool", metadata{Name: "default-ipv4-ippool"}, poolSpec{c.Pool, c.BlockSize, ipip, vxlan, c.NATOutgoing})
	if err != nil {
		return nil, err
	}
	f, err := encode("FelixConfiguration", metadata{Name: "default"}, felixSpec{felix})
	if err != nil {
		return nil, err
	}
	b, err := encode("BGPConfiguration", metadata{Name: "default"}, bgpSpec{bgp, DefaultAS, c.Routes == BGP})
	if err != nil {
		return nil, err
	}
	i, err := json.Marshal(ipamSpec{c.StrictAffinity, true, c.MaxBlocks})
	return map[string]string{poolKey: pool, felixKey: f, bgpKey: b, ipamConfig: string(i)}, err
}

// parseConfig undoes values. get gives a key's value, nil when it is missing.
func parseConfig(get func(key string) []byte) (Config, error) {
	c := Config{Routes: FromStore, MaxBlocks: DefaultMaxBlocks}
	read := func(key string, f func(value []byte) error) error {
		value := get(key)
		if value == nil {
			return nil
		}
		if err := f(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	}
	if get(poolKey) == nil {
		return c, errNoPool
	}
	err := read(poolKey, func(value []byte) (err error) {
		_, p, err := decode[poolSpec](value)
		if err != nil {
			return err
		}
		c.Pool, c.BlockSize, c.NATOutgoing = p.CIDR, p.BlockSize, p.NATOutgoing
		c.Encapsulation, err = p.encapsulation()
		return err
	})
	if err != nil {
		return c, err
	}
	if err := read(felixKey, func(value []byte) error {
		_, f, err := decode[felixSpec](value)
		if f.ProgramClusterRoutes == disabled {
			c.Routes = BGP
		}
		return err
	}); err != nil {
		return c, err
	}
	if err := read(ipamConfig, func(value []byte) error {
		var i ipamSpec
		err := json.Unmarshal(value, &i)
		c.StrictAffinity = i.StrictAffinity
		if i.MaxBlocksPerHost > 0 {
			c.MaxBlocks = i.MaxBlocksPerHost
		}
		return err
	}); err != nil {
		return c, err
	}
	return c, c.Check()
}

// Node is a host as the others know it.
type Node struct {
	Name    string
	Address netip.Prefix // on the underlay, with the length of its segment's prefix
	Tunnel  netip.Addr   // of its tunnel device; invalid while it has none
	Device  string       // whose address Tunnel is: VXLANDevice or IPIPDevice
	Labels  map[string]string
}

type nodeSpec struct {
	BGP       nodeBGP    `json:"bgp"`
	VXLANAddr netip.Addr `json:"ipv4VXLANTunnelAddr,omitzero"`
}

type nodeBGP struct {
	IPv4Address netip.Prefix `json:"ipv4Address"`
	IPIPAddr    netip.Addr   `json:"ipv4IPIPTunnelAddr,omitzero"`
}

func (n Node) value() (string, error) {
	spec := nodeSpec{BGP: nodeBGP{IPv4Address: n.Address}}
	switch n.Device {
	case VXLANDevice:
		spec.VXLANAddr = n.Tunnel
	case IPIPDevice:
		spec.BGP.IPIPAddr = n.Tunnel
	}
	return encode("Node", metadata{Name: n.Name, Labels: n.Labels}, spec)
}

func parseNode(value []byte) (Node, error) {
	m, spec, err := decode[nodeSpec](value)
	switch a := spec.BGP.IPv4Address; {
	case err != nil:
	case !a.IsValid():
		err = errors.New("no spec.bgp.ipv4Address")
	case !a.Addr().Is4():
		err = fmt.Errorf("spec.bgp.ipv4Address %s is not IPv4", a)
	}
	n := Node{Name: m.Name, Address: spec.BGP.IPv4Address, Labels: m.Labels}
	switch {
	case spec.VXLANAddr.IsValid():
		n.Tunnel, n.Device = spec.VXLANAddr, VXLANDevice
	case spec.BGP.IPIPAddr.IsValid():
		n.Tunnel, n.Device = spec.BGP.IPIPAddr, IPIPDevice
	}
	if err == nil && n.Device != "" && !n.Tunnel.Is4() {
		err = fmt.Errorf("%s's address %s is not IPv4", n.Device, n.Tunnel)
	}
	return n, err
}

// Workload is a container with its address, as the others know it.
type Workload struct {
	Host, Name string
	Addr       netip.Addr
	Dev        string // the host's end of its veth pair
	Labels     map[string]string
}

type workloadSpec struct {
	Orchestrator  string         `json:"orchestrator"`
	Node          string         `json:"node"`
	Workload      string         `json:"workload"`
	Endpoint      string         `json:"endpoint"`
	InterfaceName string         `json:"interfaceName"`
	IPNetworks    []netip.Prefix `json:"ipNetworks"`
}

func (w Workload) value() (string, error) {
	name := strings.TrimPrefix(workloadKey(w.Host, w.Name), workloads)
	return encode("WorkloadEndpoint", metadata{Name: name, Namespace: namespace, Labels: w.Labels}, workloadSpec{
		Orchestrator: "k8s", Node: w.Host, Workload: w.Name, Endpoint: "eth0",
		InterfaceName: w.Dev, IPNetworks: []netip.Prefix{single(w.Addr)},
	})
}

func parseWorkload(value []byte) (Workload, error) {
	m, spec, err := decode[workloadSpec](value)
	if err == nil && len(spec.IPNetworks) == 0 {
		err = fmt.Errorf("no spec.ipNetworks")
	}
	if err != nil {
		return Workload{}, err
	}
	return Workload{Host: spec.Node, Name: spec.Workload, Addr: spec.IPNetworks[0].Addr(), Dev: spec.InterfaceName, Labels: m.Labels}, nil
}

// AffinityState is how far a host's claim to a block is.
type AffinityState string

// The states of an affinity. Only a confirmed one counts for routes.
const (
	Pending         AffinityState = "pending"         // wanted; the block may be another host's
	Confirmed       AffinityState = "confirmed"       // the block is there, and ours
	PendingDeletion AffinityState = "pendingDeletion" // given up; the block is still there
)

// Affinity is a host's claim to a block.
type Affinity struct {
	Host     string
	Block    netip.Prefix
	State    AffinityState
	revision int64
}

type affinityValue struct {
	State AffinityState `json:"state"`
}

func (s AffinityState) value() string { return `{"state":"` + string(s) + `"}` }

func parseAffinity(k string, value []byte) (Affinity, error) {
	host, block, ok := strings.Cut(strings.TrimPrefix(k, affinityKey), affinityMid)
	if !ok {
		return Affinity{}, fmt.Errorf("not a block's key")
	}
	p, err := parseKey(block)
	if err != nil {
		return Affinity{}, err
	}
	var v affinityValue
	if err := json.Unmarshal(value, &v); err != nil {
		return Affinity{}, err
	}
	return Affinity{Host: host, Block: p, State: v.State}, nil
}
