package calico_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"labctl/backends"
	"labctl/backends/calico"
	"labctl/lab/etcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// etcdURL serves an empty etcd for the time of the test.
func etcdURL(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	url := "unix://" + filepath.Join(dir, "sock")
	s, err := etcd.Start(context.Background(), etcd.Config{Dir: filepath.Join(dir, "data"), ClientURLs: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return url
}

// connect is a connection of one host's own.
func connect(t *testing.T, url string) (*calico.Store, *clientv3.Client) {
	t.Helper()
	c, err := backends.Access{Endpoints: []string{url}}.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return calico.NewStore(c), c
}

func config(pool string, blockSize int) calico.Config {
	return calico.Config{
		Pool: netip.MustParsePrefix(pool), BlockSize: blockSize, Encapsulation: calico.None, Routes: calico.FromStore, MaxBlocks: calico.DefaultMaxBlocks,
	}
}

func claims(n int) []calico.Claim {
	var all []calico.Claim
	for i := range n {
		all = append(all, calico.Claim{Name: fmt.Sprintf("c%d", i+1)})
	}
	return all
}

func read(t *testing.T, s *calico.Store) calico.Snapshot {
	t.Helper()
	snap, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func assign(t *testing.T, s *calico.Store, c calico.Config, host string, cl []calico.Claim) []netip.Addr {
	t.Helper()
	addrs, err := s.Assign(t.Context(), c, host, cl)
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

// sound checks what must hold of every store whatever happened: nobody has an
// address twice, and each block one owner, who has confirmed it.
func sound(t *testing.T, snap calico.Snapshot) {
	t.Helper()
	for _, p := range snap.Problems {
		t.Error(p)
	}
	owner := map[netip.Addr]string{}
	for _, b := range snap.Blocks {
		for _, a := range b.Allocations() {
			who := a.Host + "." + a.Name
			if by := owner[a.Addr]; by != "" {
				t.Errorf("%s: both %s and %s", a.Addr, by, who)
			}
			owner[a.Addr] = who
		}
		if b.Host != "" && !slices.Contains(snap.BlocksOf(b.Host), b.CIDR) {
			t.Errorf("block %s: %s's, without a confirmed affinity", b.CIDR, b.Host)
		}
	}
	for _, a := range snap.Affinities {
		if a.State != calico.Confirmed {
			t.Errorf("affinity of %s to %s: %s", a.Host, a.Block, a.State)
		}
	}
}

// Fifty hosts begin at once, each with a connection of its own. No address is
// given out twice, and no block has two owners, whether there are blocks
// enough, as many as hosts, or fewer, so that addresses are borrowed.
func TestFiftyHostsAtOnce(t *testing.T) {
	t.Parallel()
	const hosts, containers = 50, 3
	for _, tt := range []struct {
		name     string
		conf     calico.Config
		borrowed bool
	}{
		{"blocks enough", config("10.1.0.0/19", 26), false},
		{"hardly a block for each", config("10.1.0.0/22", 28), false}, // 64
		{"several blocks a host", config("10.1.0.0/21", 31), false},
		{"fewer blocks than hosts", config("10.1.0.0/21", 26), true}, // 32
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := etcdURL(t)
			var wg sync.WaitGroup
			start := make(chan struct{})
			for h := range hosts {
				s, _ := connect(t, url)
				wg.Go(func() {
					<-start
					node := fmt.Sprintf("node%d", h+1)
					addrs, err := s.Assign(t.Context(), tt.conf, node, claims(containers))
					for errors.Is(err, context.DeadlineExceeded) && t.Context().Err() == nil {
						// As an agent does: what a machine with too little time has left
						// undone is found again.
						addrs, err = s.Assign(t.Context(), tt.conf, node, claims(containers))
					}
					if err != nil || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !tt.conf.Pool.Contains(a) }) {
						t.Errorf("%s: %v, %v", node, addrs, err)
					}
				})
			}
			close(start)
			wg.Wait()
			s, _ := connect(t, url)
			snap := read(t, s)
			sound(t, snap)
			total := 0
			for _, b := range snap.Blocks {
				total += len(b.Allocations())
			}
			if total != hosts*containers {
				t.Errorf("%d addresses are taken, want %d", total, hosts*containers)
			}
			if got := len(snap.Borrowed()) > 0; got != tt.borrowed {
				t.Errorf("borrowed: %v, want %v", snap.Borrowed(), tt.borrowed)
			}
		})
	}
}

// A host asks again and gets what it has; it gets more blocks as it needs them,
// and gives back the addresses of containers that are gone.
func TestAssign(t *testing.T) {
	t.Parallel()
	s, _ := connect(t, etcdURL(t))
	c := config("10.1.0.0/24", 30)
	first := assign(t, s, c, "node1", claims(3))
	if diff := cmp.Diff(first, assign(t, s, c, "node1", claims(3)), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("asked again (-first +now):\n%s", diff)
	}
	snap := read(t, s)
	sound(t, snap)
	if n := len(snap.BlocksOf("node1")); n != 1 {
		t.Errorf("3 containers in blocks of 4: %d blocks", n)
	}
	more := assign(t, s, c, "node1", claims(6))
	if !slices.Equal(more[:3], first) {
		t.Errorf("with more containers the first have %v, had %v", more[:3], first)
	}
	if n := len(read(t, s).BlocksOf("node1")); n != 2 {
		t.Errorf("6 containers in blocks of 4: %d blocks", n)
	}
	assign(t, s, c, "node1", claims(1))
	snap = read(t, s)
	sound(t, snap)
	taken := 0
	for _, b := range snap.Blocks {
		taken += len(b.Allocations())
	}
	if taken != 1 {
		t.Errorf("%d addresses are taken after all but one container went", taken)
	}
	pinned := netip.MustParseAddr("10.1.0.77")
	if got := assign(t, s, c, "node1", []calico.Claim{{Name: "c1", Addr: pinned}, {Name: "c2"}}); got[0] != pinned {
		t.Errorf("c1 asked for %s and got %s", pinned, got[0])
	}
	sound(t, read(t, s))
}

// A claim that its host did not finish is finished, or given up, by whoever
// was left in the middle of it.
func TestHalfDoneClaims(t *testing.T) {
	t.Parallel()
	const ours, theirs = "10.1.0.0-26", "10.1.0.64-26"
	for _, tt := range []struct {
		name  string
		put   map[string]string
		block string // "" any but 10.1.0.64/26
	}{
		{"wanted", map[string]string{"host/node1/ipv4/block/" + ours: `{"state":"pending"}`}, "10.1.0.0/26"},
		{"wanted, and another's meanwhile", map[string]string{"host/node1/ipv4/block/" + theirs: `{"state":"pending"}`}, ""},
		{"being given up", map[string]string{"host/node1/ipv4/block/" + ours: `{"state":"pendingDeletion"}`}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, raw := connect(t, etcdURL(t))
			if err := s.Reserve(t.Context(), netip.MustParsePrefix("10.1.0.64/26"), "node2"); err != nil {
				t.Fatal(err)
			}
			for k, v := range tt.put {
				if _, err := raw.Put(t.Context(), "/calico/ipam/v2/"+k, v); err != nil {
					t.Fatal(err)
				}
			}
			if got := read(t, s).BlocksOf("node1"); got != nil {
				t.Errorf("before anything is confirmed node1 has %v", got)
			}
			assign(t, s, config("10.1.0.0/24", 26), "node1", claims(1))
			snap := read(t, s)
			sound(t, snap)
			got := snap.BlocksOf("node1")
			if len(got) != 1 || tt.block != "" && got[0].String() != tt.block || got[0].String() == "10.1.0.64/26" {
				t.Errorf("node1 has %v, want %s", got, tt.block)
			}
		})
	}
}

// When all blocks are taken, an address of another host's is borrowed, and
// its holder is where packets go; under strict affinity there is none, and the
// error says why.
func TestBorrowing(t *testing.T) {
	t.Parallel()
	s, _ := connect(t, etcdURL(t))
	c := config("10.1.0.0/28", 29) // two blocks
	for i, host := range []string{"node1", "node2"} {
		assign(t, s, c, host, claims(2))
		n := calico.Node{Name: host, Address: netip.MustParsePrefix(fmt.Sprintf("192.168.50.%d/24", i+1))}
		if err := s.Register(t.Context(), n, nil); err != nil {
			t.Fatal(err)
		}
	}
	strict := c
	strict.StrictAffinity = true
	_, err := s.Assign(t.Context(), strict, "node3", claims(1))
	if e, ok := errors.AsType[*calico.ExhaustedError](err); !ok || !strings.Contains(e.Error(), "strictAffinity") {
		t.Errorf("strict affinity: %v", err)
	}
	a := assign(t, s, c, "node3", claims(1))[0]
	if err := s.Register(t.Context(), calico.Node{Name: "node3", Address: netip.MustParsePrefix("192.168.50.3/24")}, nil); err != nil {
		t.Fatal(err)
	}
	snap := read(t, s)
	sound(t, snap)
	remotes, problems := snap.Remotes("node1")
	if len(problems) > 0 {
		t.Error(problems)
	}
	want := calico.Remote{Dst: netip.PrefixFrom(a, 32), Host: "node3", NextHop: netip.MustParseAddr("192.168.50.3")}
	if !slices.Contains(remotes, want) || len(remotes) != 2 {
		t.Errorf("node1's remotes = %v, want node2's block and %v", remotes, want)
	}
	if own, _ := snap.Remotes("node3"); slices.Contains(own, want) {
		t.Errorf("node3 has a route to its own container by way of itself: %v", own)
	}

	_, err = s.Assign(t.Context(), c, "node4", claims(20))
	e, ok := errors.AsType[*calico.ExhaustedError](err)
	if !ok || e.Cure == "" || !strings.Contains(e.Error(), "all blocks of pool 10.1.0.0/28 are taken") {
		t.Errorf("20 containers and 11 addresses: %v", err)
	}

	// Whose block others have borrowed from leaves, and they keep what they have.
	owner := ""
	for _, b := range snap.Blocks {
		if b.CIDR.Contains(a) {
			owner = b.Host
		}
	}
	revision, err := s.RemoveNode(t.Context(), owner)
	if err != nil || revision == 0 {
		t.Errorf("remove %s: revision %d, %v", owner, revision, err)
	}
	snap = read(t, s)
	sound(t, snap)
	if got := snap.Addresses("node3", claims(1)); got[0] != a {
		t.Errorf("after %s left node3's container has %v, want %s", owner, got, a)
	}
	if snap.Node(owner) != nil || len(snap.BlocksOf(owner)) > 0 {
		t.Errorf("%s left, and the store still has %v and blocks %v", owner, snap.Node(owner), snap.BlocksOf(owner))
	}
}

// Two owners of one block are told with the key to delete; the block's own
// word decides, so that no host is led to the wrong one.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	s, raw := connect(t, etcdURL(t))
	block := netip.MustParsePrefix("10.1.0.0/26")
	if err := s.Reserve(t.Context(), block, "node1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(t.Context(), block, "node1"); err != nil {
		t.Errorf("reserved again for its owner: %v", err)
	}
	if _, ok := errors.AsType[*calico.TakenError](s.Reserve(t.Context(), block, "node2")); !ok {
		t.Error("reserved for another host, too")
	}
	const second = "/calico/ipam/v2/host/node2/ipv4/block/10.1.0.0-26"
	if _, err := raw.Put(t.Context(), second, `{"state":"confirmed"}`); err != nil {
		t.Fatal(err)
	}
	snap := read(t, s)
	if len(snap.Problems) != 1 || !strings.Contains(snap.Problems[0].Error(), "two owners of block 10.1.0.0/26: node2 claims it, and it is node1's; delete this key (etcdctl del "+second) {
		t.Errorf("problems = %v", snap.Problems)
	}
	if got := snap.BlocksOf("node2"); got != nil {
		t.Errorf("node2 has %v", got)
	}
	for key, value := range map[string]string{
		"/calico/ipam/v2/assignment/ipv4/block/10.1.0.64-26":      `{"cidr":"10.1.0.0/26"}`,
		"/calico/ipam/v2/assignment/ipv4/block/10.1.1.0-26":       `junk`,
		"/calico/ipam/v2/host/node2/ipv4/block/10.1.1.1-26":       `{"state":"confirmed"}`,
		"/calico/resources/v3/projectcalico.org/nodes/node9":      `{}`,
		"/calico/resources/v3/projectcalico.org/something/unseen": `{}`,
	} {
		if _, err := raw.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	snap = read(t, s)
	if len(snap.Problems) != 5 || len(snap.BlocksOf("node1")) != 1 {
		t.Errorf("with four keys that cannot be read: problems %v, node1 has %v", snap.Problems, snap.BlocksOf("node1"))
	}
}

// What is stored is read back, by a watch as by a read; whoever is there first
// decides.
func TestConfigAndWatch(t *testing.T) {
	t.Parallel()
	s, _ := connect(t, etcdURL(t))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	want := config("10.1.0.0/16", 26)
	want.NATOutgoing, want.StrictAffinity, want.Routes = true, true, calico.BGP
	go func() { _ = s.PutConfigOnce(ctx, want) }() // and its loss is seen below
	got, err := s.WaitConfig(ctx)
	if err != nil || got != want {
		t.Errorf("WaitConfig() = %+v, %v, want %+v", got, err, want)
	}
	if err := s.PutConfigOnce(ctx, config("10.2.0.0/16", 24)); err != nil {
		t.Error(err)
	}
	if snap := read(t, s); snap.Config != want {
		t.Errorf("a second configuration replaced the first: %+v", snap.Config)
	}
	node := calico.Node{Name: "node-1", Address: netip.MustParsePrefix("192.168.50.1/24")}
	web := calico.Workload{Host: "node-1", Name: "web-a", Addr: netip.MustParseAddr("10.1.0.1"), Dev: "veth1"}
	db := calico.Workload{Host: "node-1", Name: "db", Addr: netip.MustParseAddr("10.1.0.2"), Dev: "veth2"}
	snapshots := s.Watch(ctx)
	until := func(what string, is func(calico.Snapshot) bool) {
		for snap := range snapshots {
			if is(snap) {
				return
			}
		}
		t.Fatalf("watch: %s: not seen", what)
	}
	for _, some := range [][]calico.Workload{{web, db}, {web}} {
		if err := s.Register(ctx, node, some); err != nil {
			t.Fatal(err)
		}
		until(fmt.Sprintf("%d containers", len(some)), func(s calico.Snapshot) bool { return s.Registered(node, some) })
	}
	cancel()
	for range snapshots {
	}
}
