package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends"
	"labctl/backends/calico"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// Config is what an agent is told.
type Config struct {
	Node       string          // the host's name in messages, and in a Calico network
	System     System          // what network it joins
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

// System is a network system: what is in the store, and what follows from it.
type System string

// The systems. The zero System is Flannel.
const (
	Flannel System = "flannel"
	Calico  System = "calico"
)

// system makes the host a part of a network. What is the same whatever the
// network is the Agent's: the stream to the supervisor, the reconciler, the
// report. All methods are called once, in this order.
type system interface {
	// join waits for the network's configuration and takes what the host needs
	// out of the store. It returns on whose behalf the kernel is changed, and
	// leaves in Agent.beside what is no kernel state.
	join(ctx context.Context, client *clientv3.Client) (nodes.Owner, error)
	// follow keeps what the host has, and calls Agent.want with each state that
	// the store asks for, until ctx ends.
	follow(ctx context.Context) error
}

// newSystem is the one that the configuration asks for.
func (a *Agent) newSystem() (system, error) {
	switch a.System {
	case "", Flannel:
		return &flannelSystem{Agent: a}, nil
	case Calico:
		return &calicoSystem{Agent: a}, nil
	}
	return nil, fmt.Errorf("%s: network system %q: not known", a.Node, a.System)
}

// Agent is a running agent.
type Agent struct {
	Config
	control  *rpc.Conn // nil outside a lab
	system   system
	underlay nodes.Underlay
	calls    storeCalls
	ordered  chan struct{}                 // capacity 1: there is an order to look at
	up       chan struct{}                 // closed when an order says so
	beside   []func(context.Context) error // what runs beside system.follow, until the context ends

	mu         sync.Mutex        // guards all below
	reconciler *nodes.Reconciler // set once
	order      Order             // the last; zero outside a lab
	trouble    string            // why there is no lease or address, or soon none
	begins     bool              // no agent was here before; set by join
	exhausted  bool              // trouble is that a Calico pool has no address left
	report     Report
	sent       Report
	sets       uint64                 // calls of reconciler.Set
	pending    map[uint64]leasesKnown // by the value of sets
	lease      *backends.Held         // flannel's; nil before the first
	teller     teller
	speaker    *speaker // nil without BGP, and before it is started
	path       path     // nil while the kernel forwards; set once
}

// leasesKnown tells sets of leases, or of hosts and their blocks, apart.
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
	a := &Agent{Config: c, pending: map[uint64]leasesKnown{}, ordered: make(chan struct{}, 1), up: make(chan struct{})}
	var err error
	if a.system, err = a.newSystem(); err != nil {
		cancel(nil)
		return err
	}
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
		// The supervisor has the first collection of garbage come late: from then
		// on they come as usual.
		runtime.AddCleanup(&struct{ next *int }{}, func(int) { debug.SetGCPercent(100) }, 0)
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
	client, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	owner, err := a.system.join(ctx, client)
	if err != nil {
		return err
	}
	r, err := nodes.NewReconciler(ns, owner)
	if err != nil {
		return err
	}
	defer r.Close()
	if a.begins && a.expected() >= many {
		r.Alone(a.up)
	}
	a.mu.Lock()
	a.reconciler = r
	r.Hold(a.order.Hold)
	r.KeepDown(a.order.Down)
	a.mu.Unlock()
	wg.Go(func() {
		if err := a.reconciler.Run(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	for _, run := range a.beside {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				cancel(err)
			}
		})
	}
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
	err = a.system.follow(ctx)
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
	told, up := false, false
	for {
		var o Order
		if _, err := a.control.Receive(&o); err != nil {
			return
		}
		a.mu.Lock()
		was := a.order
		a.order = o
		if a.reconciler != nil {
			a.reconciler.Hold(o.Hold)
			if !slices.Equal(was.Down, o.Down) {
				a.reconciler.KeepDown(o.Down)
			}
		}
		speaker := a.speaker
		a.mu.Unlock()
		detail := speaker.obey(o, a.Log)
		a.mu.Lock()
		if o.Ask != a.report.Answered {
			a.report.Traffic, a.report.Answered = a.traffic(), o.Ask
			if detail != nil {
				a.report.BGP = detail
			}
		}
		a.mu.Unlock()
		a.send()
		select {
		case a.ordered <- struct{}{}:
		default:
		}
		if o.Store && !told {
			told = true
			close(store)
		}
		if o.Up && !up {
			up = true
			close(a.up)
		}
	}
}

// complain tells why there is no lease or address, or soon none. what is the
// thing.
func (a *Agent) complain(what string, err error) {
	said := false
	_, exhausted := errors.AsType[*calico.ExhaustedError](err)
	a.update(func(*Report) { said, a.trouble, a.exhausted = a.trouble == err.Error(), err.Error(), exhausted })
	if !said {
		a.Log.Warn(what, "err", err)
	}
}

// want gives the reconciler what the store asks for. k is what it stands for.
func (a *Agent) want(st nodes.State, k leasesKnown, problems []error) {
	a.update(func(r *Report) {
		r.Problems, r.Conflicts = nil, nil
		for _, p := range problems {
			r.Problems = append(r.Problems, p.Error())
			if _, ok := errors.AsType[*calico.OwnerError](p); ok {
				r.Conflicts = append(r.Conflicts, p.Error())
			}
		}
		a.sets++
		a.pending[a.sets] = k
	})
	a.reconciler.Set(st)
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
	a.report.Error, a.report.Exhausted = a.trouble, a.exhausted
	if a.reconciler != nil {
		r := a.reconciler.Report()
		a.report.Held, a.report.Drift, a.report.Healed, a.report.Foreign = r.Held, r.Drift, r.Healed, r.Foreign
		if a.speaker != nil {
			k := a.speaker.host.Report().Kernel
			a.report.Drift = append(a.report.Drift, k.Drift...)
			a.report.Healed = append(a.report.Healed, k.Healed...)
			a.report.Foreign = append(a.report.Foreign, k.Foreign...)
			r.Err = cmp.Or(r.Err, a.speaker.trouble, k.Err)
		}
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
