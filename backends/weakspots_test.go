package backends_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"labctl/backends"
	"labctl/nodes/nodestest"
)

// smallest has three subnets of four addresses.
const smallest = `{"Network":"10.1.0.0/28","SubnetLen":30}`

// waiter acquires in a full network and tells why it waits.
func (ts *testStore) waiter(r backends.Request) (why <-chan *backends.ExhaustedError, got <-chan *backends.Held, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	reasons, done := make(chan *backends.ExhaustedError, 100), make(chan *backends.Held, 1)
	r.Waiting = func(e *backends.ExhaustedError) { reasons <- e }
	go func() {
		defer close(done)
		h, err := ts.Acquire(ctx, r)
		if err != nil && ctx.Err() == nil {
			ts.t.Errorf("Acquire() = %v", err)
		}
		if h != nil {
			done <- h
		}
	}()
	stop = func() {
		cancel()
		for range done {
		}
	}
	ts.t.Cleanup(stop)
	return reasons, done, stop
}

// receive reads a channel, but not for ever.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("%s: none", what)
		}
		return v
	case <-time.After(nodestest.Slow(t, patience)):
		t.Fatalf("%s: not within %v", what, nodestest.Slow(t, patience))
	}
	panic("not reached")
}

// flannel #875, #435: as many subnets as hosts, and one host more. It waits
// for one to come free, by hand or by the end of a TTL, also when the store was
// restarted meanwhile.
func TestAcquireWaitsForSubnet(t *testing.T) {
	ts := newTestStore(t)
	request := func(n int) backends.Request {
		r := host(t, n, "10.1.0.0/28")
		r.Network = mustNetwork(t, smallest)
		return r
	}
	var held []*backends.Held
	for i := range 3 {
		r := request(i)
		r.TTL = time.Minute
		if i == 2 {
			r.TTL = 2 * time.Second // nobody renews it
		}
		held = append(held, ts.acquire(r))
	}
	why, got, _ := ts.waiter(request(3))
	ex := receive(t, "a reason", why)
	for _, want := range []string{"3 subnets of /30", "192.168.50.1 has", "larger Network"} {
		if !strings.Contains(ex.Error(), want) {
			t.Errorf("%q does not say %q", ex, want)
		}
	}
	if !errors.Is(ex, backends.ErrExhausted) {
		t.Errorf("%v is not ErrExhausted", ex)
	}
	if h := receive(t, "a subnet that expired", got); h.Lease().Subnet != held[2].Lease().Subnet {
		t.Errorf("got %s, want %s", h.Lease().Subnet, held[2].Lease().Subnet)
	}

	why, got, _ = ts.waiter(request(4))
	receive(t, "a reason", why)
	ts.server.Close()
	ts.start("data")
	ts.delete(subnets + backends.Key{Subnet: held[0].Lease().Subnet}.String())
	if h := receive(t, "a subnet whose key was deleted", got); h.Lease().Subnet != held[0].Lease().Subnet {
		t.Errorf("got %s, want %s", h.Lease().Subnet, held[0].Lease().Subnet)
	}

	// One who gives up leaves nothing behind.
	before, err := ts.raw().Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	why, _, stop := ts.waiter(request(5))
	receive(t, "a reason", why)
	stop()
	if after, err := ts.raw().Leases(t.Context()); err != nil || len(after.Leases) > len(before.Leases) {
		t.Errorf("etcd leases: %d, %v; before %d", len(after.Leases), err, len(before.Leases))
	}
}

// A key by hand that lies across the subnets of others takes no route from
// them, on no host.
func TestPeersWithoutThoseAcrossOthers(t *testing.T) {
	n := mustNetwork(t, `{"Network":"10.1.0.0/16"}`)
	lease := func(subnet string, last int) backends.Lease {
		return backends.Lease{Subnet: netip.MustParsePrefix(subnet), PublicIP: hostIP(last), BackendType: "vxlan"}
	}
	s := backends.Snapshot{Leases: []backends.Lease{
		lease("10.1.0.0/17", 90), lease("10.1.5.0/24", 1), lease("10.1.6.0/24", 2), lease("10.1.200.0/23", 3),
	}}
	for _, self := range []backends.Lease{s.Leases[1], s.Leases[2], s.Leases[3]} {
		peers, problems := s.Peers(self, n)
		var want []string
		for _, l := range s.Leases[1:] {
			if l.Subnet != self.Subnet {
				want = append(want, l.Subnet.String())
			}
		}
		if diff := cmp.Diff(want, subnetsOf(peers)); diff != "" {
			t.Errorf("peers of %s (-want +got):\n%s", self.Subnet, diff)
		}
		if len(problems) != 1 || !strings.Contains(problems[0].Error(), "lease 10.1.0.0/17 of 192.168.50.91") {
			t.Errorf("problems of %s: %v", self.Subnet, problems)
		}
	}
}

// Junk over our own key, which thereby loses its TTL: nobody's, so ours again,
// and no reservation.
func TestOverwrittenKeyIsMended(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	key, id := subnets+backends.Key{Subnet: h.Lease().Subnet}.String(), h.Lease().ID
	for _, junk := range []string{"", "junk", `{"PublicIP":null}`} {
		ts.put(key, junk)
		eventually(t, "the value is back", func() bool {
			l := ts.leases()
			return len(l) == 1 && l[0].ID == id && !h.Lease().Reserved
		})
	}
	// Under somebody else's TTL it is somebody else's.
	g, err := ts.raw().Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	ts.put(key, "junk", clientv3.WithLease(g.ID))
	awaitLoss(t, done, backends.Taken)
}

// A reservation by hand of what one has: the whole value copied, or with
// other data.
func TestLeaseBecomesReservationWithData(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	key := subnets + backends.Key{Subnet: h.Lease().Subnet}.String()
	ts.put(key, `{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"vxlan"}`)
	eventually(t, "a reservation", func() bool { return h.Lease().Reserved })
	// From now on no TTL tells two agents apart: another value is another's.
	ts.put(key, `{"PublicIP":"192.168.50.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7}}`)
	awaitLoss(t, done, backends.Doubled)

	h = ts.acquire(host(t, 1, "10.1.0.0/16"))
	done = ts.run(h)
	key = subnets + backends.Key{Subnet: h.Lease().Subnet}.String()
	ts.put(key, `{"PublicIP":"192.168.50.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":7}}`)
	eventually(t, "a reservation with our data", func() bool {
		for _, l := range ts.leases() {
			if l.PublicIP == hostIP(1) {
				return l.Reserved && l.BackendData == nil && h.Lease().Reserved
			}
		}
		return false
	})
	select {
	case err := <-done:
		t.Errorf("Run() = %v", err)
	default:
	}
}

// A store without memory is known as such at whatever revision it is.
func TestReplacedStoreAtHigherRevision(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	r.TTL = time.Minute
	h := ts.acquire(r)
	old := ts.revision()
	ts.server.Close()
	ts.start("other")
	for ts.revision() <= old {
		ts.put("x", "1")
	}
	awaitLoss(t, ts.run(h), backends.StoreReplaced)
}
