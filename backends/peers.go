package backends

import (
	"fmt"
	"slices"
)

// Usable is the peers that a Backend can carry packets to, in the order of
// their subnets and without overlaps, and what is wrong with the others. All
// backends share it: it is what must hold whatever the encapsulation.
//
// accept says which BackendTypes the backend understands. A reservation whose
// owner has not come yet (no BackendType so far) is left out without a word.
func Usable(self Lease, peers []Lease, accept func(backendType string) bool) (usable []Lease, problems []error) {
	bad := func(l Lease, format string, args ...any) {
		problems = append(problems, fmt.Errorf("peer %s: %s: %s", l.PublicIP, l.Subnet, fmt.Sprintf(format, args...)))
	}
	sorted := slices.Clone(peers)
	sortLeases(sorted)
	usable = sorted[:0] // in its place: what is taken was looked at
	for _, p := range sorted {
		switch {
		case p.Subnet == self.Subnet && p.PublicIP == self.PublicIP:
			continue // our own
		case !p.Subnet.IsValid() || p.Subnet != p.Subnet.Masked():
			bad(p, "not a subnet")
		case p.Subnet.Addr().BitLen() != self.Subnet.Addr().BitLen():
			bad(p, "not of our address family")
		case !p.PublicIP.IsValid() || p.PublicIP.IsUnspecified() || p.PublicIP.IsMulticast():
			bad(p, "its public address is not a host's")
		case p.PublicIP == self.PublicIP:
			bad(p, "has our public address; give each host its own, or delete the lease if it is an old one of ours")
		case p.Subnet.Overlaps(self.Subnet):
			bad(p, "overlaps our subnet %s; delete one of the leases", self.Subnet)
		case p.Reserved && p.BackendType == "" && !accept(""):
			continue
		case !accept(p.BackendType):
			bad(p, "is of backend type %q; run one backend in the whole network", p.BackendType)
		// In this order a prefix can only overlap the last one that was taken.
		case len(usable) > 0 && usable[len(usable)-1].Subnet.Overlaps(p.Subnet):
			before := usable[len(usable)-1]
			bad(p, "overlaps %s of %s; delete one of the leases", before.Subnet, before.PublicIP)
		default:
			usable = append(usable, p)
		}
	}
	return usable, problems
}
