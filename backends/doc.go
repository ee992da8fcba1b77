// Package backends is how hosts agree on who owns which subnet, and what
// follows from that agreement on one host.
//
// Two halves live here. The first is flannel's etcd contract, byte for byte:
// the network config ([ParseNetwork]), the subnet keys ([ParseKey]), their
// values ([Attrs]), taking and keeping a subnet ([Store.Acquire], [Held]),
// following everybody else's ([Store.Watch]), subnet.env, and flannel's
// traffic rules. The second is [Backend], implemented in one folder each
// (vxlan, udp, hostgw ...): a pure function from leases to the kernel state of
// one host.
//
// The agent of each node calls both: it acquires a lease, hands each
// [Snapshot] of the watch to its Backend, and the result to a
// nodes.Reconciler. The supervisor uses a Store to write the config and the
// reservations, and to show the leases. Package catalogue lists the backends.
//
// The trap: a [Snapshot] is all leases, never a change. An empty one means
// that no host has a lease and routes must go; "could not read" is never told
// that way, but by sending nothing at all. Keep it so.
//
// # Why level-triggered
//
// flannel hands deltas to its backends and tells "here is everything" by the
// absence of a delta. A single key that does not parse was thereby once read
// as "everything is empty" and emptied the route tables of every host
// (flannel #2539); a peer whose MAC changed while a watch was cut stayed wrong
// for ever (#1247). Here a reader gets the full set each time, a malformed
// entry is a [Problem] beside it, and the difference to the kernel is
// computed in one place, by the reconciler.
//
// # Why our own renewal
//
// flannel renews by an unconditional put, which can overwrite a subnet that
// meanwhile belongs to another host. Here every write is a transaction that
// compares what was read before, and staying alive is LeaseKeepAlive on one
// lease, which changes no key: a real flanneld in the same network sees no
// events from us.
package backends
