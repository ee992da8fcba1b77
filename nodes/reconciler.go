package nodes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	healedFor  = 10 * time.Second      // how long Report tells what was healed
	coalesce   = 20 * time.Millisecond // from a notification to the pass it causes
	resync     = 30 * time.Second      // a pass without any reason
	settle     = time.Second           // after Alone
	spread     = 5 * time.Second       // in which many begin to listen
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Owner is on whose behalf a Reconciler acts: what it may remove.
type Owner struct {
	Name string
	// Protocol is the rtnetlink protocol number of its routes. All routes of
	// the main table with this number are the owner's.
	Protocol int
	// Exclusive are devices whose permanent neighbours, FDB entries and
	// addresses, when found by the first pass, are the owner's from an earlier
	// life.
	Exclusive []string
}

// Reconciler makes one namespace hold what a State says. It is level-triggered:
// each pass lists what is there, or relies on an earlier list while the kernel
// tells of no change, compares, and puts right the difference. It
// removes only what it put there itself, by memory or by its routes' protocol.
//
// Until the first Set it does nothing at all. Its methods are safe for
// concurrent use. Several Reconcilers with different Owners may work in one
// namespace.
type Reconciler struct {
	ns    *Namespace
	owner Owner

	wake    chan struct{} // capacity 1: Set and Hold wake Run
	changed chan struct{} // capacity 1

	passing sync.Mutex // held during a pass; guards the block below
	h       *netlink.Handle
	batch   *batch
	ports   []uint32         // h's and batch's, the origin of our own notifications
	eth     *ethtool.Ethtool // nil until needed
	plain   map[int]bool     // indices of links whose offloads are known to be off
	made    memory
	// What the last lists of these gave, and what passes have done since; nil
	// when somebody else may have changed them, until a pass has listed them
	// again.
	neighbours map[neighKey]netlink.Neigh
	fdb        map[fdbKey][]netip.Addr
	routes     *routeList
	first      bool
	settled    uint64             // the last generation that a pass was done for
	pending    map[[2]string]bool // kind and object of what that generation brings about, and failed so far

	mu       sync.Mutex // guards the block below; never held during a pass
	want     State
	wantErr  error // what Check said about it
	set      uint64
	held     bool
	keepDown map[string]bool // devices that are off on purpose
	report   Report
	interest interest
	monitor  *monitor        // while Run listens
	watched  bool            // the monitor listens: plain and the lists may be relied on
	alone    bool            // so may they, says Alone
	filled   <-chan struct{} // closed when it is time to listen; nil for at once
	covered  bool            // a pass has applied want, or tried to
	tables   bool            // the next pass that is applied has to look at the nftables tables
	touched  map[int]bool    // indices of links that changed since the last pass
	stale    lists           // those that a pass has to list again
}

// lists names the kinds that not each pass lists.
type lists struct{ neighbours, fdb, routes bool }

func allLists() lists { return lists{neighbours: true, fdb: true, routes: true} }

// NewReconciler opens what it needs in ns. ns stays the caller's, and open
// until Close.
func NewReconciler(ns *Namespace, o Owner) (*Reconciler, error) {
	h, err := openHandle(ns)
	if err != nil {
		return nil, fmt.Errorf("%s: open netlink socket: %w", ns.name, err)
	}
	b, err := openBatch(ns)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("%s: open netlink socket: %w", ns.name, err)
	}
	return &Reconciler{
		ns: ns, owner: o, h: h, batch: b, ports: []uint32{portOf(h), b.port}, made: newMemory(), first: true,
		plain: map[int]bool{}, touched: map[int]bool{},
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}, nil
}

// Alone says that the namespace is a new one, in which nobody else changes what
// the State will speak of until Run listens: the passes until then need not list
// what they have made. Run listens at once, and a second later looks at it all.
//
// With a channel, Run listens soon after that is closed, and looks at it all when it
// does so anyway, every 30 s. It is for one of many namespaces that are filled
// at once. The kernel offers each notification to every socket of the machine
// that listens to rtnetlink, whatever its namespace (netlink_broadcast_filtered,
// net/netlink/af_netlink.c): to listen in many while they are filled costs the
// cube of their number.
func (r *Reconciler) Alone(filled <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone, r.filled = r.monitor == nil, filled
}

// listen opens the monitor.
func (r *Reconciler) listen() (*monitor, error) {
	r.passing.Lock()
	defer r.passing.Unlock()
	if r.h == nil {
		return nil, fmt.Errorf("%s: reconciler is closed", r.ns.name)
	}
	m, err := newMonitor(r)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.monitor, r.watched = m, true
	if !r.alone {
		r.stale = allLists()
	}
	r.alone = false
	return m, nil
}

// unlisten closes the monitor, if there is one.
func (r *Reconciler) unlisten() {
	r.mu.Lock()
	m := r.monitor
	r.monitor, r.watched = nil, false
	r.mu.Unlock()
	if m != nil {
		m.close()
	}
}

// Close releases the Reconciler's sockets and leaves the kernel's state as it
// is. Run has returned before.
func (r *Reconciler) Close() error {
	r.passing.Lock()
	defer r.passing.Unlock()
	r.unlisten()
	if r.h != nil {
		r.h.Close()
		r.batch.close()
		r.h = nil
	}
	if r.eth != nil {
		r.eth.Close()
		r.eth = nil
	}
	return nil
}

// Set gives the State that is wanted from now on, and wakes Run. The
// Reconciler keeps no reference to s' slices.
func (r *Reconciler) Set(s State) {
	r.take(s)
	notify(r.wake)
}

// Put is Set and Apply in one: Run is woken only if something went wrong.
func (r *Reconciler) Put(ctx context.Context, s State) (Diff, error) {
	r.take(s)
	d, err := r.Apply(ctx)
	if err != nil {
		r.mu.Lock()
		r.tables = true
		r.mu.Unlock()
		notify(r.wake)
	}
	return d, err
}

func (r *Reconciler) take(s State) {
	s, err := sound(s)
	r.mu.Lock()
	r.tables = r.tables || r.set == 0 || !reflect.DeepEqual(s.Tables, r.want.Tables)
	r.want, r.wantErr = s, err
	r.interest = r.interest.with(s)
	r.set++
	r.covered = false
	r.mu.Unlock()
}

// Hold with true makes Run look and report, but change nothing, until Hold
// with false. Apply is not held.
func (r *Reconciler) Hold(on bool) {
	r.mu.Lock()
	if r.held != on {
		r.covered, r.tables = false, true
	}
	r.held = on
	r.mu.Unlock()
	notify(r.wake)
}

// KeepDown names the devices that somebody has switched off on purpose, whole:
// they are neither switched on again nor counted as drift, and what the kernel
// takes away with them (routes, neighbours) is not missed, until another call
// leaves them out.
func (r *Reconciler) KeepDown(devs []string) {
	r.mu.Lock()
	r.keepDown = map[string]bool{}
	for _, d := range devs {
		r.keepDown[d] = true
	}
	r.mu.Unlock()
	notify(r.wake)
}

// without is the State that can be while devices are off.
func (s State) without(down map[string]bool) State {
	if len(down) == 0 {
		return s
	}
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r Route) bool { return down[r.Dev] })
	s.Neighbours = slices.DeleteFunc(slices.Clone(s.Neighbours), func(n Neighbour) bool { return down[n.Dev] })
	return s
}

// Apply does one pass now and returns what it changed.
func (r *Reconciler) Apply(ctx context.Context) (Diff, error) {
	p, err := r.pass(ctx, true, false)
	return p.diff(), err
}

// Diff returns what a pass would change.
func (r *Reconciler) Diff(ctx context.Context) (Diff, error) {
	p, err := r.pass(ctx, false, false)
	return p.diff(), err
}

// Report is what the last pass saw.
func (r *Reconciler) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.report
	rep.Drift, rep.Foreign = slices.Clone(rep.Drift), slices.Clone(rep.Foreign)
	rep.Healed = recent(rep.Healed)
	rep.Held = r.held
	return rep
}

// Changed receives after each pass whose Report differs from the one before.
// It holds one wake-up, however many are missed.
func (r *Reconciler) Changed() <-chan struct{} { return r.changed }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func recent(h []Healed) []Healed {
	since := time.Now().Add(-healedFor)
	return slices.DeleteFunc(slices.Clone(h), func(h Healed) bool { return h.At.Before(since) })
}

// pass does one pass: applies the State, or only looks; tablesOK leaves the
// nftables tables out, unless the State's are others than before. The pass is
// nil when there was none, else its errs are those that may not happen again;
// err adds what is wrong with the State.
func (r *Reconciler) pass(ctx context.Context, apply, tablesOK bool) (*pass, error) {
	r.passing.Lock()
	defer r.passing.Unlock()
	if r.h == nil {
		return nil, fmt.Errorf("%s: reconciler is closed", r.ns.name)
	}
	r.mu.Lock()
	want, wantErr, gen, down := r.want.without(r.keepDown), r.wantErr, r.set, r.keepDown
	reliable := r.watched || r.alone
	if !reliable {
		clear(r.plain)
	}
	for index := range r.touched {
		delete(r.plain, index)
	}
	clear(r.touched)
	if !reliable {
		r.stale = allLists()
	}
	if !apply {
		r.stale.fdb, r.stale.routes = true, true // it is asked what is there
	}
	r.drop(r.stale)
	r.stale = lists{}
	if apply {
		tablesOK = tablesOK && !r.tables
		r.tables = false
	}
	r.mu.Unlock()
	if gen == 0 {
		return nil, nil
	}
	p := &pass{
		r: r, ctx: ctx, want: want, down: down, dry: !apply, first: r.first, tablesOK: tablesOK,
		exclusive: map[string]bool{}, noDevice: map[string]bool{}, fresh: map[string]bool{},
	}
	for _, dev := range r.owner.Exclusive {
		p.exclusive[dev] = true
	}
	p.run()
	err := errors.Join(append(p.telling(), wantErr)...)
	if ctx.Err() != nil {
		return p, err // incomplete
	}
	healed := p.done
	if apply {
		r.first = false
		healed = r.heal(p, gen)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	in := p.interest()
	in.fdb = r.interest.fdb
	r.interest = in
	// What failed without a word in errs does not exist.
	r.covered = r.set == gen && err == nil && apply != r.held
	if !apply && !r.held {
		return p, err
	}
	rep := Report{Drift: p.failed, Foreign: p.foreign, Generation: r.report.Generation, Healed: recent(r.report.Healed)}
	now := time.Now()
	for _, c := range healed {
		rep.Healed = append(rep.Healed, Healed{c, now})
	}
	if !apply {
		rep.Drift = p.found
	} else if err == nil {
		rep.Generation = gen
	}
	if err != nil {
		rep.Err, rep.Unsupported = err.Error(), errors.Is(err, unix.EOPNOTSUPP)
		if m, ok := errors.AsType[*MissingError](err); ok {
			rep.Err, rep.Unsupported = rep.Err+"; "+m.Cure, true
		}
	}
	r.publish(rep)
	return p, err
}

// heal returns the changes of an applied pass that mended drift, and not those
// that a new State brought about, be it after several tries.
func (r *Reconciler) heal(p *pass, gen uint64) []Change {
	fresh := gen != r.settled
	r.settled = gen
	var healed []Change
	for _, c := range p.done {
		if !fresh && !r.pending[[2]string{c.Kind, c.Object}] {
			healed = append(healed, c)
		}
	}
	pending := map[[2]string]bool{}
	for _, c := range p.failed {
		if k := [2]string{c.Kind, c.Object}; fresh || r.pending[k] {
			pending[k] = true
		}
	}
	r.pending = pending
	return healed
}

// publish replaces the report. r.mu is held.
func (r *Reconciler) publish(rep Report) {
	rep.Held = r.held
	old := r.report
	r.report = rep
	n := len(rep.Healed)
	healed := n > 0 && (len(old.Healed) == 0 || rep.Healed[n-1] != old.Healed[len(old.Healed)-1])
	old.Healed, rep.Healed = nil, nil
	if healed || !reflect.DeepEqual(old, rep) {
		notify(r.changed)
	}
}

// Run keeps the namespace as the State says until ctx ends: at once after Set,
// shortly after something in the namespace changed, and every now and then.
// What goes wrong is told by Report and tried again.
func (r *Reconciler) Run(ctx context.Context) error {
	r.mu.Lock()
	alone, filled := r.alone, r.filled
	r.mu.Unlock()
	var m *monitor // nil until it listens
	var events <-chan struct{}
	listen := func() (err error) {
		if m, err = r.listen(); err == nil {
			events = m.events
		}
		return err
	}
	if filled == nil {
		if err := listen(); err != nil {
			return err
		}
	}
	defer r.unlisten()

	resyncs := time.NewTicker(resync)
	defer resyncs.Stop()
	settled := time.NewTimer(settle)
	defer settled.Stop()
	if !alone || filled != nil {
		settled.Stop()
	}
	again := time.NewTimer(0) // the next pass for any other reason than Set
	defer again.Stop()
	again.Stop()
	tables := true // the nftables tables have to be looked at
	backoff := minBackoff
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			if r.isCovered() {
				continue // by an Apply
			}
		case <-again.C:
		case <-resyncs.C:
			tables = true
			r.forget()
		case <-filled:
			filled = nil
			settled.Reset(rand.N(spread)) // not all at the same time
			continue
		case <-settled.C:
			if m == nil {
				if err := listen(); err != nil {
					return err
				}
				continue
			}
			tables = true
			r.forget()
		case <-events:
			// Changes come in flocks.
			again.Reset(coalesce)
			select {
			case <-ctx.Done():
				return nil
			case <-again.C:
			case <-r.wake:
			}
		}
		if m != nil {
			m.take()
			if err := m.watchTables(); err != nil {
				tables = true
			}
		}
		// A pass that only looks reports what it finds, so it looks everywhere.
		held := r.isHeld()
		tables = m != nil && m.tablesTouched() || tables || held
		p, err := r.pass(ctx, !held, !tables)
		if p == nil && err != nil {
			return err
		}
		tables = p != nil && len(p.errs) > 0
		again.Stop()
		if tables {
			again.Reset(backoff)
			backoff = min(2*backoff, maxBackoff)
		} else {
			backoff = minBackoff
		}
	}
}

// forget makes the next pass look at what others pass over while nobody reports
// a change of it.
func (r *Reconciler) forget() {
	r.passing.Lock()
	clear(r.plain)
	r.passing.Unlock()
	r.mu.Lock()
	few := len(r.want.Neighbours) < manyNeighbours
	r.mu.Unlock()
	r.touch(lists{neighbours: few, fdb: true, routes: true})
}

// drop has kinds listed when they are needed. r.passing is held.
func (r *Reconciler) drop(l lists) {
	if l.neighbours {
		r.neighbours = nil
	}
	if l.fdb {
		r.fdb = nil
	}
	if l.routes {
		r.routes = nil
	}
}

// touch makes the next pass list kinds again.
func (r *Reconciler) touch(l lists) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stale = lists{r.stale.neighbours || l.neighbours, r.stale.fdb || l.fdb, r.stale.routes || l.routes}
}

// manyNeighbours is from where on they are not listed without a reason: one
// list costs as much as all namespaces' together have (see listNeighbours), and
// a lab in which each host has many has many hosts.
const manyNeighbours = 64

// isCovered says whether the last pass did all that is wanted now.
func (r *Reconciler) isCovered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.covered
}

func (r *Reconciler) isHeld() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}
