package calico

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Claim asks for an address for one container, or for the host's tunnel device.
type Claim struct {
	Name string     // a container's, or Encapsulation.TunnelName
	Addr netip.Addr // the one that it must be; invalid: any
}

// ExhaustedError says that there is no address for a container.
type ExhaustedError struct {
	Host, Name string
	Why        string
	Cure       string
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("%s.%s: no address: %s; %s", e.Host, e.Name, e.Why, e.Cure)
}

// Assign gives a host's containers addresses and returns them in the order of
// the claims. A container that has one keeps it; containers of the host that
// are not among the claims give theirs back. Blocks are claimed as far as needed. It
// may be called again after any failure and goes on where it was. The error is
// an *ExhaustedError when a container gets none; the others' addresses are
// returned all the same, and its own is invalid.
func (s *Store) Assign(ctx context.Context, c Config, host string, claims []Claim) ([]netip.Addr, error) {
	for try := 0; ; try++ {
		snap, err := s.ipam(ctx)
		if err != nil {
			return nil, err
		}
		st, err := next(snap, c, host, claims)
		if st == nil {
			return snap.Addresses(host, claims), err
		}
		ok, err := s.do(ctx, snap, host, *st)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %s: %w", host, st, err)
		case !ok && try >= retries:
			return nil, fmt.Errorf("%s: %s: %d times another host was faster", host, st, try)
		case !ok:
			// Hosts that collide do not meet again in step.
			wait := time.NewTimer(rand.N(time.Duration(min(try+1, 20)) * time.Millisecond))
			select {
			case <-ctx.Done():
				wait.Stop()
				return nil, ctx.Err()
			case <-wait.C:
			}
		default:
			try = 0
		}
	}
}

// retries is how often a transaction may lose, as Calico's.
const retries = 100

// action is what a step of IPAM does.
type action string

// The steps of a claim, in their order, and the others. Each is one
// transaction that fails when what it was decided by is not so any more.
//
//	want     (nothing)  -> pending
//	create   pending    -> pending, and the block is there and ours
//	confirm  pending    -> confirmed
//	abandon  pending    -> (nothing): the block is another host's
//	write    addresses of a block are taken or released
const (
	want    action = "want"
	create  action = "create"
	confirm action = "confirm"
	abandon action = "abandon"
	write   action = "write"
)

// step is one transaction.
type step struct {
	action action
	cidr   netip.Prefix
	block  *Block // as it is to be, for create and write
}

func (s step) String() string { return string(s.action) + " block " + s.cidr.String() }

// next decides what to do: one step at a time, from what the store says. nil
// means that all claims are met.
func next(snap Snapshot, c Config, host string, claims []Claim) (*step, error) {
	// What was begun goes first, so that nothing is left half done.
	for _, a := range snap.Affinities {
		if a.Host != host || a.State == Confirmed {
			continue
		}
		switch b := snap.block(a.Block); {
		case b == nil && a.State == Pending && !hasRoom(snap, c, host, claims, a.Block):
			return &step{action: abandon, cidr: a.Block}, nil
		case b == nil && a.State == Pending:
			b = newBlock(a.Block, host)
			fill(b, host, missing(snap, host, claims), c)
			return &step{create, a.Block, b}, nil
		case b != nil && b.Host == host && a.State == Pending:
			return &step{action: confirm, cidr: a.Block}, nil
		default:
			return &step{action: abandon, cidr: a.Block}, nil
		}
	}
	if st := released(snap, host, claims); st != nil {
		return st, nil
	}
	left := missing(snap, host, claims)
	if len(left) == 0 {
		return nil, nil
	}
	return obtain(snap, c, host, left)
}

// hasRoom says whether a claim that was begun is still needed.
func hasRoom(snap Snapshot, c Config, host string, claims []Claim, cidr netip.Prefix) bool {
	return cidr.Bits() == c.BlockSize && c.Pool.Contains(cidr.Addr()) && len(missing(snap, host, claims)) > 0
}

// released is the step that gives back addresses of containers that are gone.
func released(snap Snapshot, host string, claims []Claim) *step {
	for _, b := range snap.Blocks {
		after := b.clone()
		if after.release(func(a Allocation) bool {
			return a.Host == host && !slices.ContainsFunc(claims, func(c Claim) bool { return c.Name == a.Name && (!c.Addr.IsValid() || c.Addr == a.Addr) })
		}) {
			return &step{write, b.CIDR, after}
		}
	}
	return nil
}

// obtain is the step that gets closer to the first claim that is not met.
func obtain(snap Snapshot, c Config, host string, left []Claim) (*step, error) {
	for _, cl := range left {
		if cl.Addr.IsValid() {
			return pinned(snap, c, host, cl, left)
		}
	}
	own := 0
	for _, b := range snap.Blocks {
		if b.Host != host {
			continue
		}
		own++
		if after := b.clone(); b.CIDR.Bits() <= c.BlockSize && fill(after, host, left, c) {
			return &step{write, b.CIDR, after}, nil
		}
	}
	why, cure := fmt.Sprintf("all blocks of pool %s are taken", c.Pool), "use a bigger pool, a longer blockSize, or fewer containers"
	if own >= c.MaxBlocks {
		why = fmt.Sprintf("%s has claimed %d of at most %d blocks", host, own, c.MaxBlocks)
		cure = "raise maxBlocksPerHost, use a shorter blockSize, or fewer containers"
	} else if cidr, ok := freeBlock(snap, c, host); ok {
		return &step{action: want, cidr: cidr}, nil
	}
	if !c.StrictAffinity {
		for _, b := range snap.Blocks {
			after := b.clone()
			if c.Pool.Contains(b.CIDR.Addr()) && fill(after, host, left[:1], c) {
				return &step{write, b.CIDR, after}, nil
			}
		}
		why += ", and no other host's block has an address to borrow"
	} else {
		why += ", and strictAffinity forbids to borrow"
	}
	return nil, &ExhaustedError{host, left[0].Name, why, cure}
}

// pinned is the step towards an address that is asked for by itself.
func pinned(snap Snapshot, c Config, host string, cl Claim, left []Claim) (*step, error) {
	if !c.Pool.Contains(cl.Addr) {
		return nil, &ExhaustedError{host, cl.Name, fmt.Sprintf("%s is not in pool %s", cl.Addr, c.Pool), "take one of the pool's"}
	}
	cidr := netip.PrefixFrom(cl.Addr, c.BlockSize).Masked()
	b := snap.block(cidr)
	switch {
	case b == nil:
		return &step{action: want, cidr: cidr}, nil
	case b.Host != host && c.StrictAffinity:
		return nil, &ExhaustedError{host, cl.Name, fmt.Sprintf("%s is in block %s of %s, and strictAffinity forbids to borrow", cl.Addr, cidr, b.Host), "take an address of another block, or set strictAffinity off"}
	}
	after := b.clone()
	if !after.takeAddr(host, cl.Name, cl.Addr) {
		by := "somebody"
		for _, a := range b.Allocations() {
			if a.Addr == cl.Addr {
				by = a.Host + "." + a.Name
			}
		}
		return nil, &ExhaustedError{host, cl.Name, fmt.Sprintf("%s is %s's", cl.Addr, by), "take another address"}
	}
	if after.Host == host {
		fill(after, host, left, c)
	}
	return &step{write, cidr, after}, nil
}

// fill gives as many claims as it can an address of the block. Those that have
// one already are passed over. It reports whether there were any.
func fill(b *Block, host string, claims []Claim, c Config) bool {
	done := false
	for _, cl := range claims {
		if cl.Addr.IsValid() && b.CIDR.Contains(cl.Addr) {
			done = b.takeAddr(host, cl.Name, cl.Addr) || done
		}
	}
	// Addresses that others ask for by name are left to them.
	for _, cl := range claims {
		if _, has := b.of(host, cl.Name); !cl.Addr.IsValid() && !has && b.Free() > 0 {
			b.take(host, cl.Name)
			done = true
		}
	}
	return done
}

// missing are the claims that are not met.
func missing(snap Snapshot, host string, claims []Claim) []Claim {
	var left []Claim
	for i, a := range snap.Addresses(host, claims) {
		if !a.IsValid() {
			left = append(left, claims[i])
		}
	}
	return left
}

// Met says whether Assign has nothing to do. The error is an *ExhaustedError
// when a container has no address, and Assign could give it none.
func (s Snapshot) Met(host string, claims []Claim) (bool, error) {
	st, err := next(s, s.Config, host, claims)
	return st == nil, err
}

// Addresses are those of a host's containers, invalid for one without.
func (s Snapshot) Addresses(host string, claims []Claim) []netip.Addr {
	has := map[string]netip.Addr{}
	for _, b := range s.Blocks {
		for _, a := range b.Allocations() {
			if a.Host == host {
				has[a.Name] = a.Addr
			}
		}
	}
	addrs := make([]netip.Addr, len(claims))
	for i, cl := range claims {
		addrs[i] = has[cl.Name]
	}
	return addrs
}

// freeBlock is a block that nobody has or wants. Each host begins to look at
// another place, so that hosts which start together seldom want the same.
func freeBlock(snap Snapshot, c Config, host string) (netip.Prefix, bool) {
	taken := map[netip.Prefix]bool{}
	for _, a := range snap.Affinities {
		taken[a.Block] = true
	}
	for _, b := range snap.Blocks {
		taken[b.CIDR] = true
	}
	count := 1 << (c.BlockSize - c.Pool.Bits())
	pool := Block{CIDR: c.Pool}
	h := fnv.New32a()
	h.Write([]byte(host))
	first := int(h.Sum32() % uint32(count))
	size := 1 << (32 - c.BlockSize)
	for i := range count {
		cidr := netip.PrefixFrom(pool.addr((first+i)%count*size), c.BlockSize)
		if !taken[cidr] {
			return cidr, true
		}
	}
	return netip.Prefix{}, false
}

// do runs a step. It reports false when the store is not as snap says.
func (s *Store) do(ctx context.Context, snap Snapshot, host string, st step) (bool, error) {
	affinity, block := affinityOf(host, st.cidr), blockKey(st.cidr)
	unchanged := func(key string, revision int64) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(key), "=", revision) // 0: there is none
	}
	var aff, blk int64
	if a := snap.affinity(host, st.cidr); a != nil {
		aff = a.revision
	}
	if b := snap.block(st.cidr); b != nil {
		blk = b.revision
	}
	put := func() (clientv3.Op, error) {
		v, err := st.block.value()
		return clientv3.OpPut(block, v), err
	}
	var cmps []clientv3.Cmp
	var ops []clientv3.Op
	switch st.action {
	case want:
		cmps = []clientv3.Cmp{unchanged(affinity, 0)}
		ops = []clientv3.Op{clientv3.OpPut(affinity, Pending.value())}
	case create:
		op, err := put()
		if err != nil {
			return false, err
		}
		cmps = []clientv3.Cmp{unchanged(affinity, aff), unchanged(block, 0)}
		ops = []clientv3.Op{op}
	case confirm:
		cmps = []clientv3.Cmp{unchanged(affinity, aff), unchanged(block, blk)}
		ops = []clientv3.Op{clientv3.OpPut(affinity, Confirmed.value())}
	case abandon:
		cmps = []clientv3.Cmp{unchanged(affinity, aff)}
		ops = []clientv3.Op{clientv3.OpDelete(affinity)}
	case write:
		op, err := put()
		if err != nil {
			return false, err
		}
		cmps = []clientv3.Cmp{unchanged(block, blk)}
		ops = []clientv3.Op{op}
	default:
		return false, errors.New("not a step")
	}
	return s.commit(ctx, cmps, ops)
}
