// Package udp is flannel's udp backend: containers' packets cross the underlay
// inside UDP datagrams, wrapped and unwrapped by the agent, which gets them
// through a TUN device. What is on the wire is flannel's: the datagram's
// payload is one IPv4 packet, no more and no less.
//
// The agent calls New with the network config's Backend object and Desired
// with each change of the leases, as with any backend; this one is also a
// [backends.Carrier], and its Path carries the packets.
//
// How they are carried, and why it need not be slow, is datapath's.
//
// The trap: Open opens everything in the network namespace of the calling
// thread; Run may then be called from any other. The device is flannel0 by
// name, so there can be one Path in a namespace.
package udp
