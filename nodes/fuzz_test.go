package nodes

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// expressions makes a rule's out of bytes: what it is, two parameters, and as
// much data as the next byte says.
func expressions(program []byte) (all []expr.Any) {
	for len(program) >= 4 {
		what, a, b := program[0], program[1], program[2]
		n := min(int(program[3]), len(program)-4)
		data := program[4 : 4+n]
		program = program[4+n:]
		kinds := []expr.Any{
			&expr.Meta{Key: expr.MetaKey(a), SourceRegister: b&1 != 0, Register: 1},
			&expr.Payload{Base: expr.PayloadBase(a), Offset: uint32(b), Len: uint32(n)},
			&expr.Payload{Base: expr.PayloadBase(a), Offset: -uint32(b)},
			&expr.Ct{Key: expr.CtKey(a), SourceRegister: b&1 != 0},
			&expr.Fib{},
			&expr.Bitwise{Mask: data},
			&expr.Cmp{Op: expr.CmpOp(a), Data: data},
			&expr.Lookup{SetName: string(data), Invert: b&1 != 0},
			&expr.Range{Op: expr.CmpOp(a), FromData: data, ToData: data},
			&expr.Match{Name: string(data)},
			&expr.Limit{},
			&expr.Counter{Packets: uint64(a)},
			&expr.Verdict{Kind: expr.VerdictKind(int8(a)), Chain: string(data)},
			&expr.NAT{Type: expr.NATType(a)},
			&expr.Target{Name: string(data)},
			&expr.Immediate{Data: data},
		}
		all = append(all, kinds[int(what)%len(kinds)])
	}
	return all
}

// FuzzTableRule reads rules that anybody may have made, and holds packets
// against them.
func FuzzTableRule(f *testing.F) {
	iifname, dport := byte(expr.MetaKeyIIFNAME), []byte{1, byte(expr.PayloadBaseTransportHeader), 2, 2, 0, 0}
	f.Add(append([]byte{0, iifname, 0, 0, 6, 0, 0, 4, 'e', 't', 'h', '0', 1, 1, 12, 4, 0, 0, 0, 0, 5, 0, 0, 4, 255, 255, 0, 0, 6, 0, 0, 4, 10, 1, 0, 0}, dport...), []byte("\x00\x05seen\x00"), []byte("eth0"))
	f.Add(append([]byte{0, iifname, 0, 0, 6, 0, 0, 64}, make([]byte, 64)...), []byte{0, 200}, []byte("name"))
	f.Add([]byte{0, iifname, 0, 0, 7, 0, 0, 1, 's'}, []byte{1, 1, 7, 0, 0}, make([]byte, 64))
	f.Add(append(dport, 1, 1, 12, 4, 0, 0, 0, 0, 7, 0, 0, 1, 's'), []byte{}, make([]byte, 8))
	f.Add([]byte{3, byte(expr.CtKeySTATE), 0, 0, 5, 0, 0, 4, 6, 0, 0, 0, 6, byte(expr.CmpOpNeq), 0, 4, 0, 0, 0, 0, 12, 0, 0, 0}, []byte{0}, []byte{})
	f.Add([]byte{2, 1, 1, 4, 0, 0, 0, 0, 6, 0, 0, 4, 1, 2, 3, 4}, []byte{9, 255}, []byte{})
	f.Fuzz(func(t *testing.T, program, beside, member []byte) {
		base := TableRule{Family: "inet", Table: "t", Chain: "c"}
		r := tableRule(base, &nftables.Rule{Exprs: expressions(program), UserData: beside})
		for i, c := range r.Conds {
			if c.Set != "" && i%2 == 0 {
				r.Conds[i].Values = [][]byte{member}
			}
		}
		_ = r.String() // that it does not panic
		for _, p := range []Packet{
			{},
			{In: "eth0", Out: "cni0", Protocol: 6, Network: make([]byte, 20), Transport: make([]byte, 8), State: New},
		} {
			r.Matches(p)
		}
		if len(r.Conds) == 0 {
			if matches, sure := r.Matches(Packet{}); !matches || !sure {
				t.Errorf("%s asks for nothing, and matches %v, sure %v", r, matches, sure)
			}
		}
	})
}

// netlinkMessage is one with its header.
func netlinkMessage(kind uint16, seq uint32, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(binary.NativeEndian.AppendUint32(append(b, 0, 0), seq), 0, 0, 0, 0)
	return append(b, body...)
}

// FuzzMatters has a monitor look through datagrams with anything in them.
func FuzzMatters(f *testing.F) {
	device := append([]byte{4: 2, 15: 0}, 9, 0, unix.IFLA_IFNAME, 0, 'e', 't', 'h', '0', 0, 0, 0, 0)
	f.Add(slices.Concat(netlinkMessage(unix.RTM_NEWLINK, 0, device...), netlinkMessage(unix.RTM_DELLINK, 0, 1, 2, 3, 0)))
	f.Add(netlinkMessage(unix.RTM_NEWNEIGH, 0, unix.AF_BRIDGE, 0, 0, 0, 7, 0, 0, 0, unix.NUD_PERMANENT, 0, 0, 0, 7, 0, unix.NDA_LLADDR, 0, 2, 0, 0, 0, 5, 0, unix.NDA_DST, 0, 1, 0, 0, 0))
	f.Add(netlinkMessage(unix.RTM_DELNEIGH, 0, unix.AF_INET, 0, 0, 0, 2, 0, 0, 0, unix.NUD_PERMANENT, 0, 0, 0, 8, 0, unix.NDA_DST, 0, 10, 0, 0, 1))
	f.Add(netlinkMessage(unix.RTM_NEWROUTE, 0, unix.AF_INET6, 200, 0, 0, unix.RT_TABLE_MAIN, 4, 0, 1, 0, 0, 0, 0, 6, 0, unix.RTA_DST, 0, 1, 2, 0, 0))
	f.Add(netlinkMessage(unix.RTM_NEWADDR, 0, unix.AF_INET, 24, 0, 0, 9, 0, 0, 0))
	f.Add(netlinkMessage(unix.RTM_NEWNETCONF, 0, 2, 0, 0, 0, 8, 0, 1, 0, 255, 255, 255, 255))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		in := interest{addrs: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true}, devs: map[int]bool{2: true}, vxlans: map[int]string{7: "flannel.1"},
			routes: map[netip.Prefix]bool{}, protocol: 91, refs: map[int]bool{2: true}, others: map[int]string{3: "cni0"}, names: map[string]bool{"eth0": true}}
		for _, in := range []interest{{}, in, in.with(State{FDB: []FDBEntry{{Dev: "flannel.1", MAC: []byte{2, 0, 0, 0, 0, 1}, Dst: netip.MustParseAddr("10.0.0.2")}}})} {
			m := &monitor{r: &Reconciler{interest: in, touched: map[int]bool{}}, others: map[int]string{}}
			hit := m.matters(datagram)
			if len(datagram) < unix.SizeofNlMsghdr && hit {
				t.Errorf("%x is no message, and matters", datagram)
			}
			// What does not matter once does not matter the second time.
			if again := m.matters(datagram); again && !hit {
				t.Errorf("%x matters when it comes again, and did not before", datagram)
			}
		}
	})
}

// FuzzAnswers reads what the kernel says of many requests.
func FuzzAnswers(f *testing.F) {
	f.Add(slices.Concat(netlinkMessage(unix.NLMSG_ERROR, 7, 0xef, 0xff, 0xff, 0xff), netlinkMessage(unix.NLMSG_ERROR, 9, 0, 0, 0, 0)), uint32(7), uint8(3))
	f.Add(netlinkMessage(unix.NLMSG_ERROR, 0, 0, 0, 0, 128), ^uint32(0), uint8(2))
	f.Add(netlinkMessage(unix.NLMSG_ERROR, 5), uint32(5), uint8(1))
	f.Fuzz(func(t *testing.T, datagram []byte, first uint32, requests uint8) {
		outcome := make([]error, requests)
		done := parseAnswers(datagram, first, outcome)
		if done && requests == 0 {
			t.Error("the last of no requests is answered")
		}
		for _, err := range outcome {
			if err != nil && (err.Error() == "" || errors.Is(err, unix.Errno(0))) {
				t.Errorf("%#v", err)
			}
		}
	})
}

// FuzzProc reads /proc/net/snmp and /proc/PID/mountinfo.
func FuzzProc(f *testing.F) {
	f.Add("Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 12\nTcp: MaxConn\nTcp: -1\n")
	f.Add("36 35 98:0 /root /mount/point\\040x rw - ext4\n36\n")
	f.Add("\n1 2")
	f.Fuzz(func(t *testing.T, text string) {
		counters := map[string]uint64{}
		parseCounters(text, counters)
		for name, n := range counters {
			if n == 0 {
				t.Errorf("%s is 0", name)
			}
		}
		if slices.Contains(parseMountPoints([]byte(text)), "") {
			t.Error("a mount point without a name")
		}
	})
}
