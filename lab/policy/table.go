package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"labctl/lab"
	"labctl/nodes"
)

// TableName is the nftables table of a node's policies.
const TableName = "labctl-policy"

// Table is a node's share of the policies: egress of its own containers, and
// ingress to them. all are the lab's containers, here and elsewhere. The table
// has no chains where there are no policies.
//
//	forward: replies pass; what belongs to no flow is dropped; then
//	    jump egress     for each policy in order its rules, each over the set of
//	    jump ingress    the node's own containers that it selects: allow returns,
//	                    deny drops; at the end, what a policy isolates is dropped
//
// A set is named after its policy, those of a rule's peers after the policy,
// the direction and their place. When addresses change only sets change.
func Table(node string, ps lab.Policies, all []Endpoint) nodes.Table {
	t := nodes.Table{Name: TableName}
	if len(ps) == 0 {
		return t
	}
	c := compiler{node: node, all: all, table: &t}
	ordered := ps.Ordered()
	for _, p := range ordered {
		if own := c.own(p); len(own) > 0 {
			t.Sets = append(t.Sets, nodes.Set{Name: p.Name, Addrs: addrs(own)})
		}
	}
	t.Chains = []nodes.Chain{{Name: "forward", Hook: nodes.Forward, Rules: []nodes.Rule{
		{State: nodes.Established | nodes.Related, Verdict: nodes.Accept, Comment: "replies, and what belongs to a flow that was let through"},
		{State: nodes.Invalid, Verdict: nodes.Drop, Comment: "belongs to no flow"},
		{Verdict: nodes.Jump, Chain: "egress"},
		{Verdict: nodes.Jump, Chain: "ingress"},
	}}, c.chain(lab.Egress, ordered), c.chain(lab.Ingress, ordered)}
	return t
}

type compiler struct {
	node  string
	all   []Endpoint
	table *nodes.Table
}

// own are the node's containers that a policy selects.
func (c compiler) own(p lab.PolicySpec) []Endpoint {
	return slices.DeleteFunc(slices.Clone(c.all), func(e Endpoint) bool {
		return !e.Container || e.Node != c.node || !p.Selects(e.Labels)
	})
}

func addrs(es []Endpoint) []netip.Addr {
	var out []netip.Addr
	for _, e := range es {
		if e.Addr.IsValid() {
			out = append(out, e.Addr)
		}
	}
	return out
}

// chain is the rules of one direction.
func (c compiler) chain(d lab.Direction, ordered lab.Policies) nodes.Chain {
	ch := nodes.Chain{Name: strings.ToLower(string(d))}
	var ends []nodes.Rule
	for _, p := range ordered {
		if !slices.Contains(p.Types(), d) || len(c.own(p)) == 0 {
			continue
		}
		self := nodes.Rule{DstSet: p.Name}
		if d == lab.Egress {
			self = nodes.Rule{SrcSet: p.Name}
		}
		for i, r := range p.Rules(d) {
			self.Verdict, self.Comment = nodes.Return, Decision{true, p.Name, d, i + 1}.String()
			if r.Action == lab.Deny {
				self.Verdict, self.Comment = nodes.Drop, Decision{false, p.Name, d, i + 1}.String()
			}
			ch.Rules = append(ch.Rules, c.rules(self, d, fmt.Sprintf("%s.%s.%d", p.Name, ch.Name, i+1), r)...)
		}
		self.Verdict, self.Comment = nodes.Drop, Decision{false, p.Name, d, 0}.String()
		ends = append(ends, self)
	}
	ch.Rules = append(ch.Rules, ends...)
	return ch
}

// rules is one rule of a policy: each of its peers with each of its ports.
func (c compiler) rules(self nodes.Rule, d lab.Direction, name string, r lab.PolicyRule) []nodes.Rule {
	peers := []nodes.Rule{self}
	if len(r.Peers) > 0 {
		peers = nil
	}
	for i, p := range r.Peers {
		rule := self
		switch {
		case p.PodSelector != nil:
			set := nodes.Set{Name: fmt.Sprintf("%s.%d", name, i+1)}
			set.Addrs = addrs(slices.DeleteFunc(slices.Clone(c.all), func(e Endpoint) bool {
				return !e.Container || !p.PodSelector.Matches(e.Labels)
			}))
			c.table.Sets = append(c.table.Sets, set)
			if d == lab.Egress {
				rule.DstSet = set.Name
			} else {
				rule.SrcSet = set.Name
			}
		case d == lab.Egress:
			rule.Dst, rule.NotDsts = p.IPBlock.CIDR, p.IPBlock.Except
		default:
			rule.Src, rule.NotSrcs = p.IPBlock.CIDR, p.IPBlock.Except
		}
		peers = append(peers, rule)
	}
	if len(r.Ports) == 0 {
		return peers
	}
	var out []nodes.Rule
	for _, rule := range peers {
		for _, p := range r.Ports {
			rule.Protocol = strings.ToLower(string(cmp.Or(p.Protocol, lab.TCP)))
			rule.DstPort, rule.DstPortEnd = uint16(p.Port), uint16(p.EndPort)
			out = append(out, rule)
		}
	}
	return out
}

// Tracking are the settings of a node whose containers hang off a bridge, so
// that what they send each other comes by the rules.
func Tracking() []nodes.Sysctl {
	return []nodes.Sysctl{{Key: "net/bridge/bridge-nf-call-iptables", Value: "1"}}
}
