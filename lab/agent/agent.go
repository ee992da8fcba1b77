package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"time"

	"labctl/backends"
	"labctl/backends/catalogue"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// Protocol marks the routes that agents make (rtnetlink's rtm_protocol).
const Protocol = 97

// Config is what an agent is told.
type Config struct {
	Node       string          // the host's name in messages
	Access     backends.Access // to etcd; Observe is the agent's
	Prefix     string          // of the network's keys; "" for flannel's default
	Choice     Choice          // of the underlay
	SubnetFile string
	IPMasq     bool
	NoForward  bool // leave out the rules that let containers' packets be forwarded
	LeaseTTL   time.Duration
	Healthz    string // HOST:PORT to answer /healthz and /readyz at; "" for none
	Notify     string // the socket of sd_notify(3); "" for none
	Log        *slog.Logger
	Control    *os.File // the stream to the supervisor; nil outside a lab
}

// Agent is a running agent.
type Agent struct {
	Config
	control  *rpc.Conn // nil outside a lab
	store    *backends.Store
	network  backends.Network
	backend  backends.Backend
	path     backends.Path // nil when the kernel forwards; set once, under mu
	underlay nodes.Underlay
	calls    storeCalls

	mu         sync.Mutex        // guards all below
	reconciler *nodes.Reconciler // set once
	held       bool
	hosts      int    // how many hosts the lab has; 0 outside one
	trouble    string // why there is no lease, or soon none
	report     Report
	sent       Report
	sets       uint64                 // calls of reconciler.Set
	pending    map[uint64]leasesKnown // by the value of sets
	lease      *backends.Held         // nil before the first
	teller     teller
}

// leasesKnown tells sets of leases apart.
type leasesKnown struct {
	count    int
	digest   string
	revision int64 // the store's
}

// Run works until ctx ends. The kernel state and the lease stay: whoever
// starts it again within the lease's TTL goes on where it stopped.
func Run(ctx context.Context, c Config) error {
	ctx, cancel := context.WithCancelCause(ctx)
	if c.LeaseTTL <= 0 {
		c.LeaseTTL = backends.DefaultTTL
	}
	a := &Agent{Config: c, pending: map[uint64]leasesKnown{}}
	a.report.Phase = WaitingForStore
	a.calls = storeCalls{log: c.Log, access: c.Access}
	a.Access.Observe = a.calls.observe
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	ns, err := nodes.CurrentNamespace(c.Node)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.MayChange(); err != nil {
		return err
	}
	if a.underlay, err = c.Choice.find(ns); err != nil {
		return err
	}
	if c.Healthz != "" {
		done, err := a.serveHealth()
		if err != nil {
			return err
		}
		defer done()
	}
	// The stream ends with the supervisor, and so does the agent.
	if c.Control != nil {
		if a.control, err = rpc.FromFile(c.Control); err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { a.control.Close() }) // which ends obey
		a.send()
		store := make(chan struct{})
		wg.Go(func() {
			defer cancel(nil)
			a.obey(store)
		})
		select {
		case <-store:
		case <-ctx.Done():
			return nil
		}
	}
	if a.store, err = a.dial(ctx); err != nil {
		return err
	}
	defer a.store.Close()
	if c.Prefix != "" {
		a.store = a.store.WithPrefix(c.Prefix)
	}

	var raw []byte
	if a.network, raw, err = a.waitConfig(ctx); err != nil {
		return err
	}
	c.Log.Info("network config", "config", string(raw))
	if err := a.network.Supported(); err != nil {
		return err
	}
	if a.backend, err = catalogue.New(a.network); err != nil {
		return err
	}
	env, err := backends.ReadSubnetEnv(c.SubnetFile)
	if err != nil {
		return err
	}
	lease, err := a.acquire(ctx, env.Previous())
	if err != nil {
		return err
	}
	if err := a.openPath(lease.Lease()); err != nil {
		return err
	}
	r, err := a.newReconciler(ns, lease.Lease())
	if err != nil {
		return err
	}
	defer r.Close()
	a.mu.Lock()
	a.reconciler = r
	r.Hold(a.held)
	a.mu.Unlock()
	wg.Go(func() {
		if err := a.reconciler.Run(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		if err := a.carry(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-a.reconciler.Changed():
				a.update(func(*Report) {})
				if err := a.tell(); err != nil {
					cancel(err)
				}
			}
		}
	})
	err = a.follow(ctx, lease)
	if ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// obey follows the supervisor's orders until the stream ends. store is closed
// when etcd answers for the first time.
func (a *Agent) obey(store chan<- struct{}) {
	told := false
	for {
		var o Order
		if _, err := a.control.Receive(&o); err != nil {
			return
		}
		a.mu.Lock()
		a.held, a.hosts = o.Hold, o.Hosts
		if a.reconciler != nil {
			a.reconciler.Hold(o.Hold)
		}
		if o.Ask != a.report.Answered {
			a.report.Traffic, a.report.Answered = a.traffic(), o.Ask
		}
		a.mu.Unlock()
		a.send()
		if o.Store && !told {
			told = true
			close(store)
		}
	}
}

// acquire takes a subnet, writes it down and tells the supervisor. While none
// is free it waits and says so.
func (a *Agent) acquire(ctx context.Context, previous netip.Prefix) (*backends.Held, error) {
	a.update(func(r *Report) { r.Phase = Acquiring })
	attrs := backends.Attrs{PublicIP: a.underlay.Addr, BackendType: a.backend.Type()}
	if attrs.BackendType == backends.DefaultBackendType {
		attrs.BackendType = "" // flannel's udp omits it
	}
	h, err := a.store.Acquire(ctx, backends.Request{
		Network: a.network, Attrs: attrs, Data: a.backend.Data, TTL: a.LeaseTTL, Previous: previous,
		Waiting: func(e *backends.ExhaustedError) { a.complain(e) },
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

// complain tells why there is no lease, or soon none.
func (a *Agent) complain(err error) {
	said := false
	a.update(func(*Report) { said, a.trouble = a.trouble == err.Error(), err.Error() })
	if !said {
		a.Log.Warn("lease", "err", err)
	}
}

// newReconciler owns the backend's devices: what an earlier agent left on
// them and is no longer wanted is stale.
func (a *Agent) newReconciler(ns *nodes.Namespace, l backends.Lease) (*nodes.Reconciler, error) {
	st, _ := a.backend.Desired(l, nil, a.underlay)
	o := nodes.Owner{Name: "labctl agent", Protocol: Protocol}
	for _, link := range st.Links {
		o.Exclusive = append(o.Exclusive, link.LinkName())
	}
	return nodes.NewReconciler(ns, o)
}

// follow keeps the lease and hands every set of leases to the reconciler.
func (a *Agent) follow(ctx context.Context, h *backends.Held) error {
	snapshots := a.store.Watch(ctx, a.LeaseTTL)
	var snap backends.Snapshot
	lost := a.keep(ctx, h)
	var acquired <-chan acquisition // set while there is no lease: the peers are kept up with
	look := time.NewTicker(a.LeaseTTL / 6)
	defer look.Stop()
	late := false // the store does not renew the lease
	var pace pacer
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
		case err := <-lost:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.complain(err)
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
func (a *Agent) renewed(h *backends.Held, late bool) bool {
	if h.Overdue() > a.LeaseTTL/6 {
		l := h.Lease()
		a.complain(fmt.Errorf("etcd: no answer; lease %s ends at %s unless it is renewed; check the way to the store", l.Subnet, l.Expires.Format(time.TimeOnly)))
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
func (a *Agent) acquireAgain(ctx context.Context, previous netip.Prefix) <-chan acquisition {
	done := make(chan acquisition, 1)
	go func() {
		h, err := a.acquire(ctx, previous)
		done <- acquisition{h, err}
	}()
	return done
}

// keep renews a lease; the channel tells its end.
func (a *Agent) keep(ctx context.Context, h *backends.Held) <-chan error {
	a.mu.Lock()
	a.lease = h
	a.mu.Unlock()
	lost := make(chan error, 1)
	go func() { lost <- h.Run(ctx) }()
	return lost
}

// set gives the reconciler what the leases ask for.
func (a *Agent) set(self backends.Lease, snap backends.Snapshot) {
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
	a.update(func(r *Report) {
		r.Problems = nil
		for _, p := range problems {
			r.Problems = append(r.Problems, p.Error())
		}
		a.sets++
		a.pending[a.sets] = k
	})
	for _, p := range problems {
		a.Log.Warn("lease ignored", "err", p)
	}
	if a.path != nil {
		a.path.Set(self, peers)
	}
	a.reconciler.Set(st)
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

// update changes the report and sends it if that made a difference.
func (a *Agent) update(f func(*Report)) {
	a.mu.Lock()
	f(&a.report)
	a.mu.Unlock()
	a.send()
}

func (a *Agent) send() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.report.Error = a.trouble
	if a.reconciler != nil {
		r := a.reconciler.Report()
		a.report.Held, a.report.Drift, a.report.Healed, a.report.Foreign = r.Held, r.Drift, r.Healed, r.Foreign
		a.report.Error, a.report.Unsupported = cmp.Or(a.trouble, r.Err), r.Unsupported
		if k, ok := a.pending[r.Generation]; ok {
			a.report.Leases, a.report.Digest, a.report.Revision = k.count, k.digest, k.revision
			for g := range a.pending {
				if g < r.Generation {
					delete(a.pending, g)
				}
			}
		}
	}
	if a.control == nil || reflect.DeepEqual(a.report, a.sent) {
		return
	}
	a.sent = a.report
	_ = a.control.Send(a.report) // the supervisor's end is seen by Receive
}
