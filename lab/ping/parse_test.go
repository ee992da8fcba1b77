package ping

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// packet is an IPv4 header (20 bytes, TTL 61, protocol 1) with body.
func packet(body ...byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 61, 1
	return append(h, body...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	const id = 0x1234
	request := packet(8, 0, 0, 0, 0x12, 0x34, 0, 7)
	tests := []struct {
		name string
		in   []byte
		seq  uint16
		ttl  int
		lost string
		ok   bool
	}{
		{"an answer", packet(0, 0, 0, 0, 0x12, 0x34, 0, 7, 'x'), 7, 61, "", true},
		{"another pinger's answer", packet(0, 0, 0, 0, 0x12, 0x35, 0, 7), 0, 0, "", false},
		{"a request", request, 0, 0, "", false},
		{"no route", packet(append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, request...)...), 7, 61, "destination net unreachable", true},
		{"too big", packet(append([]byte{3, 4, 0, 0, 0, 0, 5, 170}, request...)...), 7, 61, "fragmentation needed, mtu 1450", true},
		{"filtered", packet(append([]byte{3, 13, 0, 0, 0, 0, 0, 0}, request...)...), 7, 61, "packet filtered", true},
		{"expired", packet(append([]byte{11, 0, 0, 0, 0, 0, 0, 0}, request...)...), 7, 61, "time to live exceeded", true},
		{"an error about somebody else's packet", packet(append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, packet(8, 0, 0, 0, 9, 9, 0, 7)...)...), 0, 0, "", false},
		{"an error with a quote cut short", packet(append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, request[:24]...)...), 0, 0, "", false},
		{"cut short", packet(0, 0, 0), 0, 0, "", false},
		{"not IPv4", []byte{0x60, 0, 0}, 0, 0, "", false},
		{"a header longer than the packet", append([]byte{0x4f}, make([]byte, 30)...), 0, 0, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seq, a, ok := parse(tt.in, id)
			if ok != tt.ok || ok && (seq != tt.seq || a.ttl != tt.ttl || a.lost != tt.lost) {
				t.Errorf("parse() = %d, ttl %d, %q, %v; want %d, ttl %d, %q, %v", seq, a.ttl, a.lost, ok, tt.seq, tt.ttl, tt.lost, tt.ok)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet(0, 0, 0, 0, 0x12, 0x34, 0, 7))
	f.Add(packet(append([]byte{3, 4, 0, 0, 0, 0, 5, 170}, packet(8, 0, 0, 0, 0x12, 0x34, 0, 7)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, a, ok := parse(b, 0x1234); ok && a.ttl > 255 {
			t.Errorf("parse(%x): ttl %d", b, a.ttl)
		}
	})
}

func TestResultJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(Result{To: netip.MustParseAddr("10.0.0.1"), RTT: 1234567 * time.Nanosecond, Size: 56})
	if err != nil {
		t.Fatal(err)
	}
	if want := `"rttMs":1.234`; !strings.Contains(string(b), want) || strings.Contains(string(b), "from") {
		t.Errorf("json = %s, want it with %s and without from", b, want)
	}
}
