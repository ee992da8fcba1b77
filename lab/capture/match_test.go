package capture

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"labctl/lab/packet"
	"labctl/nodes/nodestest"
)

// matchPackets are frames that differ in what Match looks at.
func matchPackets() map[string][]byte {
	vxlan := append(frame(0)[:42], 8, 0, 0, 0, 0, 0, 1, 0)
	vxlan[36], vxlan[37] = 0x21, 0x18 // port 8472
	vxlan = append(vxlan, frame(3)...)
	vxlan[17], vxlan[39] = byte(len(vxlan)-14), byte(len(vxlan)-34)
	tcp := frame(20)
	tcp[23] = 6
	tcp[46] = 5 << 4
	icmp := frame(8)
	icmp[23], icmp[34] = 1, 8
	later := frame(8)
	later[20], later[21] = 0, 100 // a later fragment has no ports
	arp := append(frame(0)[:14], 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2)
	arp[12], arp[13] = 8, 6
	return map[string][]byte{"udp": frame(3), "vxlan": vxlan, "tcp": tcp, "icmp": icmp, "later fragment": later, "arp": arp}
}

// A Match means what tcpdump means by its expression.
func TestMatchIsTcpdumps(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tcpdump"))
	for _, m := range []Match{
		{}, {Proto: "arp"}, {Proto: "icmp"}, {Proto: "icmp6"}, {Proto: "ip"}, {Proto: "ip6"}, {Proto: "tcp"}, {Proto: "udp"},
		{Port: 9}, {Port: 8472}, {Port: 5000}, {Proto: "udp", Port: 9}, {Proto: "tcp", Port: 9},
		{Host: netip.MustParseAddr("10.0.0.1")}, {Host: netip.MustParseAddr("10.0.0.3")},
		{Host: netip.MustParseAddr("10.0.0.2"), Proto: "icmp"}, {Host: netip.MustParseAddr("10.0.0.2"), Port: 9, Proto: "udp"},
	} {
		filter, err := Compile(t.Context(), m.Expression(), 0)
		if err != nil {
			t.Fatalf("%q: %v", m.Expression(), err)
		}
		vm := machine(t, filter[packet.LinkEthernet])
		for name, data := range matchPackets() {
			p := packet.Decode(packet.LinkEthernet, data)
			if p.Err != nil {
				t.Fatalf("%s: %v", name, p.Err)
			}
			n, err := vm.Run(data)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := m.Matches(p), n > 0; got != want {
				t.Errorf("%q, %s: %v, tcpdump says %v", m.Expression(), name, got, want)
			}
		}
	}
}

func machine(t *testing.T, program []unix.SockFilter) *bpf.VM {
	t.Helper()
	var all []bpf.Instruction
	for _, i := range program {
		all = append(all, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K}.Disassemble())
	}
	vm, err := bpf.NewVM(all)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}
