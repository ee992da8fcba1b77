package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"labctl/lab/packet"
)

// What is accepted of tcpdump's is what it printed.
func FuzzParseProgram(f *testing.F) {
	f.Add("2\n40 0 0 12\n6 0 0 262144\n")
	f.Add("1\n6 0 0 4294967295\n")
	f.Add("1\n06 +0 0x0 -1")
	f.Fuzz(func(t *testing.T, text string) {
		program, err := parseProgram(text)
		if err != nil {
			return
		}
		if len(program) == 0 || len(program) > longestProgram {
			t.Fatalf("%d instructions of %q", len(program), text)
		}
		var again strings.Builder
		fmt.Fprintln(&again, len(program))
		for _, i := range program {
			fmt.Fprintln(&again, i.Code, i.Jt, i.Jf, i.K)
		}
		if second, err := parseProgram(again.String()); err != nil || !slices.Equal(second, program) {
			t.Errorf("%q is %v, and that %v, %v", text, program, second, err)
		}
	})
}

// newLink is a RTM_NEWLINK message as the kernel writes it.
func newLink(attrs ...[]byte) []byte {
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(body[2:], unix.ARPHRD_ETHER)
	body = append(body, bytes.Join(attrs, nil)...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_NEWLINK)
	return append(append(b, make([]byte, 10)...), body...)
}

func attr(kind uint16, value string) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func FuzzParseLinks(f *testing.F) {
	f.Add(newLink(attr(unix.IFLA_IFNAME, "eth0\x00"), attr(unix.IFLA_MTU, "\xdc\x05\x00\x00"), attr(unix.IFLA_ADDRESS, "\x02\x00\x00\x00\x00\x01"), attr(unix.IFLA_QDISC, "noqueue\x00")))
	f.Add(newLink(attr(unix.IFLA_MTU, "\x01"), attr(unix.IFLA_MASTER, "")))
	f.Add(newLink()[:unix.SizeofNlMsghdr])
	f.Add(append([]byte{20, 0, 0, 0, byte(unix.RTM_NEWLINK), 0}, make([]byte, 14)...)) // shorter than its header
	f.Fuzz(func(t *testing.T, datagram []byte) {
		datagram = append(datagram, make([]byte, -len(datagram)&3)...) // the kernel pads, and package syscall relies on it
		found, _, err := parseLinks(datagram)
		if err != nil && found != nil {
			t.Errorf("%v, and %v", found, err)
		}
		for _, i := range found {
			_ = i.Aggregate(Packet{Len: 1}) // that it does not panic
			if strings.HasSuffix(i.Name, "\x00") {
				t.Errorf("name %q", i.Name)
			}
		}
	})
}

// FuzzRead reads a block of packets with anything in them. How they lie in it is
// as the kernel lays them out: it alone can write there.
func FuzzRead(f *testing.F) {
	f.Add([]byte("packet"), uint32(0), uint32(7), uint16(0x88a8), uint8(0), true, false)
	f.Add(make([]byte, 60), uint32(unix.TP_STATUS_VLAN_VALID|unix.TP_STATUS_VLAN_TPID_VALID), uint32(7), uint16(0x88a8), uint8(4), true, true)
	f.Add(make([]byte, 14), uint32(unix.TP_STATUS_VLAN_VALID), uint32(1<<20), uint16(0), uint8(4), true, false)
	f.Add(make([]byte, 13), uint32(unix.TP_STATUS_VLAN_VALID), uint32(0), uint16(0), uint8(255), false, false)
	f.Fuzz(func(t *testing.T, data []byte, status, vlan uint32, tpid uint16, typ uint8, ethernet, loop bool) {
		if len(data) > blockSize/4 {
			return
		}
		const first, header, packets = 48, 82, 2
		next := (header + len(data) + 15) &^ 15
		block := make([]byte, first+packets*next)
		put := binary.NativeEndian.PutUint32
		put(block[blockCount:], packets)
		put(block[blockFirst:], first)
		for i := range packets {
			h := block[first+i*next:]
			put(h[pktNext:], uint32(next))
			put(h[pktCaptured:], uint32(len(data)))
			put(h[pktLen:], uint32(len(data)+100))
			put(h[pktStatus:], status)
			put(h[pktVLAN:], vlan)
			binary.NativeEndian.PutUint16(h[pktTPID:], tpid)
			binary.NativeEndian.PutUint16(h[pktMAC:], header)
			h[pktType] = typ
			copy(h[header:], data)
		}
		r := ring{link: packet.LinkRaw, loop: loop}
		if ethernet {
			r.link = packet.LinkEthernet
		}
		got := r.read(block, nil, 3)
		if want := packets; len(got) != want && !(loop && Direction(typ) == Out && len(got) == 0) {
			t.Fatalf("%d packets, want %d", len(got), want)
		}
		for _, p := range got {
			added := len(p.Data) - len(data)
			if added != 0 && added != 4 || p.Len != len(data)+100+added || p.Interface != 3 {
				t.Fatalf("%+v of %d bytes", p, len(data))
			}
			if added == 0 && !bytes.Equal(p.Data, data) || added == 4 && !bytes.Equal(append(bytes.Clone(p.Data[:12]), p.Data[16:]...), data) {
				t.Errorf("%x became %x", data, p.Data)
			}
			packet.Tunnels().Decode(r.link, p.Data)
		}
	})
}
