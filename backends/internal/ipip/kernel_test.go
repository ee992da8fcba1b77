package ipip

import (
	"bytes"
	"context"
	"encoding/binary"
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

	"labctl/backends/internal/datapath"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }

// These tests are two hosts in namespaces, joined by a veth pair:
//
//	user0 10.244.1.0 -- h1 eth0 192.168.50.1 -- 192.168.50.2 eth0 h2 -- user0 10.244.2.0
//
// The device is not called tunl0, which the kernel may have.
type host struct {
	t      testing.TB
	ns     *nodes.Namespace
	addr   netip.Addr   // on the underlay
	tunnel netip.Addr   // of the device
	has    netip.Prefix // what is behind it
	device string
	rec    *nodes.Reconciler
	path   *datapath.Path
}

// newHosts builds everything but the tunnel.
func newHosts(t testing.TB) (one, two *host) {
	t.Helper()
	nodestest.Require(t, nodestest.Netns, nodestest.TUN)
	all, err := nodes.NewNamespaces([]string{"h1", "h2"})
	if err != nil {
		t.Fatal(err)
	}
	var hosts [2]*host
	for i := range hosts {
		n := byte(i + 1)
		base := netip.AddrFrom4([4]byte{10, 244, n, 0})
		h := &host{t: t, ns: all[i], addr: netip.AddrFrom4([4]byte{192, 168, 50, n}), tunnel: base, has: netip.PrefixFrom(base, 24), device: "user0"}
		t.Cleanup(func() { h.ns.Close() })
		if h.rec, err = nodes.NewReconciler(h.ns, nodes.Owner{Name: "test", Protocol: 91}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.rec.Close() })
		hosts[i] = h
	}
	for i, h := range hosts {
		var eth0 nodes.Link = nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}}
		if i == 0 {
			eth0 = nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: hosts[1].ns, PeerName: "eth0"}
		}
		h.apply(nodes.State{Links: []nodes.Link{eth0}, Addrs: []nodes.Addr{{Dev: "eth0", Prefix: netip.PrefixFrom(h.addr, 24)}},
			Sysctls: []nodes.Sysctl{{Key: "net/ipv4/conf/all/rp_filter", Value: "0"}, {Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"}}})
	}
	return hosts[0], hosts[1]
}

func (h *host) apply(s nodes.State) {
	h.t.Helper()
	h.rec.Set(s)
	if _, err := h.rec.Apply(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// join gives the device its address, and a route to what the other host has.
func (h *host) join(to *host, mtu int) {
	h.t.Helper()
	r, err := nodes.NewReconciler(h.ns, nodes.Owner{Name: "test tunnel", Protocol: 92})
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	r.Set(nodes.State{
		Links:  []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: h.device, MTU: mtu}}},
		Addrs:  []nodes.Addr{{Dev: h.device, Prefix: netip.PrefixFrom(h.tunnel, 32)}},
		Routes: []nodes.Route{{Dst: to.has, Via: to.addr, Dev: h.device, OnLink: true}},
	})
	if _, err := r.Apply(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

const mtu = 1500 - Overhead

// start opens and runs a path to another host until the test ends.
func (h *host) start(to *host, level datapath.Level) {
	h.t.Helper()
	err := h.ns.Do(func() (err error) {
		h.path, err = Open(Config{Device: h.device, MTU: mtu, Local: h.addr, Level: level.String()}, slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.path.Set(Self(h.tunnel), []datapath.Peer{Peer(to.addr, to.has)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.path.Run(ctx) }()
	h.t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}))
	h.join(to, mtu)
}

func (h *host) run(line string) (string, error) {
	h.t.Helper()
	argv := strings.Fields(line)
	nodestest.Require(h.t, nodestest.Tool(argv[0]))
	return nodestest.Run(h.ns, argv...)
}

func (h *host) must(line string) string {
	h.t.Helper()
	out, err := h.run(line)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// transfer sends n bytes to another host.
func (h *host) transfer(to *host, n int) {
	h.t.Helper()
	if err := nodestest.Transfer(h.ns, to.ns, to.tunnel, n); err != nil {
		h.t.Fatal(err)
	}
}

// clean says that nothing was dropped.
func (h *host) clean() {
	h.t.Helper()
	if d := h.path.Traffic().Drops; len(d) > 0 {
		h.t.Errorf("%s: drops %v", h.ns.Name(), d)
	}
}

var levels = []datapath.Level{datapath.Plain, datapath.Batch, datapath.GSO}

// Any level carries to any other.
func TestTransfer(t *testing.T) {
	for _, a := range levels {
		for _, b := range levels {
			t.Run(fmt.Sprintf("%v to %v", a, b), func(t *testing.T) {
				t.Parallel()
				one, two := newHosts(t)
				one.start(two, a)
				two.start(one, b)
				one.must("ping -c 2 -i 0.01 -w 3 -s 1452 -M do 10.244.2.0")
				one.transfer(two, 4<<20)
				one.clean()
				two.clean()
				if n := one.path.Traffic().Out.Bytes; n < 4<<20 {
					t.Errorf("%d bytes went through the path", n)
				}
			})
		}
	}
}

// On the wire, as tcpdump reads it, is what the kernel's tunl0 would send.
func TestOnTheWire(t *testing.T) {
	for _, tt := range []struct{ name, ping, outer string }{
		{"may not be fragmented", "ping -c 1 -w 3 -M do -t 33 10.244.2.0", `tos 0x0, ttl 33, id [0-9]+, offset 0, flags [DF], proto IPIP (4), length 104)`},
		{"may be", "ping -c 1 -w 3 -M dont -t 33 10.244.2.0", `tos 0x0, ttl 33, id [0-9]+, offset 0, flags [none], proto IPIP (4), length 104)`},
		{"a type of service, and ECN", "ping -c 1 -w 3 -M do -t 44 -Q 0xba 10.244.2.0", `tos 0x2,ECT(0), ttl 44, id [0-9]+, offset 0, flags [DF], proto IPIP (4), length 104)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			one, two := newHosts(t)
			nodestest.Require(t, nodestest.Tool("tcpdump"))
			one.start(two, datapath.GSO)
			two.start(one, datapath.GSO)
			got := make(chan string, 1)
			go func() {
				out, err := nodestest.Run(two.ns, "sh", "-c", "timeout 60 tcpdump -Z root --immediate-mode -nn -v -c 1 -i eth0 'ip proto 4 and src host 192.168.50.1' 2>&1")
				got <- fmt.Sprint(out, err)
			}()
			// Until tcpdump has seen one it may not have begun.
			var out string
			nodestest.Eventually(t, 60*time.Second, func() error {
				one.must(tt.ping)
				select {
				case out = <-got:
					return nil
				default:
					return errors.New("tcpdump sees no packet of protocol 4")
				}
			})
			want := strings.NewReplacer("[0-9]+", "*").Replace(tt.outer)
			before, after, _ := strings.Cut(want, "*")
			if !strings.Contains(out, before) || !strings.Contains(out, after) || strings.Contains(out, "bad cksum") ||
				!strings.Contains(out, "192.168.50.1 > 192.168.50.2: IP (tos") || !strings.Contains(out, "10.244.1.0 > 10.244.2.0: ICMP echo request") {
				t.Errorf("tcpdump shows\n%s\nwant %s, good checksums, and the packet inside", out, want)
			}
		})
	}
}

// A path that takes less than the devices at its ends say, and a device that
// takes more than the path.
func TestPathMTU(t *testing.T) {
	for _, l := range []datapath.Level{datapath.Plain, datapath.GSO} {
		for _, tt := range []struct {
			name, change string
			device, fits int
		}{
			{"a narrow route", "ip route add 192.168.50.2 dev eth0 mtu 1400", mtu, 1380},
			{"a device that is too wide", "true", 1500, 1480},
		} {
			t.Run(fmt.Sprintf("%v %s", l, tt.name), func(t *testing.T) {
				t.Parallel()
				one, two := newHosts(t)
				one.start(two, l)
				two.start(one, l)
				one.must(tt.change) // what a router's "fragmentation needed" leaves behind
				one.join(two, tt.device)
				two.join(one, tt.device)
				out, err := one.run(fmt.Sprintf("ping -c 1 -W 2 -M do -s %d 10.244.2.0", tt.fits-28+1))
				if want := fmt.Sprintf("mtu = %d", tt.fits); err == nil || !strings.Contains(out, want) {
					t.Errorf("ping -M do: %s, %v, want %s", out, err, want)
				}
				if n := one.path.Traffic().Drops["too-big"]; n != 1 {
					t.Errorf("%d drops, want 1", n)
				}
				one.must("ip route flush cache")
				out = one.must(fmt.Sprintf("ping -c 1 -W 2 -M dont -t 77 -s %d 10.244.2.0", tt.fits-28+1)) // in pieces
				if !strings.Contains(out, " ttl=64 ") {
					t.Errorf("ping -M dont: %s", out)
				}
				one.transfer(two, 1<<20)
			})
		}
	}
}

// Nobody but peers is heard, and nothing but whole packets.
func TestDrops(t *testing.T) {
	good := inner(0, 9, 0, 'h', 'i')
	for _, tt := range []struct {
		name    string
		message []byte // behind the outer header
		peer    bool
		drop    string
	}{
		{"good", good, true, ""},
		{"nobody we know", good, false, "unknown-sender"},
		{"short", good[:21], true, "malformed"},
		{"no packet", []byte{0x45}, true, "malformed"},
		{"nothing", nil, true, "malformed"},
		{"IPv6", []byte{0x60, 0, 0, 0}, true, "not-ipv4"},
	} {
		for _, l := range levels {
			t.Run(fmt.Sprintf("%v %s", l, tt.name), func(t *testing.T) {
				t.Parallel()
				one, two := newHosts(t)
				one.start(two, l)
				if !tt.peer {
					one.path.Set(Self(one.tunnel), nil)
				}
				var fd int
				if err := two.ns.Do(func() (err error) {
					fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				if err := unix.Sendto(fd, tt.message, 0, &unix.SockaddrInet4{Addr: one.addr.As4()}); err != nil {
					t.Fatal(err)
				}
				nodestest.Eventually(t, 5*time.Second, func() error {
					if tr := one.path.Traffic(); tt.drop == "" && tr.In.Packets != 1 || tt.drop != "" && tr.Drops[tt.drop] != 1 {
						return fmt.Errorf("%+v, want a packet, or a drop: %q", tr, tt.drop)
					}
					return nil
				})
			})
		}
	}
}

// A raw socket gives packets as the kernel has them, with the checksum left to
// hardware that there is not: so do hosts whose kernel wraps.
func TestUnfinished(t *testing.T) {
	const size = 1400
	for _, l := range levels {
		t.Run(l.String(), func(t *testing.T) {
			t.Parallel()
			one, two := newHosts(t)
			one.start(two, l)
			read := one.listen(one.device)
			frame := two.unfinished(one, size)
			fd := two.packetSocket("eth0")
			defer unix.Close(fd)
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, frame); err != nil {
				t.Fatal(err)
			}
			p := read(unix.IPPROTO_TCP)
			tcp := p[20:]
			if len(tcp) != 20+size || onesSum(p[:20], 0) != 0xffff || onesSum(tcp, uint32(onesSum(p[12:20], 6+uint32(len(tcp))))) != 0xffff {
				t.Fatalf("%d bytes, headers %x: want %d, and good checksums", len(p), p[:40], 40+size)
			}
			one.clean()
		})
	}
}

// unfinished is a frame with a wrapped TCP packet, and before it the header of
// packet sockets that says that its checksum is to be computed (struct
// virtio_net_hdr).
func (h *host) unfinished(to *host, size int) []byte {
	h.t.Helper()
	const vnet, ethernet = 10, 14
	tcp := make([]byte, 20+size)
	tcp[12], tcp[13] = 20/4<<4, 0x10
	for i := range size {
		tcp[20+i] = byte(i * i)
	}
	p := inner(0, 64, dontFragment, tcp...)
	p[9] = unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[10:], 0)
	binary.BigEndian.PutUint16(p[10:], ^onesSum(p[:20], 0))
	binary.BigEndian.PutUint16(p[20+16:], onesSum(p[12:20], 6+uint32(len(tcp))))
	ip := wrapped(p, nil)
	copy(ip[12:], h.addr.AsSlice())
	copy(ip[16:], to.addr.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip[:20], 0))
	frame := make([]byte, vnet, vnet+ethernet+len(ip))
	frame[0] = 1
	binary.NativeEndian.PutUint16(frame[6:], ethernet+40) // from here on
	binary.NativeEndian.PutUint16(frame[8:], 16)          // and it is stored there
	frame = append(append(frame, to.mac("eth0")...), h.mac("eth0")...)
	return append(append(frame, 8, 0), ip...)
}

func (h *host) link(dev string) nodes.TableLink {
	h.t.Helper()
	tables, err := h.ns.Tables()
	if err != nil {
		h.t.Fatal(err)
	}
	l := tables.Link(dev)
	if l == nil {
		h.t.Fatalf("%s: not there", dev)
	}
	return *l
}

func (h *host) mac(dev string) net.HardwareAddr {
	h.t.Helper()
	m, err := net.ParseMAC(h.link(dev).MAC)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// packetSocket sends and receives frames.
func (h *host) packetSocket(dev string) int {
	h.t.Helper()
	index := h.link(dev).Index
	var fd int
	ip := binary.NativeEndian.Uint16([]byte{8, 0})
	err := h.ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: index})
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return fd
}

// listen returns a function that gives the next packet of a protocol that comes
// in by a device without frames.
func (h *host) listen(dev string) func(protocol byte) []byte {
	h.t.Helper()
	fd := h.packetSocket(dev)
	h.t.Cleanup(func() { unix.Close(fd) })
	limit := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		h.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	return func(protocol byte) []byte {
		h.t.Helper()
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				h.t.Fatalf("%s: %v", dev, err)
			}
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING && n > 20 && buf[9] == protocol {
				return bytes.Clone(buf[:n])
			}
		}
	}
}

func TestOpenErrors(t *testing.T) {
	one, _ := newHosts(t)
	open := func(local, device string) error {
		return one.ns.Do(func() error {
			_, err := Open(Config{Device: device, MTU: mtu, Local: netip.MustParseAddr(local), Level: datapath.Auto}, slog.New(slog.DiscardHandler))
			return err
		})
	}
	for _, tt := range []struct {
		name, local, device string
		is                  error
		cure                string
	}{
		{"address", "192.168.50.77", one.device, unix.EADDRNOTAVAIL, "ip addr"},
		{"device of another kind", "192.168.50.1", "eth0", unix.EINVAL, "ip link del eth0"},
	} {
		err := open(tt.local, tt.device)
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.cure) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Open() = %v, want %v and %q", tt.name, err, tt.is, tt.cure)
		}
	}
}

// The kernel's own IPIP, at the other end: packets of ours are its packets, and
// the reverse, in every size, there and back.
func TestIPIPAgainstKernel(t *testing.T) {
	for _, l := range levels {
		t.Run(l.String(), func(t *testing.T) {
			nodestest.Require(t, nodestest.IPIP, nodestest.Tool("ping"))
			one, two := newHosts(t)
			two.device = Device
			one.start(two, l)
			two.join(one, mtu)
			if k := two.link(Device).Kind; k != "ipip" {
				t.Fatalf("%s is of kind %s", Device, k)
			}
			for _, h := range []*host{one, two} {
				other := map[*host]*host{one: two, two: one}[h]
				h.must("ping -c 3 -i 0.01 -w 5 " + other.tunnel.String())
				h.must("ping -c 1 -w 5 -M do -s 1452 " + other.tunnel.String())
				if _, err := h.run("ping -c 1 -w 2 -M do -s 1453 " + other.tunnel.String()); err == nil {
					t.Errorf("%s: 1481 bytes in one piece pass", h.ns.Name())
				}
				h.must("ping -c 1 -w 5 -M dont -s 4000 " + other.tunnel.String())
				h.transfer(other, 4<<20)
			}
			one.clean()
		})
	}
}
