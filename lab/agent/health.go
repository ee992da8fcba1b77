package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
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

// health judges how the agent is now.
func (a *Agent) health(now time.Time) Health {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := Health{SchemaVersion: 1, Healthy: true, Ready: true, Reasons: []string{}, Phase: a.report.Phase}
	bad := func(healthy bool, format string, args ...any) {
		h.Ready, h.Healthy = false, h.Healthy && healthy
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
	}
	trouble, since, asked := a.calls.trouble()
	if trouble != "" {
		h.Reasons = append(h.Reasons, fmt.Sprintf("etcd does not answer since %s: %s", since.Format(time.RFC3339), trouble))
	} else if a.lease != nil && now.Sub(asked) > silence {
		bad(false, "nothing was asked of etcd since %s", asked.Format(time.RFC3339))
	}
	if a.lease == nil {
		bad(true, "%s", a.report.Phase)
		if a.report.Error != "" {
			h.Reasons = append(h.Reasons, a.report.Error)
		}
		return h
	}
	l := a.lease.Lease()
	h.Subnet, h.Expires = l.Subnet, l.Expires
	if !l.Reserved && now.After(l.Expires) {
		bad(false, "lease %s ended at %s", l.Subnet, l.Expires.Format(time.RFC3339))
	}
	if a.report.Phase != Running {
		bad(true, "%s", a.report.Phase)
	}
	if a.reconciler == nil {
		bad(true, "kernel: nothing applied yet")
		return h
	}
	r := a.reconciler.Report()
	h.Drift, h.Leases = len(r.Drift), a.report.Leases
	switch {
	case r.Err != "":
		bad(false, "kernel: %s", r.Err)
	case r.Generation == 0:
		bad(true, "kernel: nothing applied yet")
	}
	if r.Held {
		h.Reasons = append(h.Reasons, "held: differences are not mended")
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
			h := a.health(time.Now())
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
