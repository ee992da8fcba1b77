package labtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"labctl/lab/ping"
)

// Endpoint is a place in a lab where programs run and sockets are opened: a
// host (node1), a container (node1.c1), a router, etcd, internet. It may be
// used from several goroutines at once.
type Endpoint struct {
	lab  *Lab
	name string
}

// Endpoint finds an endpoint, and fails the test when there is none of the
// name.
func (l *Lab) Endpoint(name string) *Endpoint {
	l.t.Helper()
	if all := l.plan.Endpoints(); !slices.Contains(all, name) {
		l.t.Fatalf("labtest: lab %s: no endpoint %s; there are %s", l.plan.Name, name, strings.Join(all, ", "))
	}
	return &Endpoint{l, name}
}

// Name is the endpoint's name, node1.c1.
func (e *Endpoint) Name() string { return e.name }

// Addr is the endpoint's address, which a container may have only since its
// host has a subnet.
func (e *Endpoint) Addr() netip.Addr {
	e.lab.t.Helper()
	a, err := e.lab.client.Address(e.lab.t.Context(), e.name)
	if err != nil {
		e.lab.t.Fatalf("labtest: %v", err)
	}
	return a
}

// Exec runs a program of the machine's inside the endpoint and returns what it
// wrote to its standard output. Any other status than 0 fails the test t.
func (e *Endpoint) Exec(t testing.TB, argv ...string) string {
	t.Helper()
	var errs strings.Builder
	c := e.Command(t.Context(), argv...)
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("labtest: %s: %s: %v\n%s%s", e.name, strings.Join(argv, " "), err, out, errs.String())
	}
	return string(out)
}

// PingTimeout is how long the answer to a Ping may take.
const PingTimeout = time.Second

// Ping sends one ICMP echo request to an endpoint or an address, and returns
// the round-trip time. That no answer came is an error.
func (e *Endpoint) Ping(ctx context.Context, to string) (time.Duration, error) {
	addr, err := e.lab.client.Address(ctx, to)
	if err != nil {
		return 0, err
	}
	p, err := e.lab.client.Pinger(ctx, e.name)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	r, err := p.Probe(ctx, ping.Probe{To: addr, Size: 56, Wait: PingTimeout})
	if err == nil && r.Lost != "" {
		err = fmt.Errorf("ping %s -> %s: %s", e.name, to, r.Lost)
	}
	return r.RTT, err
}
