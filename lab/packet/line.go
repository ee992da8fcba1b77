package packet

import (
	"fmt"
	"net/netip"
	"strings"
)

// Style chooses what Line prints beside the usual.
type Style struct {
	Link    bool // tcpdump -e: the Ethernet headers
	Verbose bool // tcpdump -v: the fields of the IP headers
}

// String is the packet in one line.
func (p Packet) String() string { return p.Line(Style{}) }

// Line is the packet in one line, in tcpdump's manner; what a tunnel carries
// follows after a colon:
//
//	IP 192.168.50.1.40001 > 192.168.50.2.8472: VXLAN, flags [I] (0x08), vni 1: IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 1, seq 1, length 64
func (p Packet) Line(s Style) string {
	l := line{style: s}
	l.layers(p.Layers)
	if p.Err != nil {
		l.printf(" [%v]", p.Err)
	}
	return strings.TrimSpace(l.String())
}

type line struct {
	strings.Builder
	style Style
}

func (l *line) printf(format string, args ...any) { fmt.Fprintf(l, format, args...) }

// layers prints from the outside in. An IP header is printed together with
// what it carries, because ports belong to the addresses.
func (l *line) layers(layers []Layer) {
	named := false // -e has told the protocol
	for i, layer := range layers {
		rest := layers[i+1:]
		switch v := layer.(type) {
		case Ethernet:
			named = l.ethernet(v, rest)
		case VLAN:
			named = l.vlan(v)
		case ARP:
			l.arp(v, named)
		case IPv4:
			l.network("IP ", named)
			if l.style.Verbose {
				l.printf("(tos %#x, ttl %d, id %d, offset %d, flags [%s], proto %s (%d), length %d) ", v.TOS, v.TTL, v.ID, v.FragOffset, v.flags(), v.Protocol, uint8(v.Protocol), v.Len)
			}
			l.ip(v.Src, v.Dst, v.Protocol, v.FragOffset, v.End-v.Payload, rest)
			named = false
		case IPv6:
			l.network("IP6 ", named)
			if l.style.Verbose {
				l.printf("(class %#x, flowlabel %#05x, hlim %d, next-header %s (%d), payload length: %d) ", v.TrafficClass, v.FlowLabel, v.HopLimit, v.Protocol, uint8(v.Protocol), v.Len)
			}
			l.ip(v.Src, v.Dst, v.Protocol, v.FragOffset, v.End-v.Payload, rest)
			named = false
		case ICMP:
			l.icmp(v)
		case UDP:
			if len(rest) == 0 || isPayload(rest[0]) {
				l.printf("UDP, length %d", v.Len-8)
			}
		case TCP:
			l.tcp(v)
		case VXLAN:
			l.printf("VXLAN, flags [I] (0x08), vni %d: ", v.VNI)
		case Flannel:
			l.printf("flannel: ")
		case Payload:
			if i == 0 {
				l.printf("%d bytes", v.End-v.Start)
			}
		}
	}
}

func isPayload(l Layer) bool {
	_, ok := l.(Payload)
	return ok
}

// network prints the protocol's name where the link layer did not.
func (l *line) network(name string, named bool) {
	if !named {
		l.WriteString(name)
	}
}

// ethernet says whether it printed what the frame carries.
func (l *line) ethernet(e Ethernet, rest []Layer) bool {
	if l.style.Link {
		if e.Type < 0x600 {
			l.printf("%s > %s, 802.3, length %d: ", e.Src, e.Dst, e.Type)
		} else {
			l.printf("%s > %s, ethertype %s (0x%04x), length %d: ", e.Src, e.Dst, e.Type, uint16(e.Type), e.End-e.Start)
		}
		return true
	}
	if len(rest) == 0 || isPayload(rest[0]) {
		l.printf("%s > %s, ethertype %s (0x%04x), length %d", e.Src, e.Dst, e.Type, uint16(e.Type), e.End-e.Start)
	}
	return false
}

func (l *line) vlan(v VLAN) bool {
	if !l.style.Link {
		return false
	}
	l.printf("vlan %d, p %d, ethertype %s (0x%04x), ", v.ID, v.Priority, v.Type, uint16(v.Type))
	return true
}

func (l *line) arp(a ARP, named bool) {
	l.network("ARP, ", named)
	switch {
	case a.Op == ARPRequest && a.SenderIP == a.TargetIP:
		l.printf("Announcement %s", a.SenderIP)
	case a.Op == ARPRequest:
		l.printf("Request who-has %s tell %s", a.TargetIP, a.SenderIP)
	case a.Op == ARPReply:
		l.printf("Reply %s is-at %s", a.SenderIP, a.SenderMAC)
	default:
		l.printf("operation %d", a.Op)
	}
	l.printf(", length %d", a.End-a.Start)
}

func (h IPv4) flags() string {
	switch {
	case h.DF && h.MF:
		return "+, DF"
	case h.DF:
		return "DF"
	case h.MF:
		return "+"
	}
	return "none"
}

// ip prints addresses, with ports when a header follows that has them.
func (l *line) ip(src, dst netip.Addr, proto Protocol, offset, length int, rest []Layer) {
	from, to, known := "", "", false
	if len(rest) > 0 {
		known = !isPayload(rest[0])
		switch v := rest[0].(type) {
		case UDP:
			from, to = fmt.Sprintf(".%d", v.SrcPort), fmt.Sprintf(".%d", v.DstPort)
		case TCP:
			from, to = fmt.Sprintf(".%d", v.SrcPort), fmt.Sprintf(".%d", v.DstPort)
		}
	}
	l.printf("%s%s > %s%s: ", src, from, dst, to)
	switch {
	case offset > 0:
		l.printf("%s, fragment at %d, length %d", proto, offset, length)
	case !known:
		l.printf("%s, length %d", proto, length)
	}
}

func (l *line) icmp(m ICMP) {
	if m.Version == 6 {
		l.icmpv6(m)
		return
	}
	length := m.End - m.Start
	switch m.Type {
	case EchoRequest:
		l.printf("ICMP echo request, id %d, seq %d", m.ID, m.Seq)
	case EchoReply:
		l.printf("ICMP echo reply, id %d, seq %d", m.ID, m.Seq)
	case Unreachable:
		l.printf("ICMP %s", m.unreachable())
	case TimeExceeded:
		if m.Code == 1 {
			l.printf("ICMP ip reassembly time exceeded")
		} else {
			l.printf("ICMP time exceeded in-transit")
		}
	case Redirect:
		l.printf("ICMP redirect %s to host %s", m.quotedDst(), m.Target)
	default:
		l.printf("ICMP type %d, code %d", m.Type, m.Code)
	}
	l.printf(", length %d", length)
}

// quotedDst is where the packet went that an error is about.
func (m ICMP) quotedDst() netip.Addr {
	for _, q := range m.Quoted {
		switch v := q.(type) {
		case IPv4:
			return v.Dst
		case IPv6:
			return v.Dst
		}
	}
	return netip.Addr{}
}

// unreachable has tcpdump's words (RFC 792, RFC 1812 section 5.2.7.1).
func (m ICMP) unreachable() string {
	to := m.quotedDst().String()
	switch m.Code {
	case 0:
		return "net " + to + " unreachable"
	case 1:
		return "host " + to + " unreachable"
	case 2:
		return to + " protocol unreachable"
	case 3:
		return to + m.quotedPort() + " unreachable"
	case FragmentationNeeded:
		return fmt.Sprintf("%s unreachable - need to frag (mtu %d)", to, m.MTU)
	case 9:
		return "net " + to + " unreachable - admin prohibited"
	case 10:
		return "host " + to + " unreachable - admin prohibited"
	case 13:
		return "host " + to + " unreachable - admin prohibited filter"
	}
	return fmt.Sprintf("%s unreachable, code %d", to, m.Code)
}

func (m ICMP) quotedPort() string {
	for _, q := range m.Quoted {
		switch v := q.(type) {
		case UDP:
			return fmt.Sprintf(" udp port %d", v.DstPort)
		case TCP:
			return fmt.Sprintf(" tcp port %d", v.DstPort)
		}
	}
	return " port"
}

func (l *line) icmpv6(m ICMP) {
	switch m.Type {
	case EchoRequestV6:
		l.printf("ICMP6, echo request, id %d, seq %d", m.ID, m.Seq)
	case EchoReplyV6:
		l.printf("ICMP6, echo reply, id %d, seq %d", m.ID, m.Seq)
	case UnreachableV6:
		l.printf("ICMP6, destination unreachable, code %d, %s", m.Code, m.quotedDst())
	case TooBigV6:
		l.printf("ICMP6, packet too big, mtu %d", m.MTU)
	case TimeExceededV6:
		l.printf("ICMP6, time exceeded in-transit for %s", m.quotedDst())
	case SolicitV6:
		l.printf("ICMP6, neighbor solicitation, who has %s", m.Target)
	case AdvertiseV6:
		l.printf("ICMP6, neighbor advertisement, tgt is %s", m.Target)
	default:
		l.printf("ICMP6, type %d, code %d", m.Type, m.Code)
	}
	l.printf(", length %d", m.End-m.Start)
}

func (l *line) tcp(t TCP) {
	n := t.End - t.Payload
	l.printf("Flags [%s]", t.Flags)
	if n > 0 {
		l.printf(", seq %d:%d", t.Seq, t.Seq+uint32(n))
	} else if t.Flags&(SYN|FIN|RST) != 0 {
		l.printf(", seq %d", t.Seq)
	}
	if t.Flags&ACK != 0 {
		l.printf(", ack %d", t.Ack)
	}
	l.printf(", win %d, length %d", t.Window, n)
}
