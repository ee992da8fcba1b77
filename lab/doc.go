// Package lab is a lab's life: from its file to namespaces that carry packets,
// and back to nothing.
//
// Three types stand for a lab, one after the other. A [Spec] is the file as
// its author wrote it ([Parse]). A [Plan] is everything that the file leaves
// open, decided: addresses, names, MTUs; [NewPlan] is a pure function, and
// `labctl up --dry-run` prints what it returns. What runs is the supervisor's
// (package supervisor), which is given a Plan and never reads YAML.
//
// The commands call [Up], [Down] and [Open]; with the [Client] that Open
// returns they ask a running lab for its status, start processes in it, and
// get sockets out of it. A command never enters a namespace itself.
//
// The trap: a lab has two records of itself. The run directory ([Dir]) is what
// is left when everything else was killed, and `down` must be able to work
// from it alone; the supervisor knows the rest, and its answers end with it.
// So whatever is made outside the lab's own namespaces stands in the [Record]
// before it is made.
//
// # Why a supervisor and no mounts
//
// `ip netns add` keeps a namespace by a bind mount, which outlives everybody
// and makes the next one slower. Here one process holds the namespaces open,
// and /run/netns has symbolic links to its descriptors: ip(8) follows them,
// SIGKILL leaves dangling links and nothing else, and all namespaces end at
// once. The price is that a lab ends with its supervisor.
//
// # Why commands stay outside
//
// A Go program has several threads and so cannot join a user namespace
// (setns(2)). The supervisor forks for the commands and passes descriptors to
// them, for root's labs as for those of others: there is one way, not two.
package lab
