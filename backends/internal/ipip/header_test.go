package ipip

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// inner is an IPv4 packet with a good checksum.
func inner(tos, ttl, flags byte, data ...byte) []byte {
	p := append([]byte{
		0x45, tos, 0, 0, 0, 7, flags, 0, ttl, 253, 0, 0,
		10, 244, 1, 2, 10, 244, 2, 2,
	}, data...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[10:], ^onesSum(p[:20], 0))
	return p
}

// onesSum is the sum of the internet checksum, as RFC 1071 tells it.
func onesSum(b []byte, s uint32) uint16 {
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

var from, to = [4]byte{192, 168, 50, 1}, [4]byte{192, 168, 50, 2}

// What the kernel's tunl0 writes: ttl inherit, nopmtudisc, tos 0 but for ECN.
func TestPut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                string
		packet              []byte
		tos, flags, ttl, of byte // of: length
	}{
		{"plain", inner(0, 63, 0, 1, 2, 3), 0, 0, 63, 43},
		{"don't fragment", inner(0, 1, dontFragment), 0, dontFragment, 1, 40},
		{"a type of service stays inside, ECN does not", inner(0xb8|2, 64, 0), 2, 0, 64, 40},
		{"congestion that was experienced inside", inner(3, 64, 0), 2, 0, 64, 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Repeat([]byte{0xff}, 24)
			header{from}.Put(b, to, tt.packet)
			want := []byte{0x45, tt.tos, 0, tt.of, 0, 0, tt.flags, 0, tt.ttl, 4, 0, 0, 192, 168, 50, 1, 192, 168, 50, 2, 0xff, 0xff, 0xff, 0xff}
			if !bytes.Equal(b, want) {
				t.Errorf("Put() = %x, want %x", b, want)
			}
			if n, ok := (header{from}).Strip(append(b[:20:20], tt.packet...)); n != 20 || !ok {
				t.Errorf("Strip() = %d, %v, want 20", n, ok)
			}
		})
	}
}

// wrapped is a message whose header somebody has changed.
func wrapped(packet []byte, change func(h []byte)) []byte {
	m := append(make([]byte, minHeader), packet...)
	header{from}.Put(m, to, packet)
	if change != nil {
		change(m)
	}
	return m
}

// alone is a header without a packet.
func alone(first byte) []byte {
	return append([]byte{first, 0, 0, 20, 0, 0, 0, 0, 64, 4}, make([]byte, 10)...)
}

func TestStrip(t *testing.T) {
	t.Parallel()
	packet := inner(2, 64, 0, 1, 2, 3)
	options := append([]byte{0x46, 0, 0, byte(24 + len(packet)), 0, 0, 0, 0, 64, 4, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 0}, packet...)
	for _, tt := range []struct {
		name    string
		message []byte
		n       int // 0: it is none
	}{
		{"whole", wrapped(packet, nil), 20},
		{"with options", options, 24},
		{"nothing inside", alone(0x45), 20},
		{"empty", nil, 0},
		{"short", wrapped(packet, nil)[:19], 0},
		{"IPv6", wrapped(packet, func(h []byte) { h[0] = 0x65 }), 0},
		{"a header that is too short", wrapped(packet, func(h []byte) { h[0] = 0x44 }), 0},
		{"a header that is longer than all", alone(0x4f), 0},
		{"another protocol", wrapped(packet, func(h []byte) { h[9] = 41 }), 0},
		{"another length", wrapped(packet, func(h []byte) { h[3]-- }), 0},
		{"a fragment", wrapped(packet, func(h []byte) { h[6] = 0x20 }), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if n, ok := (header{}).Strip(tt.message); ok != (tt.n > 0) || ok && n != tt.n {
				t.Errorf("Strip(%x) = %d, %v, want %d", tt.message, n, ok, tt.n)
			}
		})
	}
}

// RFC 6040: congestion on the way is told to a sender that listens, by the
// packet; who does not listen learns it by the loss.
func TestCongestion(t *testing.T) {
	t.Parallel()
	congested := func(tos byte) ([]byte, bool) {
		m := wrapped(inner(tos, 64, 0, 1, 2, 3), func(h []byte) { h[1] |= ce })
		n, ok := header{}.Strip(m)
		return m[n:], ok
	}
	for _, tos := range []byte{1, 2, 3, 0xb9} {
		got, ok := congested(tos)
		if want := inner(tos|ce, 64, 0, 1, 2, 3); !ok || !bytes.Equal(got, want) {
			t.Errorf("type of service %#x: %x, %v, want %x", tos, got, ok, want)
		}
	}
	if got, ok := congested(0); ok {
		t.Errorf("a sender that does not listen: %x, want it dropped", got)
	}
}

// FuzzStrip holds what must be true whatever a raw socket gives: what is left is
// a part of it, and only the mark and the checksum of what is inside change.
func FuzzStrip(f *testing.F) {
	packet := inner(2, 64, 0, 1, 2, 3)
	f.Add(wrapped(packet, nil))
	f.Add(wrapped(packet, func(h []byte) { h[1] |= ce }))
	f.Add(wrapped(packet, func(h []byte) { h[0] = 0x4f }))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, message []byte) {
		was := bytes.Clone(message)
		n, ok := header{}.Strip(message)
		if ok && (n < minHeader || n > len(message)) {
			t.Fatalf("Strip(%x) = %d", was, n)
		}
		for i := range message {
			if mark := i == n+1 || i == n+10 || i == n+11; message[i] != was[i] && !(ok && mark) {
				t.Fatalf("Strip(%x) changed byte %d: %x", was, i, message)
			}
		}
		if ok && len(message) >= n+minHeader && message[n]>>4 == 4 && onesSum(was[n:n+20], 0) == 0xffff && onesSum(message[n:n+20], 0) != 0xffff {
			t.Errorf("Strip(%x): a good checksum became a bad one: %x", was, message)
		}
	})
}
