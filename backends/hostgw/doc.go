// Package hostgw is flannel's host-gw backend: each host is the gateway to its
// containers, and every other host has a route there. Nothing is wrapped.
//
// The agent calls New with the network config's Backend object and Desired
// with each change of the leases.
//
// The trap: a gateway must be on-link. A peer behind a router is refused and
// reported, for that router would have to know the containers' subnets.
package hostgw
