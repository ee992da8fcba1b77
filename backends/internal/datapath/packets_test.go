package datapath

import (
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// slowSum is the checksum as RFC 1071 tells it, over the bytes of all parts.
func slowSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var s uint32
	for i := 0; i < len(all); i += 2 {
		s += uint32(all[i])<<8 | uint32(all[i+1])
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// flow is what packets of one flow have in common.
type flow4 struct {
	src, dst     [4]byte
	sport, dport uint16
	options      []byte // TCP's
	ttl, tos     byte
	df           bool
	window       uint16
	ack          uint32
}

func (f flow4) ip(proto byte, id uint16, length int) []byte {
	h := make([]byte, 20)
	h[0], h[1], h[8], h[9] = 0x45, f.tos, f.ttl, proto
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	binary.BigEndian.PutUint16(h[4:], id)
	if f.df {
		h[6] = 0x40
	}
	copy(h[12:], f.src[:])
	copy(h[16:], f.dst[:])
	binary.BigEndian.PutUint16(h[10:], slowSum(h))
	return h
}

func (f flow4) pseudo(proto byte, length int) []byte {
	p := append(append([]byte{}, f.src[:]...), f.dst[:]...)
	return append(p, 0, proto, byte(length>>8), byte(length))
}

// tcp is a TCP packet, built slowly and plainly.
func (f flow4) tcp(id uint16, seq uint32, flags byte, data []byte) []byte {
	t := make([]byte, 20, 60)
	binary.BigEndian.PutUint16(t, f.sport)
	binary.BigEndian.PutUint16(t[2:], f.dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], f.ack)
	t[12], t[13] = byte(20+len(f.options))/4<<4, flags
	binary.BigEndian.PutUint16(t[14:], f.window)
	t = append(t, f.options...)
	binary.BigEndian.PutUint16(t[16:], slowSum(f.pseudo(protoTCP, len(t)+len(data)), t, data))
	return append(append(f.ip(protoTCP, id, 20+len(t)+len(data)), t...), data...)
}

func (f flow4) udp(id uint16, data []byte) []byte {
	u := make([]byte, 8)
	binary.BigEndian.PutUint16(u, f.sport)
	binary.BigEndian.PutUint16(u[2:], f.dport)
	binary.BigEndian.PutUint16(u[4:], uint16(8+len(data)))
	c := slowSum(f.pseudo(protoUDP, 8+len(data)), u, data)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(u[6:], c)
	return append(append(f.ip(protoUDP, id, 28+len(data)), u...), data...)
}

// partial puts the pseudo header's sum where the checksum will be, which is how
// the kernel hands over packets whose checksum hardware was to compute.
func (f flow4) partial(pkt []byte, field int) {
	proto := pkt[9]
	binary.BigEndian.PutUint16(pkt[field:], ^slowSum(f.pseudo(proto, len(pkt)-20)))
}

func drawFlow(t *rapid.T) flow4 {
	return flow4{
		src: [4]byte{10, 244, 1, rapid.Byte().Draw(t, "src")}, dst: [4]byte{10, 244, 2, 2},
		sport: rapid.Uint16().Draw(t, "sport"), dport: rapid.SampledFrom([]uint16{80, 5201}).Draw(t, "dport"),
		options: make([]byte, rapid.IntRange(0, 10).Draw(t, "option words")*4),
		ttl:     rapid.Byte().Draw(t, "ttl"), tos: rapid.SampledFrom([]byte{0, 0x10}).Draw(t, "tos"), df: rapid.Bool().Draw(t, "df"),
		window: rapid.Uint16().Draw(t, "window"), ack: rapid.Uint32().Draw(t, "ack"),
	}
}

func drawData(t *rapid.T, most int) []byte {
	n := rapid.IntRange(1, most).Draw(t, "length")
	seed := rapid.Uint64().Draw(t, "seed")
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	return b
}

func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawData(t, 300)
		if rapid.Bool().Draw(t, "ones") {
			for i := range b {
				b[i] = 0xff
			}
		}
		cut := rapid.IntRange(0, len(b)/2).Draw(t, "cut") * 2
		got := ^fold(sum(b[cut:], sum(b[:cut], 0)))
		if want := slowSum(b); got>>8|got<<8 != want {
			t.Fatalf("sum = %04x, want %04x", got>>8|got<<8, want)
		}
	})
}

func TestDecrementTTL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFlow(t)
		f.ttl = max(f.ttl, 1)
		id := rapid.Uint16().Draw(t, "id")
		got := f.ip(protoTCP, id, 40)
		decrementTTL(got)
		f.ttl--
		if want := f.ip(protoTCP, id, 40); string(got) != string(want) {
			t.Fatalf("header = %x, want %x", got, want)
		}
	})
}

// Cutting makes what plain code makes: that is also what the kernel would.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFlow(t)
		size := rapid.IntRange(1, 1500).Draw(t, "size")
		data := drawData(t, min(65000, 50*size))
		id, seq := rapid.Uint16().Draw(t, "id"), rapid.Uint32().Draw(t, "seq")
		flags := byte(tcpACK) | rapid.SampledFrom([]byte{0, tcpPSH, tcpFIN | tcpPSH, tcpECE, tcpCWR}).Draw(t, "flags")
		h := vnetHeader{size: uint16(size), flags: needsChecksum}
		var pkt []byte
		tcp := rapid.Bool().Draw(t, "tcp")
		if tcp {
			h.gso = gsoTCP4
			pkt = f.tcp(id, seq, flags, data)
			f.partial(pkt, 36)
		} else {
			h.gso = gsoUDP
			pkt = f.udp(id, data)
			f.partial(pkt, 26)
		}
		s, ok := newSplit(pkt, h)
		if !ok {
			t.Fatal("newSplit refuses a good packet")
		}
		for at := 0; at < len(data); at += size {
			part := data[at:min(at+size, len(data))]
			var want []byte
			if tcp {
				fl := flags
				if at > 0 {
					fl &^= tcpCWR
				}
				if at+len(part) < len(data) {
					fl &^= tcpFIN | tcpPSH
				}
				want = f.tcp(id, seq+uint32(at), fl, part)
			} else {
				want = f.udp(id, part)
			}
			got := make([]byte, s.next())
			s.put(got)
			if string(got) != string(want) {
				t.Fatalf("at %d:\n%x, want\n%x", at, got, want)
			}
			id++
		}
		if n := s.next(); n != 0 {
			t.Fatalf("%d bytes more", n)
		}
	})
}

// expand is what the kernel makes of what a merger writes.
func expand(t *rapid.T, pkt []byte, count int, h vnetHeader) [][]byte {
	if h.gso == 0 {
		return [][]byte{append([]byte(nil), pkt...)}
	}
	// What is still to be computed begins with the pseudo header's sum.
	at := 36
	if h.gso == gsoUDP {
		at = 26
	}
	f := flow4{src: [4]byte(pkt[12:16]), dst: [4]byte(pkt[16:20])}
	if c, want := binary.BigEndian.Uint16(pkt[at:]), ^slowSum(f.pseudo(pkt[9], len(pkt)-20)); h.flags != needsChecksum || c != want && c^want != 0xffff {
		t.Fatalf("the whole has flags %d and the sum %04x, want %04x", h.flags, c, want)
	}
	s, ok := newSplit(append([]byte(nil), pkt...), h)
	if !ok {
		t.Fatal("the merged packet is not what its header says")
	}
	var out [][]byte
	for n := s.next(); n > 0; n = s.next() {
		p := make([]byte, n)
		s.put(p)
		out = append(out, p)
	}
	if len(out) != count {
		t.Fatalf("%d packets, want %d", len(out), count)
	}
	return out
}

// drawPackets is what several hosts' flows may look like on arrival: mostly in
// order, now and then not.
func drawPackets(t *rapid.T) (packets [][]byte) {
	flows := rapid.IntRange(1, 2).Draw(t, "flows")
	for range flows {
		f := drawFlow(t)
		id, seq := rapid.Uint16().Draw(t, "id"), rapid.Uint32().Draw(t, "seq")
		size := rapid.IntRange(1, 100).Draw(t, "size")
		tcp := rapid.Bool().Draw(t, "tcp")
		for range rapid.IntRange(1, 20).Draw(t, "packets") {
			data := drawData(t, size)
			if rapid.IntRange(0, 4).Draw(t, "short") > 0 {
				data = make([]byte, size)
				data[0] = byte(id)
			}
			flags := byte(tcpACK)
			switch rapid.IntRange(0, 12).Draw(t, "odd") {
			case 0:
				flags |= rapid.Byte().Draw(t, "flags")
			case 1:
				id += 7
			case 2:
				seq += 99
			case 3:
				f.ttl++
			case 4:
				f.window++
			}
			var p []byte
			if tcp {
				p = f.tcp(id, seq, flags, data)
			} else {
				p = f.udp(id, data)
			}
			if rapid.IntRange(0, 30).Draw(t, "broken header") == 0 {
				p[10] ^= 1
			}
			packets = append(packets, p)
			id++
			seq += uint32(len(data))
		}
	}
	return packets
}

// Merged and cut again, packets are what they were, bit by bit; also where the
// kernel refuses merged ones.
func TestMerge(t *testing.T) {
	merged := 0
	rapid.Check(t, func(t *rapid.T) {
		packets := drawPackets(t)
		refuse := rapid.IntRange(0, 5).Draw(t, "refuse") == 0
		var got [][]byte
		m := merger{write: func(slot []byte, start, end, count int, h vnetHeader) error {
			if count > 1 && refuse {
				return errors.ErrUnsupported
			}
			if count > 1 {
				merged++
			}
			h.put(slot[start-vnetLen:]) // it may overwrite what is before
			got = append(got, expand(t, slot[start:end], count, h)...)
			return nil
		}}
		slot := make([]byte, 1<<17)
		at := headroom
		for _, p := range packets {
			copy(slot[at:], p)
			at += len(p)
		}
		at = headroom
		for _, p := range packets {
			m.add(slot, at, len(p))
			at += len(p)
		}
		m.flush()
		if len(got) != len(packets) {
			t.Fatalf("%d packets, want %d", len(got), len(packets))
		}
		for i := range got {
			if string(got[i]) != string(packets[i]) {
				t.Fatalf("packet %d:\n%x, want\n%x", i, got[i], packets[i])
			}
		}
	})
	if merged == 0 {
		t.Error("nothing was ever merged")
	}
}
