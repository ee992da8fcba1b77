// Package etcd runs the store of a lab: one etcd server inside this process.
//
// The process of <lab>.etcd, born in that network namespace, starts it with
// two listeners: TCP on the underlay for the agents and for real flannelds,
// and a unix socket in the run directory for the supervisor. Tests start it
// with a socket alone.
//
// The trap: it is tuned for a lab, not for data that matters. Nothing is
// fsynced, so that what the kernel has taken survives kill -9 of the process
// but not a power cut. And etcd's metrics are global to a process: two servers
// in one process share them.
//
// # Why these settings
//
// etcd's defaults take half a second to elect themselves, map 11 GB of address
// space and put 125 MB on disk, which is RAM when the run directory is a
// tmpfs. See settings for the numbers and what each of them buys.
package etcd
