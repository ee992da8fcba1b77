package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends"
	"labctl/backends/catalogue"
	"labctl/nodes"
)

// Protocol marks the routes that flannel's agents make (rtnetlink's
// rtm_protocol).
const Protocol = 97

// flannelSystem is flannel: a lease of a subnet, and a backend that makes
// kernel state of all leases.
type flannelSystem struct {
	*Agent
	store   *backends.Store
	network backends.Network
	backend backends.Backend
	carries backends.Path  // nil when the kernel forwards
	first   *backends.Held // the lease that join took
}

var _ system = (*flannelSystem)(nil)

func (a *flannelSystem) join(ctx context.Context, client *clientv3.Client) (nodes.Owner, error) {
	var none nodes.Owner
	a.store = backends.NewStore(client)
	if a.Prefix != "" {
		a.store = a.store.WithPrefix(a.Prefix)
	}
	var raw []byte
	var err error
	if a.network, raw, err = a.waitConfig(ctx); err != nil {
		return none, err
	}
	a.Log.Info("network config", "config", string(raw))
	if err := a.network.Supported(); err != nil {
		return none, err
	}
	if a.backend, err = catalogue.New(a.network); err != nil {
		return none, err
	}
	env, err := backends.ReadSubnetEnv(a.SubnetFile)
	if err != nil {
		return none, err
	}
	a.begins = !env.Previous().IsValid()
	if a.first, err = a.acquire(ctx, env.Previous()); err != nil {
		return none, err
	}
	l := a.first.Lease()
	if c, ok := a.backend.(backends.Carrier); ok {
		a.carries, err = c.Open(l, a.underlay, a.Log)
		if err := a.opened(a.carries, err); err != nil {
			return none, err
		}
	}
	return a.owner(l), nil
}

// acquire takes a subnet, writes it down and tells the supervisor. While none
// is free it waits and says so.
func (a *flannelSystem) acquire(ctx context.Context, previous netip.Prefix) (*backends.Held, error) {
	a.update(func(r *Report) { r.Phase = Acquiring })
	attrs := backends.Attrs{PublicIP: a.underlay.Addr, BackendType: a.backend.Type()}
	if attrs.BackendType == backends.DefaultBackendType {
		attrs.BackendType = "" // flannel's udp omits it
	}
	h, err := a.store.Acquire(ctx, backends.Request{
		Network: a.network, Attrs: attrs, Data: a.backend.Data, TTL: a.LeaseTTL, Previous: previous,
		Waiting: func(e *backends.ExhaustedError) { a.complain("lease", e) },
	})
	if err != nil {
		return nil, err
	}
	l := h.Lease()
	mtu := a.backend.MTU(a.underlay)
	if err := backends.WriteSubnetEnv(a.SubnetFile, backends.NewSubnetEnv(a.network, l, mtu, a.IPMasq)); err != nil {
		return nil, err
	}
	a.Log.Info("lease", "subnet", l.Subnet, "mtu", mtu, "reserved", l.Reserved)
	var data struct{ VtepMAC string }
	if len(l.BackendData) > 0 {
		// Of backends without a VTEP it has no such field, or is no object.
		_ = json.Unmarshal(l.BackendData, &data)
	}
	a.update(func(r *Report) {
		a.trouble = ""
		r.Phase, r.Subnet, r.MTU, r.VTEPMAC = Running, l.Subnet, mtu, data.VtepMAC
	})
	return h, nil
}

// owner owns the backend's devices: what an earlier agent left on them and is
// no longer wanted is stale.
func (a *flannelSystem) owner(l backends.Lease) nodes.Owner {
	st, _ := a.backend.Desired(l, nil, a.underlay)
	o := nodes.Owner{Name: "labctl agent", Protocol: Protocol}
	for _, link := range st.Links {
		o.Exclusive = append(o.Exclusive, link.LinkName())
	}
	return o
}

// follow keeps the lease and hands every set of leases to the reconciler.
func (a *flannelSystem) follow(ctx context.Context) error {
	h := a.first
	pace := pacer{flock: flock{over: !a.begins}}
	snapshots := a.store.Watch(ctx, a.LeaseTTL, a.gather(&pace.flock))
	var snap backends.Snapshot
	lost := a.keep(ctx, h)
	var acquired <-chan acquisition // set while there is no lease: the peers are kept up with
	look := time.NewTicker(a.LeaseTTL / 6)
	defer look.Stop()
	late := false            // the store does not renew the lease
	var due <-chan time.Time // set while a snapshot waits for the rest of its flock
	for {
		select {
		case <-ctx.Done():
			if acquired != nil {
				<-acquired
			} else {
				<-lost
			}
			return ctx.Err()
		case s, ok := <-snapshots:
			if !ok {
				return ctx.Err()
			}
			snap = s
			if d := pace.wait(len(s.Leases), a.expected()); d > 0 {
				if due == nil {
					due = time.After(d)
				}
				continue
			}
		case <-due:
			if d := pace.gather(len(snap.Leases), a.expected()); d > 0 {
				due = time.After(d)
				continue
			}
		case err := <-lost:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.complain("lease", err)
			if errors.Is(err, backends.ErrSamePublicIP) {
				return err
			}
			late = false
			lost, acquired = nil, a.acquireAgain(ctx, h.Lease().Subnet)
			continue
		case <-look.C:
			if acquired == nil {
				late = a.renewed(h, late)
			}
			continue
		case got := <-acquired:
			if got.err != nil {
				return got.err
			}
			h = got.held
			lost, acquired = a.keep(ctx, h), nil
		}
		due = nil
		if snap.Revision > 0 {
			a.set(h.Lease(), snap)
			pace.set()
		}
	}
}

// renewed tells when a store that is out of reach puts the lease at risk, and
// when that is over. late is what it returned before.
func (a *flannelSystem) renewed(h *backends.Held, late bool) bool {
	if h.Overdue() > a.LeaseTTL/6 {
		l := h.Lease()
		a.complain("lease", fmt.Errorf("etcd: no answer; lease %s ends at %s unless it is renewed; check the way to the store", l.Subnet, l.Expires.Format(time.TimeOnly)))
		return true
	}
	if late {
		a.update(func(*Report) { a.trouble = "" })
	}
	return false
}

// acquisition is what acquire came to.
type acquisition struct {
	held *backends.Held
	err  error
}

// acquireAgain acquires in the background.
func (a *flannelSystem) acquireAgain(ctx context.Context, previous netip.Prefix) <-chan acquisition {
	done := make(chan acquisition, 1)
	go func() {
		h, err := a.acquire(ctx, previous)
		done <- acquisition{h, err}
	}()
	return done
}

// keep renews a lease; the channel tells its end.
func (a *flannelSystem) keep(ctx context.Context, h *backends.Held) <-chan error {
	a.mu.Lock()
	a.lease = h
	a.mu.Unlock()
	lost := make(chan error, 1)
	go func() { lost <- h.Run(ctx) }()
	return lost
}

// set gives the reconciler what the leases ask for.
func (a *flannelSystem) set(self backends.Lease, snap backends.Snapshot) {
	peers, problems := snap.Peers(self, a.network)
	st, more := a.backend.Desired(self, peers, a.underlay)
	problems = append(problems, more...)
	for _, p := range snap.Problems {
		problems = append(problems, p)
	}
	if snap.Replaced {
		problems = append(problems, errors.New("store: lost its memory; leases of before stay until they are registered again"))
	}
	st.Tables = append(st.Tables, a.trafficRules(self.Subnet)...)
	k := known(self, peers)
	k.revision = snap.Revision
	for _, p := range problems {
		a.Log.Warn("lease ignored", "err", p)
	}
	if a.carries != nil {
		a.carries.Set(self, peers)
	}
	a.want(st, k, problems)
}

// known is a fingerprint of self and peers, the same on every host.
func known(self backends.Lease, peers []backends.Lease) leasesKnown {
	var sum [sha256.Size]byte
	for _, l := range append(peers[:len(peers):len(peers)], self) {
		// Order must not matter: the host's own lease stands at another place
		// on every host.
		one := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s", l.Subnet, l.PublicIP, l.BackendType, l.BackendData))
		for i := range sum {
			sum[i] ^= one[i]
		}
	}
	return leasesKnown{count: len(peers) + 1, digest: hex.EncodeToString(sum[:8])}
}
