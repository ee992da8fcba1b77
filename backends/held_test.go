package backends_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"labctl/backends"
	"labctl/nodes/nodestest"
)

// awaitLoss waits for the end of Run.
func awaitLoss(t *testing.T, done <-chan error, want backends.LossReason) *backends.LostError {
	t.Helper()
	select {
	case err := <-done:
		lost, ok := errors.AsType[*backends.LostError](err)
		if !ok || !errors.Is(err, backends.ErrLeaseLost) || lost.Reason != want {
			t.Fatalf("Run() = %v, want a LostError of reason %d", err, want)
		}
		return lost
	case <-time.After(nodestest.Slow(t, patience)):
		t.Fatalf("Run() did not end within %v", nodestest.Slow(t, patience))
	}
	return nil
}

// U7, our way: alive beyond the TTL and not one new revision, so that no
// flanneld of the network sees an event.
func TestRunKeepsLeaseWithoutRevisions(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	r.TTL = nodestest.Slow(t, time.Second)
	h := ts.acquire(r)
	before, first := ts.revision(), h.Lease().Expires
	ts.run(h)
	eventually(t, "renewal past twice the TTL", func() bool { return h.Lease().Expires.Sub(first) > 2*r.TTL })
	if got := ts.leases(); len(got) != 1 {
		t.Errorf("leases = %+v", got)
	}
	if after := ts.revision(); after != before {
		t.Errorf("revision went from %d to %d", before, after)
	}
}

func TestUpdate(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	h := ts.acquire(r)
	ts.run(h)
	a := r.Attrs
	a.BackendData = json.RawMessage(`{"VNI":2}`)
	if err := h.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := ts.leases(); len(got) != 1 || string(got[0].BackendData) != `{"VNI":2}` || got[0].ID != h.Lease().ID {
		t.Errorf("leases = %+v", got)
	}
	if got := h.Lease(); string(got.BackendData) != `{"VNI":2}` || got.Expires.IsZero() {
		t.Errorf("Lease() = %+v", got)
	}
	before := ts.revision()
	if err := h.Update(t.Context(), a); err != nil || ts.revision() != before {
		t.Errorf("Update with the same: %v, revision %d, before %d", err, ts.revision(), before)
	}
	a.PublicIP = netip.MustParseAddr("1.2.3.4")
	if err := h.Update(t.Context(), a); err == nil {
		t.Error("the public address could be changed")
	}
}

// U6 and flannel #1240: a deleted key is noticed at once, and the same subnet
// taken again.
func TestDeletedKeyIsReacquired(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	h := ts.acquire(r)
	done := ts.run(h)
	l := h.Lease()
	ts.delete(subnets + backends.Key{Subnet: l.Subnet}.String())
	awaitLoss(t, done, backends.Deleted)
	r.Previous = l.Subnet
	if got := ts.acquire(r).Lease(); got.Subnet != l.Subnet {
		t.Errorf("acquired %s, had %s", got.Subnet, l.Subnet)
	}
}

func TestRevokedLeaseIsLost(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	if _, err := ts.raw().Revoke(t.Context(), clientv3.LeaseID(h.Lease().ID)); err != nil {
		t.Fatal(err)
	}
	awaitLoss(t, done, backends.Expired)
}

// flannel #1289: a subnet in the hands of another host is left there.
func TestStolenLeaseIsLost(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	key := subnets + backends.Key{Subnet: h.Lease().Subnet}.String()
	value := `{"PublicIP":"1.2.3.4","PublicIPv6":null}`
	ts.put(key, value)
	lost := awaitLoss(t, done, backends.Taken)
	if lost.By != netip.MustParseAddr("1.2.3.4") {
		t.Errorf("taken by %s", lost.By)
	}
	if err := h.Update(t.Context(), backends.Attrs{PublicIP: hostIP(0)}); !errors.Is(err, backends.ErrLeaseLost) {
		t.Errorf("Update() = %v, want ErrLeaseLost", err)
	}
	if err := h.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if resp, err := ts.raw().Get(t.Context(), key); err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
		t.Errorf("the other host's key is %v, %v", resp, err)
	}
}

// flannel #98, #712: two hosts with one identity. The one that was there first
// finds out and stops.
func TestSamePublicIP(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	first := ts.acquire(r)
	done := ts.run(first)
	second := ts.acquire(r)
	if first.Lease().Subnet != second.Lease().Subnet {
		t.Errorf("%s and %s", first.Lease().Subnet, second.Lease().Subnet)
	}
	awaitLoss(t, done, backends.Doubled)
	if got := ts.leases(); len(got) != 1 || got[0].ID != second.Lease().ID {
		t.Errorf("leases = %+v, want the second's", got)
	}
}

// Junk in our own value is mended: all that it says is known here.
func TestDamagedOwnValueIsMended(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	ts.run(h)
	key := subnets + backends.Key{Subnet: h.Lease().Subnet}.String()
	ts.put(key, "junk", clientv3.WithLease(clientv3.LeaseID(h.Lease().ID)))
	eventually(t, "the value is back", func() bool { return len(ts.leases()) == 1 })
}

// flannel's documented way to reserve what one has: put it without a TTL.
func TestLeaseBecomesReservation(t *testing.T) {
	ts := newTestStore(t)
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	ts.put(subnets+backends.Key{Subnet: h.Lease().Subnet}.String(), `{"PublicIP":"192.168.50.1"}`)
	eventually(t, "the lease is a reservation with our attributes", func() bool {
		l := ts.leases()
		return len(l) == 1 && l[0].Reserved && l[0].BackendType == "vxlan" && h.Lease().Reserved
	})
	select {
	case err := <-done:
		t.Errorf("Run() = %v", err)
	default:
	}
}

func TestRunSurvivesRestartOfStore(t *testing.T) {
	ts := newTestStore(t)
	r := host(t, 0, "10.1.0.0/16")
	r.TTL = nodestest.Slow(t, 5*time.Second) // a store that starts on a busy machine takes its time
	h := ts.acquire(r)
	done := ts.run(h)
	ts.server.Close()
	ts.start("data")
	back := time.Now()
	eventually(t, "renewal after the restart", func() bool {
		select {
		case err := <-done:
			t.Fatalf("Run() = %v", err)
		default:
		}
		return h.Lease().Expires.After(back.Add(r.TTL + r.TTL/10))
	})
	select {
	case err := <-done:
		t.Errorf("Run() = %v", err)
	default:
	}
}

// Design decision 8.
func TestReplacedStore(t *testing.T) {
	ts := newTestStore(t)
	ts.put("x", "1")
	h := ts.acquire(host(t, 0, "10.1.0.0/16"))
	done := ts.run(h)
	ts.server.Close()
	ts.start("other")
	if err := awaitLoss(t, done, backends.StoreReplaced); !errors.Is(err, backends.ErrStoreReplaced) {
		t.Errorf("%v is not ErrStoreReplaced", err)
	}
}
