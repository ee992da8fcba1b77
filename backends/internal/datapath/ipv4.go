package datapath

const (
	ipHeader  = 20 // without options
	tcpHeader = 20
	udpHeader = 8

	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	maxPacket = 0xffff // of IPv4
)

// headerLen is the length of an IPv4 header, options included.
func headerLen(ip []byte) int { return int(ip[0]&0xf) * 4 }

func totalLen(ip []byte) int { return int(be.Uint16(ip[2:])) }

func source(ip []byte) addr      { return addr(be.Uint32(ip[12:])) }
func destination(ip []byte) addr { return addr(be.Uint32(ip[16:])) }

const (
	dontFragment = 0x40 // of byte 6
	moreOrOffset = 0x3fff
)

// fragmented says whether a packet is one piece of a larger one.
func fragmented(ip []byte) bool { return be.Uint16(ip[6:])&moreOrOffset != 0 }

// laterFragment says whether it is one without the transport header.
func laterFragment(ip []byte) bool { return be.Uint16(ip[6:])&0x1fff != 0 }

// checkPacket tells what keeps b from being one whole IPv4 packet.
func checkPacket(b []byte) reason {
	switch {
	case len(b) == 0:
		return malformed
	case b[0]>>4 != 4:
		return notIPv4
	case len(b) < ipHeader:
		return malformed
	}
	if h := headerLen(b); h < ipHeader || h > len(b) || totalLen(b) != len(b) {
		return malformed
	}
	return accepted
}

// goodHeader says whether the IPv4 header's checksum is right.
func goodHeader(ip []byte) bool { return fold(sum(ip[:headerLen(ip)], 0)) == 0xffff }

// decrementTTL takes one from the TTL, which is not 0, and mends the checksum
// by as much (RFC 1624): the TTL is the low byte of a little-endian word.
func decrementTTL(ip []byte) {
	ip[8]--
	c := uint32(le.Uint16(ip[10:])) + 1
	if c >= 0xffff { // 0 has two forms: this is the one that computing anew gives
		c++
	}
	le.PutUint16(ip[10:], uint16(c))
}
