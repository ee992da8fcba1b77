package trace

import (
	"encoding/json"
	"testing"

	"golang.org/x/net/bpf"
	"labctl/lab/packet"
)

// FuzzRead looks for a trace's packets among any packets.
func FuzzRead(f *testing.F) {
	const mark, hi, lo = 0xee48, 0xee, 0x48
	ip := func(protocol byte, rest ...byte) []byte {
		return append([]byte{0: 0x45, 3: byte(20 + len(rest)), 8: 64, 9: protocol, 12: 10, 13: 244, 14: 1, 15: 2, 16: 10, 17: 244, 18: 2, 19: 2}, rest...)
	}
	for protocol, probe := range map[string][]byte{
		"icmp": ip(1, 8, 0, 0, 0, hi, lo, hi, lo, 'l', 'a', 'b'),
		"tcp":  ip(6, hi, lo, 0, 80, hi, lo, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0),
		"udp":  ip(17, hi, lo, 0, 80, 0, 11, 0, 0, hi, lo, 'l'),
	} {
		frame := append([]byte{12: 8, 13: 0}, probe...)
		f.Add(probe, protocol, uint16(mark), true)
		f.Add(frame, protocol, uint16(mark), false)
		f.Add(ip(1, append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, probe...)...), protocol, uint16(mark), true)
		f.Add(ip(4, probe...), protocol, uint16(mark), true)
		f.Add(ip(17, append([]byte{1, 1, 0x21, 0x18, 0, byte(16 + len(frame)), 0, 0, 8, 0, 0, 0, 0, 0, 1, 0}, frame...)...), protocol, uint16(mark), true)
		f.Add(ip(17, append([]byte{0x20, 0x5d, 0x20, 0x5d, 0, byte(8 + len(probe)), 0, 0}, probe...)...), protocol, uint16(mark), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, protocol string, mark uint16, bare bool) {
		mark &^= 1
		s := sender{Probe: Probe{Protocol: protocol, Port: 80}, mark: mark}
		frame, way, try, ok := s.read(packet.Tunnels(), sight{data: data, bare: bare, offloaded: len(data)%2 == 0})
		if ok && (way == "" || try < 0 || try > 1) {
			t.Errorf("way %q, try %d", way, try)
		}
		if _, err := json.Marshal(frame); err != nil {
			t.Error(err)
		}
		if frame.String() == "" {
			t.Error("no text")
		}
		_, _ = networkHeader(frame), transportHeader(frame) // that they do not panic
		for _, other := range []Frame{{}, {Inner: &Frame{}}, frame} {
			changes(other, frame)
			changes(frame, other)
		}
		if c := changes(frame, frame); len(c) > 0 {
			t.Errorf("unchanged, and yet %q", c)
		}
		if markOffsets[protocol] == nil {
			return
		}
		// The kernel's filter is given the same bytes.
		raw, err := marked(protocol, mark)
		if err != nil {
			t.Fatal(err)
		}
		program, all := bpf.Disassemble(raw)
		if !all {
			t.Fatal("the filter has instructions that nobody knows")
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Run(data); err != nil {
			t.Error(err)
		}
	})
}
