package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"labctl/lab/packet"
)

// Match is the filter for machines without tcpdump, whose meaning it has: it
// looks at the outermost headers. The zero value matches everything.
type Match struct {
	Host  netip.Addr
	Port  uint16
	Proto string // one of Protocols
}

// Protocols are the names that Match knows.
func Protocols() []string { return []string{"arp", "icmp", "icmp6", "ip", "ip6", "tcp", "udp"} }

// Expression is what tcpdump calls the same, "" for everything.
func (m Match) Expression() string {
	var parts []string
	if m.Proto != "" {
		parts = append(parts, m.Proto)
	}
	if m.Host.IsValid() {
		parts = append(parts, "host "+m.Host.String())
	}
	if m.Port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", m.Port))
	}
	return strings.Join(parts, " and ")
}

// Matches says whether p is what m asks for.
func (m Match) Matches(p packet.Packet) bool {
	outer := outermost(p)
	return m.proto(outer) && m.host(outer) && m.port(outer)
}

// outermost are the layers up to the first one above IP.
func outermost(p packet.Packet) []packet.Layer {
	for i, l := range p.Layers {
		switch l.(type) {
		case packet.IPv4, packet.IPv6:
			return p.Layers[:min(i+2, len(p.Layers))]
		}
	}
	return p.Layers
}

func (m Match) proto(outer []packet.Layer) bool {
	if m.Proto == "" {
		return true
	}
	return slices.ContainsFunc(outer, func(l packet.Layer) bool {
		switch v := l.(type) {
		case packet.ARP:
			return m.Proto == "arp"
		case packet.IPv4:
			return m.Proto == "ip" || carries(m.Proto, v.Protocol)
		case packet.IPv6:
			return m.Proto == "ip6" || carries(m.Proto, v.Protocol)
		}
		return false
	})
}

// carries says whether an IP header's protocol has the name.
func carries(name string, p packet.Protocol) bool {
	switch name {
	case "icmp":
		return p == packet.ProtoICMP
	case "icmp6":
		return p == packet.ProtoICMPv6
	case "tcp":
		return p == packet.ProtoTCP
	case "udp":
		return p == packet.ProtoUDP
	}
	return false
}

func (m Match) host(outer []packet.Layer) bool {
	if !m.Host.IsValid() {
		return true
	}
	// One IP header is all that outer can have: a second would be inside it.
	for _, l := range outer {
		switch v := l.(type) {
		case packet.ARP:
			return v.SenderIP == m.Host || v.TargetIP == m.Host
		case packet.IPv4:
			return v.Src == m.Host || v.Dst == m.Host
		case packet.IPv6:
			return v.Src == m.Host || v.Dst == m.Host
		}
	}
	return false
}

func (m Match) port(outer []packet.Layer) bool {
	if m.Port == 0 {
		return true
	}
	for _, l := range outer {
		switch v := l.(type) {
		case packet.TCP:
			return v.SrcPort == m.Port || v.DstPort == m.Port
		case packet.UDP:
			return v.SrcPort == m.Port || v.DstPort == m.Port
		}
	}
	return false
}
