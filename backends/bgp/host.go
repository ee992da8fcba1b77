package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"labctl/nodes"
)

// settle is how long changes are gathered before the kernel is told.
const settle = 10 * time.Millisecond

// Host is a speaker together with the kernel that its routes are for. Its
// methods are safe for concurrent use.
type Host struct {
	speaker    Speaker
	ns         *nodes.Namespace
	log        *slog.Logger
	reconciler *nodes.Reconciler // nil when the speaker writes the kernel itself
	tunnel     Tunnel
	wake       chan struct{} // capacity 1
	changed    chan struct{} // capacity 1

	setting sync.Mutex // held while the speaker is told

	mu        sync.Mutex // guards all below
	config    Config
	configErr error
	viewErr   error
	view      View
	unwritten []Unwritten
	// stale are routes of an earlier life, kept until the sessions have told
	// theirs, or until staleUntil.
	stale      []nodes.Route
	staleUntil time.Time
}

// Report is a Host as it stands.
type Report struct {
	Speaker string `json:"speaker"` // gobgp or bird
	ASN     uint32 `json:"asn"`
	// ClusterID is a route reflector's.
	ClusterID string `json:"clusterID,omitempty"`
	View
	// Unwritten are best paths that are not in the kernel.
	Unwritten []Unwritten `json:"unwritten,omitempty"`
	// Stale is how many routes of an earlier life are still there.
	Stale int    `json:"stale,omitempty"`
	Err   string `json:"error,omitempty"` // what the speaker does not do as told
	// Kernel is what the reconciler of its routes says.
	Kernel nodes.Report `json:"-"`
}

// Earlier lists the routes in the kernel that an earlier speaker wrote with a
// protocol number. It is what tells a restarted speaker from a new one.
func Earlier(ns *nodes.Namespace, protocol int) ([]nodes.Route, error) {
	return ns.RoutesOf(protocol)
}

// NewHost joins a speaker to the namespace that it was born in. stale are the
// routes of an earlier life ([Earlier]), of no use to a speaker that writes the
// kernel itself; nor has that a tunnel. Both s and ns stay the caller's.
func NewHost(ns *nodes.Namespace, s Speaker, stale []nodes.Route, tunnel Tunnel, log *slog.Logger) (*Host, error) {
	h := &Host{speaker: s, ns: ns, tunnel: tunnel, log: log, stale: stale, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	if !s.WritesKernel() {
		var err error
		if h.reconciler, err = nodes.NewReconciler(ns, nodes.Owner{Name: "labctl bgp", Protocol: Protocol}); err != nil {
			return nil, err
		}
	} else {
		h.stale = nil
	}
	return h, nil
}

// Set gives the configuration that holds from now on. What fails is tried again.
func (h *Host) Set(ctx context.Context, c Config) {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.set(ctx, c)
}

// retry sets the configuration again that could not be: an address may be there
// by now.
func (h *Host) retry(ctx context.Context) {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.mu.Lock()
	c, failed := h.config, h.configErr != nil
	h.mu.Unlock()
	if failed {
		h.set(ctx, c)
	}
}

// set is Set; the caller holds setting.
func (h *Host) set(ctx context.Context, c Config) {
	h.mu.Lock()
	before := h.configErr
	same := h.configErr == nil && reflect.DeepEqual(h.config, c)
	h.mu.Unlock()
	if same {
		return
	}
	err := h.speaker.Set(ctx, c)
	if err != nil && (before == nil || before.Error() != err.Error()) {
		h.log.Warn("bgp", "err", err)
	}
	h.mu.Lock()
	h.config, h.configErr = c, err
	if h.staleUntil.IsZero() {
		h.staleUntil = time.Now().Add(c.Timers.GracefulRestart)
	}
	h.mu.Unlock()
	notify(h.wake)
}

// Hold stops writing, as [nodes.Reconciler.Hold] does. bird's own writing goes
// on: nobody can hold it.
func (h *Host) Hold(on bool) {
	if h.reconciler != nil {
		h.reconciler.Hold(on)
	}
}

// Changed receives after each change of a Report.
func (h *Host) Changed() <-chan struct{} { return h.changed }

// Run keeps the kernel in step with the best paths until ctx ends. The routes
// stay then.
func (h *Host) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	var passes <-chan struct{} // nil without a reconciler
	if h.reconciler != nil {
		passes = h.reconciler.Changed()
		wg.Go(func() {
			if err := h.reconciler.Run(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	expiry := time.NewTicker(time.Second)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case <-passes:
			notify(h.changed)
			continue
		case <-h.speaker.Changed():
			// They come in flocks.
			select {
			case <-time.After(settle):
			case <-ctx.Done():
			}
		case <-h.wake:
		case <-expiry.C:
			h.retry(ctx)
			if !h.waiting() {
				continue
			}
		}
		err := h.step(ctx)
		if ctx.Err() != nil {
			continue
		}
		h.mu.Lock()
		told := h.viewErr != nil
		h.viewErr = err
		h.mu.Unlock()
		if err != nil && !told {
			h.log.Warn("bgp", "err", err)
		}
		notify(h.changed)
	}
}

// waiting says whether there is something that only time brings about, or the
// host's own addresses: a next hop that is on none of its networks may be later.
func (h *Host) waiting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.stale) > 0 || len(h.unwritten) > 0
}

// step looks at the speaker and gives the reconciler what is best now.
func (h *Host) step(ctx context.Context) error {
	v, err := h.speaker.View(ctx, Sessions)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.view = v
	configured := h.config.ASN != 0
	own := slices.Clone(h.config.Originate)
	// A session that is up may not have told its routes yet: those of before
	// go when the peers' restart time is over, or all are told again.
	if len(h.stale) > 0 && configured && (time.Now().After(h.staleUntil) || covered(v.Best, h.stale) == len(h.stale)) {
		h.stale = nil
	}
	stale := h.stale
	h.mu.Unlock()
	if !configured {
		return nil
	}
	devices, err := h.ns.Devices()
	if err != nil {
		return err
	}
	routes, unwritten := Kernel(v.Best, own, devices, h.tunnel)
	h.mu.Lock()
	h.unwritten = unwritten
	h.mu.Unlock()
	if h.reconciler != nil {
		h.reconciler.Set(nodes.State{Routes: keepStale(routes, stale)})
	}
	return nil
}

// covered is how many of the stale routes' prefixes were told again.
func covered(best []Route, stale []nodes.Route) int {
	n := 0
	for _, s := range stale {
		if slices.ContainsFunc(best, func(r Route) bool { return r.Prefix == s.Dst }) {
			n++
		}
	}
	return n
}

// Report is what the last step saw.
func (h *Host) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{Speaker: h.speaker.Name(), ASN: h.config.ASN, View: h.view, Unwritten: h.unwritten, Stale: len(h.stale)}
	if h.config.ClusterID.IsValid() {
		r.ClusterID = h.config.ClusterID.String()
	}
	if err := cmp.Or(h.configErr, h.viewErr); err != nil {
		r.Err = err.Error()
	}
	if h.reconciler != nil {
		r.Kernel = h.reconciler.Report()
	}
	return r
}

// Detail is Report with the routes of each session, asked for now.
func (h *Host) Detail(ctx context.Context) (Report, error) {
	v, err := h.speaker.View(ctx, Routes)
	r := h.Report()
	if err != nil {
		return r, fmt.Errorf("bgp: %w", err)
	}
	r.View = v
	return r, nil
}

// Close ends the reconciler, not the speaker. Run has returned before.
func (h *Host) Close() error {
	if h.reconciler == nil {
		return nil
	}
	return h.reconciler.Close()
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
