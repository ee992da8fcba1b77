package policy

import (
	"encoding/binary"
	"slices"
	"testing"

	"labctl/lab"
)

// FuzzEchoed looks for answers in whatever a raw socket gets.
func FuzzEchoed(f *testing.F) {
	f.Add([]byte{0: 0x45, 20: 0, 24: 0, 25: 7, 27: 1}, uint16(7))
	f.Add([]byte{0: 0x4f, 19: 0}, uint16(7))
	f.Add([]byte{0: 0x40, 4: 0, 5: 7, 27: 1}, uint16(7))
	f.Fuzz(func(t *testing.T, packet []byte, id uint16) {
		b := batch{flows: []Flow{
			{From: "node1.c1", Port: Port{Protocol: lab.ICMP}}, {From: "node1.c1", Port: Port{Protocol: lab.ICMP}},
			{From: "node2.c1", Port: Port{Protocol: lab.ICMP}}, {From: "node1.c1", Port: Port{Protocol: lab.TCP, Port: 80}},
		}}
		b.echoed("node1.c1", id, packet)
		answered := slices.IndexFunc(b.flows, func(f Flow) bool { return f.Actual })
		if answered < 0 {
			return
		}
		if header := int(packet[0]&0xf) * 4; answered > 1 || header < 20 || binary.BigEndian.Uint16(packet[header+4:]) != id {
			t.Errorf("%x answers flow %d", packet, answered)
		}
	})
}

// FuzzReadDecision reads the comments of rules, which may be anybody's.
func FuzzReadDecision(f *testing.F) {
	f.Add("policy db: Ingress rule 2 allows it")
	f.Add("policy db: no Egress rule allows it")
	f.Add("policy db: Ingress rule 0 allows it")
	f.Add("policy db: Ingress rule 99999999999999999999 denies it")
	f.Fuzz(func(t *testing.T, text string) {
		d, ok := ReadDecision(text)
		if !ok {
			return
		}
		if again, ok := ReadDecision(d.String()); !ok || again != d {
			t.Errorf("%q is %+v, and that %+v, %v", text, d, again, ok)
		}
	})
}
