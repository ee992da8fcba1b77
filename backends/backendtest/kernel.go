package backendtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"labctl/backends"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// RunKernel checks what every backend must do on a running kernel: hosts
// converge, heal, follow a peer that moved, survive a restart of the agent,
// carry packets of exactly the MTU, and leave nothing open. What it looks at
// are packets of ping(8), between containers on different hosts.
//
// A package that calls it has a TestMain that calls nodestest.Main.
func RunKernel(t *testing.T, factory Factory, features ...nodestest.Feature) {
	nodestest.Require(t, append(features, nodestest.Netns, nodestest.Bridge,
		nodestest.Tool("ip"), nodestest.Tool("ping"))...)
	for name, test := range map[string]func(*testing.T, *network){
		"converge":     testConverge,
		"heal":         testHeal,
		"peer moves":   testPeerMoves,
		"restart":      testRestart,
		"MTU on wires": testWireMTU,
		"clean exit":   testCleanExit,
	} {
		t.Run(name, func(t *testing.T) {
			if name != "clean exit" { // which counts the process's files
				t.Parallel()
			}
			test(t, newNetwork(t, factory))
		})
	}
}

// settle is how long a network may take to do what it is told.
const settle = 10 * time.Second

// network is three hosts on one switch with a container each. Host n is
// 192.168.50.n, its container 10.244.n.2.
type network struct {
	factory Factory
	lan     *nodes.Namespace
	hosts   []*host
}

// host is a machine with its agent's parts: a backend, a reconciler and, with
// a Carrier, the data path.
type host struct {
	n         int
	ns        *nodes.Namespace
	container *nodes.Namespace
	underlay  nodes.Underlay
	lease     backends.Lease
	agent     *agent
}

// agent is one life of a host's agent.
type agent struct {
	backend    backends.Backend
	reconciler *nodes.Reconciler
	path       backends.Path // nil when the kernel forwards
	cancel     context.CancelFunc
	running    sync.WaitGroup
	err        error // of the path's Run, once it has ended
}

func newNetwork(t *testing.T, factory Factory) *network {
	t.Helper()
	w := &network{factory: factory, lan: namespace(t, "lan")}
	segment := nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}}}}
	apply(t, w.lan, segment)
	for n := 1; n <= 3; n++ {
		h := &host{n: n, ns: namespace(t, fmt.Sprintf("host%d", n)), container: namespace(t, fmt.Sprintf("c%d", n)), underlay: underlay(n)}
		w.hosts = append(w.hosts, h)
		h.lease = leaseOf(t, factory(""), n, nil)
		h.build(t, w.lan, factory("").MTU(h.underlay))
		segment.Links = append(segment.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: h.port(), Master: "br0"}})
	}
	apply(t, w.lan, segment)
	for _, h := range w.hosts {
		h.start(t, w)
	}
	w.tell()
	return w
}

func (h *host) port() string { return fmt.Sprintf("p%d", h.n) }

// build makes a machine as its owner and a container runtime would.
func (h *host) build(t *testing.T, lan *nodes.Namespace, mtu int) {
	t.Helper()
	gateway := netip.PrefixFrom(h.lease.Subnet.Addr().Next(), 24)
	apply(t, h.ns, nodes.State{
		Links: []nodes.Link{
			nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: lan, PeerName: h.port()},
			nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "cni0", MTU: mtu}},
			nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "veth1", MTU: mtu, Master: "cni0"}, PeerNamespace: h.container, PeerName: "eth0", PeerMTU: mtu},
		},
		Addrs:   []nodes.Addr{{Dev: "eth0", Prefix: h.underlay.Prefix}, {Dev: "cni0", Prefix: gateway}},
		Sysctls: []nodes.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}, {Key: "net/ipv4/conf/all/rp_filter", Value: "0"}},
	})
	apply(t, h.container, nodes.State{
		Links:  []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", MTU: mtu}}},
		Addrs:  []nodes.Addr{{Dev: "eth0", Prefix: netip.PrefixFrom(containerAddr(h.n), 24)}},
		Routes: []nodes.Route{{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: gateway.Addr(), Dev: "eth0"}},
	})
}

func containerAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(n), 2}) }

// start begins a life of the host's agent, which knows nothing yet but its
// own lease.
func (h *host) start(t *testing.T, w *network) {
	t.Helper()
	a := &agent{backend: w.factory("")}
	data, err := a.backend.Data(h.lease.BackendData)
	if err != nil {
		t.Fatal(err)
	}
	h.lease.BackendData = data
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	if c, ok := a.backend.(backends.Carrier); ok {
		// A child that another test forks has this process's sockets until it
		// executes its program: one that is closed may be open a moment longer.
		nodestest.Eventually(t, time.Second, func() error {
			return h.ns.Do(func() (err error) {
				a.path, err = c.Open(h.lease, h.underlay, slog.New(slog.DiscardHandler))
				return err
			})
		})
		a.running.Go(func() { a.err = a.path.Run(ctx) })
	}
	st, _ := a.backend.Desired(h.lease, nil, h.underlay)
	owner := nodes.Owner{Name: "agent", Protocol: 97}
	for _, l := range st.Links {
		owner.Exclusive = append(owner.Exclusive, l.LinkName())
	}
	if a.reconciler, err = nodes.NewReconciler(h.ns, owner); err != nil {
		t.Fatal(err)
	}
	a.running.Go(func() {
		if err := a.reconciler.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("host%d: %v", h.n, err)
		}
	})
	h.agent = a
	t.Cleanup(func() { a.stop() })
}

// stop ends a life of an agent.
func (a *agent) stop() error {
	if a.cancel == nil {
		return nil
	}
	a.cancel()
	a.running.Wait()
	a.cancel = nil
	return errors.Join(a.err, a.reconciler.Close())
}

// tell gives every agent the leases of all others.
func (w *network) tell() {
	for _, h := range w.hosts {
		h.know(w)
	}
}

func (h *host) know(w *network) {
	if h.agent.cancel == nil {
		return
	}
	var peers []backends.Lease
	for _, other := range w.hosts {
		if other != h && other.lease.Subnet.IsValid() {
			peers = append(peers, other.lease)
		}
	}
	st, _ := h.agent.backend.Desired(h.lease, peers, h.underlay)
	if h.agent.path != nil {
		h.agent.path.Set(h.lease, peers)
	}
	h.agent.reconciler.Set(st)
}

// reach waits until every container reaches every other.
func (w *network) reach(t *testing.T) {
	t.Helper()
	for _, from := range w.hosts {
		for _, to := range w.hosts {
			if from == to {
				continue
			}
			nodestest.Eventually(t, settle, func() error {
				out, err := nodestest.Run(from.container, "ping", "-n", "-c1", "-W1", containerAddr(to.n).String())
				if err != nil {
					return fmt.Errorf("container %d to %d: %w: %s", from.n, to.n, err, out)
				}
				return nil
			})
		}
	}
}

func testConverge(t *testing.T, w *network) { w.reach(t) }

// testHeal: what somebody removes by hand comes back by itself.
func testHeal(t *testing.T, w *network) {
	w.reach(t)
	h := w.hosts[0]
	st, _ := h.agent.backend.Desired(h.lease, []backends.Lease{w.hosts[1].lease}, h.underlay)
	broken := []string{"ip route flush proto 97"}
	for _, l := range st.Links {
		broken = append(broken, "ip link set "+l.LinkName()+" down", "ip neigh flush dev "+l.LinkName()+" nud permanent")
		// What is nobody's here to make is the kernel's own, which nobody takes away.
		if _, found := l.(nodes.Port); !found || h.agent.path != nil {
			broken = append(broken, "ip link del "+l.LinkName())
		}
	}
	for _, b := range broken {
		if out, err := nodestest.Run(h.ns, "sh", "-c", b); err != nil {
			t.Fatalf("%s: %v: %s", b, err, out)
		}
		from := time.Now()
		w.reach(t)
		t.Logf("%s: all reach all after %v", b, time.Since(from).Round(time.Millisecond))
	}
}

// testPeerMoves: a subnet whose host is another now is found there, and one
// whose lease is gone leads nowhere.
func testPeerMoves(t *testing.T, w *network) {
	w.reach(t)
	one, two, three := w.hosts[0], w.hosts[1], w.hosts[2]
	// Host 2 dies; host 3 takes over its subnet and container.
	two.agent.stop()
	mustRun(t, two.ns, "ip", "link", "set", "eth0", "down")
	moved := two.lease
	two.lease = backends.Lease{}
	gone := three.lease.Subnet
	three.lease.Subnet = moved.Subnet
	mustRun(t, three.ns, "ip", "addr", "add", netip.PrefixFrom(moved.Subnet.Addr().Next(), 24).String(), "dev", "cni0")
	mustRun(t, three.container, "ip", "addr", "add", netip.PrefixFrom(containerAddr(2), 24).String(), "dev", "eth0")
	mustRun(t, three.container, "ip", "route", "replace", "default", "via", moved.Subnet.Addr().Next().String(), "src", containerAddr(2).String())
	one.know(w)
	three.know(w)
	nodestest.Eventually(t, settle, func() error {
		out, err := nodestest.Run(one.container, "ping", "-n", "-c1", "-W1", containerAddr(2).String())
		if err != nil {
			return fmt.Errorf("the container that moved: %w: %s", err, out)
		}
		return nil
	})
	if out, err := nodestest.Run(one.container, "ping", "-n", "-c1", "-W1", containerAddr(3).String()); err == nil {
		t.Errorf("%s: its lease is gone, and it answers:\n%s", gone, out)
	}
}

var loss = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// testRestart: while an agent restarts the kernel goes on forwarding, without
// the loss of a packet. A data path of the agent's own ends with it, and is
// back with it.
func testRestart(t *testing.T, w *network) {
	w.reach(t)
	h := w.hosts[0]
	before := h.lease
	type result struct {
		out string
		err error
	}
	pinged := make(chan result)
	go func() {
		// 400 packets, 5 ms apart.
		out, err := nodestest.Run(h.container, "ping", "-n", "-i0.005", "-c400", "-W1", containerAddr(2).String())
		pinged <- result{out, err}
	}()
	var r result
	lives := 0
	for done := false; !done; lives++ {
		if err := h.agent.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		h.start(t, w)
		h.know(w)
		nodestest.Eventually(t, settle, func() error {
			if rep := h.agent.reconciler.Report(); rep.Generation == 0 || len(rep.Drift) > 0 {
				return fmt.Errorf("not reconciled: %+v", rep)
			}
			return nil
		})
		select {
		case r = <-pinged:
			done = true
		case <-time.After(200 * time.Millisecond): // apart, so that there is a life between two restarts
		}
	}
	if string(h.lease.BackendData) != string(before.BackendData) {
		t.Errorf("data after restarts %s, before %s", h.lease.BackendData, before.BackendData)
	}
	m := loss.FindStringSubmatch(r.out)
	if m == nil {
		t.Fatalf("ping: %v: %s", r.err, r.out)
	}
	sent, _ := strconv.Atoi(m[1])
	received, _ := strconv.Atoi(m[2])
	t.Logf("%d restarts: %d packets sent, %d lost", lives, sent, sent-received)
	if h.agent.path == nil && received != sent {
		t.Errorf("%d of %d packets were lost over %d restarts, and the kernel forwards them", sent-received, sent, lives)
	}
	w.reach(t)
}

// testWireMTU: a packet of MTU() bytes passes whole, whatever the underlay.
func testWireMTU(t *testing.T, w *network) {
	w.reach(t)
	one := w.hosts[0]
	mtu := one.agent.backend.MTU(one.underlay)
	const headers = 28 // IPv4 and ICMP
	to := containerAddr(2).String()
	if out, err := nodestest.Run(one.container, "ping", "-n", "-Mdo", "-c1", "-W1", "-s", strconv.Itoa(mtu-headers), to); err != nil {
		t.Errorf("a packet of %d bytes, the MTU: %v: %s", mtu, err, out)
	}
	if out, err := nodestest.Run(one.container, "ping", "-n", "-Mdo", "-c1", "-W1", "-s", strconv.Itoa(mtu-headers+1), to); err == nil || !strings.Contains(out, "mtu") {
		t.Errorf("a packet of %d bytes, one more: %v: %s, want it refused", mtu+1, err, out)
	}
	// One that may be cut is cut, and put together again.
	if out, err := nodestest.Run(one.container, "ping", "-n", "-Mdont", "-c1", "-W1", "-s", "4000", to); err != nil {
		t.Errorf("4000 bytes in fragments: %v: %s", err, out)
	}
}

// testCleanExit: an agent that ends leaves no file open, and no error.
func testCleanExit(t *testing.T, w *network) {
	w.reach(t)
	h := w.hosts[0]
	if err := h.agent.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	names := func() string {
		st, _ := w.factory("").Desired(h.lease, nil, h.underlay)
		var there []string
		for _, l := range st.Links {
			if _, err := nodestest.Run(h.ns, "ip", "link", "show", l.LinkName()); err == nil {
				there = append(there, l.LinkName())
			}
		}
		return strings.Join(there, " ")
	}
	// A TUN goes with the process that opened it; what the kernel carries by
	// stays.
	if left := names(); h.agent.path != nil && left != "" {
		t.Errorf("devices left: %s", left)
	}
	before := openFiles(t)
	for range 20 {
		h.start(t, w)
		h.know(w)
		if err := h.agent.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	// The other hosts' reconcilers may be at work, and have files open meanwhile.
	nodestest.Eventually(t, settle, func() error {
		if after := openFiles(t); after > before {
			return fmt.Errorf("%d files open after 20 more lives, %d before", after, before)
		}
		return nil
	})
	h.start(t, w)
	h.know(w)
	w.reach(t)
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// namespace makes one that is gone when the test is.
func namespace(t *testing.T, name string) *nodes.Namespace {
	t.Helper()
	ns, err := nodes.NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func apply(t *testing.T, ns *nodes.Namespace, st nodes.State) {
	t.Helper()
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "test", Protocol: 96})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Set(st)
	if _, err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustRun(t *testing.T, ns *nodes.Namespace, argv ...string) {
	t.Helper()
	if out, err := nodestest.Run(ns, argv...); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}
