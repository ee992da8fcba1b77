package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"labctl/lab"
	"labctl/nodes"
)

// lines is a table's sets and the rules of its two directions, in short words.
func lines(t nodes.Table) []string {
	var out []string
	for _, s := range t.Sets {
		out = append(out, fmt.Sprintf("set %s %v", s.Name, s.Addrs))
	}
	verdicts := map[nodes.Verdict]string{nodes.Return: "return", nodes.Drop: "drop"}
	for _, c := range t.Chains {
		if c.Hook != 0 {
			continue
		}
		for _, r := range c.Rules {
			words := []string{c.Name + ":"}
			add := func(word string, v any, there bool) {
				if there {
					words = append(words, fmt.Sprint(word, " ", v))
				}
			}
			add("saddr", "@"+r.SrcSet, r.SrcSet != "")
			add("daddr", "@"+r.DstSet, r.DstSet != "")
			add("saddr", r.Src, r.Src.IsValid())
			add("saddr !=", r.NotSrcs, len(r.NotSrcs) > 0)
			add("daddr", r.Dst, r.Dst.IsValid())
			add("daddr !=", r.NotDsts, len(r.NotDsts) > 0)
			add(r.Protocol, r.DstPort, r.Protocol != "")
			add("to", r.DstPortEnd, r.DstPortEnd != 0)
			out = append(out, strings.Join(append(words, verdicts[r.Verdict]), " ")+" # "+r.Comment)
		}
	}
	return out
}

func TestTable(t *testing.T) {
	t.Parallel()
	all := []Endpoint{web, db, bare, far}
	tests := []struct {
		name, policies, node string
		want                 []string
	}{
		{"none", "  p: {podSelector: {matchLabels: {app: none}}}\n", "node1", nil},
		{"peers by their labels, of all hosts", "  db: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}\n", "node1", []string{
			"set db [10.1.1.3]",
			"set db.ingress.1.1 [10.1.1.2 10.1.2.2]",
			"ingress: saddr @db.ingress.1.1 daddr @db tcp 80 return # policy db: Ingress rule 1 allows it",
			"ingress: daddr @db drop # policy db: no Ingress rule allows it",
		}},
		{"a host without containers that are chosen has no rules", "  db: {podSelector: {matchLabels: {app: db}}}\n", "node2", nil},
		{"what isolates comes after the rules of all", "  a: {podSelector: {matchLabels: {app: db}}}\n  b: {podSelector: {matchLabels: {tier: back}}, ingress: [{}]}\n", "node1", []string{
			"set a [10.1.1.3]",
			"set b [10.1.1.3]",
			"ingress: daddr @b return # policy b: Ingress rule 1 allows it",
			"ingress: daddr @a drop # policy a: no Ingress rule allows it",
			"ingress: daddr @b drop # policy b: no Ingress rule allows it",
		}},
		{"order, deny, addresses with exceptions, a range", `
  late: {podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.3.0/24]}}], ports: [{protocol: UDP, port: 53, endPort: 60}]}], policyTypes: [Egress]}
  first: {order: 1, podSelector: {matchLabels: {app: web}}, egress: [{action: Deny, ports: [{protocol: ICMP}]}], policyTypes: [Egress]}
`, "node2", []string{
			"set first [10.1.2.2]",
			"set late [10.1.2.2]",
			"egress: saddr @first icmp 0 drop # policy first: Egress rule 1 denies it",
			"egress: saddr @late daddr 10.1.0.0/16 daddr != [10.1.3.0/24] udp 53 to 60 return # policy late: Egress rule 1 allows it",
			"egress: saddr @first drop # policy first: no Egress rule allows it",
			"egress: saddr @late drop # policy late: no Egress rule allows it",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Table(tt.node, parsed(t, tt.policies), all)
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Errorf("Table() (-want +got):\n%s", diff)
			}
			if err := nodes.Check(nodes.State{Tables: []nodes.Table{got}}); err != nil {
				t.Errorf("the kernel would not take it: %v", err)
			}
		})
	}
	if got := Table("node1", nil, all); len(got.Chains) > 0 {
		t.Errorf("Table() of no policies has chains: %v", lines(got))
	}
}

// judge is what the kernel makes of a flow's first packet in one table: rules
// top down, return and drop end it.
func judge(table nodes.Table, from, to netip.Addr, p Port) bool {
	sets := map[string][]netip.Addr{}
	for _, s := range table.Sets {
		sets[s.Name] = s.Addrs
	}
	in := func(prefixes []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for _, c := range table.Chains {
		if c.Hook != 0 {
			continue
		}
		for _, r := range c.Rules {
			last := max(r.DstPort, r.DstPortEnd)
			switch {
			case r.SrcSet != "" && !slices.Contains(sets[r.SrcSet], from), r.DstSet != "" && !slices.Contains(sets[r.DstSet], to),
				r.Src.IsValid() && !r.Src.Contains(from), r.Dst.IsValid() && !r.Dst.Contains(to), in(r.NotSrcs, from), in(r.NotDsts, to),
				r.Protocol != "" && !strings.EqualFold(r.Protocol, string(p.Protocol)),
				r.DstPort != 0 && (p.Port < int(r.DstPort) || p.Port > int(last)):
				continue
			case r.Verdict == nodes.Drop:
				return false
			}
			break
		}
	}
	return true
}

// The tables of both hosts let pass what the engine lets pass, whatever the
// policies.
func TestTableDoesWhatTheEngineSays(t *testing.T) {
	t.Parallel()
	all := []Endpoint{web, db, bare, far, container("node2.db", "node2", "10.1.2.3", map[string]string{"app": "db", "tier": "front"})}
	rapid.Check(t, func(t *rapid.T) {
		ps := randomPolicies(t)
		engine := NewEngine(ps)
		tables := map[string]nodes.Table{"node1": Table("node1", ps, all), "node2": Table("node2", ps, all)}
		for _, table := range tables {
			if err := nodes.Check(nodes.State{Tables: []nodes.Table{table}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range Ports(ps) {
			for _, from := range all {
				for _, to := range all {
					if from.Name == to.Name {
						continue
					}
					d := engine.Decide(from, to, p)
					passes := judge(tables[from.Node], from.Addr, to.Addr, p) && judge(tables[to.Node], from.Addr, to.Addr, p)
					if passes != d.Allowed {
						t.Fatalf("%s, %s -> %s: the tables let it pass: %v; engine: %s\n%s\n%s", p, from.Name, to.Name, passes, d,
							strings.Join(lines(tables["node1"]), "\n"), strings.Join(lines(tables["node2"]), "\n"))
					}
				}
			}
		}
	})
}

// randomPolicies are up to four over the labels app and tier, the containers'
// addresses and a few ports.
func randomPolicies(t *rapid.T) lab.Policies {
	apps, tiers := rapid.SampledFrom([]string{"web", "db", "job"}), rapid.SampledFrom([]string{"back", "front"})
	expression := rapid.Custom(func(t *rapid.T) lab.LabelExpression {
		e := lab.LabelExpression{Key: "tier", Operator: rapid.SampledFrom([]string{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator")}
		if strings.HasSuffix(e.Operator, "In") {
			e.Values = []string{tiers.Draw(t, "value")}
		}
		return e
	})
	selector := rapid.Custom(func(t *rapid.T) *lab.LabelSelector {
		s := &lab.LabelSelector{}
		if rapid.Bool().Draw(t, "matchLabels") {
			s.MatchLabels = map[string]string{"app": apps.Draw(t, "app")}
		}
		if rapid.Bool().Draw(t, "matchExpressions") {
			s.MatchExpressions = []lab.LabelExpression{expression.Draw(t, "expression")}
		}
		return s
	})
	peer := rapid.Custom(func(t *rapid.T) lab.PolicyPeer {
		if rapid.Bool().Draw(t, "podSelector") {
			return lab.PolicyPeer{PodSelector: selector.Draw(t, "peer")}
		}
		at := netip.AddrFrom4([4]byte{10, 1, byte(rapid.IntRange(1, 2).Draw(t, "host")), byte(rapid.IntRange(2, 4).Draw(t, "address"))})
		block := &lab.IPBlock{CIDR: netip.PrefixFrom(at, rapid.SampledFrom([]int{0, 16, 24, 32}).Draw(t, "bits")).Masked()}
		if block.CIDR.Bits() < 32 && rapid.Bool().Draw(t, "except") {
			block.Except = []netip.Prefix{netip.PrefixFrom(at, 32), netip.PrefixFrom(at, 31).Masked()}
		}
		return lab.PolicyPeer{IPBlock: block}
	})
	port := rapid.Custom(func(t *rapid.T) lab.PolicyPort {
		p := lab.PolicyPort{Protocol: rapid.SampledFrom([]lab.PolicyProtocol{"", lab.TCP, lab.UDP, lab.ICMP}).Draw(t, "protocol")}
		if p.Protocol != lab.ICMP {
			p.Port = rapid.SampledFrom([]int{0, 80, 90}).Draw(t, "port")
		}
		if p.Port != 0 && rapid.Bool().Draw(t, "range") {
			p.EndPort = p.Port + rapid.IntRange(0, 10).Draw(t, "more")
		}
		return p
	})
	action := rapid.SampledFrom([]lab.PolicyAction{"", lab.Allow, lab.Deny})
	rule := rapid.Custom(func(t *rapid.T) lab.PolicyRule {
		return lab.PolicyRule{Peers: rapid.SliceOfN(peer, 0, 2).Draw(t, "peers"), Ports: rapid.SliceOfN(port, 0, 2).Draw(t, "ports"), Action: action.Draw(t, "action")}
	})
	rules := rapid.SliceOfN(rule, 0, 3)
	var ps lab.Policies
	for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
		p := lab.PolicySpec{Name: fmt.Sprintf("p%d", i), PolicyTypes: rapid.SampledFrom([][]string{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(t, "types")}
		if rapid.Bool().Draw(t, "podSelector") {
			p.PodSelector = selector.Draw(t, "selector")
		}
		if rapid.Bool().Draw(t, "ordered") {
			order := rapid.IntRange(-1, 1).Draw(t, "order")
			p.Order = &order
		}
		if len(p.PolicyTypes) == 0 || slices.Contains(p.PolicyTypes, "Ingress") {
			for _, r := range rules.Draw(t, "ingress") {
				p.Ingress = append(p.Ingress, lab.IngressRule{From: r.Peers, Ports: r.Ports, Action: r.Action})
			}
		}
		if len(p.PolicyTypes) == 0 || slices.Contains(p.PolicyTypes, "Egress") {
			for _, r := range rules.Draw(t, "egress") {
				p.Egress = append(p.Egress, lab.EgressRule{To: r.Peers, Ports: r.Ports, Action: r.Action})
			}
		}
		ps = append(ps, p)
	}
	return ps
}
