package backends

import (
	"encoding/json"

	"labctl/nodes"
)

// Backend is one way to carry packets between containers on different hosts.
// It decides; it never touches the kernel: the agent hands what Desired
// returns to a reconciler. A Backend is used by one agent, from one goroutine.
type Backend interface {
	// Type is flannel's BackendType as it stands in leases: "vxlan".
	Type() string
	// MTU is what is left for containers on an underlay.
	MTU(u nodes.Underlay) int
	// Data is the BackendData that this host publishes in its lease (nil for
	// none). previous is the data of the lease that this host held before, nil
	// for none: what peers may still have in their kernels (a VTEP's MAC) is
	// kept, so that a restarted agent disturbs nobody.
	Data(previous json.RawMessage) (json.RawMessage, error)
	// Desired is all kernel state of this backend on this host. peers are the
	// other hosts' leases, of every BackendType: those of another type are the
	// backend's to leave out. A lease it cannot use costs that peer only; it is
	// told in problems.
	Desired(self Lease, peers []Lease, u nodes.Underlay) (s nodes.State, problems []error)
}
