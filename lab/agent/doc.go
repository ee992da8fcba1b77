// Package agent is what runs on each host of a lab: flannel's daemon on
// labctl's libraries. It takes a lease, writes subnet.env for the container
// runtime, and keeps the kernel of its host in step with everybody's leases.
//
// The command `labctl agent` calls it; the supervisor starts that command in
// each node's namespace and follows it over the control stream (Report, Order).
//
// The trap: it works on the network namespace that the process is in. In a lab
// that is the node's; on a real machine it is the machine's own, on purpose.
package agent
