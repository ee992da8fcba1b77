package udp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"labctl/backends"
	"labctl/backends/internal/datapath"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// These tests are two hosts with a container each, in namespaces, and the
// machine's own kernel:
//
//	c1 eth0 10.244.1.2 -- v1 h1 eth0 192.168.50.1 -- 192.168.50.2 eth0 h2 v1 -- 10.244.2.2 eth0 c2
type world struct {
	t     testing.TB
	hosts [2]*host
}

type host struct {
	t         testing.TB
	ns, c     *nodes.Namespace
	lease     backends.Lease
	u         nodes.Underlay
	backend   *Backend
	rec       *nodes.Reconciler
	path      *path
	log       *logs
	container netip.Addr
	refusal   error // of messages that the kernel is to cut
}

// logs is what a path logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// offload says on which links offloads are off.
type offload struct{ underlay, containers bool }

// newWorld builds everything but the paths.
func newWorld(t testing.TB, off offload) *world {
	t.Helper()
	nodestest.Require(t, nodestest.Netns, nodestest.TUN)
	all, err := nodes.NewNamespaces([]string{"h1", "h2", "c1", "c2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range all {
			n.Close()
		}
	})
	w := &world{t: t}
	for i := range w.hosts {
		a := netip.AddrFrom4([4]byte{192, 168, 50, byte(i + 1)})
		h := &host{
			t: t, ns: all[i], c: all[i+2], log: &logs{},
			lease:     lease(fmt.Sprintf("10.244.%d.0/24", i+1), a.String()),
			u:         nodes.Underlay{Dev: "eth0", Addr: a, Prefix: netip.PrefixFrom(a, 24), MTU: 1500},
			container: netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 2}),
		}
		w.hosts[i] = h
	}
	one, two := w.hosts[0], w.hosts[1]
	for i, h := range w.hosts {
		h.rec = reconciler(t, h.ns)
		gw := netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 1})
		base := nodes.State{
			Links: []nodes.Link{
				nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "v1", MTU: 1472, NoOffload: off.containers}, PeerNamespace: h.c, PeerName: "eth0", PeerMTU: 1472},
			},
			Addrs:   []nodes.Addr{{Dev: "eth0", Prefix: h.u.Prefix}, {Dev: "v1", Prefix: netip.PrefixFrom(gw, 24)}},
			Sysctls: []nodes.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}, {Key: "net/ipv4/conf/all/rp_filter", Value: "0"}, {Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"}},
		}
		if i == 0 {
			base.Links = append(base.Links, nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0", NoOffload: off.underlay}, PeerNamespace: two.ns, PeerName: "eth0"})
		} else {
			base.Links = append(base.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", NoOffload: off.underlay}})
		}
		apply(t, h.rec, base)
		apply(t, reconciler(t, h.c), nodes.State{
			Links:  []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", NoOffload: off.containers}}},
			Addrs:  []nodes.Addr{{Dev: "eth0", Prefix: netip.PrefixFrom(h.container, 24)}},
			Routes: []nodes.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gw, Dev: "eth0"}},
		})
	}
	one.carry("")
	two.carry("")
	return w
}

func reconciler(t testing.TB, ns *nodes.Namespace) *nodes.Reconciler {
	t.Helper()
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "test", Protocol: 91})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func apply(t testing.TB, r *nodes.Reconciler, s nodes.State) {
	t.Helper()
	r.Set(s)
	if _, err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// carry makes the host's backend, without starting it.
func (h *host) carry(options string) {
	h.backend = newBackend(h.t, options)
}

// start opens and runs a host's path until the test ends, or until stop.
func (h *host) start(peers ...backends.Lease) (stop func()) {
	h.t.Helper()
	var p backends.Path
	err := h.ns.Do(func() (err error) {
		p, err = h.backend.Open(h.lease, h.u, slog.New(slog.NewTextHandler(h.log, nil)))
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.path = p.(*path)
	if h.refusal != nil {
		h.path.RefuseSegments(h.refusal)
	}
	p.Set(h.lease, peers)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(stop)
	h.device(peers...)
	return stop
}

// device gives flannel0 what Desired wants.
func (h *host) device(peers ...backends.Lease) {
	h.t.Helper()
	s, problems := h.backend.Desired(h.lease, peers, h.u)
	if len(problems) > 0 {
		h.t.Fatal(problems)
	}
	apply(h.t, reconciler(h.t, h.ns), s)
}

// start runs both hosts at the levels.
func (w *world) start(levels ...datapath.Level) {
	w.t.Helper()
	for i, h := range w.hosts {
		h.carry(fmt.Sprintf(`{"Level":%q}`, levels[i%len(levels)]))
		h.start(w.hosts[1-i].lease)
	}
}

// run runs a command line inside a namespace.
func run(t testing.TB, ns *nodes.Namespace, line string) (string, error) {
	t.Helper()
	argv := strings.Fields(line)
	nodestest.Require(t, nodestest.Tool(argv[0]))
	return nodestest.Run(ns, argv...)
}

func must(t testing.TB, ns *nodes.Namespace, line string) string {
	t.Helper()
	out, err := run(t, ns, line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// transfer sends n random bytes by TCP from container to container and
// compares what arrives.
func (w *world) transfer(from, to int, n int) {
	w.t.Helper()
	src, dst := w.hosts[from], w.hosts[to]
	if err := nodestest.Transfer(src.c, dst.c, dst.container, n); err != nil {
		w.t.Fatalf("%v; %+v", err, src.path.Traffic())
	}
}

// Any level carries to any other, whatever the devices can do.
func TestTransfer(t *testing.T) {
	for name, off := range map[string]offload{
		"offloads on": {}, "underlay off": {underlay: true}, "containers off": {containers: true}, "all off": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, from := range []datapath.Level{datapath.Plain, datapath.Batch, datapath.GSO} {
				for _, to := range []datapath.Level{datapath.Plain, datapath.Batch, datapath.GSO} {
					t.Run(fmt.Sprintf("%v to %v", from, to), func(t *testing.T) {
						w := newWorld(t, off)
						w.start(from, to)
						must(t, w.hosts[0].c, "ping -c 3 -i 0.01 -w 3 10.244.2.2")
						w.transfer(0, 1, 4<<20)
						w.check(from, to, off)
					})
				}
			}
		})
	}
}

// check looks at the counters after a transfer from host 0 to host 1.
func (w *world) check(from, to datapath.Level, off offload) {
	w.t.Helper()
	out, in := w.hosts[0].path.Traffic(), w.hosts[1].path.Traffic()
	if len(out.Drops)+len(in.Drops) > 0 {
		w.t.Errorf("drops: %v, %v", out.Drops, in.Drops)
	}
	nodestest.Eventually(w.t, 5*time.Second, func() error { // the last ones may be under way
		out, in = w.hosts[0].path.Traffic(), w.hosts[1].path.Traffic()
		if out.Out.Packets != in.In.Packets || out.Out.Bytes != in.In.Bytes || in.In.Bytes < 4<<20 {
			return fmt.Errorf("sent %+v, received %+v", out.Out, in.In)
		}
		return nil
	})
	if from == datapath.GSO && !off.underlay && !off.containers && out.Out.Packets < 4*out.Out.Batches {
		w.t.Errorf("%d packets were sent in %d batches", out.Out.Packets, out.Out.Batches)
	}
	if to == datapath.GSO && from == datapath.GSO && !off.underlay && !off.containers && in.In.Packets < 4*in.In.Batches {
		w.t.Errorf("%d packets were written in %d batches", in.In.Packets, in.In.Batches)
	}
	// Before Linux 6.12 a device that computes no checksums has no datagrams cut.
	refused := from == datapath.GSO && off.underlay && out.Level == datapath.Batch.String() && strings.Contains(out.Why, unix.EIO.Error())
	if out.Level != from.String() && !refused {
		w.t.Errorf("level %s because %q, want %s", out.Level, out.Why, from)
	}
}

func TestAutoIsGSO(t *testing.T) {
	w := newWorld(t, offload{})
	w.hosts[0].start()
	if tr := w.hosts[0].path.Traffic(); tr.Level != "gso" || tr.Why != "" || tr.Drops == nil {
		t.Errorf("traffic = %+v", tr)
	}
}

// A kernel that does not cut datagrams after all, as before Linux 6.12 where the
// device computes no checksums: nothing is lost, and it is said once.
func TestSegmentationRefused(t *testing.T) {
	for _, refusal := range []error{unix.EIO, unix.EINVAL} {
		t.Run(refusal.Error(), func(t *testing.T) {
			w := newWorld(t, offload{})
			w.hosts[0].refusal = refusal
			w.start(datapath.GSO)
			w.transfer(0, 1, 4<<20)
			tr := w.hosts[0].path.Traffic()
			if tr.Level != "batch" || !strings.HasPrefix(tr.Why, "udp segmentation: ") || len(tr.Drops) > 0 {
				t.Errorf("traffic = %+v", tr)
			}
			if n := w.hosts[0].log.count("udp segmentation"); n != 1 {
				t.Errorf("said %d times, want 1", n)
			}
		})
	}
}

// What an ICMP error says when a packet cannot go on.
func TestErrors(t *testing.T) {
	for _, l := range []datapath.Level{datapath.Plain, datapath.GSO} {
		t.Run(l.String(), func(t *testing.T) {
			w := newWorld(t, offload{})
			w.start(l)
			c := w.hosts[0].c
			for _, tt := range []struct{ name, line, want, drop string }{
				{"no route", "ping -c 1 -W 2 10.244.9.9", "From 10.244.1.0 icmp_seq=1 Destination Net Unreachable", "no-route"},
				{"TTL", "ping -c 1 -W 2 -t 2 10.244.2.2", "From 10.244.1.0 icmp_seq=1 Time to live exceeded", "ttl"},
			} {
				out, err := run(t, c, tt.line)
				if err == nil || !strings.Contains(out, tt.want) {
					t.Errorf("%s: %s, %v, want %s", tt.name, out, err, tt.want)
				}
				if n := w.hosts[0].path.Traffic().Drops[tt.drop]; n != 1 {
					t.Errorf("%s: %d drops, want 1", tt.name, n)
				}
			}
		})
	}
}

// A path that takes less than the devices at its ends say.
func TestPathMTU(t *testing.T) {
	for _, l := range []datapath.Level{datapath.Plain, datapath.GSO} {
		t.Run(l.String(), func(t *testing.T) {
			w := newWorld(t, offload{})
			w.start(l)
			// What a router's "fragmentation needed" leaves behind.
			must(t, w.hosts[0].ns, "ip route add 192.168.50.2 dev eth0 mtu 1400")
			c := w.hosts[0].c
			out, err := run(t, c, "ping -c 1 -W 2 -M do -s 1400 10.244.2.2")
			if err == nil || !strings.Contains(out, "mtu = 1372") {
				t.Errorf("ping -M do: %s, %v, want mtu = 1372", out, err)
			}
			if n := w.hosts[0].path.Traffic().Drops["too-big"]; n != 1 {
				t.Errorf("%d drops, want 1", n)
			}
			must(t, c, "ping -c 1 -W 2 -M dont -s 1400 10.244.2.2") // in pieces
			must(t, c, "ip route flush cache")
			w.transfer(0, 1, 1<<20)
		})
	}
}

// packet is an IPv4 packet of an experimental protocol (RFC 3692).
func packet(src, dst [4]byte) []byte {
	h := []byte{0x45, 0, 0, 25, 0, 1, 0, 0, 9, 253, 0, 0, src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3]}
	return append(h, "hello"...)
}

// Nobody but peers is heard, and they only for what is theirs.
func TestVerifySource(t *testing.T) {
	two, container := [4]byte{10, 244, 2, 2}, [4]byte{10, 244, 1, 2}
	good := packet(two, container)
	spoofed := packet([4]byte{10, 244, 3, 3}, container)
	elsewhere := packet(two, [4]byte{10, 244, 3, 3})
	host := packet([4]byte{192, 168, 50, 2}, container)
	tests := []struct {
		name string
		send []byte
		peer bool
		drop string
	}{
		{"good", good, true, ""},
		{"from the host itself", host, true, ""},
		{"nobody we know", good, false, "unknown-sender"},
		{"another's source", spoofed, true, "spoofed-source"},
		{"not for us", elsewhere, true, "not-ours"},
		{"short", good[:len(good)-1], true, "malformed"},
		{"long", append(append([]byte{}, good...), 0), true, "malformed"},
		{"no packet", []byte{0x45}, true, "malformed"},
		{"empty", nil, true, "malformed"},
		{"IPv6", []byte{0x60, 0, 0, 0}, true, "not-ipv4"},
	}
	for _, l := range []datapath.Level{datapath.Plain, datapath.Batch, datapath.GSO} {
		t.Run(l.String(), func(t *testing.T) {
			w := newWorld(t, offload{})
			h := w.hosts[0]
			h.carry(fmt.Sprintf(`{"Level":%q}`, l))
			h.start(w.hosts[1].lease)
			var conn net.PacketConn
			if err := w.hosts[1].ns.Do(func() (err error) {
				conn, err = net.ListenPacket("udp4", "192.168.50.2:8285")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, tt := range tests {
				if h.path.Set(h.lease, nil); tt.peer {
					h.path.Set(h.lease, []backends.Lease{w.hosts[1].lease})
				}
				before := h.path.Traffic()
				if _, err := conn.WriteTo(tt.send, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.168.50.1:8285"))); err != nil {
					t.Fatal(err)
				}
				nodestest.Eventually(t, 5*time.Second, func() error {
					now := h.path.Traffic()
					if tt.drop == "" && now.In.Packets == before.In.Packets+1 || tt.drop != "" && now.Drops[tt.drop] == before.Drops[tt.drop]+1 {
						return nil
					}
					return fmt.Errorf("%s: %+v", tt.name, now)
				})
			}
		})
	}
}

// Somebody deletes the device: it is made again, and said so once.
func TestDeviceDeleted(t *testing.T) {
	for _, l := range []datapath.Level{datapath.Plain, datapath.GSO} {
		t.Run(l.String(), func(t *testing.T) {
			w := newWorld(t, offload{})
			w.start(l)
			h := w.hosts[0]
			must(t, h.ns, "ip link del flannel0")
			nodestest.Eventually(t, 5*time.Second, func() error {
				_, err := run(t, h.ns, "ip link show flannel0")
				return err
			})
			h.device(w.hosts[1].lease)
			w.transfer(0, 1, 1<<20)
			if n := h.log.count("made anew"); n != 1 {
				t.Errorf("said %d times, want 1", n)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	w := newWorld(t, offload{})
	one, two := w.hosts[0], w.hosts[1]
	one.start()
	open := func(h *host, options string, u nodes.Underlay) error {
		h.carry(options)
		return h.ns.Do(func() error {
			p, err := h.backend.Open(h.lease, u, slog.New(slog.DiscardHandler))
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				p.Run(ctx)
			}
			return err
		})
	}
	foreign := two.u
	foreign.Addr = netip.MustParseAddr("192.168.50.77")
	must(t, two.ns, "ip link add flannel0 type bridge")
	for _, tt := range []struct {
		name string
		h    *host
		opts string
		u    nodes.Underlay
		is   error
		cure string
	}{
		{"port", one, "", one.u, unix.EADDRINUSE, "ss -ulnp"},
		{"address", two, "", foreign, unix.EADDRNOTAVAIL, "ip addr"},
		{"device in use", one, `{"Port":9000,"Level":"plain"}`, one.u, unix.EBUSY, "end the process"},
		{"device of another kind", two, `{"Level":"gso"}`, two.u, unix.EINVAL, "ip link del flannel0"},
	} {
		err := open(tt.h, tt.opts, tt.u)
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.cure) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Open() = %v, want %v and %q", tt.name, err, tt.is, tt.cure)
		}
	}
	must(t, two.ns, "ip link del flannel0")
	if err := open(two, "", two.u); err != nil {
		t.Errorf("Open() = %v", err)
	}
}
