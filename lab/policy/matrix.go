package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"labctl/lab"
)

// Flow is a cell of a Matrix: may packets of a kind go from one container to
// another, by the policies and in the kernel?
type Flow struct {
	From string `json:"from"`
	To   string `json:"to"`
	Port
	Expected bool   `json:"expected"` // the engine lets it pass
	Actual   bool   `json:"actual"`   // an answer came
	Why      string `json:"why"`      // what the engine decided by
}

// Differs says whether the kernel does something else than the policies say.
func (f Flow) Differs() bool { return f.Expected != f.Actual }

// String is the flow with what is wrong about it.
func (f Flow) String() string {
	s := fmt.Sprintf("%s, %s -> %s: ", f.Port, f.From, f.To)
	switch {
	case f.Expected && f.Actual:
		return s + "passes: " + f.Why
	case !f.Expected && !f.Actual:
		return s + "is dropped: " + f.Why
	case f.Actual:
		return s + "passes, and should not: " + f.Why
	}
	return s + "is dropped, and should pass: " + f.Why
}

// Matrix is every flow between a lab's containers, as it should be and as it
// is. It is the JSON of labctl policy.
type Matrix struct {
	SchemaVersion int      `json:"schemaVersion"`
	Lab           string   `json:"lab"`
	Policies      []string `json:"policies"` // in the order in which they are looked at
	Containers    []string `json:"containers"`
	Ports         []Port   `json:"ports"`
	Flows         []Flow   `json:"flows"`
	Differences   int      `json:"differences"`
}

// Flow finds a cell, nil when there is none.
func (m *Matrix) Flow(from, to string, p Port) *Flow {
	for i := range m.Flows {
		if f := &m.Flows[i]; f.From == from && f.To == to && f.Port == p {
			return f
		}
	}
	return nil
}

// Different are the flows that are not as they should be.
func (m *Matrix) Different() []Flow {
	return slices.DeleteFunc(slices.Clone(m.Flows), func(f Flow) bool { return !f.Differs() })
}

// Endpoints are a lab's containers, without those of nodes that have no power.
func Endpoints(p *lab.Plan, st *lab.Status) ([]Endpoint, error) {
	var all []Endpoint
	for _, n := range st.Nodes {
		plan := p.Node(n.Name)
		if n.State == lab.Dead || plan == nil {
			continue
		}
		for _, c := range n.Containers {
			name := n.Name + "." + c.Name
			addr, err := netip.ParseAddr(c.IP)
			if err != nil {
				return nil, fmt.Errorf("%s: has no address yet", name)
			}
			e := Endpoint{Name: name, Node: n.Name, Addr: addr, Container: true}
			if cp := plan.Container(c.Name); cp != nil {
				e.Labels = cp.Labels
			}
			all = append(all, e)
		}
	}
	return all, nil
}

// maxPorts bounds Ports: each costs a probe for every pair.
const maxPorts = 12

// Ports are the kinds of traffic worth looking at under these policies: ICMP,
// what the rules name, the ends of their ranges, and for TCP and UDP a port
// that no rule names.
func Ports(ps lab.Policies) []Port {
	found := []Port{{Protocol: lab.ICMP}}
	add := func(p Port) {
		if !slices.Contains(found, p) && len(found) < maxPorts {
			found = append(found, p)
		}
	}
	named := map[lab.PolicyProtocol]bool{lab.TCP: true}
	var entries []lab.PolicyPort
	for _, p := range ps {
		for _, r := range slices.Concat(p.Rules(lab.Egress), p.Rules(lab.Ingress)) {
			entries = append(entries, r.Ports...)
		}
	}
	for i := range entries {
		if entries[i].Protocol == "" {
			entries[i].Protocol = lab.TCP
		}
		named[entries[i].Protocol] = true
	}
	for _, e := range entries {
		if e.Port != 0 {
			add(Port{e.Protocol, e.Port})
		}
	}
	for _, protocol := range []lab.PolicyProtocol{lab.TCP, lab.UDP} {
		if !named[protocol] {
			continue
		}
		const first = 9 // discard
		for n := first; ; n++ {
			if !slices.ContainsFunc(entries, func(e lab.PolicyPort) bool { return e.Port != 0 && e.Matches(protocol, n) }) {
				add(Port{protocol, n})
				break
			}
		}
	}
	for _, e := range entries {
		if e.EndPort > e.Port {
			add(Port{e.Protocol, e.EndPort})
		}
	}
	return found
}

// ParsePort reads tcp/80, udp/53 or icmp.
func ParsePort(text string) (Port, error) {
	protocol, port, err := lab.ParsePort(text)
	return Port{protocol, port}, err
}

// Run makes the matrix of a running lab. With no ports it takes Ports.
func (pr *Prober) Run(ctx context.Context, ports []Port) (*Matrix, error) {
	return pr.run(ctx, ports, func(from, to Endpoint) bool { return true })
}

// One is the cell of one flow.
func (pr *Prober) One(ctx context.Context, from, to string, port Port) (Flow, error) {
	m, err := pr.run(ctx, []Port{port}, func(a, b Endpoint) bool { return a.Name == from && b.Name == to })
	if err != nil {
		return Flow{}, err
	}
	if len(m.Flows) == 0 {
		return Flow{}, fmt.Errorf("%s -> %s: not two containers that are there", from, to)
	}
	return m.Flows[0], nil
}

// run makes the cells that want chooses.
func (pr *Prober) run(ctx context.Context, ports []Port, want func(from, to Endpoint) bool) (*Matrix, error) {
	c := pr.client
	p, err := c.Plan(ctx)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	all, err := Endpoints(p, st)
	if err != nil {
		return nil, err
	}
	if len(ports) == 0 {
		ports = Ports(p.Policies)
	}
	m := &Matrix{SchemaVersion: 1, Lab: p.Name, Policies: []string{}, Containers: []string{}, Ports: ports, Flows: []Flow{}}
	for _, x := range p.Policies.Ordered() {
		m.Policies = append(m.Policies, x.Name)
	}
	for _, e := range all {
		m.Containers = append(m.Containers, e.Name)
	}
	engine := NewEngine(p.Policies)
	for _, port := range ports {
		for _, from := range all {
			for _, to := range all {
				if from.Name != to.Name && want(from, to) {
					d := engine.Decide(from, to, port)
					m.Flows = append(m.Flows, Flow{From: from.Name, To: to.Name, Port: port, Expected: d.Allowed, Why: d.String()})
				}
			}
		}
	}
	if err := pr.Probe(ctx, all, m.Flows); err != nil {
		return nil, err
	}
	m.Differences = len(m.Different())
	return m, nil
}

// errTooFew is for a lab in which nobody can talk to anybody.
var errTooFew = errors.New("policy: needs two containers to send between")
