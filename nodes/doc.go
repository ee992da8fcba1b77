// Package nodes is what labctl knows about the kernel: network namespaces,
// processes that are born in them, and the Reconciler, which makes the links,
// addresses, routes, neighbours, FDB entries, sysctls and nftables tables of
// one namespace what a State says, and keeps them so.
//
// The lab package builds namespaces and wires containers with it; every node's
// agent hands it the State that its backend wants. Backends only build States
// and touch nothing themselves.
//
// The trap: a network namespace belongs to a thread, not to a goroutine.
// Namespace.Do (and View.Do, for files too) moves one; what is opened inside
// (a socket, a TUN, a file under /proc/sys/net) stays in the namespace, but a
// goroutine started inside runs outside. So nothing that dials in the
// background may run in Do; start a process with Start for that. For the same
// reason the package-level functions of vishvananda/netlink are not called
// here: outside Do they would quietly change the machine's own network.
package nodes
