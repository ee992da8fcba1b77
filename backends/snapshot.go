package backends

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Problem is an entry of the store that could not be used, and why.
type Problem struct {
	Key string // the full key
	Err error
}

func (p Problem) Error() string { return p.Key + ": " + p.Err.Error() }
func (p Problem) Unwrap() error { return p.Err }

// Snapshot is everything the store said about subnets at one revision.
type Snapshot struct {
	Leases    []Lease // by Subnet
	Problems  []Problem
	Revision  int64
	ClusterID uint64
	// Replaced is set by Watch: the store lost its memory (other cluster id,
	// or a lower revision), and Leases still holds leases of before that have
	// not been registered again.
	Replaced bool
	// taken is every subnet that some key names, of whatever value: what is
	// not understood is still not free.
	taken []netip.Prefix
}

// Of is the leases of the host with this public address.
func (s Snapshot) Of(publicIP netip.Addr) []Lease {
	var own []Lease
	for _, l := range s.Leases {
		if l.PublicIP == publicIP {
			own = append(own, l)
		}
	}
	return own
}

// Peers is what a Backend gets beside self: the leases of all other hosts. A
// lease outside the network is a problem and left out: flannel would install
// a route for it, and one bad key could draw all traffic of all hosts. So is
// one of another length than the network's subnets that lies across a lease
// of theirs. The Snapshot's own Problems are not among those returned.
func (s Snapshot) Peers(self Lease, n Network) ([]Lease, []error) {
	peers := make([]Lease, 0, len(s.Leases))
	var problems []error
	for _, l := range s.Leases {
		switch {
		case l.Subnet == self.Subnet && l.PublicIP == self.PublicIP:
		case !contains(n.Network, l.Subnet):
			problems = append(problems, fmt.Errorf("lease %s of %s: outside the network %s; delete its key", l.Subnet, l.PublicIP, n.Network))
		default:
			if other, ok := s.across(l, n); ok {
				problems = append(problems, fmt.Errorf("lease %s of %s: not a /%d, and overlaps %s of %s; delete its key",
					l.Subnet, l.PublicIP, n.SubnetLen, other.Subnet, other.PublicIP))
				continue
			}
			peers = append(peers, l)
		}
	}
	return peers, problems
}

// across finds a lease of the network's SubnetLen that l, of another length,
// overlaps.
func (s Snapshot) across(l Lease, n Network) (Lease, bool) {
	if l.Subnet.Bits() == n.SubnetLen {
		return Lease{}, false
	}
	for _, other := range s.Leases {
		if other.Subnet.Bits() == n.SubnetLen && other.Subnet.Overlaps(l.Subnet) {
			return other, true
		}
	}
	return Lease{}, false
}

func contains(outer, inner netip.Prefix) bool {
	return outer.IsValid() && inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// entry is one key under subnets/ as far as it could be understood.
type entry struct {
	subnet netip.Prefix // invalid when the key does not parse
	lease  Lease        // zero when there is none to use
	err    error

	value    []byte // what it was made of
	revision int64
}

// decodeEntry reads one key. before is the last that was known under it.
func decodeEntry(prefix string, kv *mvccpb.KeyValue, before entry) entry {
	// In a list nearly all are as they were.
	if before.value != nil && before.lease.ID == kv.Lease && before.revision == kv.ModRevision && bytes.Equal(before.value, kv.Value) {
		return before
	}
	e := decodeNew(prefix, kv, before)
	if e.err == nil {
		e.value, e.revision = kv.Value, kv.ModRevision
	}
	return e
}

func decodeNew(prefix string, kv *mvccpb.KeyValue, before entry) entry {
	key, err := ParseKey(strings.TrimPrefix(string(kv.Key), prefix))
	if err != nil {
		return entry{err: err}
	}
	if key.IPv6.IsValid() {
		return entry{subnet: key.Subnet, err: fmt.Errorf("dual-stack key in an IPv4 network, not usable")}
	}
	attrs, err := DecodeAttrs(kv.Value)
	if err != nil {
		// The last good value stands, as nobody would gain by losing the route.
		return entry{subnet: key.Subnet, lease: before.lease, err: err}
	}
	return entry{subnet: key.Subnet, lease: newLease(key.Subnet, attrs, kv.Lease, kv.ModRevision)}
}

// snapshotOf builds a Snapshot from entries by full key.
func snapshotOf(entries map[string]entry, revision int64, clusterID uint64) Snapshot {
	s := Snapshot{Revision: revision, ClusterID: clusterID, Leases: make([]Lease, 0, len(entries)), taken: make([]netip.Prefix, 0, len(entries))}
	for key, e := range entries {
		if e.err != nil {
			s.Problems = append(s.Problems, Problem{key, e.err})
		}
		if e.lease.Subnet.IsValid() {
			s.Leases = append(s.Leases, e.lease)
		}
		if e.subnet.IsValid() {
			s.taken = append(s.taken, e.subnet)
		}
	}
	sortLeases(s.Leases)
	sortProblems(s.Problems)
	return s
}
