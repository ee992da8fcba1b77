package datapath

import "net/netip"

// Wire is what packets are wrapped in between two hosts, and the socket that
// they go through. It is what the users of this package differ in.
type Wire struct {
	// Name is for messages: "udp".
	Name string
	// Port is the UDP port of all hosts; 0 for a wire without ports.
	Port int
	// Overhead is the bytes that wrapping costs, the outer IP header included.
	Overhead int
	// Open opens the socket, in the network namespace of the calling thread. It
	// blocks where the calls do not say otherwise. Its buffers are the Path's
	// business.
	Open func() (fd int, err error)
	// Segmentation has the socket take and give many packets of one length as
	// one, or tells why it cannot; nil for a wire of which no socket can.
	Segmentation func(fd int) error
	// Header is what stands before each packet in what the socket takes and
	// gives; nil for nothing.
	Header Header
	// Fragment sends what is longer than the path takes in one piece, in
	// fragments of the outer packet. message has the Header.
	Fragment func(fd int, to netip.Addr, message []byte) error
}

// Header is the outer header of a Wire, as far as the kernel leaves it to us.
type Header interface {
	// Len is its length on the way out.
	Len() int
	// Put writes it for a packet to a host.
	Put(b []byte, to [4]byte, packet []byte)
	// Strip is the length of the one that message begins with; ok is false when
	// it is none. It may mend the packet behind it.
	Strip(message []byte) (n int, ok bool)
}

// header is the length of the Header.
func (w Wire) header() int {
	if w.Header == nil {
		return 0
	}
	return w.Header.Len()
}

// Config is what a Path is opened with.
type Config struct {
	Device string // the TUN device, which is the Path's alone
	MTU    int    // of the device
	Wire   Wire
	Level  string // Auto, or a Level's name
	// VerifySource drops what no peer sent, or what a peer had no business to
	// send. Without it everybody is believed.
	VerifySource bool
	// Hop takes one from the TTL of each packet on the way out, as a router
	// does, and tells the sender when it comes to its end.
	Hop bool
}
