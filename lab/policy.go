package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Policies are the lab's network policies by name, in file order.
type Policies []PolicySpec

// PolicySpec is one network policy. The keys are those of the spec of a
// Kubernetes NetworkPolicy and mean the same; order and action are
// extensions. A policy says nothing of traffic between a container and its
// own node, which is always allowed.
type PolicySpec struct {
	Name string `yaml:"-" json:"name"`
	// PodSelector says by their labels which containers the policy is about; left out or empty, all.
	PodSelector *LabelSelector `yaml:"podSelector,omitempty" json:"podSelector,omitempty"`
	// PolicyTypes are Ingress, Egress or both: what the policy isolates its containers from but for what the rules allow. Left out: Ingress, and Egress if there are egress rules.
	PolicyTypes []string `yaml:"policyTypes,omitempty" json:"policyTypes,omitempty" jsonschema:"enum=Ingress,enum=Egress"`
	// Ingress are the rules for what the containers receive.
	Ingress []IngressRule `yaml:"ingress,omitempty" json:"ingress,omitempty"`
	// Egress are the rules for what the containers send.
	Egress []EgressRule `yaml:"egress,omitempty" json:"egress,omitempty"`
	// Order ranks policies, the lowest first; the first rule that matches decides. Policies without one come last. It matters only beside rules with action Deny.
	Order *int `yaml:"order,omitempty" json:"order,omitempty"`
}

// LabelSelector chooses containers by their labels: all of its conditions must
// hold.
type LabelSelector struct {
	// MatchLabels are labels that a container must have with these values.
	MatchLabels map[string]string `yaml:"matchLabels,omitempty" json:"matchLabels,omitempty"`
	// MatchExpressions are conditions on single labels.
	MatchExpressions []LabelExpression `yaml:"matchExpressions,omitempty" json:"matchExpressions,omitempty"`
}

// LabelExpression is a condition on one label.
type LabelExpression struct {
	// Key is the label's name.
	Key string `yaml:"key,omitempty" json:"key" jsonschema:"required"`
	// Operator is In or NotIn (with values), Exists or DoesNotExist. NotIn holds for a container without the label, too.
	Operator string `yaml:"operator,omitempty" json:"operator" jsonschema:"required,enum=In,enum=NotIn,enum=Exists,enum=DoesNotExist"`
	// Values are what In and NotIn compare with.
	Values []string `yaml:"values,omitempty" json:"values,omitempty"`
}

// IngressRule matches what comes from one of its peers to one of its ports.
type IngressRule struct {
	// From are the senders; left out or empty, all.
	From []PolicyPeer `yaml:"from,omitempty" json:"from,omitempty"`
	// Ports are the ports of the policy's containers; left out or empty, all of all protocols.
	Ports []PolicyPort `yaml:"ports,omitempty" json:"ports,omitempty"`
	// Action is what to do with it, Allow (the default) or Deny.
	Action PolicyAction `yaml:"action,omitempty" json:"action,omitempty" jsonschema:"enum=Allow,enum=Deny"`
}

// EgressRule matches what goes to one of its ports of one of its peers.
type EgressRule struct {
	// To are the receivers; left out or empty, all.
	To []PolicyPeer `yaml:"to,omitempty" json:"to,omitempty"`
	// Ports are the receivers' ports; left out or empty, all of all protocols.
	Ports []PolicyPort `yaml:"ports,omitempty" json:"ports,omitempty"`
	// Action is what to do with it, Allow (the default) or Deny.
	Action PolicyAction `yaml:"action,omitempty" json:"action,omitempty" jsonschema:"enum=Allow,enum=Deny"`
}

// PolicyPeer is either containers by their labels, or a range of addresses.
type PolicyPeer struct {
	// PodSelector says by their labels which containers; an empty one, all.
	PodSelector *LabelSelector `yaml:"podSelector,omitempty" json:"podSelector,omitempty"`
	// IPBlock is a range of addresses, whoever has them.
	IPBlock *IPBlock `yaml:"ipBlock,omitempty" json:"ipBlock,omitempty"`
}

// IPBlock is a range of addresses with exceptions.
type IPBlock struct {
	// CIDR is the range, 10.0.0.0/8.
	CIDR netip.Prefix `yaml:"cidr" json:"cidr" jsonschema:"required"` // omitempty would leave every prefix out: it has no exported fields
	// Except are ranges inside of it that it does not have.
	Except []netip.Prefix `yaml:"except,omitempty" json:"except,omitempty"`
}

// PolicyPort is a port, a range of them, or a whole protocol.
type PolicyPort struct {
	// Protocol is TCP (the default), UDP or ICMP, which has no ports.
	Protocol PolicyProtocol `yaml:"protocol,omitempty" json:"protocol,omitempty" jsonschema:"enum=TCP,enum=UDP,enum=ICMP"`
	// Port is the port, or the first one of a range; left out, all of the protocol.
	Port int `yaml:"port,omitempty" json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// EndPort is the last one of a range.
	EndPort int `yaml:"endPort,omitempty" json:"endPort,omitempty" jsonschema:"minimum=1,maximum=65535"`
}

// PolicyProtocol is the protocol of a PolicyPort; the zero value is TCP.
type PolicyProtocol string

// The protocols that a policy can name.
const (
	TCP  PolicyProtocol = "TCP"
	UDP  PolicyProtocol = "UDP"
	ICMP PolicyProtocol = "ICMP"
)

// PolicyAction is what a rule does; the zero value is Allow.
type PolicyAction string

// The actions of a rule.
const (
	Allow PolicyAction = "Allow"
	Deny  PolicyAction = "Deny"
)

// Direction is a side of a flow.
type Direction string

// The directions that a policy has rules for, as policyTypes has them.
const (
	Ingress Direction = "Ingress"
	Egress  Direction = "Egress"
)

// PolicyRule is a rule of either direction.
type PolicyRule struct {
	// Peers are senders of ingress, receivers of egress; empty: all.
	Peers []PolicyPeer
	// Ports are the receivers' ports; empty: all.
	Ports []PolicyPort
	// Action is Allow or Deny, never empty.
	Action PolicyAction
}

// Types are the directions in which the policy isolates its containers.
func (p PolicySpec) Types() []Direction {
	var types []Direction
	for _, t := range p.PolicyTypes {
		types = append(types, Direction(t))
	}
	if len(types) == 0 {
		types = append(types, Ingress)
		if len(p.Egress) > 0 {
			types = append(types, Egress)
		}
	}
	return types
}

// Rules are the policy's rules of a direction in file order; none where the
// policy is not of that type.
func (p PolicySpec) Rules(d Direction) []PolicyRule {
	var rules []PolicyRule
	switch {
	case !slices.Contains(p.Types(), d):
	case d == Ingress:
		for _, r := range p.Ingress {
			rules = append(rules, PolicyRule{r.From, r.Ports, cmp.Or(r.Action, Allow)})
		}
	case d == Egress:
		for _, r := range p.Egress {
			rules = append(rules, PolicyRule{r.To, r.Ports, cmp.Or(r.Action, Allow)})
		}
	}
	return rules
}

// Ordered is the policies in the order in which their rules are looked at.
func (ps Policies) Ordered() Policies {
	sorted := slices.Clone(ps)
	slices.SortStableFunc(sorted, func(a, b PolicySpec) int {
		switch {
		case a.Order == nil && b.Order == nil:
			return 0
		case a.Order == nil:
			return 1
		case b.Order == nil:
			return -1
		}
		return cmp.Compare(*a.Order, *b.Order)
	})
	return sorted
}

// Selects says whether the policy is about a container with these labels.
func (p PolicySpec) Selects(labels map[string]string) bool {
	return p.PodSelector == nil || p.PodSelector.Matches(labels)
}

// Matches says whether labels meet all conditions.
func (s LabelSelector) Matches(labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		if have, ok := labels[key]; !ok || have != want {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		have, ok := labels[e.Key]
		switch e.Operator {
		case "In":
			if !ok || !slices.Contains(e.Values, have) {
				return false
			}
		case "NotIn":
			if ok && slices.Contains(e.Values, have) {
				return false
			}
		case "Exists":
			if !ok {
				return false
			}
		case "DoesNotExist":
			if ok {
				return false
			}
		}
	}
	return true
}

// Contains says whether an address is in the block and in none of its
// exceptions.
func (b IPBlock) Contains(a netip.Addr) bool {
	return b.CIDR.Contains(a) && !slices.ContainsFunc(b.Except, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Matches says whether the entry is about a port of a protocol; ports are 0 in
// ICMP.
func (p PolicyPort) Matches(protocol PolicyProtocol, port int) bool {
	return cmp.Or(p.Protocol, TCP) == protocol && (p.Port == 0 || p.Port <= port && port <= max(p.Port, p.EndPort))
}

// ParsePort reads a kind of traffic: tcp/80, udp/53 or icmp, whose port is 0.
func ParsePort(text string) (PolicyProtocol, int, error) {
	name, number, found := strings.Cut(text, "/")
	switch protocol := PolicyProtocol(strings.ToUpper(name)); {
	case protocol == ICMP && !found:
		return protocol, 0, nil
	case found && (protocol == TCP || protocol == UDP):
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 {
			return protocol, int(n), nil
		}
	}
	return "", 0, fmt.Errorf("%s is not tcp/PORT, udp/PORT or icmp", quote(text))
}
