package datapath

import (
	"encoding/binary"
	"math/bits"
)

// The checksum of the internet protocols is the complement of a sum of 16-bit
// words in one's complement arithmetic. RFC 1071: words of any width can be
// added, in any byte order, as long as the result is stored in that order.
// Here the order is little endian and the width is 64 bits.

var le, be = binary.LittleEndian, binary.BigEndian

// sum adds b to s, which is less than 2^48 or so. So is the result: sums can be
// added up as they are. An odd last byte counts as if a zero followed.
func sum(b []byte, s uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, le.Uint64(b), 0)
		s, c = bits.Add64(s, le.Uint64(b[8:]), c)
		s, c = bits.Add64(s, le.Uint64(b[16:]), c)
		s, c = bits.Add64(s, le.Uint64(b[24:]), c)
		s, c = bits.Add64(s, le.Uint64(b[32:]), c)
		s, c = bits.Add64(s, le.Uint64(b[40:]), c)
		s, c = bits.Add64(s, le.Uint64(b[48:]), c)
		s, c = bits.Add64(s, le.Uint64(b[56:]), c)
		s += c
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, le.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	var rest uint64
	for i, x := range b {
		rest |= uint64(x) << (8 * i)
	}
	s, c = bits.Add64(s, rest, 0)
	return s>>32 + s&0xffffffff + c
}

// fold makes a sum 16 bits wide.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// word is a number as it stands in a packet, for adding to a sum.
func word(n int) uint64 { return uint64(bits.ReverseBytes16(uint16(n))) }

// pseudo is the sum of what TCP and UDP include of the IP header; length is
// that of the header and data behind it.
func pseudo(ip []byte, length int) uint64 {
	return uint64(le.Uint32(ip[12:])) + uint64(le.Uint32(ip[16:])) + word(int(ip[9])) + word(length)
}

// setIPChecksum computes the checksum of an IPv4 header anew.
func setIPChecksum(ip []byte) {
	le.PutUint16(ip[10:], 0)
	le.PutUint16(ip[10:], ^fold(sum(ip[:headerLen(ip)], 0)))
}

// finish computes the checksum that the kernel left to hardware: the sum from
// start on, which is stored offset bytes behind it (VIRTIO_NET_HDR_F_NEEDS_CSUM).
// The field has the sum of the pseudo header already.
func finish(pkt []byte, start, offset int) bool {
	if start+offset+2 > len(pkt) {
		return false
	}
	s := ^fold(sum(pkt[start:], 0))
	if s == 0 {
		s = 0xffff // 0 is "none" in UDP, and the same number otherwise
	}
	le.PutUint16(pkt[start+offset:], s)
	return true
}

// unfinished says whether the checksum of a TCP or UDP packet is still the
// pseudo header's sum, which the rest was to be added to by hardware. One
// finished checksum in 65535 looks the same; to finish it again changes
// nothing.
func unfinished(pkt []byte) bool {
	at := transportSum(pkt)
	if at == 0 {
		return false
	}
	h := headerLen(pkt)
	return le.Uint16(pkt[at:]) == fold(pseudo(pkt, len(pkt)-h))
}

// finishTransport computes the rest of the checksum of an unfinished packet.
func finishTransport(pkt []byte) {
	h := headerLen(pkt)
	finish(pkt, h, transportSum(pkt)-h)
}

// transportSum is where a packet has the checksum of TCP or UDP; 0 when it has
// none, or only a part of what it is of.
func transportSum(pkt []byte) int {
	at := headerLen(pkt)
	switch pkt[9] {
	case protoTCP:
		at += 16
	case protoUDP:
		at += 6
	default:
		return 0
	}
	if at+2 > len(pkt) || fragmented(pkt) {
		return 0
	}
	return at
}
