package nodes

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
