// Package vxlan is flannel's VXLAN backend: containers' packets cross the
// underlay inside UDP (RFC 7348), wrapped and unwrapped by the kernel.
//
// The agent calls New with the network config's Backend object and Desired
// with each change of the leases.
//
// The trap: a peer's VNI and port are compared with ours for the VNI only, as
// the lease does not carry the port. Two hosts with different ports do not
// hear each other and nothing says so.
//
// # Why tables and no learning
//
// Early flannel asked user space for each unknown neighbour (L3MISS, L2MISS).
// Now all that the kernel could ask for stands in its tables beforehand, one
// neighbour, one FDB entry and one route for each host. They are permanent,
// so the data path goes on when the agent does not.
package vxlan
