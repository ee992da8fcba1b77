package datapath

import (
	"encoding/binary"
	"testing"
	"time"
)

func TestMayTell(t *testing.T) {
	f := flow4{src: [4]byte{10, 244, 1, 2}, dst: [4]byte{10, 244, 2, 2}, ttl: 9}
	icmp := func(typ byte) []byte { return append(f.ip(protoICMP, 1, 28), typ, 0, 0, 0, 0, 0, 0, 0) }
	from := func(src [4]byte) []byte { g := f; g.src = src; return g.udp(1, []byte("x")) }
	to := func(dst [4]byte) []byte { g := f; g.dst = dst; return g.udp(1, []byte("x")) }
	fragment := func(offset uint16) []byte {
		p := f.udp(1, []byte("x"))
		binary.BigEndian.PutUint16(p[6:], offset)
		return p
	}
	for name, tt := range map[string]struct {
		pkt  []byte
		want bool
	}{
		"UDP":                 {f.udp(1, []byte("x")), true},
		"echo request":        {icmp(8), true},
		"echo reply":          {icmp(0), true},
		"unreachable":         {icmp(3), false},
		"time exceeded":       {icmp(11), false},
		"redirect":            {icmp(5), false},
		"unknown ICMP":        {icmp(99), false},
		"cut ICMP":            {f.ip(protoICMP, 1, 20), false},
		"first fragment":      {fragment(0x2000), true},
		"later fragment":      {fragment(0x2001), false},
		"last fragment":       {fragment(0x0001), false},
		"from nobody":         {from([4]byte{}), false},
		"from loopback":       {from([4]byte{127, 0, 0, 1}), false},
		"from many":           {from([4]byte{224, 0, 0, 1}), false},
		"to many":             {to([4]byte{239, 1, 1, 1}), false},
		"to all":              {to([4]byte{255, 255, 255, 255}), false},
		"from reserved space": {from([4]byte{240, 0, 0, 1}), false},
	} {
		if got := mayTell(tt.pkt); got != tt.want {
			t.Errorf("%s: mayTell() = %t, want %t", name, got, tt.want)
		}
	}
}

func TestMessage(t *testing.T) {
	var r router
	f := flow4{src: [4]byte{10, 244, 1, 2}, dst: [4]byte{10, 244, 2, 2}, ttl: 9}
	for _, n := range []int{1, 1400} {
		pkt := f.udp(1, make([]byte, n))
		b := r.message(icmpUnreachable, icmpFragmentationNeeded, 1372, pkt)
		if slowSum(b) != 0 {
			t.Errorf("%d bytes: checksum is wrong", n)
		}
		if b[0] != 3 || b[1] != 4 || binary.BigEndian.Uint16(b[6:]) != 1372 || len(b) > 576-20 || string(b[8:]) != string(pkt[:len(b)-8]) || len(b) < 8+28 {
			t.Errorf("%d bytes: message = %x", n, b)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{rate: 10, burst: 3}
	now := time.Unix(1, 0)
	count := func() (n int) {
		for l.allow(now) {
			n++
		}
		return n
	}
	if n := count(); n != 3 {
		t.Errorf("%d at once, want 3", n)
	}
	now = now.Add(200 * time.Millisecond)
	if n := count(); n != 2 {
		t.Errorf("%d after 200 ms, want 2", n)
	}
	now = now.Add(time.Hour)
	if n := count(); n != 3 {
		t.Errorf("%d after an hour, want 3", n)
	}
}

// No bytes that the device or a peer could hand over make the parsers fail.
func FuzzPackets(f *testing.F) {
	g := flow4{src: [4]byte{10, 244, 1, 2}, dst: [4]byte{10, 244, 2, 2}, ttl: 9}
	f.Add([]byte{1, 1, 0, 0, 0, 100, 0, 20, 0, 16}, g.tcp(1, 1, tcpACK, make([]byte, 500)))
	f.Add([]byte{1, 5, 0, 0, 0, 100, 0, 20, 0, 6}, g.udp(1, make([]byte, 500)))
	f.Fuzz(func(t *testing.T, header, pkt []byte) {
		if len(header) < vnetLen || len(pkt) > 4096 || checkPacket(pkt) != accepted {
			return
		}
		m := merger{write: func(slot []byte, start, end, count int, h vnetHeader) error { return nil }}
		slot := append(make([]byte, headroom), append(pkt, pkt...)...)
		slot = append(slot, make([]byte, 4096)...)
		m.add(slot, headroom, len(pkt))
		m.add(slot, headroom+len(pkt), len(pkt))
		m.flush()
		mayTell(pkt)
		new(router).message(icmpExceeded, 0, 0, pkt)
		h := readVnet(header)
		finish(append([]byte(nil), pkt...), int(h.csumStart), int(h.csumOffset))
		if s, ok := newSplit(append([]byte(nil), pkt...), h); ok {
			total := 0
			for n := s.next(); n > 0; n = s.next() {
				d := make([]byte, n)
				s.put(d)
				total += n - s.headers
				if checkPacket(d) != accepted || !goodHeader(d) {
					t.Fatalf("%x is not a packet", d)
				}
			}
			if total != len(pkt)-s.headers {
				t.Fatalf("%d bytes of data, want %d", total, len(pkt)-s.headers)
			}
		}
	})
}
