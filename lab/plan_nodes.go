package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Extended is a running lab's plan and file after a node came or went.
type Extended struct {
	Plan *Plan
	File []byte // the lab file that the plan is of
}

// AddNode plans a lab with one node more. file is what p was made from. The
// node comes last, so that nobody else's address changes; a plan in which
// something else would is refused. Everything is decided as for a whole file.
func AddNode(p *Plan, file []byte, n NodeSpec) (*Extended, error) {
	if p.Node(n.Name) != nil {
		return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: is in lab %s already", n.Name, p.Name),
			Cure: fmt.Sprintf("choose another name, or labctl node rm %s first", n.Name)}
	}
	if n.Address.IsValid() {
		if by := p.owner(n.Address); by != "" {
			return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: address %s is %s's", n.Name, n.Address, by),
				Cure: "choose another, or leave --address out for the next free one"}
		}
	}
	f, err := openLabFile(file)
	if err != nil {
		return nil, err
	}
	f.add(n)
	return f.extended(p, n.Name)
}

// RemoveNode plans a lab without one of its nodes. Those behind it in the file
// keep their addresses: where they had them by their place, they are pinned.
func RemoveNode(p *Plan, file []byte, node string) (*Extended, error) {
	if _, err := p.FindNode(node); err != nil {
		return nil, err
	}
	if len(p.Nodes) == 1 {
		return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: is the last node of lab %s, which needs one", node, p.Name),
			Cure: "labctl node kill " + node + " takes its power, labctl down " + p.Name + " removes the lab"}
	}
	f, err := openLabFile(file)
	if err != nil {
		return nil, err
	}
	f.remove(node)
	behind := false
	for _, n := range p.Nodes {
		if n.Name == node {
			behind = true
		} else if behind {
			f.pin(n.Name, "address", n.NIC.Addr.Addr())
			if n.Management != nil {
				f.pin(n.Name, "management", n.Management.Addr.Addr())
			}
		}
	}
	return f.extended(p, node)
}

// ReplacePolicies plans a lab with other network policies.
func ReplacePolicies(p *Plan, file []byte, ps Policies) (*Extended, error) {
	f, err := openLabFile(file)
	if err != nil {
		return nil, err
	}
	if err := f.setPolicies(ps); err != nil {
		return nil, err
	}
	return f.extended(p, "")
}

// extended plans the file as it is now and makes sure that only one node is
// not as in p.
func (f *labFile) extended(p *Plan, but string) (*Extended, error) {
	// The lab may have been built with another backend than the file's.
	if err := f.setNetwork(p.Network); err != nil {
		return nil, err
	}
	data, err := f.bytes()
	if err != nil {
		return nil, err
	}
	spec, err := Parse("lab.yaml", data)
	if err != nil {
		return nil, planFailure(err)
	}
	spec.Name = p.Name
	e := &Extended{File: data}
	if e.Plan, err = NewPlan(spec, Machine{GCThresh3: p.Neighbours.Limit}); err != nil {
		return nil, planFailure(err)
	}
	a, b := p.without(but), e.Plan.without(but)
	if but == "" {
		a.Policies = b.Policies
	}
	if diff := DiffPlans(a, b); len(diff) > 0 {
		return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: others would change: %s", but, strings.Join(diff, "; ")),
			Cure: "give it another --address, or labctl down and change the file"}
	}
	return e, nil
}

// planFailure is a mistake of the command's, not of a file that its user has
// written: without places.
func planFailure(err error) error {
	fe, ok := errors.AsType[*FileError](err)
	if !ok {
		return &Failure{Kind: Usage, Err: err}
	}
	var what, cures []string
	for _, p := range fe.Problems {
		what = append(what, p.Message)
		if p.Hint != "" {
			cures = append(cures, p.Hint)
		}
	}
	return &Failure{Kind: Usage, Err: errors.New(strings.Join(what, "; ")), Cure: strings.Join(cures, "; ")}
}

// without is the plan but for one node and what is counted over all of them.
func (p *Plan) without(node string) *Plan {
	c := *p
	c.Neighbours, c.Network = NeighbourPlan{}, nil
	c.Nodes = nil
	var gone netip.Addr
	for _, n := range p.Nodes {
		if n.Name == node {
			gone = n.NIC.Addr.Addr()
			continue
		}
		c.Nodes = append(c.Nodes, n)
	}
	if p.Etcd != nil {
		e := *p.Etcd
		e.Reservations = nil
		for _, r := range p.Etcd.Reservations {
			if r.PublicIP != gone {
				e.Reservations = append(e.Reservations, r)
			}
		}
		c.Etcd = &e
	}
	return &c
}

// owner is the endpoint that has an underlay address, "" when none has.
func (p *Plan) owner(a netip.Addr) string {
	if p.Etcd != nil && p.Etcd.NIC.Addr.Addr() == a {
		return "etcd"
	}
	for _, r := range p.Routers {
		for _, nic := range r.NICs {
			if nic.Addr.Addr() == a {
				return r.Name
			}
		}
	}
	for _, n := range p.Nodes {
		for _, nic := range n.NICs() {
			if nic.Addr.Addr() == a {
				return n.Name
			}
		}
	}
	return ""
}

// FindNode is Node for a name that somebody typed: the error tells which there
// are, or which was probably meant.
func (p *Plan) FindNode(name string) (*NodePlan, error) {
	if n := p.Node(name); n != nil {
		return n, nil
	}
	var names []string
	for _, n := range p.Nodes {
		names = append(names, n.Name)
	}
	const few = 10
	cure := "labctl status shows the nodes"
	if len(names) <= few {
		cure = "there are " + strings.Join(names, ", ")
	}
	if near := Nearest(name, names); near != "" {
		cure = "did you mean " + near + "? " + cure
	}
	return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: no such node in lab %s", name, p.Name), Cure: cure}
}
