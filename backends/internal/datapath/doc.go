// Package datapath carries packets between hosts in user space: it reads them
// from a TUN device, wraps them, sends them through a socket, and the reverse.
// What is round a packet on the way is a [Wire]; flannel's udp backend and
// Calico's IPIP, where the kernel has none, are two of them.
//
// [Open] makes the device and opens the sockets, [Path.Set] says which host has
// which addresses, [Path.Run] carries until it is told to stop.
//
// The trap: Open opens everything in the network namespace of the calling
// thread; Run may then be called from any other.
//
// # Why it need not be slow
//
// flannel's own udp takes two system calls for a packet of 1472 bytes, and is
// known as the slow backend. What costs is the calls, not user space as such.
// So the kernel is asked for more at a time, at three levels:
//
//	plain  one call reads a packet, one call sends it; flannel's way
//	batch  one call sends, one receives up to 64 and 16 messages
//	gso    one call reads a packet of up to 64 KiB, which the sender's kernel has
//	       not cut yet; one call sends the 45 packets that split makes of it,
//	       and one receives them where the socket can (UDP_GRO); merger makes
//	       them one packet again, that one call hands to the kernel
//
// There are two threads, one a direction, which share nothing but the table of
// peers, and that never changes but is replaced. Each has one buffer of 64 KiB
// that it uses over and over and that stays in the processor's cache.
package datapath
