package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// NodeAction is what `labctl node` does to a node.
type NodeAction string

// The actions.
const (
	NodeAdd   NodeAction = "add"   // a new host
	NodeRm    NodeAction = "rm"    // it leaves for good and gives its lease back
	NodeStop  NodeAction = "stop"  // its agent ends; the kernel's tables stay
	NodeStart NodeAction = "start" // after stop or kill
	NodeKill  NodeAction = "kill"  // its power fails
)

// NodeRequest asks for one of them. The answer is a Response with Node.
type NodeRequest struct {
	Action NodeAction `json:"action"`
	Node   string     `json:"node"`
	// From is when the command was started; the result's times count from it.
	From time.Time `json:"from"`
	// Timeout is how long the command waits for the others; what was done stays done.
	Timeout time.Duration `json:"timeout"`

	// For add; what is not given is decided as in a lab file.
	Segment    string       `json:"segment,omitempty"`
	Address    netip.Addr   `json:"address,omitzero"`
	Subnet     netip.Prefix `json:"subnet,omitzero"`
	Containers *int         `json:"containers,omitempty"`
}

// Spec is the node to add.
func (r NodeRequest) Spec() NodeSpec {
	n := NodeSpec{Name: r.Node, Segment: r.Segment, Address: r.Address, Subnet: r.Subnet}
	if r.Containers != nil {
		n.Containers = Containers{}
		for i := range min(*r.Containers, maxContainers+1) { // one more than is accepted is enough to be refused
			n.Containers = append(n.Containers, ContainerSpec{Name: fmt.Sprintf("c%d", i+1)})
		}
	}
	return n
}

// NodeResult is what `labctl node ... -o json` prints. Fields are only ever
// added. Milliseconds count from the command's start.
type NodeResult struct {
	SchemaVersion int        `json:"schemaVersion"`
	Lab           string     `json:"lab"`
	Node          string     `json:"node"`
	Action        NodeAction `json:"action"`
	// State is the node's state afterwards, Gone after rm.
	State State `json:"state"`
	// Unchanged is true when it was so before.
	Unchanged bool `json:"unchanged,omitempty"`
	// LeaseMs is when the node had its lease (add, start).
	LeaseMs int64 `json:"leaseMs,omitempty"`
	// ConvergedMs is when all other nodes knew: had routes to it (add, start),
	// or had dropped them (rm).
	ConvergedMs int64 `json:"convergedMs,omitempty"`
	DoneMs      int64 `json:"doneMs"`
	// Others is how many they are: nodes with a running agent that is not held.
	Others int `json:"others"`
	// Subnet is the containers', when there is one.
	Subnet string `json:"subnet,omitempty"`
	// Lease is how the others know the node, and LeaseTTLMs how long at most
	// when it does not renew it.
	Lease      LeaseKind `json:"lease"`
	LeaseTTLMs int64     `json:"leaseTTLMs,omitempty"`
	// Ended are processes that had entered the node from outside the lab, as
	// "1234 tcpdump in node1".
	Ended []string `json:"ended,omitempty"`
}

// LeaseKind is how long the others know of a node.
type LeaseKind string

// The kinds of lease.
const (
	NoLease     LeaseKind = "none"   // a lab without network
	TimedLease  LeaseKind = "timed"  // it ends when nobody renews it
	PinnedLease LeaseKind = "pinned" // the subnet is the node's for ever
)

// LeaseKind is that of a node's lease.
func (n *NodePlan) LeaseKind() LeaseKind {
	switch {
	case !n.Agent:
		return NoLease
	case n.Subnet.IsValid(), n.Wiring == RoutedWiring: // Calico's blocks have no end of their own
		return PinnedLease
	}
	return TimedLease
}

// Node changes the set of nodes and waits until the others know.
func (c *Client) Node(ctx context.Context, r NodeRequest) (*NodeResult, error) {
	var ended []string
	if r.Action == NodeKill || r.Action == NodeRm {
		// Only we can see the processes that came from outside, and they would
		// keep the namespaces.
		rec, err := ReadRecord(c.Dir)
		if err != nil {
			return nil, err
		}
		if ended, err = rec.endVisitors(func(endpoint string) bool {
			return endpoint == r.Node || strings.HasPrefix(endpoint, r.Node+".")
		}); err != nil {
			return nil, err
		}
	}
	resp, _, err := c.ask(ctx, Request{Node: &r})
	switch {
	case ctx.Err() != nil:
		return nil, &Failure{Kind: Interrupted, Err: fmt.Errorf("%s: interrupted; what was begun goes on", r.Node), Cure: "labctl status tells what became of it"}
	case err != nil:
		return nil, err
	case resp.Node == nil:
		return nil, c.otherVersion()
	}
	resp.Node.Ended = ended
	return resp.Node, nil
}
