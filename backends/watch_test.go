package backends_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"labctl/backends"
)

const (
	lease5 = `{"PublicIP":"1.2.3.5","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6a:00:00:00:00:05"}}`
	lease6 = `{"PublicIP":"1.2.3.6","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6a:00:00:00:00:06"}}`
	moved5 = `{"PublicIP":"1.2.3.5","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6a:00:00:00:00:55"}}`
)

func count(n int) func(backends.Snapshot) bool {
	return func(s backends.Snapshot) bool { return len(s.Leases) == n }
}

// U5.
func TestWatch(t *testing.T) {
	ts := newTestStore(t)
	ts.put(subnets+"10.1.5.0-24", lease5)
	in := ts.watch(time.Second)
	until(t, in, "the first list", count(1))
	g, err := ts.raw().Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ts.put(subnets+"10.1.6.0-24", lease6, clientv3.WithLease(g.ID))
	s := until(t, in, "a new lease", count(2))
	if diff := cmp.Diff([]string{"10.1.5.0/24", "10.1.6.0/24"}, subnetsOf(s.Leases)); diff != "" {
		t.Error(diff)
	}
	if !s.Leases[0].Reserved || s.Leases[1].Reserved {
		t.Errorf("reserved: %t, %t, want true, false", s.Leases[0].Reserved, s.Leases[1].Reserved)
	}
	until(t, in, "the end of its TTL", count(1))
}

// A host that comes up with many others reads what there is, and then counts
// until it is told that enough have come: those between are not read.
func TestWatchGathers(t *testing.T) {
	ts := newTestStore(t)
	ts.put(subnets+"10.1.5.0-24", lease5)
	asked := make(chan int)
	in := ts.Watch(t.Context(), time.Second, func(leases int) time.Duration {
		asked <- leases
		if leases < 3 {
			return time.Millisecond
		}
		return 0
	})
	until(t, in, "the first list", count(1))
	next := func(want int) {
		t.Helper()
		for seen := range asked {
			if seen == want {
				return
			}
			if seen > want {
				t.Fatalf("%d leases were counted, want %d", seen, want)
			}
		}
	}
	next(1)
	ts.put(subnets+"10.1.6.0-24", lease6)
	next(2)
	select {
	case s := <-in:
		t.Errorf("%d leases were read while it waited", len(s.Leases))
	default:
	}
	ts.put(subnets+"10.1.7.0-24", `{"PublicIP":"1.2.3.7","BackendType":"vxlan"}`)
	next(3)
	if s := <-in; len(s.Leases) != 3 {
		t.Errorf("%d leases in the list after it, want 3", len(s.Leases))
	}
	ts.delete(subnets + "10.1.6.0-24")
	until(t, in, "one less, of which it was told", count(2))
}

// flannel #2539: one bad key must not cost any route.
func TestWatchIgnoresPoison(t *testing.T) {
	ts := newTestStore(t)
	ts.put(subnets+"10.1.5.0-24", lease5)
	in := ts.watch(time.Second)
	until(t, in, "the first list", count(1))
	for _, kv := range [][2]string{
		{"junk", lease6},
		{"10.1.6.0-24", "junk"},
		{"10.1.7.0-24", ""},
		{"10.1.8.0-24&fd00::-64", lease6},
		{"10.1.5.0-24", "junk"}, // was good
	} {
		ts.put(subnets+kv[0], kv[1])
	}
	s := until(t, in, "five problems", func(s backends.Snapshot) bool { return len(s.Problems) == 5 })
	if len(s.Leases) != 1 || string(s.Leases[0].BackendData) == "" {
		t.Errorf("leases = %+v, want the one that was good", s.Leases)
	}
	ts.put(subnets+"10.1.6.0-24", lease6)
	s = until(t, in, "a mended value", count(2))
	if len(s.Problems) != 4 {
		t.Errorf("problems = %v", s.Problems)
	}
	ts.delete(subnets + "10.1.5.0-24")
	until(t, in, "a deleted lease", count(1))
	// A list of its own has no memory, and no fear either.
	if got := ts.leases(); len(got) != 1 {
		t.Errorf("Leases() = %+v", got)
	}
}

// U8 and flannel #1247, #2470: while the store is away the horizon moves
// beyond what was seen; a peer goes, a peer changes.
func TestWatchAfterCompaction(t *testing.T) {
	ts := newTestStore(t)
	ts.put(subnets+"10.1.5.0-24", lease5)
	ts.put(subnets+"10.1.6.0-24", lease6)
	in := ts.watch(time.Second)
	until(t, in, "the first list", count(2))
	ts.server.Close()

	// The same data behind no socket: watchers see nothing of this.
	offline(ts, func(c *clientv3.Client) {
		ctx := context.Background()
		if _, err := c.Delete(ctx, subnets+"10.1.6.0-24"); err != nil {
			t.Fatal(err)
		}
		put, err := c.Put(ctx, subnets+"10.1.5.0-24", moved5)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Compact(ctx, put.Header.Revision); err != nil {
			t.Fatal(err)
		}
	})
	ts.start("data")
	s := until(t, in, "the state after compaction", count(1))
	if want := `{"VNI":1,"VtepMAC":"6a:00:00:00:00:55"}`; string(s.Leases[0].BackendData) != want || s.Replaced {
		t.Errorf("snapshot = %+v, want %s", s, want)
	}
	ts.put(subnets+"10.1.6.0-24", lease6)
	until(t, in, "a live event", count(2))
}

// While the store is away nothing is said; after its restart events go on.
func TestWatchSurvivesRestart(t *testing.T) {
	ts := newTestStore(t)
	ts.put(subnets+"10.1.5.0-24", lease5)
	in := ts.watch(time.Second)
	until(t, in, "the first list", count(1))
	ts.server.Close()
	ts.start("data")
	ts.put(subnets+"10.1.6.0-24", lease6)
	s := until(t, in, "an event after the restart", count(2))
	if s.Replaced {
		t.Error("Replaced after a restart on the same data")
	}
}

// Design decision 8: a store without memory takes no routes away at once.
func TestWatchReplacedStore(t *testing.T) {
	ts := newTestStore(t)
	ts.put("x", "1")
	ts.put("x", "2")
	ts.put(subnets+"10.1.5.0-24", lease5)
	ts.put(subnets+"10.1.6.0-24", lease6)
	in := ts.watch(3 * time.Second)
	until(t, in, "the first list", count(2))
	ts.server.Close()
	ts.start("other")
	s := until(t, in, "the replacement", func(s backends.Snapshot) bool { return s.Replaced })
	if len(s.Leases) != 2 {
		t.Fatalf("leases = %v, want those of before", subnetsOf(s.Leases))
	}
	// One host registers again, elsewhere.
	ts.put(subnets+"10.1.9.0-24", lease5)
	s = until(t, in, "a host registered again", func(s backends.Snapshot) bool {
		return len(s.Leases) == 2 && s.Leases[1].Subnet.String() == "10.1.9.0/24"
	})
	if diff := cmp.Diff([]string{"10.1.6.0/24", "10.1.9.0/24"}, subnetsOf(s.Leases)); diff != "" || !s.Replaced {
		t.Errorf("Replaced %t, leases (-want +got):\n%s", s.Replaced, diff)
	}
	// The other never does.
	s = until(t, in, "the end of the grace", count(1))
	if s.Replaced || s.Leases[0].Subnet.String() != "10.1.9.0/24" {
		t.Errorf("snapshot = %+v", s)
	}
}

// A reader that does not read gets the present and blocks nobody.
func TestWatchSlowReader(t *testing.T) {
	ts := newTestStore(t)
	in := ts.watch(time.Second)
	for range 200 {
		ts.put(subnets+"10.1.5.0-24", lease5)
		ts.put(subnets+"10.1.5.0-24", moved5)
	}
	last := ts.revision()
	s := until(t, in, "the last change", func(s backends.Snapshot) bool { return s.Revision >= last })
	if len(s.Leases) != 1 || s.Leases[0].Revision != last {
		t.Errorf("snapshot = %+v, want revision %d", s, last)
	}
}

// The in-process client of the supervisor watches as well.
func TestWatchInProcess(t *testing.T) {
	ts := newTestStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	in := backends.NewStore(ts.raw()).Watch(ctx, time.Second, nil)
	defer func() {
		cancel()
		for range in {
		}
	}()
	until(t, in, "the first list", count(0))
	ts.put(subnets+"10.1.5.0-24", lease5)
	until(t, in, "a new lease", count(1))
}
