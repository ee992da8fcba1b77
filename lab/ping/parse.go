package ping

import (
	"encoding/binary"
	"fmt"
)

// ICMP types and codes (RFC 792, RFC 1191).
const (
	echoReply    = 0
	unreachable  = 3
	timeExceeded = 11

	fragmentationNeeded = 4
)

// parse reads an ICMP message and says which probe of identifier id it answers.
// Go strips the IP header of what an IPConn receives, but not in ReadMsgIP: b
// begins with the IPv4 header.
func parse(b []byte, id uint16) (seq uint16, a answer, ok bool) {
	ttl, m, ok := strip(b)
	if !ok || len(m) < 8 {
		return 0, a, false
	}
	a.ttl = ttl
	switch typ, code := m[0], m[1]; typ {
	case echoReply:
		if binary.BigEndian.Uint16(m[4:]) != id {
			return 0, a, false
		}
		return binary.BigEndian.Uint16(m[6:]), a, true
	case unreachable, timeExceeded:
		// It quotes the packet that it is about: IP header and 8 bytes.
		_, q, ok := strip(m[8:])
		if !ok || len(q) < 8 || q[0] != 8 || binary.BigEndian.Uint16(q[4:]) != id {
			return 0, a, false
		}
		a.lost = describe(typ, code, binary.BigEndian.Uint16(m[6:]))
		return binary.BigEndian.Uint16(q[6:]), a, true
	}
	return 0, a, false
}

// strip takes the IPv4 header off an ICMP packet. A quoted packet may be cut
// short, so its total length is not looked at.
func strip(b []byte) (ttl int, rest []byte, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != 1 {
		return 0, nil, false
	}
	n := int(b[0]&15) * 4
	if n < 20 || len(b) < n {
		return 0, nil, false
	}
	return int(b[8]), b[n:], true
}

// describe puts an ICMP error into ping(8)'s words.
func describe(typ, code byte, mtu uint16) string {
	if typ == timeExceeded {
		return "time to live exceeded"
	}
	switch code {
	case 0:
		return "destination net unreachable"
	case 1:
		return "destination host unreachable"
	case 2:
		return "destination protocol unreachable"
	case 3:
		return "destination port unreachable"
	case fragmentationNeeded:
		return fmt.Sprintf("fragmentation needed, mtu %d", mtu)
	case 9, 10, 13:
		return "packet filtered"
	}
	return fmt.Sprintf("destination unreachable, code %d", code)
}
