package trace

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"labctl/lab/policy"
	"labctl/nodes"
)

// callTables is the setting with which a kernel brings the frames that a bridge
// switches by the rules for IP.
const callTables = "net/bridge/bridge-nf-call-iptables"

// switched is what netfilter says of a frame on its way from one port of a
// bridge to another: the bridge's own tables and then, where the namespace has
// it so, those for IP. These see the bridge in the place of both ports.
func (w *walk) switched(m *move, s spot, bridge, port string) {
	w.filter(m, "bridge", "forward", s.endpoint, s.dev, port, s.frame)
	if w.tables[s.endpoint].Sysctls[callTables] == "1" {
		w.filter(m, "ip", "forward", s.endpoint, bridge, bridge, s.frame)
	}
}

// rules asks netfilter's tables for IP.
func (w *walk) rules(m *move, hook, endpoint, in, out string, f *Frame) {
	r := w.filter(m, "ip", hook, endpoint, in, out, *f)
	if r == nil || f.Inner != nil {
		return
	}
	switch r.Verdict {
	case "masquerade":
		// The first packet's fate is that of the connection; answers to what
		// came in here do not pass the rule.
		if l := w.link(endpoint, out); l != nil && len(l.Addrs) > 0 && f.Kind != "echo reply" && f.Kind != "syn-ack" {
			is := l.Addrs[0].Addr()
			m.because("netfilter", endpoint, "%s: source %s becomes %s", r, f.Src, is)
			w.nat = append(w.nat, translation{endpoint, f.Src, is, true})
			f.Src = is
		}
	}
}

// filter finds the rule that ends a packet's way through a hook, and blames one
// that drops it. It returns a rule that translates.
func (w *walk) filter(m *move, family, hook, endpoint, in, out string, f Frame) *nodes.TableRule {
	t := w.tables[endpoint]
	if t == nil {
		return nil
	}
	p := nodes.Packet{In: in, Out: out, Protocol: protocolNumber(f.Protocol), Network: networkHeader(f), Transport: transportHeader(f)}
	if f.Inner == nil {
		p.State = w.state // a tunnel's own packets may begin a flow or go on with one
	}
	type chain struct{ family, table, name string }
	var base []nodes.TableRule
	for _, r := range t.Rules {
		fits := r.Family == family || family == "ip" && r.Family == "inet"
		if fits && r.Hook == hook && !slices.ContainsFunc(base, func(b nodes.TableRule) bool {
			return b.Family == r.Family && b.Table == r.Table && b.Chain == r.Chain
		}) {
			base = append(base, r)
		}
	}
	slices.SortStableFunc(base, func(a, b nodes.TableRule) int { return a.Priority - b.Priority })
	var nat *nodes.TableRule
	var run func(c chain, depth int) (done bool)
	run = func(c chain, depth int) bool {
		for i := range t.Rules {
			r := &t.Rules[i]
			if (chain{r.Family, r.Table, r.Chain}) != c || depth > 16 {
				continue
			}
			matches, sure := r.Matches(p)
			if !matches || !sure && r.Verdict != "drop" && r.Verdict != "reject" && !strings.HasPrefix(r.Verdict, "jump") {
				continue
			}
			verb, target, _ := strings.Cut(r.Verdict, " ")
			switch verb {
			case "accept":
				return true
			case "return":
				if d := decisionOf(*r); d != nil {
					m.because("policy", endpoint, "%s", d)
				}
				return false
			case "jump", "goto":
				if run(chain{r.Family, r.Table, target}, depth+1) {
					return true
				}
			case "masquerade", "snat", "dnat", "redirect":
				nat = r
				return true
			case "drop", "reject", "policy":
				if !sure {
					continue
				}
				m.faults = append(m.faults, dropCause(endpoint, *r))
				return true
			}
		}
		return false
	}
	for _, b := range base {
		run(chain{b.Family, b.Table, b.Chain}, 0)
	}
	return nat
}

// dropCause is what a rule that drops a packet comes to: the network policy
// that it belongs to, or the rule itself.
func dropCause(endpoint string, r nodes.TableRule) *Cause {
	c := &Cause{Code: NFTDrop, Where: endpoint}
	if d := decisionOf(r); d != nil {
		c.Code, c.Policy = PolicyDropped, &PolicyDrop{d.Policy, d.Direction, d.Rule}
		c.Evidence = append(c.Evidence, fmt.Sprintf("%s: %s", endpoint, d))
	} else if slices.ContainsFunc(r.Conds, func(c nodes.Cond) bool { return strings.HasPrefix(c.What, "transport") }) {
		c.Code = PortFiltered
	}
	c.Evidence = append(c.Evidence, fmt.Sprintf("%s: nftables: %s", endpoint, r))
	return c
}

// decisionOf is the network policy's decision that a rule carries out, nil for
// a rule that is no policy's.
func decisionOf(r nodes.TableRule) *policy.Decision {
	if r.Table != policy.TableName {
		return nil
	}
	d, ok := policy.ReadDecision(r.Comment)
	if !ok {
		return nil
	}
	return &d
}

func protocolNumber(name string) byte {
	return map[string]byte{"icmp": 1, "ipip": 4, "tcp": 6, "udp": 17}[name]
}

// networkHeader is the frame's IPv4 header, as far as rules look at it.
func networkHeader(f Frame) []byte {
	b := make([]byte, 20)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(f.Len))
	if f.DF {
		b[6] = 0x40
	}
	b[8], b[9] = byte(f.TTL), protocolNumber(f.Protocol)
	if f.Src.Is4() {
		copy(b[12:], f.Src.AsSlice())
	}
	if f.Dst.Is4() {
		copy(b[16:], f.Dst.AsSlice())
	}
	return b
}

// transportHeader is the first 8 bytes of what the frame's IP header carries.
func transportHeader(f Frame) []byte {
	b := make([]byte, 8)
	switch f.Kind {
	case "echo request":
		b[0] = 8
	case "echo reply":
	default:
		binary.BigEndian.PutUint16(b, f.SrcPort)
		binary.BigEndian.PutUint16(b[2:], f.DstPort)
	}
	return b
}
