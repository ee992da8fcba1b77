package backends_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"labctl/backends"
	"labctl/lab/etcd"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testStore is an etcd on a socket and a Store on it.
type testStore struct {
	*backends.Store
	t      *testing.T
	dir    string
	server *etcd.Server
}

func newTestStore(t *testing.T) *testStore {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ts := &testStore{t: t, dir: dir}
	ts.start("data")
	t.Cleanup(func() { ts.server.Close() })
	if ts.Store, err = backends.Dial([]string{ts.url()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ts.Store.Close() })
	return ts
}

func (ts *testStore) url() string { return "unix://" + filepath.Join(ts.dir, "sock") }

// start serves a data directory on the socket.
func (ts *testStore) start(data string) {
	ts.t.Helper()
	s, err := etcd.Start(context.Background(), etcd.Config{
		Dir: filepath.Join(ts.dir, data), ClientURLs: []string{ts.url()},
	})
	if err != nil {
		ts.t.Fatal(err)
	}
	ts.server = s
}

// raw is a client past all checks, as a person with etcdctl has it.
func (ts *testStore) raw() *clientv3.Client { return ts.server.Client() }

func (ts *testStore) put(key, value string, opts ...clientv3.OpOption) {
	ts.t.Helper()
	if _, err := ts.raw().Put(ts.t.Context(), key, value, opts...); err != nil {
		ts.t.Fatal(err)
	}
}

func (ts *testStore) delete(key string) {
	ts.t.Helper()
	if _, err := ts.raw().Delete(ts.t.Context(), key); err != nil {
		ts.t.Fatal(err)
	}
}

func (ts *testStore) revision() int64 {
	ts.t.Helper()
	resp, err := ts.raw().Get(ts.t.Context(), "x")
	if err != nil {
		ts.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (ts *testStore) leases() []backends.Lease {
	ts.t.Helper()
	s, err := ts.Leases(ts.t.Context())
	if err != nil {
		ts.t.Fatal(err)
	}
	return s.Leases
}

func (ts *testStore) acquire(r backends.Request) *backends.Held {
	ts.t.Helper()
	h, err := ts.Acquire(ts.t.Context(), r)
	if err != nil {
		ts.t.Fatal(err)
	}
	return h
}

// run keeps a lease until the test ends; the channel says how Run ended.
func (ts *testStore) run(h *backends.Held) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- h.Run(ctx)
	}()
	ts.t.Cleanup(func() { cancel(); <-ended })
	return done
}

// watch follows the leases until the test ends.
func (ts *testStore) watch(grace time.Duration) <-chan backends.Snapshot {
	ctx, cancel := context.WithCancel(context.Background())
	in := ts.Watch(ctx, grace, nil)
	ts.t.Cleanup(func() {
		cancel()
		for range in {
		}
	})
	return in
}

const subnets = "/coreos.com/network/subnets/"

func mustNetwork(t *testing.T, text string) backends.Network {
	t.Helper()
	n, err := backends.ParseNetwork([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// host is a request of the n-th host.
func host(t *testing.T, n int, network string) backends.Request {
	t.Helper()
	return backends.Request{
		Network: mustNetwork(t, fmt.Sprintf(`{"Network": %q}`, network)),
		Attrs:   backends.Attrs{PublicIP: hostIP(n), BackendType: "vxlan"},
		TTL:     nodestest.Slow(t, 2*time.Second),
	}
}

func hostIP(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(50 + n/250), byte(1 + n%250)})
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// until waits for a snapshot that satisfies ok.
func until(t *testing.T, in <-chan backends.Snapshot, what string, ok func(backends.Snapshot) bool) backends.Snapshot {
	t.Helper()
	deadline := time.After(nodestest.Slow(t, patience))
	var last backends.Snapshot
	for {
		select {
		case s, open := <-in:
			if !open {
				t.Fatalf("%s: watch ended", what)
			}
			if last = s; ok(s) {
				return s
			}
		case <-deadline:
			t.Fatalf("%s: not within %v, last snapshot %+v", what, nodestest.Slow(t, patience), last)
		}
	}
}

// eventually polls for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(nodestest.Slow(t, patience))
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, nodestest.Slow(t, patience))
		}
	}
}

func subnetsOf(leases []backends.Lease) []string {
	var out []string
	for _, l := range leases {
		out = append(out, l.Subnet.String())
	}
	return out
}

// offline works on the store's data while nobody can connect to it.
func offline(ts *testStore, work func(*clientv3.Client)) {
	ts.t.Helper()
	s, err := etcd.Start(context.Background(), etcd.Config{Dir: filepath.Join(ts.dir, "data")})
	if err != nil {
		ts.t.Fatal(err)
	}
	defer s.Close()
	work(s.Client())
}
