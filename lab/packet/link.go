package packet

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// EtherType says what an Ethernet frame carries.
type EtherType uint16

const (
	TypeIPv4 EtherType = 0x0800
	TypeARP  EtherType = 0x0806
	TypeVLAN EtherType = 0x8100
	TypeIPv6 EtherType = 0x86dd
	TypeQinQ EtherType = 0x88a8
)

// String is tcpdump's name.
func (t EtherType) String() string {
	switch t {
	case TypeIPv4:
		return "IPv4"
	case TypeARP:
		return "ARP"
	case TypeVLAN:
		return "802.1Q"
	case TypeIPv6:
		return "IPv6"
	case TypeQinQ:
		return "802.1Q-QinQ"
	}
	return "Unknown"
}

// Ethernet is a frame's header. Below 0x600 Type is a length (802.3).
type Ethernet struct {
	Span
	Dst, Src net.HardwareAddr
	Type     EtherType
}

// VLAN is an 802.1Q tag.
type VLAN struct {
	Span
	ID       uint16
	Priority uint8
	Type     EtherType // of what follows
}

func (w *walk) ethernet(start, end int) {
	if w.short("ethernet", start, end, 14) {
		return
	}
	b := w.data[start:]
	e := Ethernet{Span{start, start + 14, end}, net.HardwareAddr(b[0:6:6]), net.HardwareAddr(b[6:12:12]), EtherType(binary.BigEndian.Uint16(b[12:]))}
	if w.add(e) {
		w.etherType(e.Type, e.Payload, end)
	}
}

func (w *walk) etherType(t EtherType, start, end int) {
	switch t {
	case TypeIPv4:
		w.ipv4(start, end)
	case TypeIPv6:
		w.ipv6(start, end)
	case TypeARP:
		w.arp(start, end)
	case TypeVLAN, TypeQinQ:
		w.vlan(start, end)
	default:
		w.payload(start, end)
	}
}

func (w *walk) vlan(start, end int) {
	if w.short("vlan", start, end, 4) {
		return
	}
	tci := binary.BigEndian.Uint16(w.data[start:])
	v := VLAN{Span{start, start + 4, end}, tci & 0xfff, uint8(tci >> 13), EtherType(binary.BigEndian.Uint16(w.data[start+2:]))}
	if w.add(v) {
		w.etherType(v.Type, v.Payload, end)
	}
}

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP is a request or reply for IPv4 over Ethernet.
type ARP struct {
	Span
	Op                   uint16
	SenderMAC, TargetMAC net.HardwareAddr
	SenderIP, TargetIP   netip.Addr
}

func (w *walk) arp(start, end int) {
	const size = 28
	if w.short("arp", start, end, 8) {
		return
	}
	b := w.data[start:]
	if hw, proto := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]); hw != 1 || proto != uint16(TypeIPv4) || b[4] != 6 || b[5] != 4 {
		w.fail("arp: hardware type %d, protocol type %#04x: not IPv4 over Ethernet: %w", hw, proto, ErrMalformed)
		w.payload(start, end)
		return
	}
	if w.short("arp", start, end, size) {
		return
	}
	w.add(ARP{
		Span:      Span{start, start + size, start + size},
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: net.HardwareAddr(b[8:14:14]), SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: net.HardwareAddr(b[18:24:24]), TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
	})
}
