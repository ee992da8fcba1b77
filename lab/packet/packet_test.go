package packet

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var cmpAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func eth(typ EtherType, body ...byte) []byte {
	b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	return append(binary.BigEndian.AppendUint16(b, uint16(typ)), body...)
}

func v4(proto Protocol, src, dst string, body ...byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, byte(proto)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(b[4:], 0x1234)
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	return append(b, body...)
}

// fragmented sets the flags and the offset (in bytes) of an IPv4 packet.
func fragmented(flags byte, offset int, b []byte) []byte {
	binary.BigEndian.PutUint16(b[6:], uint16(flags)<<13|uint16(offset/8))
	return b
}

func v6(proto Protocol, src, dst string, body ...byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, byte(proto), 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], netip.MustParseAddr(src).AsSlice())
	copy(b[24:], netip.MustParseAddr(dst).AsSlice())
	return append(b, body...)
}

func udp(src, dst uint16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	return append(append(b, 0, 0), body...)
}

func tcp(src, dst uint16, f TCPFlags, body ...byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint32(b[4:], 1000)
	binary.BigEndian.PutUint32(b[8:], 2000)
	b[12], b[13] = 5<<4, byte(f)
	binary.BigEndian.PutUint16(b[14:], 502)
	return append(b, body...)
}

func echo(typ byte, seq uint16) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{typ, 0, 0, 0, 0, 7}, seq), "payload!"...)
}

func vxlan(vni byte, frame []byte) []byte { return append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, frame...) }

func arp(op byte, sender, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op, 2, 0, 0, 0, 0, 1}
	b = append(b, netip.MustParseAddr(sender).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, netip.MustParseAddr(target).AsSlice()...)
}

const a, b, n1, n2 = "10.244.1.2", "10.244.2.2", "192.168.50.1", "192.168.50.2"

// samples are the packets of a lab, with what is printed of them.
func samples() []struct {
	name string
	link LinkType
	data []byte
	want string
} {
	ping := v4(ProtoICMP, a, b, echo(EchoRequest, 3)...)
	return []struct {
		name string
		link LinkType
		data []byte
		want string
	}{
		{"ping", LinkEthernet, eth(TypeIPv4, ping...), "IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"ping on a TUN device", LinkRaw, ping, "IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"pong", LinkRaw, v4(ProtoICMP, b, a, echo(EchoReply, 3)...), "IP 10.244.2.2 > 10.244.1.2: ICMP echo reply, id 7, seq 3, length 16"},
		{"vxlan", LinkEthernet, eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(40001, 8472, vxlan(1, eth(TypeIPv4, ping...))...)...)...),
			"IP 192.168.50.1.40001 > 192.168.50.2.8472: VXLAN, flags [I] (0x08), vni 1: IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"vxlan, IANA's port", LinkEthernet, eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(40001, 4789, vxlan(9, eth(TypeARP, arp(1, a, b)...))...)...)...),
			"IP 192.168.50.1.40001 > 192.168.50.2.4789: VXLAN, flags [I] (0x08), vni 9: ARP, Request who-has 10.244.2.2 tell 10.244.1.2, length 28"},
		{"flannel's udp", LinkEthernet, eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(8285, 8285, ping...)...)...),
			"IP 192.168.50.1.8285 > 192.168.50.2.8285: flannel: IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"not flannel's, though on its port", LinkEthernet, eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(8285, 8285, 1, 2, 3)...)...),
			"IP 192.168.50.1.8285 > 192.168.50.2.8285: UDP, length 3"},
		{"ipip", LinkEthernet, eth(TypeIPv4, v4(ProtoIPIP, n1, n2, ping...)...),
			"IP 192.168.50.1 > 192.168.50.2: IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"arp reply", LinkEthernet, eth(TypeARP, arp(2, a, b)...), "ARP, Reply 10.244.1.2 is-at 02:00:00:00:00:01, length 28"},
		{"gratuitous arp", LinkEthernet, eth(TypeARP, arp(1, a, a)...), "ARP, Announcement 10.244.1.2, length 28"},
		{"vlan", LinkEthernet, eth(TypeVLAN, append([]byte{0x20, 5, 8, 0}, ping...)...), "IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{"udp", LinkRaw, v4(ProtoUDP, a, b, udp(5000, 53, 1, 2, 3)...), "IP 10.244.1.2.5000 > 10.244.2.2.53: UDP, length 3"},
		{"syn", LinkRaw, v4(ProtoTCP, a, b, tcp(5000, 80, SYN)...), "IP 10.244.1.2.5000 > 10.244.2.2.80: Flags [S], seq 1000, win 502, length 0"},
		{"data", LinkRaw, v4(ProtoTCP, a, b, tcp(5000, 80, PSH|ACK, 1, 2, 3)...), "IP 10.244.1.2.5000 > 10.244.2.2.80: Flags [P.], seq 1000:1003, ack 2000, win 502, length 3"},
		{"port unreachable", LinkRaw, v4(ProtoICMP, b, a, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, v4(ProtoUDP, a, b, udp(5000, 33434, 1)...)...)...),
			"IP 10.244.2.2 > 10.244.1.2: ICMP 10.244.2.2 udp port 33434 unreachable, length 37"},
		{"fragmentation needed", LinkRaw, v4(ProtoICMP, n1, a, append([]byte{3, 4, 0, 0, 0, 0, 5, 170}, ping[:28]...)...),
			"IP 192.168.50.1 > 10.244.1.2: ICMP 10.244.2.2 unreachable - need to frag (mtu 1450), length 36"},
		{"time exceeded", LinkRaw, v4(ProtoICMP, n1, a, append([]byte{11, 0, 0, 0, 0, 0, 0, 0}, ping[:28]...)...),
			"IP 192.168.50.1 > 10.244.1.2: ICMP time exceeded in-transit, length 36"},
		{"first fragment", LinkRaw, fragmented(1, 0, v4(ProtoUDP, a, b, append([]byte{19, 136, 0, 53, 8, 0, 0, 0}, make([]byte, 8)...)...)),
			"IP 10.244.1.2.5000 > 10.244.2.2.53: UDP, length 2040"},
		{"second fragment", LinkRaw, fragmented(0, 1480, v4(ProtoUDP, a, b, make([]byte, 12)...)),
			"IP 10.244.1.2 > 10.244.2.2: UDP, fragment at 1480, length 12"},
		{"igmp", LinkRaw, v4(ProtoIGMP, a, b, make([]byte, 8)...), "IP 10.244.1.2 > 10.244.2.2: IGMP, length 8"},
		{"ping 6", LinkEthernet, eth(TypeIPv6, v6(ProtoICMPv6, "fd00::1", "fd00::2", echo(EchoRequestV6, 3)...)...),
			"IP6 fd00::1 > fd00::2: ICMP6, echo request, id 7, seq 3, length 16"},
		{"udp 6 behind extensions", LinkRaw, v6(0, "fd00::1", "fd00::2", append([]byte{60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0}, udp(1, 2, 3)...)...),
			"IP6 fd00::1.1 > fd00::2.2: UDP, length 1"},
		{"unknown protocol", LinkEthernet, eth(0x88cc, 1, 2), "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype Unknown (0x88cc), length 16"},
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for _, tt := range samples() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := Decode(tt.link, tt.data)
			if p.Err != nil {
				t.Errorf("Decode(%x): %v", tt.data, p.Err)
			}
			if got := p.String(); got != tt.want {
				t.Errorf("line = %s\nwant   %s", got, tt.want)
			}
		})
	}
}

func TestLineStyles(t *testing.T) {
	t.Parallel()
	p := Decode(LinkEthernet, eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(40001, 8472, vxlan(1, eth(TypeIPv4, v4(ProtoICMP, a, b, echo(EchoRequest, 3)...)...))...)...)...))
	for _, tt := range []struct {
		style Style
		want  string
	}{
		{Style{Link: true}, "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype IPv4 (0x0800), length 100: 192.168.50.1.40001 > 192.168.50.2.8472: VXLAN, flags [I] (0x08), vni 1: " +
			"02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype IPv4 (0x0800), length 50: 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
		{Style{Verbose: true}, "IP (tos 0x0, ttl 64, id 4660, offset 0, flags [none], proto UDP (17), length 86) 192.168.50.1.40001 > 192.168.50.2.8472: VXLAN, flags [I] (0x08), vni 1: " +
			"IP (tos 0x0, ttl 64, id 4660, offset 0, flags [none], proto ICMP (1), length 36) 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 16"},
	} {
		if got := p.Line(tt.style); got != tt.want {
			t.Errorf("Line(%+v) = %s\nwant %s", tt.style, got, tt.want)
		}
	}
}

// Every layer knows its place, and the innermost ends where the payload does.
func TestLayers(t *testing.T) {
	t.Parallel()
	inner := v4(ProtoICMP, a, b, echo(EchoRequest, 3)...)
	data := eth(TypeIPv4, v4(ProtoUDP, n1, n2, udp(40001, 8472, vxlan(1, eth(TypeIPv4, inner...))...)...)...)
	data = append(data, 0, 0, 0, 0) // padding
	got := Decode(LinkEthernet, data)
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	outer := Ethernet{Span{0, 14, 104}, mac("02:00:00:00:00:02"), mac("02:00:00:00:00:01"), TypeIPv4}
	want := []Layer{
		outer,
		IPv4{Span: Span{14, 34, 100}, Src: netip.MustParseAddr(n1), Dst: netip.MustParseAddr(n2), TTL: 64, Protocol: ProtoUDP, ID: 0x1234, Len: 86},
		UDP{Span{34, 42, 100}, 40001, 8472, 66},
		VXLAN{Span{42, 50, 100}, 1},
		Ethernet{Span{50, 64, 100}, outer.Dst, outer.Src, TypeIPv4},
		IPv4{Span: Span{64, 84, 100}, Src: netip.MustParseAddr(a), Dst: netip.MustParseAddr(b), TTL: 64, Protocol: ProtoICMP, ID: 0x1234, Len: 36},
		ICMP{Span: Span{84, 92, 100}, Version: 4, Type: EchoRequest, ID: 7, Seq: 3},
		Payload{Span{92, 92, 100}},
	}
	if d := cmp.Diff(want, got.Layers, cmpAddrs); d != "" {
		t.Errorf("layers (-want +got):\n%s", d)
	}
	if got, want := string(got.Payload()), "payload!"; got != want {
		t.Errorf("payload = %q, want %q", got, want)
	}
	if h, ok := First[IPv4](got); !ok || h.Dst.String() != n2 {
		t.Errorf("First[IPv4] = %v, %v, want the outer header", h, ok)
	}
	h, ok := Last[IPv4](got)
	if !ok || h.Dst.String() != b {
		t.Errorf("Last[IPv4] = %v, %v, want the inner header", h, ok)
	}
	if d := cmp.Diff(inner[:20], got.Header(h)); d != "" {
		t.Errorf("header of the inner packet (-want +got):\n%s", d)
	}
	if _, ok := Last[TCP](got); ok {
		t.Error("Last[TCP] found one")
	}
}

func TestQuoted(t *testing.T) {
	t.Parallel()
	quoted := v4(ProtoTCP, a, b, tcp(5000, 80, SYN)...)[:28]
	p := Decode(LinkRaw, v4(ProtoICMP, n1, a, append([]byte{3, 4, 0, 0, 0, 0, 5, 170}, quoted...)...))
	m, ok := Last[ICMP](p)
	if !ok || m.MTU != 1450 || len(m.Quoted) != 2 {
		t.Fatalf("icmp = %+v, want mtu 1450 and two layers quoted", m)
	}
	tc, ok := m.Quoted[1].(TCP)
	if !ok || tc.SrcPort != 5000 || tc.DstPort != 80 || tc.Seq != 1000 {
		t.Errorf("quoted = %+v, want ports 5000 and 80, seq 1000", m.Quoted[1])
	}
	if ip, ok := Last[IPv4](p); !ok || ip.Src.String() != n1 {
		t.Errorf("Last[IPv4] = %v, want the error's own header", ip)
	}
}

// What is cut short gives the layers before the cut, and says so.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for _, tt := range samples() {
		whole := Decode(tt.link, tt.data)
		for n := range tt.data {
			p := Decode(tt.link, tt.data[:n])
			if len(p.Layers) > len(whole.Layers) {
				t.Errorf("%s, %d of %d bytes: %d layers, more than the whole has", tt.name, n, len(tt.data), len(p.Layers))
			}
			if p.Err == nil && tt.name != "unknown protocol" && n < len(tt.data) {
				t.Errorf("%s, %d of %d bytes: no error", tt.name, n, len(tt.data))
			}
			if p.Err != nil && !errors.Is(p.Err, ErrTruncated) {
				t.Errorf("%s, %d of %d bytes: %v, want truncated", tt.name, n, len(tt.data), p.Err)
			}
		}
	}
	p := Decode(LinkRaw, v4(ProtoICMP, a, b, echo(EchoRequest, 3)...)[:30])
	const want = "IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 7, seq 3, length 10 [ipv4: 30 of 36 bytes: truncated]"
	if got := p.String(); got != want {
		t.Errorf("line = %s\nwant   %s", got, want)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	ping := v4(ProtoICMP, a, b, echo(EchoRequest, 3)...)
	with := func(i int, v byte) []byte {
		b := append([]byte(nil), ping...)
		b[i] = v
		return b
	}
	short := udp(1, 2, 3)
	short[5] = 7
	bad := tcp(1, 2, ACK)
	bad[12] = 4 << 4
	for _, tt := range []struct {
		name string
		link LinkType
		data []byte
	}{
		{"version", LinkRaw, with(0, 0x95)},
		{"header of 16 bytes", LinkRaw, with(0, 0x44)},
		{"total shorter than the header", LinkRaw, with(3, 19)},
		{"udp length", LinkRaw, v4(ProtoUDP, a, b, short...)},
		{"tcp header", LinkRaw, v4(ProtoTCP, a, b, bad...)},
		{"arp of another network", LinkEthernet, eth(TypeARP, make([]byte, 28)...)},
		{"link type", 147, ping},
	} {
		if p := Decode(tt.link, tt.data); !errors.Is(p.Err, ErrMalformed) {
			t.Errorf("%s: %v, want malformed", tt.name, p.Err)
		}
	}
}

// Tunnels within tunnels end somewhere.
func TestNested(t *testing.T) {
	t.Parallel()
	data := v4(ProtoICMP, a, b, echo(EchoRequest, 1)...)
	for range 2 * maxLayers {
		data = v4(ProtoIPIP, n1, n2, data...)
	}
	p := Decode(LinkRaw, data)
	if len(p.Layers) != maxLayers || !errors.Is(p.Err, ErrMalformed) {
		t.Errorf("%d layers, %v; want %d and malformed", len(p.Layers), p.Err, maxLayers)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		f.Add(uint16(s.link), s.data)
		f.Add(uint16(s.link), s.data[:len(s.data)/2])
	}
	seed, err := hex.DecodeString("6000000000082c40fd000000000000000000000000000001fd0000000000000000000000000000021100000100000001")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(LinkRaw), seed)
	f.Fuzz(func(t *testing.T, link uint16, data []byte) {
		p := Decode(LinkType(link), data)
		end := len(data)
		at := 0
		for _, l := range p.Layers {
			s := l.Where()
			if s.Start < at || s.Payload < s.Start || s.End < s.Payload || s.End > end {
				t.Errorf("%T at %+v, outside of what it follows: [%d,%d)", l, s, at, end)
			}
			at, end = s.Payload, s.End
			_, _ = p.Header(l), p.Body(l)
		}
		if len(p.Layers) > maxLayers {
			t.Errorf("%d layers", len(p.Layers))
		}
		p.Line(Style{})
		p.Line(Style{Link: true, Verbose: true})
	})
}
