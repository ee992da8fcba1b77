package backends_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"labctl/backends"
	"labctl/nodes/nodestest"
)

// U4: key and value byte for byte.
func TestAcquireWritesFlannelsForm(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	r.Attrs.BackendType = ""
	r.Previous = netip.MustParsePrefix("10.1.5.0/24")
	h := ts.acquire(r)
	resp, err := ts.raw().Get(t.Context(), subnets+"10.1.5.0-24")
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("key: %v, %v", resp, err)
	}
	if got, want := string(resp.Kvs[0].Value), `{"PublicIP":"192.168.50.1","PublicIPv6":null}`; got != want {
		t.Errorf("value = %s, want %s", got, want)
	}
	l := h.Lease()
	if l.ID != resp.Kvs[0].Lease || l.ID == 0 || l.Reserved || l.Revision != resp.Kvs[0].ModRevision || time.Until(l.Expires) <= 0 {
		t.Errorf("Lease() = %+v, key %+v", l, resp.Kvs[0])
	}
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ts.leases(); len(got) != 0 {
		t.Errorf("after Release: %v", got)
	}
}

// U3.
func TestAcquireAgain(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	first := ts.acquire(r).Lease()
	if !r.Network.Allows(first.Subnet) {
		t.Errorf("%s is not of the network", first.Subnet)
	}
	r.Data = func(previous json.RawMessage) (json.RawMessage, error) {
		if previous != nil {
			t.Errorf("previous data = %s, want none", previous)
		}
		return json.RawMessage(`{"VNI":1,"VtepMAC":"6a:00:00:00:00:01"}`), nil
	}
	second := ts.acquire(r).Lease()
	if second.Subnet != first.Subnet || second.ID == first.ID {
		t.Errorf("restart: %+v, before %+v; want the same subnet on a new lease", second, first)
	}
	// The old etcd lease ends without taking the key along.
	if _, err := ts.raw().Revoke(t.Context(), clientv3.LeaseID(first.ID)); err != nil {
		t.Fatal(err)
	}
	r.Data = func(previous json.RawMessage) (json.RawMessage, error) {
		if string(previous) != string(second.BackendData) {
			t.Errorf("previous data = %s, want %s", previous, second.BackendData)
		}
		return previous, nil
	}
	if got := ts.acquire(r).Lease(); got.Subnet != first.Subnet {
		t.Errorf("after the old lease ended: %s, want %s", got.Subnet, first.Subnet)
	}
	// A changed network: a new subnet in it, and the old one is given up.
	r.Network = mustNetwork(t, `{"Network": "10.2.0.0/16"}`)
	r.Data = nil
	r.Previous = first.Subnet
	moved := ts.acquire(r).Lease()
	if !r.Network.Allows(moved.Subnet) {
		t.Errorf("%s is not of the new network", moved.Subnet)
	}
	if diff := cmp.Diff([]string{moved.Subnet.String()}, subnetsOf(ts.leases())); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

func TestAcquirePrevious(t *testing.T) {
	tests := []struct {
		name     string
		previous string
		others   map[string]string // key -> value
		want     bool
	}{
		{"free", "10.1.7.0/24", nil, true},
		{"taken", "10.1.7.0/24", map[string]string{"10.1.7.0-24": `{"PublicIP":"1.2.3.4"}`}, false},
		{"inside a larger one", "10.1.7.0/24", map[string]string{"10.1.0.0-20": `{"PublicIP":"1.2.3.4"}`}, false},
		{"under a value that is junk", "10.1.7.0/24", map[string]string{"10.1.7.0-24": `junk`}, false},
		{"other length", "10.1.7.0/25", nil, false},
		{"below SubnetMin", "10.1.0.0/24", nil, false},
		{"outside", "10.9.7.0/24", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ts := newTestStore(t)
			for key, value := range tt.others {
				ts.put(subnets+key, value)
			}
			r := host(t, 0, "10.1.0.0/16")
			r.Previous = netip.MustParsePrefix(tt.previous)
			if got := ts.acquire(r).Lease().Subnet; (got == r.Previous) != tt.want {
				t.Errorf("got %s, previous %s, want it: %t", got, r.Previous, tt.want)
			}
		})
	}
}

// flannel #805, #1129: hosts that start together. None may fail for losing a
// race, which is what real flannelds do.
func TestAcquireAtOnce(t *testing.T) {
	const hosts = 50
	ts := newTestStore(t)
	var wg sync.WaitGroup
	for i := range hosts {
		r := host(t, i, "10.1.0.0/16")
		// As few subnets as hosts: every choice is contended to the end.
		r.Network = mustNetwork(t, `{"Network":"10.1.0.0/16","SubnetMin":"10.1.1.0","SubnetMax":"10.1.50.0"}`)
		wg.Go(func() {
			if _, err := ts.Acquire(t.Context(), r); err != nil {
				t.Errorf("host %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	leases := ts.leases()
	owners := map[netip.Addr]bool{}
	for i, l := range leases {
		owners[l.PublicIP] = true
		if i > 0 && leases[i-1].Subnet.Overlaps(l.Subnet) {
			t.Errorf("%s and %s overlap", leases[i-1].Subnet, l.Subnet)
		}
	}
	if len(leases) != hosts || len(owners) != hosts {
		t.Errorf("%d leases of %d hosts, want %d", len(leases), len(owners), hosts)
	}
	// Nobody leaves an etcd lease behind.
	all, err := ts.raw().Leases(t.Context())
	if err != nil || len(all.Leases) != hosts {
		t.Errorf("%d etcd leases, %v; want %d", len(all.Leases), err, hosts)
	}
}

// A lease of the host's own that has the whole pool, of a network before this
// one, makes way for the one that takes its place.
func TestAcquireOwnLeaseOfTheWholePool(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/28")
	r.Network = mustNetwork(t, `{"Network":"10.1.0.0/28","SubnetLen":30}`)
	grant, err := ts.raw().Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ts.raw().Put(t.Context(), subnets+"10.1.0.0-28", `{"PublicIP":"192.168.50.1"}`, clientv3.WithLease(grant.ID)); err != nil {
		t.Fatal(err)
	}
	other := host(t, 1, "10.1.0.0/28")
	other.Network = r.Network
	if _, err := ts.Acquire(t.Context(), other); !errors.Is(err, backends.ErrExhausted) {
		t.Errorf("Acquire() of another host = %v, want ErrExhausted", err)
	}
	l := ts.acquire(r).Lease()
	if !r.Network.Allows(l.Subnet) {
		t.Errorf("%s is not of the network", l.Subnet)
	}
	if diff := cmp.Diff([]string{l.Subnet.String()}, subnetsOf(ts.leases())); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	ts.acquire(other)
}

func TestAcquireExhausted(t *testing.T) {
	ts := newTestStore(t)
	network := `{"Network":"10.1.0.0/28","SubnetLen":30}`
	if err := ts.Reserve(t.Context(), netip.MustParsePrefix("10.1.0.8/30"), netip.MustParseAddr("9.9.9.9")); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r := host(t, i, "10.1.0.0/28")
		r.Network = mustNetwork(t, network)
		ts.acquire(r)
	}
	r := host(t, 3, "10.1.0.0/28")
	r.Network = mustNetwork(t, network)
	_, err := ts.Acquire(t.Context(), r)
	if !errors.Is(err, backends.ErrExhausted) {
		t.Fatalf("Acquire() = %v, want ErrExhausted", err)
	}
	ex, ok := errors.AsType[*backends.ExhaustedError](err)
	if !ok || len(ex.Leases) != 3 || ex.NextFree <= 0 {
		t.Errorf("error = %+v", ex)
	}
	for _, want := range []string{"192.168.50.4", "10.1.0.0/28", "3 subnets of /30", "9.9.9.9 has 10.1.0.8/30", "ends in", "larger Network"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// flannel #1329: a reservation stays one.
// flanneld makes a lease of its host's reservation; a store that starts again
// reserves again.
func TestReservationThatBecameALease(t *testing.T) {
	ts := newTestStore(t)
	l := ts.acquire(host(t, 0, "10.1.0.0/16")).Lease()
	if err := ts.Reserve(t.Context(), l.Subnet, l.PublicIP); err != nil {
		t.Errorf("Reserve() of what the host has by a lease = %v", err)
	}
	if now := ts.leases(); len(now) != 1 || now[0].ID != l.ID {
		t.Errorf("leases = %+v, want the one there was", now)
	}
}

// Of two that overlap under different keys, and are reserved at once, one gets
// its subnet.
func TestReservationsThatOverlap(t *testing.T) {
	ts := newTestStore(t)
	for i := range byte(30) {
		whole := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, i, 0}), 24)
		half := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, i, 128}), 25)
		results := make(chan error, 2)
		for n, subnet := range []netip.Prefix{whole, half} {
			go func() {
				results <- ts.Reserve(t.Context(), subnet, netip.AddrFrom4([4]byte{9, 9, 9, byte(n)}))
			}()
		}
		taken := 0
		for range 2 {
			err := <-results
			if _, ok := errors.AsType[*backends.TakenError](err); ok {
				taken++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if taken != 1 {
			t.Fatalf("%s and %s: %d of them were taken, want 1", whole, half, taken)
		}
	}
}

func TestReservation(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	subnet := netip.MustParsePrefix("10.1.77.0/24")
	for range 2 {
		if err := ts.Reserve(t.Context(), subnet, r.Attrs.PublicIP); err != nil {
			t.Fatal(err)
		}
	}
	h := ts.acquire(r)
	l := h.Lease()
	if l.Subnet != subnet || !l.Reserved || l.ID != 0 {
		t.Fatalf("Lease() = %+v, want the reserved %s", l, subnet)
	}
	r.Attrs.BackendData = json.RawMessage(`{"VNI":1}`)
	if err := h.Update(t.Context(), r.Attrs); err != nil {
		t.Fatal(err)
	}
	got := ts.leases()
	if len(got) != 1 || !got[0].Reserved || string(got[0].BackendData) != `{"VNI":1}` {
		t.Errorf("leases = %+v, want one, reserved, with our data", got)
	}
	if all, err := ts.raw().Leases(t.Context()); err != nil || len(all.Leases) != 0 {
		t.Errorf("etcd leases = %v, %v, want none", all.Leases, err)
	}
	// Another host neither gets it nor may reserve over it.
	other := netip.MustParseAddr("1.2.3.4")
	if _, ok := errors.AsType[*backends.TakenError](ts.Reserve(t.Context(), netip.MustParsePrefix("10.1.76.0/23"), other)); !ok {
		t.Error("an overlapping reservation was taken")
	}
	// A reservation that the network has no place for is told, not dropped.
	r.Network = mustNetwork(t, `{"Network":"10.2.0.0/16"}`)
	if _, err := ts.Acquire(t.Context(), r); err == nil || !strings.Contains(err.Error(), "reservation 10.1.77.0/24") {
		t.Errorf("Acquire() = %v, want an error about the reservation", err)
	}
}

func TestAcquireDualStackIsRefused(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	r.Network = mustNetwork(t, `{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}`)
	if _, err := ts.Acquire(t.Context(), r); err == nil || !strings.Contains(err.Error(), "EnableIPv6") {
		t.Errorf("Acquire() = %v", err)
	}
	if len(ts.leases()) != 0 {
		t.Error("something was written")
	}
}

func TestAcquireWaitsForStore(t *testing.T) {
	ts := newTestStore(t)
	ts.server.Close()
	done := make(chan error, 1)
	r := host(t, 0, "10.1.0.0/16")
	go func() {
		_, err := ts.Acquire(t.Context(), r)
		done <- err
	}()
	ts.start("data")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ts.server.Close()
	if _, err := ts.Acquire(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Acquire() = %v, want DeadlineExceeded", err)
	}
}

func TestWaitConfig(t *testing.T) {
	ts := newTestStore(t)
	raw := []byte(`{"Network":"10.1.0.0/16", "Backend": {"Type": "VXLAN"}}`)
	done := make(chan error, 1)
	go func() {
		n, got, err := ts.WaitConfig(t.Context())
		if err == nil && (string(got) != string(raw) || n.BackendType != "vxlan") {
			t.Errorf("WaitConfig() = %+v, %s", n, got)
		}
		done <- err
	}()
	if err := ts.PutConfig(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := ts.PutConfigOnce(t.Context(), []byte(`{"Network":"10.9.0.0/16"}`)); err != nil {
		t.Fatal(err)
	}
	if _, got, _ := ts.WaitConfig(t.Context()); string(got) != string(raw) {
		t.Errorf("PutConfigOnce replaced the config: %s", got)
	}
	if err := ts.PutConfig(t.Context(), []byte(`{}`)); err == nil {
		t.Error("PutConfig({}) succeeded")
	}
	ts.put("/coreos.com/network/config", `{"Network": 7}`)
	if _, _, err := ts.WaitConfig(t.Context()); err == nil || !strings.Contains(err.Error(), "Network: a JSON number, want text") {
		t.Errorf("WaitConfig() = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), nodestest.Slow(t, 200*time.Millisecond)) // the store is to answer once
	defer cancel()
	if _, _, err := ts.WithPrefix("/other").WaitConfig(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "/other/config: not found") {
		t.Errorf("WaitConfig() without one = %v", err)
	}
}
