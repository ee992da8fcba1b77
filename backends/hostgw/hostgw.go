package hostgw

import (
	"encoding/json"
	"fmt"

	"labctl/backends"
	"labctl/nodes"
)

// Type is flannel's name of the backend.
const Type = "host-gw"

// Overhead is the bytes that the backend takes of each packet: none.
const Overhead = 0

// Backend is flannel's host-gw on one host.
type Backend struct{}

var _ backends.Backend = Backend{}

// New returns the backend for a network config's Backend object, which has no
// options of host-gw's.
func New(options json.RawMessage) (Backend, error) {
	return Backend{}, backends.ParseOptions(options, &struct{}{})
}

// Type is "host-gw".
func (Backend) Type() string { return Type }

// MTU is the underlay's.
func (Backend) MTU(u nodes.Underlay) int { return u.MTU }

// Data is nil: peers need to know nothing but the host's address.
func (Backend) Data(json.RawMessage) (json.RawMessage, error) { return nil, nil }

// Desired is all there is to host-gw: for each peer one route.
//
//	10.244.2.0/24 via 192.168.50.2 dev eth0
func (Backend) Desired(self backends.Lease, peers []backends.Lease, u nodes.Underlay) (s nodes.State, problems []error) {
	usable, problems := backends.Usable(self, peers, func(t string) bool { return t == Type })
	for _, p := range usable {
		if !u.OnLink(p.PublicIP) {
			problems = append(problems, fmt.Errorf("peer %s: %s: not on-link: %s is in %s, and host-gw goes through no router; "+
				"put all hosts on one segment, or use vxlan", p.PublicIP, p.Subnet, u.Dev, u.Prefix.Masked()))
			continue
		}
		s.Routes = append(s.Routes, nodes.Route{Dst: p.Subnet, Via: p.PublicIP, Dev: u.Dev})
	}
	return s, problems
}
