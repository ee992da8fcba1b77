package trace

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"labctl/lab"
	"labctl/lab/policy"
	"labctl/nodes"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// twoHosts is a network of two hosts joined by one cable, host-gw's routes
// between them.
func twoHosts() *walk {
	host := func(own, other, via, mac string) *nodes.Tables {
		return &nodes.Tables{
			Links: []nodes.TableLink{{Index: 2, Name: "eth0", Kind: "veth", MAC: mac, MTU: 1500, Up: true, Carrier: true, Addrs: []netip.Prefix{prefix(own + "/24")}}},
			Routes: []nodes.TableRoute{
				{Table: 255, Kind: "local", Dst: prefix(own + "/32"), Dev: "eth0", Protocol: 2},
				{Table: 254, Kind: "unicast", Dst: prefix("192.168.50.0/24"), Dev: "eth0", Protocol: 2},
				{Table: 254, Kind: "unicast", Dst: prefix(other), Via: addr(via), Dev: "eth0", Protocol: 97},
			},
			Sysctls: map[string]string{},
		}
	}
	n := &network{
		tables: map[string]*nodes.Tables{
			"a": host("192.168.50.1", "10.2.0.0/16", "192.168.50.2", "02:00:00:00:00:01"),
			"b": host("192.168.50.2", "10.1.0.0/16", "192.168.50.1", "02:00:00:00:00:02"),
		},
		peers: map[string]string{"a:eth0": "b:eth0", "b:eth0": "a:eth0"}, dead: map[string]bool{},
	}
	return &walk{network: n}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		change   func(w *walk)
		to       string
		code     Code // "" when it arrives
		where    string
		evidence string
	}{
		{name: "arrives", to: "192.168.50.2"},
		{name: "no route", to: "203.0.113.1", code: MissingRoute, where: "a"},
		{name: "not forwarded", change: func(w *walk) { w.tables["b"].Sysctls["net/ipv4/conf/eth0/forwarding"] = "0" }, to: "10.2.0.1", code: ForwardOff, where: "b"},
		{name: "prohibited", change: func(w *walk) { w.tables["a"].Routes[2].Kind = "prohibit" }, to: "10.2.0.1", code: BlackholeRoute, where: "a", evidence: "prohibit 10.2.0.0/16"},
		{name: "device is down", change: func(w *walk) { w.tables["b"].Links[0].Up = false }, to: "192.168.50.2", code: LinkDown, where: "b"},
		{name: "neighbour is somebody else", change: func(w *walk) {
			w.tables["a"].Neighbours = []nodes.TableNeighbour{{Dev: "eth0", Addr: addr("192.168.50.2"), MAC: "02:00:00:00:00:09", State: "PERMANENT"}}
		}, to: "192.168.50.2", code: WrongNeighbour, where: "a", evidence: "b:eth0 has 02:00:00:00:00:02"},
		{name: "a port is filtered", change: func(w *walk) {
			w.tables["b"].Rules = []nodes.TableRule{{Family: "inet", Table: "f", Chain: "in", Hook: "input", Verdict: "drop", Conds: []nodes.Cond{
				{What: "l4proto", Value: []byte{17}}, {What: "transport 2", Value: binary.BigEndian.AppendUint16(nil, 53)}}}}
		}, to: "192.168.50.2", code: PortFiltered, where: "b", evidence: "protocol udp dport 53 drop"},
		{name: "another port is filtered", change: func(w *walk) {
			w.tables["b"].Rules = []nodes.TableRule{{Family: "inet", Table: "f", Chain: "in", Hook: "input", Verdict: "drop", Conds: []nodes.Cond{
				{What: "transport 2", Value: binary.BigEndian.AppendUint16(nil, 54)}}}}
		}, to: "192.168.50.2"},
		{name: "a network policy drops", change: func(w *walk) {
			w.tables["b"].Rules = policyRules("policy shop: Ingress rule 2 denies it")
		}, to: "192.168.50.2", code: PolicyDropped, where: "b", evidence: "b: policy shop: Ingress rule 2 denies it"},
		{name: "an answer, whatever network policies say", change: func(w *walk) {
			w.state = nodes.Established
			w.tables["b"].Rules = policyRules("policy shop: no Ingress rule allows it")
		}, to: "192.168.50.2"},
		{name: "accepted before the policy drops", change: func(w *walk) {
			base := nodes.TableRule{Family: "inet", Table: "f", Chain: "in", Hook: "input", Verdict: "accept"}
			policy := base
			policy.Verdict = "policy drop"
			w.tables["b"].Rules = []nodes.TableRule{base, policy}
		}, to: "192.168.50.2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := twoHosts()
			if tt.change != nil {
				tt.change(w)
			}
			m := w.start("a", Frame{Dst: addr(tt.to), TTL: 64, Len: 84, Protocol: "udp", SrcPort: 61000, DstPort: 53})
			faults := slices.Clone(m.faults)
			for range 10 {
				if m.end || len(faults) > 0 {
					break
				}
				m = w.next(m.spot)
				faults = append(faults, m.faults...)
			}
			if tt.code == "" {
				if !m.end || len(faults) > 0 {
					t.Fatalf("at %s with %v, want it to arrive", m.where(), faults)
				}
				return
			}
			if len(faults) == 0 || faults[0].Code != tt.code || faults[0].Where != tt.where || !strings.Contains(strings.Join(faults[0].Evidence, "\n"), tt.evidence) {
				t.Fatalf("faults %+v, want %s at %s with %q", faults, tt.code, tt.where, tt.evidence)
			}
		})
	}
}

// policyRules let pass what belongs to a flow, and drop the rest.
func policyRules(why string) []nodes.TableRule {
	established := nodes.Cond{What: "ct state", Mask: binary.NativeEndian.AppendUint32(nil, uint32(nodes.Established|nodes.Related)), Value: make([]byte, 4), Not: true}
	return []nodes.TableRule{
		{Family: "inet", Table: policy.TableName, Chain: "forward", Hook: "input", Verdict: "accept", Conds: []nodes.Cond{established}},
		{Family: "inet", Table: policy.TableName, Chain: "forward", Hook: "input", Verdict: "jump ingress"},
		{Family: "inet", Table: policy.TableName, Chain: "ingress", Verdict: "drop", Comment: why},
	}
}

// A frame from one port of a bridge to another meets the rules for IP where the
// namespace brings it by them, and only there.
func TestWalkSwitched(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]Code{"1": PolicyDropped, "0": "", "": ""} {
		w := twoHosts()
		b := w.tables["b"]
		b.Rules = policyRules("policy shop: no Egress rule allows it")
		b.Rules[0].Hook, b.Rules[1].Hook = "forward", "forward"
		if setting != "" {
			b.Sysctls[callTables] = setting
		}
		w.state = nodes.New
		var m move
		w.switched(&m, spot{endpoint: "b", dev: "veth1", frame: Frame{Src: addr("10.1.0.2"), Dst: addr("10.1.0.3"), TTL: 64, Len: 84, Protocol: "icmp", Kind: "echo request"}}, "cni0", "veth2")
		var got Code
		if len(m.faults) > 0 {
			got = m.faults[0].Code
			if p := m.faults[0].Policy; p == nil || *p != (PolicyDrop{Name: "shop", Direction: lab.Egress}) {
				t.Errorf("%s = %q: dropped by %+v, want shop's Egress, no rule", callTables, setting, p)
			}
		}
		if got != want {
			t.Errorf("%s = %q: %q, want %q", callTables, setting, got, want)
		}
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	plain := Frame{SrcMAC: "aa", DstMAC: "bb", Src: addr("10.1.0.2"), Dst: addr("10.2.0.2"), TTL: 64, Len: 84}
	routed := plain
	routed.SrcMAC, routed.DstMAC, routed.TTL = "cc", "dd", 63
	wrapped := Frame{Src: addr("192.168.50.1"), Dst: addr("192.168.50.2"), TTL: 64, Len: 134, SrcPort: 40000, DstPort: 8472, Tunnel: "vxlan", VNI: 1, Inner: &routed}
	further := wrapped
	further.TTL = 63
	masked := routed
	masked.Src = addr("192.168.50.1")
	tests := []struct {
		name    string
		was, is Frame
		want    string
	}{
		{"nothing", plain, plain, ""},
		{"routed", plain, routed, "MAC cc > dd; ttl 64 -> 63"},
		{"wrapped", routed, wrapped, "wrapped: vxlan vni 1 in udp 40000 > 8472; outer 192.168.50.1 > 192.168.50.2 ttl 64 length 134"},
		{"routed while wrapped", wrapped, further, "outer ttl 64 -> 63"},
		{"unwrapped", wrapped, routed, "unwrapped"},
		{"masqueraded", routed, masked, "source 10.1.0.2 -> 192.168.50.1"},
	}
	for _, tt := range tests {
		if got := strings.Join(changes(tt.was, tt.is), "; "); got != tt.want {
			t.Errorf("%s: changes = %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The filter finds the mark wherever tunnels put it, and lets nothing else pass.
func TestMarked(t *testing.T) {
	t.Parallel()
	const mark = 62000
	raw, err := marked("icmp", mark)
	if err != nil {
		t.Fatal(err)
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter does not disassemble")
	}
	// The extension that loads the length is the kernel's: the test's length is
	// always enough.
	for i, p := range prog {
		if _, ok := p.(bpf.LoadExtension); ok {
			prog[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: 1 << 16}
		}
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{"tun": 20 + 6, "plain": 34 + 6, "vxlan": 84 + 6, "udp": 62 + 6, "ipip": 54 + 6, "quoted": 62 + 6} {
		for _, m := range []uint16{mark, mark + 1, mark + 2, mark - 1} {
			b := make([]byte, 200)
			binary.BigEndian.PutUint16(b[at:], m)
			n, err := vm.Run(b)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := n > 0, m == mark || m == mark+1; got != want {
				t.Errorf("%s: mark %d passes: %v, want %v", name, m, got, want)
			}
		}
	}
}
