package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// ICMP types. Those of IPv6 have numbers of their own.
const (
	EchoReply    = 0
	Unreachable  = 3
	Redirect     = 5
	EchoRequest  = 8
	TimeExceeded = 11

	FragmentationNeeded = 4 // a code of Unreachable

	UnreachableV6  = 1
	TooBigV6       = 2
	TimeExceededV6 = 3
	EchoRequestV6  = 128
	EchoReplyV6    = 129
	SolicitV6      = 135
	AdvertiseV6    = 136
)

// ICMP is a message of ICMP or ICMPv6.
type ICMP struct {
	Span
	Version    int // 4 or 6
	Type, Code uint8
	ID, Seq    uint16     // of an echo
	MTU        int        // of fragmentation needed, or packet too big
	Target     netip.Addr // of a neighbour solicitation or advertisement, of a redirect the gateway
	// Quoted has the layers of the packet that an error is about, as far as it
	// is quoted. They lie in the payload.
	Quoted []Layer
}

// Echo says that the message is an echo request or reply.
func (m ICMP) Echo() bool { return m.Request() || m.Reply() }

// Request says that the message is an echo request.
func (m ICMP) Request() bool {
	return m.Version == 4 && m.Type == EchoRequest || m.Version == 6 && m.Type == EchoRequestV6
}

// Reply says that the message is an echo reply.
func (m ICMP) Reply() bool {
	return m.Version == 4 && m.Type == EchoReply || m.Version == 6 && m.Type == EchoReplyV6
}

// Error says that the message is about another packet, which it quotes.
func (m ICMP) Error() bool {
	if m.Version == 6 {
		return m.Type < 128
	}
	return m.Type == Unreachable || m.Type == TimeExceeded || m.Type == Redirect || m.Type == 4 || m.Type == 12
}

func (w *walk) icmp(version, start, end int) {
	const header = 8
	if w.short("icmp", start, end, header) {
		return
	}
	b := w.data[start:end]
	m := ICMP{Span: Span{start, start + header, end}, Version: version, Type: b[0], Code: b[1]}
	switch {
	case m.Echo():
		m.ID, m.Seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	case version == 4 && m.Type == Unreachable && m.Code == FragmentationNeeded:
		m.MTU = int(binary.BigEndian.Uint16(b[6:]))
	case version == 4 && m.Type == Redirect:
		m.Target = netip.AddrFrom4([4]byte(b[4:8]))
	case version == 6 && m.Type == TooBigV6:
		m.MTU = int(binary.BigEndian.Uint32(b[4:]))
	case version == 6 && (m.Type == SolicitV6 || m.Type == AdvertiseV6) && len(b) >= header+16:
		m.Target = netip.AddrFrom16([16]byte(b[header : header+16]))
	}
	if m.Error() && !w.quoted { // errors are not sent about errors
		q := walk{Decoder: w.Decoder, data: w.data, quoted: true}
		q.ip(m.Payload, end) // cut short by design, so its error says nothing
		m.Quoted = q.layers
	}
	if w.add(m) {
		w.payload(m.Payload, end)
	}
}

// UDP is a datagram's header.
type UDP struct {
	Span
	SrcPort, DstPort uint16
	Len              int // as the header says, itself included
}

func (w *walk) udp(start, end int) {
	const header = 8
	if w.short("udp", start, end, header) {
		return
	}
	b := w.data[start:]
	u := UDP{Span{start, start + header, end}, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), int(binary.BigEndian.Uint16(b[4:]))}
	switch {
	case u.Len >= header:
		u.End = w.limit("udp", start, end, u.Len)
	case u.Len > 0:
		w.fail("udp: %d bytes in all, %d of header: %w", u.Len, header, ErrMalformed)
	}
	if !w.add(u) {
		return
	}
	switch {
	case slices.Contains(w.VXLAN, u.DstPort):
		w.vxlan(u.Payload, u.End)
	case slices.Contains(w.Flannel, u.DstPort):
		w.flannel(u.Payload, u.End)
	default:
		w.payload(u.Payload, u.End)
	}
}

// TCPFlags are the bits of a segment's header.
type TCPFlags uint8

const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// String is tcpdump's: "S.", "P.", "none".
func (f TCPFlags) String() string {
	if f == 0 {
		return "none"
	}
	var s []byte
	for i, c := range []byte("FSRP.UEW") {
		if f&(1<<i) != 0 {
			s = append(s, c)
		}
	}
	return string(s)
}

// TCP is a segment's header with its options.
type TCP struct {
	Span
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            TCPFlags
	Window           uint16
}

func (w *walk) tcp(start, end int) {
	const header = 20
	b := w.data[start:end]
	if len(b) >= 8 && len(b) < header {
		// What an ICMP error quotes of it.
		w.add(TCP{Span: Span{start, end, end}, SrcPort: binary.BigEndian.Uint16(b), DstPort: binary.BigEndian.Uint16(b[2:]), Seq: binary.BigEndian.Uint32(b[4:])})
	}
	if w.short("tcp", start, end, header) {
		return
	}
	n := int(b[12]>>4) * 4
	if n < header {
		w.fail("tcp: header of %d bytes: %w", n, ErrMalformed)
		w.payload(start, end)
		return
	}
	t := TCP{
		Span:    Span{start, w.limit("tcp", start, end, n), end},
		SrcPort: binary.BigEndian.Uint16(b), DstPort: binary.BigEndian.Uint16(b[2:]),
		Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]),
		Flags: TCPFlags(b[13]), Window: binary.BigEndian.Uint16(b[14:]),
	}
	if w.add(t) {
		w.payload(t.Payload, end)
	}
}
