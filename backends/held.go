package backends

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What Run can end with, apart from its context. All but ErrSamePublicIP call
// for acquiring again with Previous set to the lost subnet.
var (
	// ErrLeaseLost: the lease is no longer ours. The error is a *LostError.
	ErrLeaseLost = errors.New("lease lost")
	// ErrStoreReplaced: the store answers with another cluster id or an older
	// revision: it was made anew, or set back to a copy.
	ErrStoreReplaced = errors.New("store replaced")
	// ErrSamePublicIP: another agent with our PublicIP has taken the lease
	// over. Taking it back would go on for ever; stop.
	ErrSamePublicIP = errors.New("another agent has the same public address")
)

// LostError says how a lease was lost. It is ErrLeaseLost, and, as far as
// they apply, ErrStoreReplaced or ErrSamePublicIP.
type LostError struct {
	Lease  Lease
	Reason LossReason
	By     netip.Addr // who has the subnet now, for Taken
}

// LossReason is how a lease was lost.
type LossReason int

// The ways to lose a lease.
const (
	Expired       LossReason = iota + 1 // not renewed in time, or revoked
	Deleted                             // somebody deleted the key
	Taken                               // the key names another host
	Doubled                             // another agent with the same PublicIP wrote the key
	StoreReplaced                       // the store lost its memory
)

func (e *LostError) Error() string {
	s := fmt.Sprintf("lease %s of %s: ", e.Lease.Subnet, e.Lease.PublicIP)
	switch e.Reason {
	case Expired:
		return s + "expired or revoked"
	case Deleted:
		return s + "its key was deleted"
	case Taken:
		if !e.By.IsValid() {
			return s + "its key was overwritten with something else"
		}
		return s + fmt.Sprintf("%s has written its key", e.By)
	case Doubled:
		return s + "another agent with the same public address has written its key; give each host its own, or stop one"
	case StoreReplaced:
		return s + "the store was replaced: another cluster id, or an older revision"
	}
	return s + "lost"
}

// Is makes errors.Is work with the sentinels.
func (e *LostError) Is(target error) bool {
	switch target {
	case ErrLeaseLost:
		return true
	case ErrStoreReplaced:
		return e.Reason == StoreReplaced
	case ErrSamePublicIP:
		return e.Reason == Doubled
	}
	return false
}

// Held is a lease that this host has. Run keeps it. All methods are safe for
// concurrent use; Run is called once.
type Held struct {
	store *Store
	ttl   time.Duration // as granted; 0 for a reservation

	op   sync.Mutex // held over each exchange with the store: a check must not see half an Update
	want Attrs      // what the key should say; under op
	seen head       // the newest that the store said of itself; under op

	mu    sync.Mutex // guards lease, for Lease
	lease Lease
}

// Lease is the lease as it is stored now.
func (h *Held) Lease() Lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lease
}

// Overdue is for how long the lease should have been renewed, which is how long
// the store has not answered; 0 when all is well.
func (h *Held) Overdue() time.Duration {
	l := h.Lease()
	if l.Reserved || l.Expires.IsZero() {
		return 0
	}
	return max(0, time.Since(l.Expires.Add(h.renewEvery()-h.ttl)))
}

// renewEvery is the pace of Run.
func (h *Held) renewEvery() time.Duration {
	if h.ttl > 0 {
		return h.ttl / 3
	}
	return DefaultTTL / 3
}

func (h *Held) set(change func(*Lease)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.lease)
}

// Update publishes other attributes. When it fails for want of a store, Run
// publishes them later. PublicIP, the identity, cannot change.
func (h *Held) Update(ctx context.Context, a Attrs) error {
	h.op.Lock()
	defer h.op.Unlock()
	l := h.Lease()
	if a.PublicIP != l.PublicIP {
		return fmt.Errorf("lease %s: public address %s cannot become %s; acquire anew", l.Subnet, l.PublicIP, a.PublicIP)
	}
	if _, err := a.Encode(); err != nil {
		return err
	}
	h.want = a
	if l.Attrs().Equal(a) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return h.check(ctx, false)
}

// Release gives the lease back: peers drop their routes at once. A reservation
// stays. Call it after Run has returned.
func (h *Held) Release(ctx context.Context) error {
	h.op.Lock()
	defer h.op.Unlock()
	l := h.Lease()
	if l.Reserved {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := h.store.subnetKey(l.Subnet)
	_, err := h.store.client.Txn(ctx).
		If(clientv3.Compare(clientv3.LeaseValue(key), "=", l.ID)).
		Then(clientv3.OpDelete(key)).
		Commit()
	if err != nil {
		return fmt.Errorf("lease %s: release: %w", l.Subnet, err)
	}
	h.store.revoke(l.ID)
	return nil
}

// Run keeps the lease until ctx ends, and then returns ctx's error; the key
// stays for its TTL, so that a restarted agent finds it. It returns a
// *LostError when the lease is lost. A store that is away is no reason to
// return: etcd lets no lease end while it is down.
func (h *Held) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	hint := make(chan struct{}, 1)
	wg.Go(func() { h.watchKey(ctx, hint) })
	wg.Go(func() { onConnect(ctx, h.store.client, func() { signal(hint) }) })

	every := h.renewEvery()
	timer := time.NewTimer(every)
	defer timer.Stop()
	retry := backoff{least: 10 * time.Millisecond, most: time.Second}
	renew := true
	for {
		err := h.round(ctx, renew)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrLeaseLost):
			return err
		case err != nil:
			renew = true
			if retry.wait(ctx) != nil {
				return ctx.Err()
			}
			continue
		}
		retry.reset()
		if renew {
			timer.Reset(every)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hint:
			renew = false
		case <-timer.C:
			renew = true
		}
	}
}

// watchKey hints that the key may have changed. It carries no news itself, so
// nothing is lost when an event is.
func (h *Held) watchKey(ctx context.Context, hint chan<- struct{}) {
	key := h.store.subnetKey(h.Lease().Subnet)
	b := backoff{least: 10 * time.Millisecond, most: time.Second}
	for {
		wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for resp := range h.store.client.Watch(wctx, key, clientv3.WithCreatedNotify()) {
			if resp.Err() == nil {
				b.reset()
			}
			signal(hint)
		}
		cancel()
		if b.wait(ctx) != nil {
			return
		}
	}
}

// round renews the etcd lease when it is time to, and compares the key.
func (h *Held) round(ctx context.Context, renew bool) error {
	h.op.Lock()
	defer h.op.Unlock()
	limit := callTimeout
	if h.ttl > 0 {
		limit = min(limit, h.ttl/3)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := false
	if l := h.Lease(); renew && !l.Reserved {
		asked := time.Now()
		resp, err := h.store.client.KeepAliveOnce(ctx, clientv3.LeaseID(l.ID))
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			ended = true
		case err != nil:
			return err
		default:
			h.set(func(l *Lease) { l.Expires = asked.Add(time.Duration(resp.TTL) * time.Second) })
		}
	}
	return h.check(ctx, ended)
}

// check reads the key and judges who owns it; a key that is ours but says
// something else than it should is written again. ended: the etcd lease is
// known to be gone.
func (h *Held) check(ctx context.Context, ended bool) error {
	l := h.Lease()
	kv, now, err := h.store.get(ctx, l.Subnet)
	if err != nil {
		return err
	}
	if now.cluster != h.seen.cluster || now.revision < h.seen.revision || now.revision < l.Revision {
		return &LostError{Lease: l, Reason: StoreReplaced}
	}
	h.seen = now
	if lost := h.judge(ctx, l, kv, ended); lost != nil {
		if !l.Reserved && !ended {
			h.store.revoke(l.ID) // the key does not hang on it
		}
		return lost
	}
	attrs, err := DecodeAttrs(kv.Value)
	if err == nil && attrs.Equal(h.want) && (kv.Lease == l.ID) {
		h.set(func(l *Lease) { l.Revision = kv.ModRevision })
		return nil
	}
	id := kv.Lease
	if err != nil {
		id = l.ID // whoever damaged it did not mean to reserve it
	}
	return h.publish(ctx, kv, id)
}

// judge says how the lease was lost, nil when it was not.
func (h *Held) judge(ctx context.Context, l Lease, kv *mvccpb.KeyValue, ended bool) error {
	if kv == nil {
		if !ended && !l.Reserved {
			ended = h.leaseEnded(ctx, l.ID)
		}
		if ended {
			return &LostError{Lease: l, Reason: Expired}
		}
		return &LostError{Lease: l, Reason: Deleted}
	}
	attrs, err := DecodeAttrs(kv.Value)
	byHand := kv.Lease == 0 // flannel's agents and ours attach an etcd lease
	switch {
	case err != nil && (byHand || kv.Lease == l.ID) && !ended:
		return nil // it names no owner: ours, damaged
	case err != nil:
		return &LostError{Lease: l, Reason: Taken}
	case attrs.PublicIP != l.PublicIP:
		return &LostError{Lease: l, Reason: Taken, By: attrs.PublicIP}
	case byHand && (!l.Reserved || attrs.Equal(Attrs{PublicIP: l.PublicIP})):
		return nil // a reservation of our subnet for us: ours to fill in
	case byHand && (attrs.Equal(l.Attrs()) || attrs.Equal(h.want)):
		// No etcd lease tells two agents apart; a value that is neither what
		// was stored nor what is wanted comes from the other one.
		return nil
	case !byHand && kv.Lease == l.ID:
		return nil // at worst the attributes are not ours
	}
	return &LostError{Lease: l, Reason: Doubled}
}

func (h *Held) leaseEnded(ctx context.Context, id int64) bool {
	resp, err := h.store.client.TimeToLive(ctx, clientv3.LeaseID(id))
	return err == nil && resp.TTL <= 0
}

// publish writes what the key should say over what was read, on the etcd
// lease id, 0 for a reservation.
func (h *Held) publish(ctx context.Context, kv *mvccpb.KeyValue, id int64) error {
	value, err := h.want.Encode()
	if err != nil {
		return err
	}
	l := newLease(h.Lease().Subnet, h.want, id, 0)
	key := string(kv.Key)
	resp, err := h.store.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
		Then(putOp(key, value, l)).
		Commit()
	if err != nil {
		return fmt.Errorf("lease %s: %w", l.Subnet, err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("lease %s: %w", l.Subnet, errRaced) // Run looks again
	}
	h.set(func(old *Lease) {
		l.Revision, l.Expires = resp.Header.Revision, old.Expires
		if l.Reserved {
			l.Expires = time.Time{}
		}
		*old = l
	})
	return nil
}
