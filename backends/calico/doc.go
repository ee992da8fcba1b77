// Package calico is Calico's network without an overlay of its own: every host
// is a router, containers have a /32 each, and a host's routes lead to the
// blocks of addresses that the other hosts hold.
//
// Three parts. [Store] is Calico's data model in etcd: pools, nodes, blocks and
// who has affinity to them. [Store.Assign] is its IPAM: a host claims blocks in
// two phases, each a transaction that compares what was read, takes addresses
// out of them, and borrows from other hosts' blocks when no block is free.
// [Desired] is Felix: a pure function from what the store says to the kernel
// state of one host.
//
// The agent of each node calls all three; the supervisor writes the
// configuration and reads blocks for status.
//
// Where routes come from and how packets get to another host are two questions.
// [Remote] is a destination with its next hop, whoever told it: the store, or a
// BGP speaker. [Encapsulation.Way] says how packets get from here to a next hop.
//
// The trap: routes follow the store, not life. A host that died keeps its blocks
// until somebody takes them away ([Store.RemoveNode]), as in Calico where Felix
// programs the routes; routes by BGP go with the session.
package calico
