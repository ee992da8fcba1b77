// Package trace follows one packet through a lab and says why it went where it
// went.
//
// A trace has four parts, each a file or two:
//
//	probe    one marked packet is sent from an endpoint, at most twice
//	watch    one packet socket in every namespace sees it pass, in and out, plain and inside tunnels
//	walk     what the tables of the lab say should happen next to a packet at a place: Linux's
//	         forwarding in small (route, neighbour, FDB, netfilter, rp_filter, tunnels)
//	explain  what was seen is laid beside what should happen: each step gets the entries that
//	         decided it; where the packet was not seen any more, the cause is what the walk found wrong there
//
// Run is called by `labctl trace`, and by tests and checks for pairs that fail.
// It changes nothing in the lab, and reads the tables only after the packet
// passed.
//
// The trap: the walk goes on where a table is wrong, as it would if it were
// right. That is how trace knows where the packet should have been.
package trace
