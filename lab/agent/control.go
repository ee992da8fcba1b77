package agent

import (
	"net/netip"

	"labctl/backends"
	"labctl/backends/bgp"
	"labctl/nodes"
)

// ControlFD is the environment variable that names the descriptor of the
// supervisor's end of the control stream: Reports go out, Orders come in.
// Without it an agent runs on its own.
const ControlFD = "LABCTL_CONTROL_FD"

// Phase is how far an agent has come.
type Phase string

// The phases of an agent.
const (
	WaitingForStore Phase = "waiting for etcd"
	Acquiring       Phase = "acquiring a subnet"
	Assigning       Phase = "claiming blocks" // Calico's
	Running         Phase = "running"         // has a lease or blocks and keeps the kernel in step
)

// Report is what an agent tells the supervisor whenever it changes.
type Report struct {
	Phase   Phase        `json:"phase"`
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	MTU     int          `json:"mtu,omitempty"`
	VTEPMAC string       `json:"vtepMAC,omitempty"`
	// Tunnel says what wraps packets, and who: the kernel or the agent itself.
	// It is told where it can be either.
	Tunnel string `json:"tunnel,omitempty"`
	// Blocks and Containers are the host's in a Calico network: what it answers
	// for, and who has which address.
	Blocks     []netip.Prefix `json:"blocks,omitempty"`
	Containers []Container    `json:"containers,omitempty"`
	// Leases is how many leases (in a Calico network: hosts) the kernel state
	// stands for, this host's included, and Digest tells two such sets apart:
	// when all agents of a lab report the same, the lab has converged.
	Leases int    `json:"leases"`
	Digest string `json:"digest,omitempty"`
	// Revision is the store's at which they were so.
	Revision int64 `json:"revision,omitempty"`

	Held     bool           `json:"held,omitempty"`
	Drift    []nodes.Change `json:"drift,omitempty"`
	Healed   []nodes.Healed `json:"healed,omitempty"`
	Foreign  []nodes.Change `json:"foreign,omitempty"`
	Problems []string       `json:"problems,omitempty"`
	// BGP is what the host's speaker knows, nil where routes do not come by BGP.
	// The routes of its sessions are in it as of the order whose number is
	// Answered.
	BGP *bgp.Report `json:"bgp,omitempty"`
	// Traffic is what the agent itself has carried, as of the order with this
	// number; nil with a backend whose packets the kernel forwards.
	Traffic  *backends.Traffic `json:"traffic,omitempty"`
	Answered uint64            `json:"answered,omitempty"`
	// Error is why the agent does not get on; it keeps trying. Unsupported says
	// that this kernel lacks what the backend needs.
	Error       string `json:"error,omitempty"`
	Unsupported bool   `json:"unsupported,omitempty"`
	// Exhausted says that Error is that the pool has no address for a container:
	// it stays so until somebody gives one back.
	Exhausted bool `json:"exhausted,omitempty"`
	// Conflicts are those of the Problems that are about who owns a block: all
	// agents of a lab find the same.
	Conflicts []string `json:"conflicts,omitempty"`
}

// Order is what the supervisor tells an agent: how things are to be, whole.
type Order struct {
	// Store is true once etcd answers. An agent of a lab waits for it: dialling
	// earlier would only cost the back-off.
	Store bool `json:"store"`
	// Hosts is how many agents are to run in the lab: with fewer leases, more
	// are about to come.
	Hosts int `json:"hosts"`
	// Up is true once the lab has come up, or has not in time.
	Up bool `json:"up,omitempty"`
	// Hold stops healing.
	Hold bool `json:"hold"`
	// Down are devices that are switched off on purpose.
	Down []string `json:"down,omitempty"`
	// Containers are the host's. In a Calico network the agent gives each an
	// address: the one that it has here, or any.
	Containers []Container `json:"containers,omitempty"`
	// Ask is another number than before when the Traffic of now is wanted, and
	// what the BGP speaker knows.
	Ask uint64 `json:"ask,omitempty"`
	// BGP is what the host's BGP speaker is to do but for the routes that it
	// originates; nil for a host without one.
	BGP *Speaker `json:"bgp,omitempty"`
	// Out are hosts that do not run, by order: nobody waits for their routes.
	Out []string `json:"out,omitempty"`
}

// Speaker is a host's BGP speaker.
type Speaker struct {
	Program string `json:"program"` // gobgp or bird
	// Dir is where bird has its files.
	Dir    string     `json:"dir"`
	Config bgp.Config `json:"config"`
}

// Container is one container of a host.
type Container struct {
	Name string     `json:"name"`
	Dev  string     `json:"dev,omitempty"` // the host's end of its veth pair
	Addr netip.Addr `json:"addr,omitzero"`
}
