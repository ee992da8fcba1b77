package calico

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"labctl/backends"
)

// Snapshot is all that the store says at one revision. It is read only.
type Snapshot struct {
	Config     Config
	ConfigErr  error      // why Config cannot be used; nil when it can
	Nodes      []Node     // by name
	Affinities []Affinity // by host and block
	Blocks     []*Block   // by address
	Workloads  []Workload // by key
	Problems   []backends.Problem
	Revision   int64
	ClusterID  uint64
}

// snapshotOf reads all keys. One that cannot be read is a Problem, and costs
// nobody else anything.
func snapshotOf(k backends.Keys) Snapshot {
	s := Snapshot{Revision: k.Revision, ClusterID: k.ClusterID}
	s.Config, s.ConfigErr = parseConfig(func(key string) []byte {
		if kv := k.All[key]; kv != nil {
			return kv.Value
		}
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(k.All)) {
		if err := s.take(name, k.All[name]); err != nil {
			s.Problems = append(s.Problems, backends.Problem{Key: name, Err: err})
		}
	}
	slices.SortFunc(s.Blocks, func(a, b *Block) int { return a.CIDR.Compare(b.CIDR) })
	slices.SortFunc(s.Affinities, func(a, b Affinity) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), a.Block.Compare(b.Block))
	})
	s.check()
	return s
}

func (s *Snapshot) take(name string, kv *mvccpb.KeyValue) error {
	switch {
	case strings.HasPrefix(name, nodesKey):
		n, err := parseNode(kv.Value)
		if err == nil {
			s.Nodes = append(s.Nodes, n)
		}
		return err
	case strings.HasPrefix(name, blocksKey):
		b, err := parseBlock(kv.Value, kv.ModRevision)
		if err == nil && blockKey(b.CIDR) != name {
			err = fmt.Errorf("its cidr is %s", b.CIDR)
		}
		if err == nil {
			s.Blocks = append(s.Blocks, b)
		}
		return err
	case strings.HasPrefix(name, affinityKey):
		a, err := parseAffinity(name, kv.Value)
		a.revision = kv.ModRevision
		if err == nil {
			s.Affinities = append(s.Affinities, a)
		}
		return err
	case strings.HasPrefix(name, workloads):
		w, err := parseWorkload(kv.Value)
		if err == nil {
			s.Workloads = append(s.Workloads, w)
		}
		return err
	}
	return nil // the configuration, or what is not ours
}

// OwnerError says that a host claims a block that is not its own: a key that
// no host wrote so.
type OwnerError struct{ Text string }

func (e *OwnerError) Error() string { return e.Text }

// check finds blocks that two hosts take for theirs.
func (s *Snapshot) check() {
	wrong := func(key, format string, args ...any) {
		s.Problems = append(s.Problems, backends.Problem{Key: key, Err: &OwnerError{fmt.Sprintf(format, args...)}})
	}
	for _, a := range s.Affinities {
		if a.State != Confirmed {
			continue // as it may be for a moment, and counts for nothing
		}
		b := s.block(a.Block)
		at := affinityOf(a.Host, a.Block)
		switch {
		case b == nil:
			wrong(at, "there is no block %s; delete the key", a.Block)
		case b.Host != a.Host && b.Host == "":
			wrong(at, "block %s is nobody's; delete the key", a.Block)
		case b.Host != a.Host:
			wrong(at, "two owners of block %s: %s claims it, and it is %s's; delete this key (etcdctl del %s)", a.Block, a.Host, b.Host, at)
		}
	}
}

func (s Snapshot) block(cidr netip.Prefix) *Block {
	i, ok := slices.BinarySearchFunc(s.Blocks, cidr, func(b *Block, c netip.Prefix) int { return b.CIDR.Compare(c) })
	if !ok {
		return nil
	}
	return s.Blocks[i]
}

func (s Snapshot) affinity(host string, cidr netip.Prefix) *Affinity {
	for i, a := range s.Affinities {
		if a.Host == host && a.Block == cidr {
			return &s.Affinities[i]
		}
	}
	return nil
}

// Node finds a host, nil when it is not registered.
func (s Snapshot) Node(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// Registered says whether the store has a host and these of its containers,
// and none besides.
func (s Snapshot) Registered(n Node, containers []Workload) bool {
	if has := s.Node(n.Name); has == nil || has.Address != n.Address || has.Tunnel != n.Tunnel || has.Device != n.Device {
		return false
	}
	want := map[string]Workload{}
	for _, w := range containers {
		want[w.Name] = w
	}
	count := 0
	for _, w := range s.Workloads {
		if w.Host != n.Name {
			continue
		}
		if is, ok := want[w.Name]; !ok || is.Addr != w.Addr || is.Dev != w.Dev {
			return false
		}
		count++
	}
	return count == len(want)
}

// BlocksOf are the blocks that a host has, as far as that is confirmed: those
// that it answers for.
func (s Snapshot) BlocksOf(host string) []netip.Prefix {
	var own []netip.Prefix
	for _, a := range s.Affinities {
		if b := s.block(a.Block); a.Host == host && a.State == Confirmed && b != nil && b.Host == host {
			own = append(own, a.Block)
		}
	}
	return own
}

// Remotes are the destinations of all hosts but self: their blocks, and the
// addresses that they have borrowed, each of which is longer than the block
// that it is in and so goes before it. Problems are blocks of hosts that
// nobody knows.
func (s Snapshot) Remotes(self string) (all []Remote, problems []error) {
	add := func(dst netip.Prefix, host string) {
		n := s.Node(host)
		if n == nil {
			problems = append(problems, fmt.Errorf("%s of %s: there is no node %s in the store; start its agent, or delete the block", dst, host, host))
			return
		}
		all = append(all, Remote{Dst: dst, Host: host, NextHop: n.Address.Addr(), Tunnel: n.Tunnel})
	}
	for _, a := range s.Affinities {
		if b := s.block(a.Block); a.Host != self && a.State == Confirmed && b != nil && b.Host == a.Host {
			add(a.Block, a.Host)
		}
	}
	for _, b := range s.Borrowed() {
		if b.Host != self {
			add(single(b.Addr), b.Host)
		}
	}
	return all, problems
}

// Borrowed are the addresses that are not on the host of their block.
func (s Snapshot) Borrowed() []Allocation {
	var all []Allocation
	for _, b := range s.Blocks {
		for _, a := range b.Allocations() {
			// A single address needs no route beside its block's.
			if a.Host != "" && a.Host != b.Host && !b.CIDR.IsSingleIP() {
				all = append(all, a)
			}
		}
	}
	return all
}
