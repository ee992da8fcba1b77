package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"labctl/backends"
	"labctl/nodes"
)

// silence is how long nothing may be asked of the store: leases are read again
// every 30 s even when nothing happens.
const silence = 2 * time.Minute

// Health is what /healthz and /readyz answer. Fields are only ever added.
type Health struct {
	SchemaVersion int `json:"schemaVersion"`
	// Healthy is false when starting the agent anew could help: the lease ran
	// out, the kernel refuses what is wanted, nothing is asked of the store any
	// more. A store that is away is none of that: traffic goes on.
	Healthy bool `json:"healthy"`
	// Ready is true while there is a lease, subnet.env says so, and the kernel
	// holds what the leases ask for.
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"` // what is not as it should be
	Phase   Phase    `json:"phase"`
	// Subnet, and when the lease would end if it were not kept (zero for a
	// reservation, which does not end).
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	Expires time.Time    `json:"expires,omitzero"`
	Leases  int          `json:"leases"` // that the kernel state stands for, this host's included
	Drift   int          `json:"drift"`  // differences that could not be mended
}

// facts are what health is judged by.
type facts struct {
	phase   Phase
	err     string          // why it does not get on; "" when it does
	trouble string          // with the store; "" for none
	since   time.Time       // of trouble
	asked   time.Time       // when a call to the store ended last
	lease   *backends.Lease // nil before the first
	kernel  *nodes.Report   // nil before there is a reconciler
	leases  int             // that the kernel state stands for
}

// health is how the agent is now.
func (a *Agent) health() Health {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := facts{phase: a.report.Phase, err: a.report.Error, leases: a.report.Leases}
	f.trouble, f.since, f.asked = a.calls.trouble()
	if a.lease != nil {
		l := a.lease.Lease()
		f.lease = &l
	}
	if a.reconciler != nil {
		r := a.reconciler.Report()
		f.kernel = &r
	}
	return f.judge(time.Now())
}

func (f facts) judge(now time.Time) Health {
	h := Health{SchemaVersion: 1, Healthy: true, Ready: true, Reasons: []string{}, Phase: f.phase, Leases: f.leases}
	note := func(format string, args ...any) { h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...)) }
	notReady := func(format string, args ...any) { h.Ready = false; note(format, args...) }
	sick := func(format string, args ...any) { h.Healthy = false; notReady(format, args...) }
	if f.trouble != "" {
		note("etcd does not answer since %s: %s", f.since.Format(time.RFC3339), f.trouble)
	} else if f.lease != nil && now.Sub(f.asked) > silence {
		sick("nothing was asked of etcd since %s", f.asked.Format(time.RFC3339))
	}
	if f.phase != Running {
		notReady("%s", f.phase)
	}
	if f.lease == nil {
		if f.err != "" {
			note("%s", f.err)
		}
		return h
	}
	h.Subnet, h.Expires = f.lease.Subnet, f.lease.Expires
	if !f.lease.Reserved && now.After(f.lease.Expires) {
		sick("lease %s ended at %s", f.lease.Subnet, f.lease.Expires.Format(time.RFC3339))
	}
	switch r := f.kernel; {
	case r == nil || r.Generation == 0 && r.Err == "":
		notReady("kernel: nothing applied yet")
	case r.Err != "":
		sick("kernel: %s", r.Err)
	}
	if f.kernel != nil {
		h.Drift = len(f.kernel.Drift)
		if f.kernel.Held {
			note("held: differences are not mended")
		}
	}
	return h
}

// serveHealth answers until the function that it returns is called.
func (a *Agent) serveHealth() (done func(), err error) {
	l, err := net.Listen("tcp", a.Healthz)
	if err != nil {
		return nil, fmt.Errorf("healthz: %w", err)
	}
	answer := func(good func(Health) bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			h := a.health()
			w.Header().Set("Content-Type", "application/json")
			if !good(h) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(h) // who asked may have gone
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", answer(func(h Health) bool { return h.Healthy }))
	mux.HandleFunc("GET /readyz", answer(func(h Health) bool { return h.Ready }))
	s := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends by Close
	}()
	return func() {
		s.Close()
		<-served
	}, nil
}
