// Package supervisor is the inside of a running lab: the init shim, which is
// PID 1 of the lab's own PID namespace, and under it the supervisor, which
// builds the lab from its plan, holds every namespace open, starts etcd and
// one agent per node, wires the containers once a node has its subnet, and
// serves one unix socket. labctl's own agents report to it; of any other program
// in an agent's place it sees the lease and the subnet.env.
//
// Only lab/inside calls it, when the binary is executed again as __init or
// __supervise. Commands talk to it through lab.Client.
//
// The trap: the supervisor's own network namespace is an empty one. Whatever
// it does to a network goes through a nodes.Namespace, never through the
// calling thread's; and whatever it forks is born in an endpoint's namespace.
package supervisor
