package ipip

import (
	"encoding/binary"

	"labctl/backends/internal/datapath"
)

// header is the outer IPv4 header, from a host's address. It has what the
// kernel's tunl0 (ttl inherit, nopmtudisc) puts there: TTL and "don't fragment"
// of the packet inside, and of its type of service the part for congestion
// (ECN, RFC 6040).
//
//	| 4 5 | ecn | length * |  identification *  | DF | TTL | 4 | checksum * | from | to |
//
// What has a star the kernel fills in, as for any raw socket with IP_HDRINCL.
type header struct{ from [4]byte }

var _ datapath.Header = header{}

const (
	minHeader = 20
	protocol  = 4 // IP in IP

	dontFragment = 0x40 // of byte 6
	moreOrOffset = 0x3fff

	ecn = 3 // the bits of the type of service
	ect = 2 // the sender listens to congestion
	ce  = 3 // congestion was experienced
)

// Len is that of a header without options.
func (header) Len() int { return minHeader }

// Put writes the header.
func (h header) Put(b []byte, to [4]byte, packet []byte) {
	clear(b[:minHeader])
	b[0] = 4<<4 | minHeader/4
	b[1] = packet[1] & ecn
	if b[1] == ce {
		b[1] = ect
	}
	binary.BigEndian.PutUint16(b[2:], uint16(minHeader+len(packet)))
	b[6] = packet[6] & dontFragment
	b[8] = packet[8]
	b[9] = protocol
	copy(b[12:], h.from[:])
	copy(b[16:], to[:])
}

// Strip is the length of a header with whatever options. Congestion that the
// outer packet experienced is passed on to the one inside.
func (header) Strip(message []byte) (n int, ok bool) {
	if len(message) < minHeader || message[0]>>4 != 4 {
		return 0, false
	}
	n = int(message[0]&0xf) * 4
	whole := int(binary.BigEndian.Uint16(message[2:])) == len(message) && binary.BigEndian.Uint16(message[6:])&moreOrOffset == 0
	if n < minHeader || n > len(message) || !whole || message[9] != protocol {
		return 0, false
	}
	if message[1]&ecn == ce {
		return n, congested(message[n:])
	}
	return n, true
}

// congested marks a packet, and mends its header's checksum by as much (RFC
// 1624). It is false for one whose sender does not listen to the mark: that is
// to be dropped, so that it learns.
func congested(packet []byte) bool {
	if len(packet) < minHeader || packet[1]&ecn == 0 {
		return false
	}
	was := binary.BigEndian.Uint16(packet)
	packet[1] |= ce
	sum := uint32(^binary.BigEndian.Uint16(packet[10:])) + uint32(^was) + uint32(binary.BigEndian.Uint16(packet))
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum))
	return true
}
