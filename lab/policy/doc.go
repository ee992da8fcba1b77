// Package policy decides which containers may talk to which, three times:
//
//   - Engine says by the policies alone what should be: a pure function, and
//     the expected table.
//   - Table compiles the policies to a node's nftables rules. The supervisor
//     puts it into the node's State, so the reconciler heals it.
//   - Probe sends packets from every container to every other and sees what
//     really passes.
//
// Matrix holds the first against the third. The semantics are those of a
// Kubernetes NetworkPolicy: a container that no policy selects in a direction
// is open in it; one that is selected takes what some rule of those policies
// allows; both ends must agree. Replies pass whatever the rules say.
//
// Where the kernel decides: each packet between containers crosses the forward
// hook of the sender's node, and of the receiver's when that is another. The
// sender's node holds egress rules for its own containers, the receiver's node
// ingress rules for its own. Frames between two ports of one bridge do not come
// by that hook of themselves; br_netfilter brings them there
// (net.bridge.bridge-nf-call-iptables, a setting of each namespace, which the
// policy's node turns on). The bridge family of nftables would not do: it has
// connection tracking only where the kernel has nf_conntrack_bridge, and
// replies would need rules of their own.
//
// Traffic between a container and its own node is not forwarded, and open.
package policy
