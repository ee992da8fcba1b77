package nodes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interest is what a monitor has to know about the State to tell what matters.
type interest struct {
	addrs  map[netip.Addr]bool // neighbours that are wanted
	devs   map[int]bool        // indices of the devices on which fixed neighbours are ours or foreign
	vxlans map[int]bool        // indices of VXLAN devices
	tables bool
}

func (p *pass) interest() interest {
	in := interest{addrs: make(map[netip.Addr]bool, len(p.want.Neighbours)), devs: map[int]bool{}, vxlans: map[int]bool{}, tables: len(p.want.Tables) > 0}
	for _, n := range p.want.Neighbours {
		in.addrs[n.Addr] = true
	}
	own, ports := p.ownDevices()
	for name, l := range p.byName {
		in.devs[l.Attrs().Index] = own[name] || ports[name] || p.exclusive[name]
		if l.Type() == kindVXLAN {
			in.vxlans[l.Attrs().Index] = true
		}
	}
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
}

func newMonitor(r *Reconciler) (*monitor, error) {
	m := &monitor{r: r, events: make(chan struct{}, 1)}
	groups := uint32(0)
	for _, g := range []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	} {
		groups |= 1 << (g - 1)
	}
	f, err := r.ns.listen(unix.NETLINK_ROUTE, groups)
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
	f, err := m.r.ns.listen(unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1))
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

// listen opens a netlink socket inside ns that receives groups.
func (n *Namespace) listen(protocol int, groups uint32) (*os.File, error) {
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return err
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
			m.r.touchNeighbours()
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
	for len(b) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return true
		}
		kind, port := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[12:])
		body := b[unix.SizeofNlMsghdr:n]
		b = b[min((n+3)&^3, len(b)):]
		if port != 0 && port == m.r.port {
			continue
		}
		switch kind {
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			if in.neighbour(body) {
				m.r.touchNeighbours()
				hit = true
			}
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			// The local table is the kernel's shadow of the addresses.
			if len(body) < unix.SizeofRtMsg || body[4] == unix.RT_TABLE_MAIN {
				hit = true
			}
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if len(body) >= unix.SizeofIfInfomsg {
				m.r.mu.Lock()
				m.r.touched[int(binary.NativeEndian.Uint32(body[4:]))] = true
				m.r.mu.Unlock()
			}
			hit = true
		default:
			hit = true
		}
	}
	return hit
}

// neighbour says whether a message about a neighbour or FDB entry matters.
func (in interest) neighbour(body []byte) bool {
	if len(body) < unix.SizeofNdMsg {
		return true
	}
	n, err := netlink.NeighDeserialize(body)
	if err != nil {
		return true
	}
	if n.Family == unix.AF_BRIDGE {
		return in.vxlans[n.LinkIndex] && n.State&unix.NUD_PERMANENT != 0
	}
	// A NOARP entry is most often a multicast group's, made by the kernel.
	fixed := n.State&unix.NUD_PERMANENT != 0 || n.Flags&unix.NTF_EXT_LEARNED != 0
	return fixed && in.devs[n.LinkIndex] || in.addrs[addrOf(n.IP)]
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
