package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Protocol is what an IP packet carries.
type Protocol uint8

const (
	ProtoICMP   Protocol = 1
	ProtoIGMP   Protocol = 2
	ProtoIPIP   Protocol = 4
	ProtoTCP    Protocol = 6
	ProtoUDP    Protocol = 17
	ProtoIPv6   Protocol = 41
	ProtoGRE    Protocol = 47
	ProtoESP    Protocol = 50
	ProtoICMPv6 Protocol = 58
	ProtoOSPF   Protocol = 89
)

// String is tcpdump's name.
func (p Protocol) String() string {
	switch p {
	case ProtoICMP:
		return "ICMP"
	case ProtoIGMP:
		return "IGMP"
	case ProtoIPIP:
		return "IPIP"
	case ProtoTCP:
		return "TCP"
	case ProtoUDP:
		return "UDP"
	case ProtoIPv6:
		return "IPv6"
	case ProtoGRE:
		return "GRE"
	case ProtoESP:
		return "ESP"
	case ProtoICMPv6:
		return "ICMPv6"
	case ProtoOSPF:
		return "OSPF"
	}
	return fmt.Sprintf("ip-proto-%d", uint8(p))
}

// IPv4 is a header with its options.
type IPv4 struct {
	Span
	Src, Dst   netip.Addr
	TTL        uint8
	Protocol   Protocol
	TOS        uint8
	ID         uint16
	DF, MF     bool // do not fragment; more fragments follow
	FragOffset int  // in bytes
	Len        int  // as the header says, itself included
}

// Fragment says that the packet is a part of one.
func (h IPv4) Fragment() bool { return h.MF || h.FragOffset > 0 }

// IPv6 is a header with its extension headers.
type IPv6 struct {
	Span
	Src, Dst     netip.Addr
	HopLimit     uint8
	Protocol     Protocol // behind the extension headers
	TrafficClass uint8
	FlowLabel    uint32
	ID           uint32 // of the fragment
	MF           bool
	FragOffset   int // in bytes
	Len          int // as the header says: what follows its 40 bytes
}

// Fragment says that the packet is a part of one.
func (h IPv6) Fragment() bool { return h.MF || h.FragOffset > 0 }

// ip looks at the version: devices without a link layer carry both.
func (w *walk) ip(start, end int) {
	if w.short("ip", start, end, 1) {
		return
	}
	switch v := w.data[start] >> 4; v {
	case 4:
		w.ipv4(start, end)
	case 6:
		w.ipv6(start, end)
	default:
		w.fail("ip: version %d: %w", v, ErrMalformed)
		w.payload(start, end)
	}
}

func (w *walk) ipv4(start, end int) {
	if w.short("ipv4", start, end, 20) {
		return
	}
	b := w.data[start:]
	header := int(b[0]&15) * 4
	if b[0]>>4 != 4 || header < 20 {
		w.fail("ipv4: version %d, header of %d bytes: %w", b[0]>>4, header, ErrMalformed)
		w.payload(start, end)
		return
	}
	if w.short("ipv4", start, end, header) {
		return
	}
	frag := binary.BigEndian.Uint16(b[6:])
	h := IPv4{
		Span: Span{Start: start, Payload: start + header},
		Src:  netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
		TTL: b[8], Protocol: Protocol(b[9]), TOS: b[1], ID: binary.BigEndian.Uint16(b[4:]),
		DF: frag&0x4000 != 0, MF: frag&0x2000 != 0, FragOffset: int(frag&0x1fff) * 8,
		Len: int(binary.BigEndian.Uint16(b[2:])),
	}
	switch {
	case h.Len == 0: // more than 64 KB in one segment (BIG TCP)
		h.End = end
	case h.Len < header:
		w.fail("ipv4: %d bytes in all, %d of header: %w", h.Len, header, ErrMalformed)
		h.End = h.Payload
	default:
		h.End = w.limit("ipv4", start, end, h.Len)
	}
	if w.add(h) {
		w.protocol(h.Protocol, h.Payload, h.End, h.FragOffset > 0, h.MF)
	}
}

func (w *walk) ipv6(start, end int) {
	const header = 40
	if w.short("ipv6", start, end, header) {
		return
	}
	b := w.data[start:]
	if b[0]>>4 != 6 {
		w.fail("ipv6: version %d: %w", b[0]>>4, ErrMalformed)
		w.payload(start, end)
		return
	}
	first := binary.BigEndian.Uint32(b)
	h := IPv6{
		Span: Span{Start: start, Payload: start + header},
		Src:  netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
		HopLimit: b[7], Protocol: Protocol(b[6]), TrafficClass: uint8(first >> 20), FlowLabel: first & 0xfffff,
		Len: int(binary.BigEndian.Uint16(b[4:])),
	}
	h.End = end
	if h.Len > 0 {
		h.End = w.limit("ipv6", start, end, header+h.Len)
	}
	whole := w.extensions(&h)
	if w.add(h) && whole {
		w.protocol(h.Protocol, h.Payload, h.End, h.FragOffset > 0, h.MF)
	}
}

// extensions skips IPv6 extension headers (RFC 8200, section 4). It is false
// when they are cut short.
func (w *walk) extensions(h *IPv6) bool {
	const hopByHop, routing, fragment, destination = 0, 43, 44, 60
	for {
		switch h.Protocol {
		case hopByHop, routing, fragment, destination:
		default:
			return true
		}
		if w.short("ipv6 extension", h.Payload, h.End, 8) {
			return false
		}
		b := w.data[h.Payload:]
		n := 8
		if h.Protocol == fragment {
			f := binary.BigEndian.Uint16(b[2:])
			h.FragOffset, h.MF, h.ID = int(f&^7), f&1 != 0, binary.BigEndian.Uint32(b[4:])
		} else {
			n += int(b[1]) * 8
		}
		if w.short("ipv6 extension", h.Payload, h.End, n) {
			return false
		}
		h.Protocol = Protocol(b[0])
		h.Payload += n
		if h.FragOffset > 0 {
			return true
		}
	}
}

// protocol decodes what an IP packet carries. A later fragment has no header.
func (w *walk) protocol(p Protocol, start, end int, later, more bool) {
	if later {
		w.payload(start, end)
		return
	}
	w.partial = w.partial || more
	switch p {
	case ProtoICMP:
		w.icmp(4, start, end)
	case ProtoICMPv6:
		w.icmp(6, start, end)
	case ProtoTCP:
		w.tcp(start, end)
	case ProtoUDP:
		w.udp(start, end)
	case ProtoIPIP:
		w.ipv4(start, end)
	case ProtoIPv6:
		w.ipv6(start, end)
	default:
		w.payload(start, end)
	}
}
