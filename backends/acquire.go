package backends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// DefaultTTL is the life of a lease that nobody renews: long enough for an
// agent that is restarted, short enough to watch it end. flannel's is 24 h.
const DefaultTTL = 30 * time.Second

// candidates is among how many free subnets one is drawn, as in flannel: the
// first free one would make hosts that start together collide.
const candidates = 100

// ErrExhausted means that no subnet is free. The error is an *ExhaustedError.
var ErrExhausted = errors.New("no subnet is free")

// Request is what Acquire needs to know.
type Request struct {
	Network Network
	// Attrs is what peers are told; Attrs.PublicIP is the host's identity.
	Attrs Attrs
	// Data, when not nil, gives Attrs.BackendData from that of the lease which
	// the host held until now (nil for none). It is Backend.Data.
	Data func(previous json.RawMessage) (json.RawMessage, error)
	TTL  time.Duration // 0: DefaultTTL; etcd may lengthen it
	// Previous is a subnet to prefer if it is free: what the host had before,
	// by subnet.env or by a Held that was lost. Zero for none.
	Previous netip.Prefix
	// Waiting, when not nil, is told each time that no subnet is free, and
	// Acquire then waits until one is, instead of failing.
	Waiting func(*ExhaustedError)
}

// Acquire takes a subnet: the one that the host already has, by PublicIP; else
// Previous; else a free one, at random. Nothing is ever taken from another
// host: each write is a transaction that fails when the key changed meanwhile,
// and then the choice is made anew.
//
// It waits for a store that is away until ctx ends. It fails at once when no
// subnet is free (ErrExhausted; but see Request.Waiting), when a reservation of
// this host cannot be used, and when the network is not supported.
func (s *Store) Acquire(ctx context.Context, r Request) (*Held, error) {
	h, err := s.acquire(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("subnet for %s: %w", r.Attrs.PublicIP, err)
	}
	return h, nil
}

func (s *Store) acquire(ctx context.Context, r Request) (*Held, error) {
	if err := r.Network.Supported(); err != nil {
		return nil, err
	}
	if _, err := r.Attrs.Encode(); err != nil {
		return nil, err
	}
	if r.TTL <= 0 {
		r.TTL = DefaultTTL
	}
	a := acquisition{store: s, request: r}
	b := backoff{least: 5 * time.Millisecond, most: 500 * time.Millisecond}
	last := errors.New("etcd has not answered")
	for {
		h, err := a.attempt(ctx)
		switch {
		case h != nil:
			return h, nil
		case r.Waiting != nil && errors.Is(err, ErrExhausted):
			ex, _ := errors.AsType[*ExhaustedError](err)
			r.Waiting(ex)
			last = err
			if s.awaitChange(ctx, ex.revision) {
				b.reset()
			}
		case isFinal(err):
			a.giveUp()
			return nil, err
		case ctx.Err() == nil:
			last = err
		}
		if b.wait(ctx) != nil {
			a.giveUp()
			return nil, fmt.Errorf("%w: %w", last, context.Cause(ctx))
		}
	}
}

// finalError is one that another attempt would not mend.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

func isFinal(err error) bool {
	_, ok := errors.AsType[finalError](err)
	return ok
}

// errRaced means that a key changed between reading and writing.
var errRaced = errors.New("another host was faster")

// acquisition is one Acquire under way.
type acquisition struct {
	store   *Store
	request Request
	grant   *clientv3.LeaseGrantResponse // used by the attempt that succeeds
	granted time.Time                    // before the grant was asked for
}

// attempt lists, chooses and writes once.
func (a *acquisition) attempt(ctx context.Context) (*Held, error) {
	entries, head, err := a.store.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	c, err := choose(snapshotOf(entries, head.revision, head.cluster), a.request)
	if ex, ok := errors.AsType[*ExhaustedError](err); ok {
		a.store.whenFree(ctx, ex)
	}
	if err != nil {
		return nil, finalError{err}
	}
	attrs := a.request.Attrs
	if a.request.Data != nil {
		if attrs.BackendData, err = a.request.Data(c.before.BackendData); err != nil {
			return nil, finalError{err}
		}
	}
	lease := newLease(c.subnet, attrs, 0, 0)
	lease.Reserved = c.before.Reserved
	if !lease.Reserved {
		if err := a.ensureGrant(ctx); err != nil {
			return nil, err
		}
		lease.ID = int64(a.grant.ID)
		lease.Expires = a.granted.Add(time.Duration(a.grant.TTL) * time.Second)
	}
	if lease.Revision, err = a.write(ctx, c, lease); err != nil {
		return nil, err
	}
	h := &Held{store: a.store, want: attrs, lease: lease, seen: head}
	if a.grant != nil {
		h.ttl = time.Duration(a.grant.TTL) * time.Second
	}
	if lease.Reserved { // a grant of an earlier attempt
		a.giveUp()
	}
	return h, nil
}

func (a *acquisition) ensureGrant(ctx context.Context) error {
	if a.grant != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a.granted = time.Now()
	seconds := (a.request.TTL + time.Second - 1) / time.Second
	grant, err := a.store.client.Grant(ctx, int64(seconds))
	if err != nil {
		return fmt.Errorf("etcd lease: %w", err)
	}
	a.grant = grant
	return nil
}

// write puts the key, and removes other leases of this host, if all of them
// are as they were read. A former etcd lease of the key is left to end by
// itself: the key no longer hangs on it, and revoking it could delete what
// others attached to it.
func (a *acquisition) write(ctx context.Context, c choice, l Lease) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	value, err := l.Attrs().Encode()
	if err != nil {
		return 0, finalError{err}
	}
	key := a.store.subnetKey(c.subnet)
	// ModRevision 0 is "there is no such key".
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", c.before.Revision)}
	ops := []clientv3.Op{putOp(key, value, l)}
	for _, old := range c.stale {
		key := a.store.subnetKey(old.Subnet)
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(key), "=", old.Revision))
		ops = append(ops, clientv3.OpDelete(key))
	}
	resp, err := a.store.client.Txn(ctx).If(conds...).Then(ops...).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // it took longer than the TTL to get here
		a.grant = nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("%s: %w", key, errRaced)
	}
	return resp.Header.Revision, nil
}

func putOp(key string, value []byte, l Lease) clientv3.Op {
	if l.Reserved {
		return clientv3.OpPut(key, string(value))
	}
	return clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(l.ID)))
}

// awaitChange waits until a key under subnets/ has changed since revision, and
// reports whether one has. It returns also when there may have been changes
// that went unseen.
func (s *Store) awaitChange(ctx context.Context, revision int64) bool {
	ctx, cancel := context.WithTimeout(ctx, resync)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { onConnect(ctx, s.client, cancel) })
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.subnetsKey(),
		clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	for resp := range events {
		if resp.Err() != nil {
			return false
		}
		if len(resp.Events) > 0 {
			return true
		}
	}
	return false
}

// giveUp hands back an etcd lease that no key hangs on. It would end by itself.
func (a *acquisition) giveUp() {
	if a.grant != nil {
		a.store.revoke(int64(a.grant.ID))
	}
}

// revoke ends an etcd lease, as far as that is possible at once.
func (s *Store) revoke(id int64) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout/10)
	defer cancel()
	_, _ = s.client.Revoke(ctx, clientv3.LeaseID(id)) // it ends by itself, too
}

// choice is the subnet to write.
type choice struct {
	subnet netip.Prefix
	before Lease   // what is under its key now; zero for nothing
	stale  []Lease // other leases of this host, to remove
}

// choose decides which subnet to take. It is flannel's order: the host's own,
// the previous one, a random one of the first free.
func choose(s Snapshot, r Request) (choice, error) {
	own := s.Of(r.Attrs.PublicIP)
	if c, ok := chooseOwn(own, r); ok {
		return c, nil
	}
	c := choice{}
	for _, l := range own {
		if l.Reserved {
			return choice{}, fmt.Errorf("reservation %s: not a /%d of the network %s; delete its key, or change the network config",
				l.Subnet, r.Network.SubnetLen, r.Network.Network)
		}
		c.stale = append(c.stale, l)
	}
	if r.Network.Allows(r.Previous) && !overlapsAny(r.Previous, s.taken) {
		c.subnet = r.Previous
		return c, nil
	}
	free := r.Network.free(s.taken, candidates)
	if len(free) == 0 && len(c.stale) > 0 {
		// Our own stale leases may have all there is, as one of a network before
		// this one can. They go in the transaction that writes the new one.
		free = r.Network.free(slices.DeleteFunc(slices.Clone(s.taken), func(t netip.Prefix) bool {
			return slices.ContainsFunc(c.stale, func(l Lease) bool { return l.Subnet == t })
		}), candidates)
	}
	if len(free) == 0 {
		return choice{}, &ExhaustedError{Pool: r.Network.Pool, Leases: s.Leases, revision: s.Revision}
	}
	c.subnet = free[rand.N(len(free))]
	return c, nil
}

// chooseOwn finds the host's own lease. A reservation comes first, and may
// also lie below SubnetMin or above SubnetMax: somebody put it there.
func chooseOwn(own []Lease, r Request) (choice, bool) {
	best := -1
	for i, l := range own {
		fits := r.Network.Allows(l.Subnet)
		if l.Reserved {
			fits = l.Subnet.Bits() == r.Network.SubnetLen && contains(r.Network.Network, l.Subnet)
		}
		if fits && (best < 0 || betterOwn(l, own[best], r.Previous)) {
			best = i
		}
	}
	if best < 0 {
		return choice{}, false
	}
	c := choice{subnet: own[best].Subnet, before: own[best]}
	for i, l := range own {
		if i != best && !l.Reserved {
			c.stale = append(c.stale, l)
		}
	}
	return c, true
}

func betterOwn(a, b Lease, previous netip.Prefix) bool {
	if a.Reserved != b.Reserved {
		return a.Reserved
	}
	return a.Subnet == previous
}

func overlapsAny(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if p.Overlaps(t) {
			return true
		}
	}
	return false
}

// free is the first subnets, at most limit, that overlap nothing taken.
func (p Pool) free(taken []netip.Prefix, limit int) []netip.Prefix {
	var free []netip.Prefix
	if !p.SubnetMin.IsValid() {
		return nil
	}
	for a := p.SubnetMin; !p.SubnetMax.Less(a) && len(free) < limit; {
		subnet := netip.PrefixFrom(a, p.SubnetLen)
		used := subnet // what to step over
		isFree := true
		for _, t := range taken {
			if t.Overlaps(subnet) {
				isFree = false
				if t.Bits() < used.Bits() {
					used = t
				}
			}
		}
		if isFree {
			free = append(free, subnet)
		}
		next := lastAddr(used).Next()
		if !next.IsValid() { // the end of the address family
			break
		}
		a = next
	}
	return free
}

// ExhaustedError says why no subnet is free, and when one could be.
type ExhaustedError struct {
	Pool     Pool
	Leases   []Lease       // who holds them
	NextFree time.Duration // until the first lease ends if its owner does not renew it; 0 unknown
	NextOf   Lease         // that lease
	revision int64         // of the store when it was so
}

// Is makes errors.Is(err, ErrExhausted) true.
func (e *ExhaustedError) Is(target error) bool { return target == ErrExhausted }

func (e *ExhaustedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no subnet is free: network %s has %d subnets of /%d from %s to %s, all taken",
		e.Pool.Network, e.Pool.Size(), e.Pool.SubnetLen, e.Pool.SubnetMin, e.Pool.SubnetMax)
	const shown = 8
	sep := ": "
	for _, l := range e.Leases[:min(shown, len(e.Leases))] {
		fmt.Fprintf(&b, "%s%s has %s", sep, l.PublicIP, l.Subnet)
		sep = ", "
	}
	if more := len(e.Leases) - shown; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	if e.NextFree > 0 {
		fmt.Fprintf(&b, "; %s ends in %s if %s does not renew it", e.NextOf.Subnet, e.NextFree, e.NextOf.PublicIP)
	}
	b.WriteString("; use a larger Network or a longer SubnetLen, or remove a host")
	return b.String()
}

// whenFree finds out when the first lease could end. It costs a call for each
// lease, so only the error asks for it, and not for ever.
func (s *Store) whenFree(ctx context.Context, e *ExhaustedError) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, l := range e.Leases {
		if l.Reserved {
			continue
		}
		resp, err := s.client.TimeToLive(ctx, clientv3.LeaseID(l.ID))
		if err != nil {
			return
		}
		if left := time.Duration(resp.TTL) * time.Second; resp.TTL >= 0 && (e.NextFree == 0 || left < e.NextFree) {
			e.NextFree, e.NextOf = max(left, time.Second), l
		}
	}
}
