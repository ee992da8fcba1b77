package lab

import (
	"fmt"
	"net/netip"
	"slices"
)

const (
	maxPolicies = 500 // each is a chain's rules on each node
	maxRules    = 100 // of one policy and direction, and its peers and ports
	maxLabels   = 32  // of one container
)

var (
	policyName = pattern(`^[a-z][a-z0-9-]{0,30}$`)
	labelKey   = pattern(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?$`)
	labelValue = pattern(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
)

// policies validates the network policies.
func (v *validator) policies() {
	if len(v.Policies) > 0 && v.noNetwork() {
		v.add("policies", "policies: need a lab with network, in which containers have addresses of their own", "add network, or remove them")
	}
	v.policyRules()
}

// policyRules checks the policies by themselves.
func (v *validator) policyRules() {
	if n := len(v.Policies); n > maxPolicies {
		v.add("policies", fmt.Sprintf("policies: %d policies, more than the %d that a lab may have", n, maxPolicies), "")
		return
	}
	for _, p := range v.Policies {
		path, object := join("policies", p.Name), "policy "+show(p.Name)
		if !policyName().MatchString(p.Name) {
			v.add(path, fmt.Sprintf("policy %s: not a possible name", quote(p.Name)), "use a lower case letter, then at most 30 lower case letters, digits and dashes")
		}
		if p.PodSelector != nil {
			v.selector(path+".podSelector", object, *p.PodSelector)
		}
		for i, t := range p.PolicyTypes {
			if t != string(Ingress) && t != string(Egress) {
				v.add(fmt.Sprintf("%s.policyTypes[%d]", path, i), fmt.Sprintf("%s: type %s is neither Ingress nor Egress", object, quote(t)), "")
			}
		}
		types := p.Types()
		for _, d := range []struct {
			direction  Direction
			key, peers string
			rules      int
		}{{Ingress, "ingress", "from", len(p.Ingress)}, {Egress, "egress", "to", len(p.Egress)}} {
			rules := p.Rules(d.direction)
			if d.rules > 0 && !slices.Contains(types, d.direction) {
				v.add(path+"."+d.key, fmt.Sprintf("%s: has %s rules, which policyTypes leaves out", object, d.key), fmt.Sprintf("add %s to policyTypes, or remove the rules", d.direction))
			}
			if d.rules > maxRules {
				v.add(path+"."+d.key, fmt.Sprintf("%s: %d %s rules, more than the %d that a policy may have", object, d.rules, d.key, maxRules), "")
				continue
			}
			for i, r := range rules {
				v.policyRule(fmt.Sprintf("%s.%s[%d]", path, d.key, i), d.peers, fmt.Sprintf("%s: %s rule %d", object, d.key, i+1), r)
			}
		}
	}
}

func (v *validator) policyRule(path, peers, object string, r PolicyRule) {
	if r.Action != Allow && r.Action != Deny {
		v.add(path+".action", fmt.Sprintf("%s: action %s is neither Allow nor Deny", object, quote(string(r.Action))), "")
	}
	if len(r.Peers) > maxRules || len(r.Ports) > maxRules {
		v.add(path, fmt.Sprintf("%s: more than %d peers or ports", object, maxRules), "")
		return
	}
	for i, p := range r.Peers {
		at := fmt.Sprintf("%s.%s[%d]", path, peers, i)
		switch {
		case v.bad(at):
		case (p.PodSelector == nil) == (p.IPBlock == nil):
			v.add(at, fmt.Sprintf("%s: peer %d is not one of podSelector and ipBlock", object, i+1), "podSelector: {} is every container")
		case p.PodSelector != nil:
			v.selector(at+".podSelector", object, *p.PodSelector)
		default:
			v.ipBlock(at+".ipBlock", object, *p.IPBlock)
		}
	}
	for i, p := range r.Ports {
		v.policyPort(fmt.Sprintf("%s.ports[%d]", path, i), object, p)
	}
}

func (v *validator) ipBlock(path, object string, b IPBlock) {
	if v.bad(path + ".cidr") {
		return
	}
	if !b.CIDR.IsValid() {
		v.add(path, object+": ipBlock without cidr", "add cidr: 10.0.0.0/8")
		return
	}
	v.policyCIDR(path+".cidr", object, b.CIDR)
	for i, e := range b.Except {
		at := fmt.Sprintf("%s.except[%d]", path, i)
		switch {
		case !e.IsValid():
		case !b.CIDR.Contains(e.Addr()) || e.Bits() < b.CIDR.Bits():
			v.add(at, fmt.Sprintf("%s: except %s is not inside of %s", object, e, b.CIDR), "")
		default:
			v.policyCIDR(at, object, e)
		}
	}
}

func (v *validator) policyCIDR(path, object string, p netip.Prefix) {
	switch {
	case !p.Addr().Is4():
		v.add(path, fmt.Sprintf("%s: %s is not IPv4, the only family built yet", object, p), "")
	case p != p.Masked():
		v.add(path, fmt.Sprintf("%s: %s has host bits set", object, p), "write "+p.Masked().String())
	}
}

func (v *validator) policyPort(path, object string, p PolicyPort) {
	isPort := func(n int) bool { return n >= 1 && n <= 65535 }
	switch {
	case v.bad(path), v.bad(path + ".port"), v.bad(path + ".endPort"):
	case !slices.Contains([]PolicyProtocol{"", TCP, UDP, ICMP}, p.Protocol):
		v.add(path+".protocol", fmt.Sprintf("%s: protocol %s is none of TCP, UDP and ICMP", object, quote(string(p.Protocol))), "")
	case p.Protocol == ICMP && (p.Port != 0 || p.EndPort != 0):
		v.add(path+".port", object+": ICMP has no ports", "remove port")
	case p.Port != 0 && !isPort(p.Port), p.EndPort != 0 && !isPort(p.EndPort):
		v.add(path, fmt.Sprintf("%s: %d is not a port", object, max(p.Port, p.EndPort)), "ports are 1 to 65535")
	case p.EndPort != 0 && (p.Port == 0 || p.EndPort < p.Port):
		v.add(path+".endPort", fmt.Sprintf("%s: ports %d to %d are not a range", object, p.Port, p.EndPort), "give port, the first, and endPort, the last")
	}
}

func (v *validator) selector(path, object string, s LabelSelector) {
	v.labels(path+".matchLabels", object, s.MatchLabels)
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", path, i)
		values := e.Operator == "In" || e.Operator == "NotIn"
		switch {
		case v.bad(at):
		case !labelKey().MatchString(e.Key):
			v.add(at, fmt.Sprintf("%s: key %s is not a label", object, quote(e.Key)), "use letters, digits, dots, dashes, underscores and slashes")
		case !slices.Contains([]string{"In", "NotIn", "Exists", "DoesNotExist"}, e.Operator):
			v.add(at, fmt.Sprintf("%s: operator %s is none of In, NotIn, Exists, DoesNotExist", object, quote(e.Operator)), "")
		case values && len(e.Values) == 0:
			v.add(at, fmt.Sprintf("%s: %s %s without values", object, e.Key, e.Operator), "add values: [...]")
		case !values && len(e.Values) > 0:
			v.add(at, fmt.Sprintf("%s: %s %s compares with no values", object, e.Key, e.Operator), "remove values")
		}
	}
}

// labels checks labels that a container has, or must have.
func (v *validator) labels(path, object string, labels map[string]string) {
	if len(labels) > maxLabels {
		v.add(path, fmt.Sprintf("%s: %d labels, more than %d", object, len(labels), maxLabels), "")
		return
	}
	for key, value := range labels {
		switch {
		case !labelKey().MatchString(key):
			v.add(join(path, key), fmt.Sprintf("%s: %s is not a label's name", object, quote(key)), "use letters, digits, dots, dashes, underscores and slashes")
		case !labelValue().MatchString(value):
			v.add(join(path, key), fmt.Sprintf("%s: label %s: %s is not a label's value", object, key, quote(value)), "use at most 63 letters, digits, dots, dashes and underscores")
		}
	}
}
