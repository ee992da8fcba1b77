// Package bgp tells a host's routes to its neighbours by BGP (RFC 4271), and
// writes those that it hears of into the kernel.
//
// The agent of a Calico node calls it, and the process of a router that speaks
// BGP: [NewHost] with a [Speaker], then Set with each new [Config]. There are
// two speakers: GoBGP inside the process ([NewGoBGP]) and Debian's bird2 beside
// it ([NewBird]). GoBGP knows nothing of the kernel, so Host writes its best
// paths with protocol 186; bird writes its own, with protocol 12.
//
// The trap: GoBGP dials from goroutines of its own, which are in the network
// namespace that the process was born in. A speaker cannot be put into another
// one.
package bgp
