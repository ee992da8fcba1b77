// Package packet decodes what a capture saw: Ethernet, ARP, IP, ICMP, UDP and
// TCP, and inside of them the tunnels of a lab, as deep as they nest.
//
//	Ethernet | IPv4 | UDP 8472 | VXLAN vni 1 | Ethernet | IPv4 | ICMP | Payload
//
// [Decode] gives one typed [Layer] after the other, outermost first. Each knows
// where it lies in the bytes (its [Span]), so that two captures of one packet
// can be compared header by header. [Packet.Line] prints a packet in one line,
// in tcpdump's manner.
//
// Decoding never fails as a whole: what is cut short or makes no sense ends the
// list of layers, and Packet.Err says why. Checksums are not looked at: inside
// one machine they are often not there yet when the packet is seen.
//
// `labctl tcpdump`, `labctl trace` and the capture checks use it.
package packet
