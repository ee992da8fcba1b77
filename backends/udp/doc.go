// Package udp is flannel's udp backend: containers' packets cross the underlay
// inside UDP datagrams, wrapped and unwrapped by the agent, which gets them
// through a TUN device. What is on the wire is flannel's: the datagram's
// payload is one IPv4 packet, no more and no less.
//
// The agent calls New with the network config's Backend object and Desired
// with each change of the leases, as with any backend; this one is also a
// [backends.Carrier], and its Path carries the packets.
//
// The trap: Open opens everything in the network namespace of the calling
// thread; Run may then be called from any other. The device is flannel0 by
// name, so there can be one Path in a namespace.
//
// # Why it need not be slow
//
// flannel's own udp takes two system calls for a packet of 1472 bytes, and is
// known as the slow backend. What costs is the calls, not user space as such.
// So the kernel is asked for more at a time, at three levels:
//
//	plain  one call reads a packet, one call sends it; flannel's way
//	batch  one call sends, one receives up to 64 and 16 datagrams
//	gso    one call reads a packet of up to 64 KiB, which the sender's kernel has
//	       not cut yet; one call sends the 45 datagrams that split makes of it,
//	       and one receives them; merger makes them one packet again, that one
//	       call hands to the kernel
//
// There are two threads, one a direction, which share nothing but the table of
// peers, and that never changes but is replaced. Each has one buffer of 64 KiB
// that it uses over and over and that stays in the processor's cache.
package udp
