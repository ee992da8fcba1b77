package lab

import (
	"labctl/backends"
	"labctl/backends/bgp"
	"labctl/nodes"
)

// State is how a lab or a node is.
type State string

// The states of a lab; a node has the first four, and those below.
const (
	Starting State = "starting" // not all is there yet
	Ready    State = "ready"    // all is as planned
	Degraded State = "degraded" // something is missing; Reasons tell what
	Held     State = "held"     // `fault hold`: nothing is healed
	Broken   State = "broken"   // the lab's processes are gone: `down`, then `up`
)

// What only nodes can be, by order: the lab is ready all the same.
const (
	Stopped State = "stopped" // `node stop`: no agent; the kernel goes on with the tables it has
	Dead    State = "dead"    // `node kill`: no power, no namespaces
	Gone    State = "gone"    // `node rm`: only its result says so
)

// Status is what `labctl status -o json` prints. Fields are only ever added.
type Status struct {
	SchemaVersion int          `json:"schemaVersion"`
	Name          string       `json:"name"`
	State         State        `json:"state"`
	Reasons       []string     `json:"reasons"`
	Backend       string       `json:"backend,omitempty"`
	Network       string       `json:"network,omitempty"`
	Timings       Timings      `json:"timings"`
	Etcd          *EtcdStatus  `json:"etcd,omitempty"`
	Nodes         []NodeStatus `json:"nodes"`
	// Routers are the routers that speak BGP.
	Routers   []RouterStatus  `json:"routers,omitempty"`
	Processes []ProcessStatus `json:"processes"`
	// Faults are those of labctl fault that last.
	Faults []ActiveFault `json:"faults,omitempty"`
	// StaticNeighbours is true when underlay neighbours were set beforehand so
	// that the lab does not fill the machine's neighbour table.
	StaticNeighbours bool `json:"staticNeighbours"`
	Rootless         bool `json:"rootless"`
}

// Timings are milliseconds since the command was started.
type Timings struct {
	UpMs        int64 `json:"upMs"`        // everything was made
	ConvergedMs int64 `json:"convergedMs"` // every node knew every other
	FirstPingMs int64 `json:"firstPingMs"` // a packet had crossed
}

// EtcdStatus is the store.
type EtcdStatus struct {
	Netns     string   `json:"netns"`
	Segment   string   `json:"segment"`
	Endpoints []string `json:"endpoints"`
	State     State    `json:"state"`
}

// OwnAgent is the agent of nodes whose lab file names no other.
const OwnAgent = "labctl agent"

// NodeStatus is one host.
type NodeStatus struct {
	Name       string   `json:"name"`
	Netns      string   `json:"netns"`
	State      State    `json:"state"`
	Reasons    []string `json:"reasons"`
	PublicIP   string   `json:"publicIP"`
	Management string   `json:"managementIP,omitempty"` // on the segment for management, where there is one
	Subnets    []string `json:"subnets"`
	MTU        int      `json:"mtu"`
	Peers      int      `json:"peers"`
	VTEPMAC    string   `json:"vtepMAC,omitempty"`
	Tunnel     string   `json:"tunnel,omitempty"` // calico.KernelIPIP or calico.UserspaceIPIP, with Calico's IPIP
	Agent      string   `json:"agent,omitempty"`  // OwnAgent, or what the lab file's program is called
	AgentPid   int      `json:"agentPid,omitempty"`
	SubnetFile string   `json:"subnetFile,omitempty"`
	// BGP is what the node's speaker knows, in labs whose routes come by BGP.
	BGP *bgp.Report `json:"bgp,omitempty"`
	// Traffic is what the agent itself has carried (backend udp, and ipip in user space).
	Traffic    *backends.Traffic `json:"traffic,omitempty"`
	Drift      []Drift           `json:"drift"`
	Healed     []Drift           `json:"healed"`  // in the last 10 s
	Foreign    []Drift           `json:"foreign"` // found, not labctl's, left alone
	Problems   []string          `json:"problems"`
	Containers []ContainerStatus `json:"containers"`
}

// RouterStatus is one router that speaks BGP.
type RouterStatus struct {
	Name    string      `json:"name"`
	Netns   string      `json:"netns"`
	State   State       `json:"state"`
	Reasons []string    `json:"reasons"`
	BGP     *bgp.Report `json:"bgp,omitempty"`
}

// ContainerStatus is one container.
type ContainerStatus struct {
	Name  string `json:"name"`
	Netns string `json:"netns"`
	IP    string `json:"ip,omitempty"`
}

// Drift is a difference between what should be in an endpoint's kernel state
// and what is.
type Drift struct {
	Endpoint string `json:"endpoint"`
	nodes.Change
	Text string `json:"text"`
}

// ProcessStatus is one process of the lab.
type ProcessStatus struct {
	Name     string `json:"name"`
	Pid      int    `json:"pid,omitempty"` // as the caller's /proc shows it; 0 while it does not run
	State    string `json:"state"`         // running, waiting (to be restarted), stopped
	Restarts int    `json:"restarts"`
	LastExit string `json:"lastExit,omitempty"`
}
