package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"labctl/lab"
)

// Endpoint is one end of a flow.
type Endpoint struct {
	Name      string            // node1.c1
	Node      string            // the node that it is on
	Labels    map[string]string // a container's
	Addr      netip.Addr        // invalid while it has none
	Container bool              // policies choose containers only
}

// Port is what a flow is for.
type Port struct {
	Protocol lab.PolicyProtocol `json:"protocol"`
	Port     int                `json:"port,omitempty"` // 0 in ICMP
}

func (p Port) String() string {
	if p.Port == 0 {
		return string(p.Protocol)
	}
	return fmt.Sprintf("%s %d", p.Protocol, p.Port)
}

// Decision is what becomes of a flow, and why.
type Decision struct {
	Allowed bool
	// Policy is the one that decided, "" when none has a say.
	Policy    string
	Direction lab.Direction // in which
	Rule      int           // the rule's number from 1; 0: no rule of the policy allows it
}

// String is the decision in words, "policy db: Ingress rule 2 allows it".
func (d Decision) String() string {
	switch {
	case d.Policy == "" && d.Allowed:
		return "no policy has a say"
	case d.Rule == 0:
		return fmt.Sprintf("policy %s: no %s rule allows it", d.Policy, d.Direction)
	case d.Allowed:
		return fmt.Sprintf("policy %s: %s rule %d allows it", d.Policy, d.Direction, d.Rule)
	}
	return fmt.Sprintf("policy %s: %s rule %d denies it", d.Policy, d.Direction, d.Rule)
}

// decisions are the words of a Decision by a policy, one form for each way it
// can be.
var decisions = regexp.MustCompile(`^policy (\S+): (?:no (\S+) rule allows it|(\S+) rule ([1-9][0-9]*) (allows|denies) it)$`)

// ReadDecision undoes String for what a policy has decided: the comment of a
// rule in a node's Table.
func ReadDecision(text string) (d Decision, ok bool) {
	m := decisions.FindStringSubmatch(text)
	if m == nil {
		return d, false
	}
	d = Decision{Allowed: m[5] == "allows", Policy: m[1], Direction: lab.Direction(m[2] + m[3])}
	d.Rule, _ = strconv.Atoi(m[4]) // digits, or nothing
	return d, true
}

// Engine decides by policies what may pass. It is not changed by use.
type Engine struct {
	policies lab.Policies // in order
}

// NewEngine is for the policies in their file's order.
func NewEngine(ps lab.Policies) Engine { return Engine{ps.Ordered()} }

// Decide says what becomes of the first packet of a flow. Its egress from the
// sender is decided first, then its ingress at the receiver.
func (e Engine) Decide(from, to Endpoint, port Port) Decision {
	if from.Node == to.Node && from.Container != to.Container {
		return Decision{Allowed: true}
	}
	out := e.direction(lab.Egress, from, to, port)
	if !out.Allowed {
		return out
	}
	if in := e.direction(lab.Ingress, to, from, port); in.Policy != "" {
		return in
	}
	return out
}

// direction decides for one end, whose policies count.
func (e Engine) direction(d lab.Direction, self, peer Endpoint, port Port) Decision {
	isolating := ""
	for _, p := range e.policies {
		if !self.Container || !p.Selects(self.Labels) || !slices.Contains(p.Types(), d) {
			continue
		}
		if isolating == "" {
			isolating = p.Name
		}
		for i, r := range p.Rules(d) {
			if ruleMatches(r, peer, port) {
				return Decision{r.Action == lab.Allow, p.Name, d, i + 1}
			}
		}
	}
	return Decision{Allowed: isolating == "", Policy: isolating, Direction: d}
}

func ruleMatches(r lab.PolicyRule, peer Endpoint, port Port) bool {
	peers := len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(p lab.PolicyPeer) bool {
		if p.IPBlock != nil {
			return p.IPBlock.Contains(peer.Addr)
		}
		return peer.Container && p.PodSelector.Matches(peer.Labels)
	})
	return peers && (len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p lab.PolicyPort) bool {
		return p.Matches(port.Protocol, port.Port)
	}))
}
