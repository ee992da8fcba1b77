package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/packet"
)

// Probe is the packet to send.
type Probe struct {
	From string // an endpoint
	To   string // an endpoint or an address
	// Protocol is icmp (an echo request), tcp (a SYN) or udp; Port is for the last two.
	Protocol string
	Port     uint16
	Size     int // bytes after the ICMP, TCP or UDP header
	DF       bool
	Wait     time.Duration // for the answer, each of two tries
}

// tries is how often the packet is sent before it counts as lost.
const tries = 2

// sender sends one trace's probes.
type sender struct {
	Probe
	to   netip.Addr
	mark uint16 // even: of the first try; the second has the next
	file *os.File
	src  netip.Addr
}

// newSender opens the socket in the endpoint's namespace.
func newSender(ctx context.Context, c *lab.Client, p Probe, to netip.Addr) (*sender, error) {
	s := &sender{Probe: p, to: to}
	// Beyond what the kernel gives to clients (ip_local_port_range).
	s.mark = uint16(61000+rand.IntN(4000)) &^ 1
	typ, proto := unix.SOCK_RAW, unix.IPPROTO_ICMP
	switch p.Protocol {
	case "tcp":
		proto = unix.IPPROTO_TCP
	case "udp":
		proto = unix.IPPROTO_UDP
	}
	f, err := c.Socket(ctx, p.From, unix.AF_INET, typ, proto)
	if err != nil {
		return nil, err
	}
	s.file = f
	df := unix.IP_PMTUDISC_DONT
	if p.DF {
		df = unix.IP_PMTUDISC_PROBE
	}
	if err := unix.SetsockoptInt(int(f.Fd()), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, df); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: socket: %w", p.From, err)
	}
	return s, nil
}

// size is the whole IP packet's.
func (s *sender) size() int {
	n := 28 + s.Size
	if s.Protocol == "tcp" {
		n += 12
	}
	return n
}

// send sends one try. A refusal is what the sending kernel said instead.
func (s *sender) send(try int) (refusal, err error) {
	fd := int(s.file.Fd())
	sa := &unix.SockaddrInet4{Addr: s.to.As4()}
	mark := s.mark + uint16(try)
	payload := slices.Repeat([]byte("labctl trace "), s.Size/13+1)[:s.Size]
	var b []byte
	switch s.Protocol {
	case "tcp":
		b = make([]byte, 20, 20+s.Size)
		binary.BigEndian.PutUint16(b, mark)
		binary.BigEndian.PutUint16(b[2:], s.Port)
		binary.BigEndian.PutUint32(b[4:], uint32(mark)<<16) // what acknowledges it has the same upper half
		b[12], b[13] = 5<<4, 0x02                           // SYN
		binary.BigEndian.PutUint16(b[14:], 64240)
		b = append(b, payload...)
	case "udp":
		b = make([]byte, 8, 8+s.Size)
		binary.BigEndian.PutUint16(b, mark)
		binary.BigEndian.PutUint16(b[2:], s.Port)
		binary.BigEndian.PutUint16(b[4:], uint16(8+s.Size))
		if b = append(b, payload...); s.Size >= 2 {
			binary.BigEndian.PutUint16(b[8:], mark)
		}
	default:
		b = append([]byte{8, 0, 0, 0, 0, 0, 0, 0}, payload...)
		binary.BigEndian.PutUint16(b[4:], mark)
		binary.BigEndian.PutUint16(b[6:], mark)
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	// The kernel chooses the source address, which the checksum counts.
	err = unix.Connect(fd, sa)
	if err == nil && s.Protocol != "icmp" {
		var local unix.Sockaddr
		if local, err = unix.Getsockname(fd); err == nil {
			if in4, ok := local.(*unix.SockaddrInet4); ok {
				s.src = netip.AddrFrom4(in4.Addr)
			}
			at := map[string]int{"tcp": 16, "udp": 6}[s.Protocol]
			binary.BigEndian.PutUint16(b[at:], s.transportChecksum(b))
		}
	}
	if err == nil {
		err = unix.Send(fd, b, 0)
	}
	for _, e := range []unix.Errno{unix.EMSGSIZE, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EPERM, unix.EINVAL, unix.ENOBUFS, unix.EACCES, unix.ENETDOWN, unix.ENODEV} {
		if errors.Is(err, e) {
			return e, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: send to %s: %w", s.From, s.to, err)
	}
	return nil, nil
}

// transportChecksum counts the pseudo header of RFC 768 and 9293.
func (s *sender) transportChecksum(b []byte) uint16 {
	pseudo := append(s.src.AsSlice(), s.to.AsSlice()...)
	pseudo = append(pseudo, 0, map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[s.Protocol])
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	sum := checksum(append(pseudo, b...))
	if sum == 0 && s.Protocol == "udp" {
		return 0xffff
	}
	return sum
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// frame is the probe as it leaves the socket.
func (s *sender) frame() Frame {
	f := Frame{Src: s.src, Dst: s.to, TTL: 64, Len: s.size(), DF: s.DF, Protocol: s.Protocol, DstPort: s.Port}
	if s.Protocol == "icmp" {
		f.Kind = "echo request"
	} else {
		f.SrcPort = s.mark
	}
	return f
}

// read turns a sight into a frame, if it is one of the trace's.
func (s *sender) read(d packet.Decoder, x sight) (f Frame, way Way, try int, ok bool) {
	link := packet.LinkEthernet
	if x.bare {
		link = packet.LinkRaw
	}
	p := d.Decode(link, x.data)
	f, rest := frameOf(p.Layers)
	if x.offloaded {
		f.Checksum = "offloaded"
	}
	way, mark := s.recognise(f.innermost(), rest, p.Payload())
	if way == "" || mark&^1 != s.mark {
		return f, way, 0, false
	}
	return f, way, int(mark & 1), true
}

// recognise tells which of the trace's packets this is, and its mark.
func (s *sender) recognise(f *Frame, rest packet.Layer, payload []byte) (Way, uint16) {
	switch l := rest.(type) {
	case packet.ICMP:
		switch {
		case l.Error():
			quoted, inner := frameOf(l.Quoted)
			if way, mark := s.recognise(quoted.innermost(), inner, nil); way == Request {
				return Problem, mark
			}
		case s.Protocol == "icmp" && l.Request():
			return Request, l.Seq
		case s.Protocol == "icmp" && l.Reply():
			return Answer, l.Seq
		}
	case packet.TCP:
		// What follows the answer (the kernel's RST, as it knows of no
		// connection) is not part of the trace.
		switch {
		case s.Protocol != "tcp":
		case f.DstPort == s.Port && f.Kind != "reset":
			return Request, uint16(l.Seq >> 16)
		case f.SrcPort == s.Port && (f.Kind == "syn-ack" || f.Kind == "reset"):
			return Answer, uint16(l.Ack >> 16)
		}
	case packet.UDP:
		switch {
		case s.Protocol != "udp":
		case f.DstPort == s.Port && f.SrcPort&^1 == s.mark:
			return Request, f.SrcPort
		case f.DstPort == s.Port && len(payload) >= 2:
			return Request, binary.BigEndian.Uint16(payload)
		case f.DstPort&^1 == s.mark:
			return Answer, f.DstPort
		}
	}
	return "", 0
}

// frameOf turns layers into a Frame; rest is the innermost layer that is not
// payload.
func frameOf(layers []packet.Layer) (f Frame, rest packet.Layer) {
	at := &f
	tunnel := func(kind string, vni int) {
		at.Tunnel, at.VNI, at.Inner = kind, vni, &Frame{}
		at = at.Inner
	}
	seen := false // an IP header in the current frame
	for _, l := range layers {
		switch l := l.(type) {
		case packet.Ethernet:
			at.SrcMAC, at.DstMAC = l.Src.String(), l.Dst.String()
		case packet.IPv4:
			if seen {
				tunnel("ipip", 0)
			}
			at.Src, at.Dst, at.TTL, at.Len, at.DF, at.Fragment = l.Src, l.Dst, int(l.TTL), l.Len, l.DF, l.Fragment()
			at.Protocol = map[packet.Protocol]string{packet.ProtoICMP: "icmp", packet.ProtoTCP: "tcp", packet.ProtoUDP: "udp", packet.ProtoIPIP: "ipip"}[l.Protocol]
			seen = true
		case packet.ICMP:
			at.Kind = icmpKind(l)
		case packet.TCP:
			at.SrcPort, at.DstPort, at.Kind = l.SrcPort, l.DstPort, tcpKind(l)
		case packet.UDP:
			at.SrcPort, at.DstPort = l.SrcPort, l.DstPort
		case packet.VXLAN:
			tunnel("vxlan", int(l.VNI))
			seen = false
		case packet.Flannel:
			tunnel("udp", 0)
			seen = false
		case packet.Payload:
			continue
		}
		rest = l
	}
	return f, rest
}

func icmpKind(m packet.ICMP) string {
	switch {
	case m.Request():
		return "echo request"
	case m.Reply():
		return "echo reply"
	case m.Type == packet.TimeExceeded:
		return "time exceeded"
	case m.Type == packet.Redirect:
		return "redirect"
	case m.Type == packet.Unreachable && m.Code == packet.FragmentationNeeded:
		return fmt.Sprintf("fragmentation needed, mtu %d", m.MTU)
	case m.Type == packet.Unreachable:
		names := []string{"net unreachable", "host unreachable", "protocol unreachable", "port unreachable"}
		if int(m.Code) < len(names) {
			return names[m.Code]
		}
		if m.Code == 9 || m.Code == 10 || m.Code == 13 {
			return "administratively filtered"
		}
	}
	return fmt.Sprintf("type %d code %d", m.Type, m.Code)
}

func tcpKind(t packet.TCP) string {
	switch {
	case t.Flags&packet.RST != 0:
		return "reset"
	case t.Flags&packet.SYN != 0 && t.Flags&packet.ACK != 0:
		return "syn-ack"
	case t.Flags&packet.SYN != 0:
		return "syn"
	}
	return "segment"
}
