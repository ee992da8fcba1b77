package nodes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interest is what a monitor has to know about the State to tell what matters.
type interest struct {
	addrs    map[netip.Addr]bool   // neighbours that are wanted
	devs     map[int]bool          // indices of the devices on which fixed neighbours are ours or foreign
	vxlans   map[int]string        // names of VXLAN devices whose FDB is ours, by index
	fdb      map[fdbEntry]bool     // what is wanted there; replaced by each Set, never changed
	routes   map[netip.Prefix]bool // destinations that are wanted, the kernel's own for our addresses included
	protocol byte                  // of our routes
	tables   bool
	names    map[string]bool // devices that the State speaks of, by name; nil before the first pass
	refs     map[int]bool    // those that are there
	others   map[int]string  // names of devices that it does not speak of
}

func (p *pass) interest() interest {
	in := interest{addrs: make(map[netip.Addr]bool, len(p.want.Neighbours)), devs: map[int]bool{}, vxlans: map[int]string{},
		routes: make(map[netip.Prefix]bool, len(p.want.Routes)), protocol: byte(p.r.owner.Protocol), tables: len(p.want.Tables) > 0}
	for _, list := range [][]Route{p.want.Routes, p.connected()} {
		for _, r := range list {
			in.routes[r.Dst] = true
		}
	}
	for _, n := range p.want.Neighbours {
		in.addrs[n.Addr] = true
	}
	own, ports := p.ownDevices()
	for name, l := range p.byName {
		in.devs[l.Attrs().Index] = own[name] || ports[name] || p.exclusive[name]
		if l.Type() == kindVXLAN && (own[name] || p.exclusive[name]) {
			in.vxlans[l.Attrs().Index] = name
		}
	}
	// Those that are off on purpose count, too: want lacks what hangs on them.
	in.names, in.refs, in.others = p.r.want.devices(), map[int]bool{}, map[int]string{}
	for name := range p.exclusive {
		in.names[name] = true
	}
	for name, l := range p.byName {
		if in.names[name] {
			in.refs[l.Attrs().Index] = true
		} else {
			in.others[l.Attrs().Index] = name
		}
	}
	return in
}

// devices are the names of all devices that a State speaks of. lo is always
// one.
func (s State) devices() map[string]bool {
	names := map[string]bool{"lo": true}
	for _, l := range s.Links {
		a, _ := attrsOf(l)
		names[a.Name], names[a.Master] = true, true
		switch l := l.(type) {
		case VXLAN:
			names[l.Dev] = true
		case Veth:
			if l.PeerNamespace == nil {
				names[l.PeerName] = true
			}
		}
	}
	for _, a := range s.Addrs {
		names[a.Dev] = true
	}
	for _, r := range s.Routes {
		names[r.Dev] = true
		for _, h := range r.Hops {
			names[h.Dev] = true
		}
	}
	for _, n := range s.Neighbours {
		names[n.Dev] = true
	}
	for _, f := range s.FDB {
		names[f.Dev] = true
	}
	for _, s := range s.Sysctls {
		names[s.ofDevice()] = true
	}
	delete(names, "")
	return names
}

// fdbEntry is an FDB entry of a VXLAN device. The kernel names nobody as the
// cause of a notification of one (vxlan_fdb_info, drivers/net/vxlan), so our own
// are known by their saying what is wanted.
type fdbEntry struct {
	dev string
	mac [6]byte
	dst netip.Addr
}

// with is the interest until a pass for another State is over: what that one
// speaks of counts from now on.
func (in interest) with(s State) interest {
	in.fdb = make(map[fdbEntry]bool, len(s.FDB)) // the old map may be in use
	for _, f := range s.FDB {
		if len(f.MAC) == len(fdbEntry{}.mac) {
			in.fdb[fdbEntry{f.Dev, [6]byte(f.MAC), f.Dst}] = true
		}
	}
	if in.names == nil {
		return in
	}
	names := s.devices() // the old map may be in use
	maps.Copy(names, in.names)
	in.names = names
	return in
}

// monitor listens for changes in a namespace. Its sockets wait in the
// runtime's poller and occupy no thread.
type monitor struct {
	r      *Reconciler
	events chan struct{} // capacity 1
	wg     sync.WaitGroup
	rt     *os.File
	nft    *os.File    // nil until there are tables
	nftHit atomic.Bool // there was a notification since tablesTouched
	// others are names of devices that came or changed since it listens. It
	// belongs to the goroutine that reads rt.
	others map[int]string
}

func newMonitor(r *Reconciler) (*monitor, error) {
	m := &monitor{r: r, events: make(chan struct{}, 1), others: map[int]string{}}
	groups := uint32(0)
	for _, g := range []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	} {
		groups |= 1 << (g - 1)
	}
	f, err := r.ns.listen(unix.NETLINK_ROUTE, groups, notFrom(r.ports))
	if err != nil {
		return nil, fmt.Errorf("%s: listen to rtnetlink: %w", r.ns.name, err)
	}
	m.rt = f
	m.wg.Go(func() { m.read(f, m.matters) })
	return m, nil
}

// watchTables starts to listen to nftables when the State has tables.
func (m *monitor) watchTables() error {
	m.r.mu.Lock()
	need := len(m.r.want.Tables) > 0
	m.r.mu.Unlock()
	if !need || m.nft != nil {
		return nil
	}
	f, err := m.r.ns.listen(unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), nil)
	if err != nil {
		return err
	}
	m.nft = f
	m.nftHit.Store(true)
	m.wg.Go(func() {
		m.read(f, func([]byte) bool { m.nftHit.Store(true); return true })
	})
	return nil
}

// tablesTouched says whether somebody may have changed nftables since it was
// last called.
func (m *monitor) tablesTouched() bool { return m.nft == nil || m.nftHit.Swap(false) }

// take forgets an event that a pass about to begin covers.
func (m *monitor) take() {
	select {
	case <-m.events:
	default:
	}
}

func (m *monitor) close() {
	m.rt.Close()
	if m.nft != nil {
		m.nft.Close()
	}
	m.wg.Wait()
}

// notFrom is a socket filter (bpf(4)) that drops messages which these ports
// caused: what a pass does itself wakes nobody.
func notFrom(ports []uint32) []unix.SockFilter {
	const portOffset = 12 // of nlmsg_pid in struct nlmsghdr
	f := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portOffset}}
	for i, port := range ports {
		if port == 0 {
			port = ^port // the kernel's own messages are wanted
		}
		// Words are loaded as big-endian ones.
		k := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
		f = append(f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(ports) - i), K: k})
	}
	return append(f,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// listenRoom is how many bytes of notifications may wait to be read. An agent
// with hundreds of peers makes thousands of entries at once, and whoever loses
// one of the notifications has to list everything. The memory is only used
// while they wait.
const listenRoom = 4 << 20

// roomy makes room for notifications, as far as this user may.
func roomy(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenRoom) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, listenRoom) // net.core.rmem_max bounds it
	}
}

// listen opens a netlink socket inside ns that receives groups, as far as
// filter lets them pass.
func (n *Namespace) listen(protocol int, groups uint32, filter []unix.SockFilter) (*os.File, error) {
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return err
		}
		roomy(fd)
		if filter != nil {
			prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
			if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
				unix.Close(fd)
				return err
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			unix.Close(fd)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// read calls matters for what f receives, until f is closed. A true result, or
// a loss of messages, is an event.
func (m *monitor) read(f *os.File, matters func([]byte) bool) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 16<<10)
	for {
		var n int
		var rerr error
		err := c.Read(func(fd uintptr) bool {
			n, _, rerr = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			return rerr != unix.EAGAIN && rerr != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		switch {
		case errors.Is(rerr, unix.ENOBUFS), n > len(buf):
			m.nftHit.Store(true)
			m.r.touch(allLists())
			notify(m.events)
		case rerr != nil:
			return
		case matters(buf[:n]):
			notify(m.events)
		}
	}
}

// matters looks through a datagram of rtnetlink messages for one that is not
// our own doing and not ordinary ARP, NDP or learning.
func (m *monitor) matters(b []byte) bool {
	m.r.mu.Lock()
	in := m.r.interest
	m.r.mu.Unlock()
	hit := false
	// Of routes that go with a device, an address or a setting the kernel does
	// not tell (fib_sync_down_dev, net/ipv4/fib_semantics.c).
	var touched lists
	for len(b) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			m.r.touch(allLists())
			return true
		}
		kind, port := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[12:])
		body := b[unix.SizeofNlMsghdr:n]
		b = b[min((n+3)&^3, len(b)):]
		if port != 0 && slices.Contains(m.r.ports, port) {
			continue
		}
		switch kind {
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			if len(body) >= unix.SizeofNdMsg && body[0] == unix.AF_BRIDGE {
				if in.forwards(kind, body) {
					touched.fdb, hit = true, true
				}
			} else if in.neighbour(body) {
				touched.neighbours, hit = true, true
			}
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			touched.routes = touched.routes || len(body) < unix.SizeofRtMsg || body[4] == unix.RT_TABLE_MAIN
			hit = hit || in.route(body)
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			touched.fdb, touched.routes = true, true
			if len(body) >= unix.SizeofIfInfomsg {
				m.r.mu.Lock()
				m.r.touched[int(binary.NativeEndian.Uint32(body[4:]))] = true
				m.r.mu.Unlock()
			}
			hit = m.link(in, kind, body) || hit
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			touched.routes = true
			hit = hit || len(body) < unix.SizeofIfAddrmsg || !m.foreign(in, int(binary.NativeEndian.Uint32(body[4:])))
		case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
			touched.routes = true
			hit = hit || m.setting(in, body)
		default:
			touched, hit = allLists(), true
		}
	}
	m.r.touch(touched)
	return hit
}

// link says whether a message about a device matters: one that the State does
// not speak of is somebody else's, and so is what will be told of it, unless it
// is a port of a device of the State's.
func (m *monitor) link(in interest, kind uint16, body []byte) bool {
	if len(body) < unix.SizeofIfInfomsg || in.names == nil {
		return true
	}
	index := int(binary.NativeEndian.Uint32(body[4:]))
	attrs := body[unix.SizeofIfInfomsg:]
	name := unix.ByteSliceToString(attrIn(attrs, unix.IFLA_IFNAME))
	delete(m.others, index)
	if kind == unix.RTM_NEWLINK && name != "" {
		m.others[index] = name // also of one whose new name is one of ours
	}
	master := attrIn(attrs, unix.IFLA_MASTER)
	return name == "" || in.refs[index] || in.names[name] ||
		len(master) >= 4 && in.refs[int(binary.NativeEndian.Uint32(master))] // somebody's port of our bridge
}

// foreign says whether a device is known to be one that the State does not
// speak of.
func (m *monitor) foreign(in interest, index int) bool {
	name, known := m.others[index]
	if !known {
		name, known = in.others[index]
	}
	return known && !in.refs[index] && !in.names[name]
}

// setting says whether a message about a device's settings (struct netconfmsg)
// matters. Those of all devices, and of new ones, have negative numbers.
func (m *monitor) setting(in interest, body []byte) bool {
	const header, ifindex = 4, 1 // NETCONFA_IFINDEX
	if len(body) < header {
		return true
	}
	b := attrIn(body[header:], ifindex)
	return len(b) < 4 || !m.foreign(in, int(int32(binary.NativeEndian.Uint32(b))))
}

// route says whether a message about a route matters: not one of the local
// table, which is the kernel's shadow of the addresses, nor of another owner to
// where we want none.
func (in interest) route(body []byte) bool {
	if len(body) < unix.SizeofRtMsg {
		return true
	}
	if body[4] != unix.RT_TABLE_MAIN {
		return false
	}
	if body[5] == in.protocol {
		return true
	}
	bits, dst := int(body[1]), netip.IPv4Unspecified()
	if body[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	if b := attrIn(body[unix.SizeofRtMsg:], unix.RTA_DST); b != nil {
		dst, _ = netip.AddrFromSlice(b)
	}
	return in.routes[netip.PrefixFrom(dst, bits)]
}

// attrIn finds an attribute; nil when there is none.
func attrIn(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:]) == kind {
			return b[unix.SizeofRtAttr:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// ndaNHID is NDA_NH_ID of linux/neighbour.h, a group of next hops in place of one.
const ndaNHID = 13

// forwards says whether a message about an FDB entry matters: not one that has
// come as wanted. One that has gone was wanted, or foreign, or ours until now.
func (in interest) forwards(kind uint16, body []byte) bool {
	dev, ours := in.vxlans[int(binary.NativeEndian.Uint32(body[4:]))]
	if state := binary.NativeEndian.Uint16(body[8:]); !ours || state&unix.NUD_PERMANENT == 0 {
		return false
	}
	attrs := body[unix.SizeofNdMsg:]
	if attrIn(attrs, unix.NDA_DST) == nil && attrIn(attrs, ndaNHID) == nil {
		// Older kernels (6.1) tell of each entry a second time, by rtnl_fdb_notify:
		// without where it leads to, and without who caused it.
		return false
	}
	e := fdbEntry{dev: dev}
	copy(e.mac[:], attrIn(attrs, unix.NDA_LLADDR))
	e.dst, _ = netip.AddrFromSlice(attrIn(attrs, unix.NDA_DST))
	return kind == unix.RTM_DELNEIGH || !in.fdb[e]
}

// neighbour says whether a message about a neighbour matters.
func (in interest) neighbour(body []byte) bool {
	if len(body) < unix.SizeofNdMsg {
		return true
	}
	index, state, flags := int(binary.NativeEndian.Uint32(body[4:])), binary.NativeEndian.Uint16(body[8:]), body[10]
	// A NOARP entry is most often a multicast group's, made by the kernel.
	fixed := state&unix.NUD_PERMANENT != 0 || flags&unix.NTF_EXT_LEARNED != 0
	if fixed && in.devs[index] {
		return true
	}
	dst, _ := netip.AddrFromSlice(attrIn(body[unix.SizeofNdMsg:], unix.NDA_DST))
	return in.addrs[dst.Unmap()]
}

// portOf returns the netlink port of h's socket, which the kernel writes into
// the notifications that h's requests cause. The package does not tell it, so
// the socket's number is read from its fields; 0 when that does not work,
// which costs an idle pass after each change.
func portOf(h *netlink.Handle) uint32 {
	sockets := reflect.ValueOf(h).Elem().FieldByName("sockets")
	if sockets.Kind() != reflect.Map {
		return 0
	}
	for _, k := range sockets.MapKeys() {
		s := sockets.MapIndex(k)
		for _, field := range []string{"Socket", "fd"} {
			if s.Kind() == reflect.Pointer {
				s = s.Elem()
			}
			if s.Kind() != reflect.Struct {
				return 0
			}
			s = s.FieldByName(field)
		}
		if !s.IsValid() || !s.CanInt() {
			return 0
		}
		if sa, err := unix.Getsockname(int(s.Int())); err == nil {
			if nl, ok := sa.(*unix.SockaddrNetlink); ok {
				return nl.Pid
			}
		}
	}
	return 0
}
