package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// Address is the address of an endpoint that the plan fixes: all but those of
// containers whose subnet the store decides.
func (p *Plan) Address(endpoint string) (netip.Addr, bool) {
	if p.Etcd != nil && endpoint == "etcd" {
		return p.Etcd.NIC.Addr.Addr(), true
	}
	if p.Internet != nil && endpoint == "internet" {
		return p.Internet.Addr.Addr(), true
	}
	for _, r := range p.Routers {
		if r.Name == endpoint {
			return r.NICs[0].Addr.Addr(), true
		}
	}
	for _, n := range p.Nodes {
		if n.Name == endpoint {
			return n.NIC.Addr.Addr(), true
		}
		for _, c := range n.Containers {
			if n.Name+"."+c.Name == endpoint && c.Addr.IsValid() {
				return c.Addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// endpointCure is for a name that no endpoint has.
func (p *Plan) endpointCure(name string) string {
	cure := "there are " + strings.Join(p.Endpoints(), ", ")
	if near := Nearest(name, p.Endpoints()); near != "" {
		cure = "did you mean " + near + "? " + cure
	}
	return cure
}

// NoSuchEndpoint is the error for a name that no endpoint has; it offers the
// nearest.
func (p *Plan) NoSuchEndpoint(name string) error {
	return &Failure{Kind: Usage, Err: fmt.Errorf("%s: no such endpoint in lab %s", name, p.Name), Cure: p.endpointCure(name)}
}

// Rename gives the lab another name, for running one file several times.
func (s *Spec) Rename(name string) error {
	if !labName().MatchString(name) {
		return fmt.Errorf("name %q: not a lab's name: a lower case letter, then at most 30 letters, digits and dashes", name)
	}
	s.Name = name
	return nil
}
