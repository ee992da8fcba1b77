package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"labctl/lab"
)

// sight is one packet at one interface, as a packet socket got it.
type sight struct {
	endpoint  string
	index     int // of the interface
	out       bool
	at        int64 // nanoseconds since 1970, by the kernel
	order     int   // in the endpoint: of two with one time
	data      []byte
	length    int
	bare      bool // begins with the IP header
	offloaded bool // the checksum is not there yet
}

// A ring holds a trace's packets many times over; what is captured of one is
// enough for all headers of two tunnels.
const (
	ringFrame  = 1 << 11
	ringBlock  = 1 << 16
	ringBlocks = 2
	ringFrames = ringBlocks * ringBlock / ringFrame
)

// watcher is one packet socket with its ring: what passes any interface of an
// endpoint's namespace, in and out. The ring takes the time when the packet
// passes, whether or not anybody else on the machine asks for times.
type watcher struct {
	endpoint string
	file     *os.File
	ring     []byte
	next     int
	order    int
}

// watchers is all of them.
type watchers []*watcher

// watch opens a socket in every endpoint, all at once. One that has gone
// meanwhile is told in missing.
func watch(ctx context.Context, c *lab.Client, endpoints []string, filter []bpf.RawInstruction) (ws watchers, missing []string, err error) {
	all := make(watchers, len(endpoints))
	gone := make([]error, len(endpoints))
	var g errgroup.Group
	for i, e := range endpoints {
		g.Go(func() error {
			f, err := c.Socket(ctx, e, unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err != nil {
				gone[i] = err
				return ctx.Err()
			}
			w := &watcher{endpoint: e, file: f}
			all[i] = w
			if err := w.open(filter); err != nil {
				return fmt.Errorf("%s: capture: %w", e, err)
			}
			return nil
		})
	}
	err = g.Wait()
	for i, w := range all {
		if w != nil {
			ws = append(ws, w)
		} else if gone[i] != nil {
			missing = append(missing, endpoints[i])
		}
	}
	if err != nil {
		ws.close()
		return nil, nil, err
	}
	return ws, missing, nil
}

// open sets the socket up before it is bound: nothing unfiltered comes.
func (w *watcher) open(filter []bpf.RawInstruction) error {
	fd := int(w.file.Fd())
	prog := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		prog[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("ring version: %w", err)
	}
	req := unix.TpacketReq{Block_size: ringBlock, Block_nr: ringBlocks, Frame_size: ringFrame, Frame_nr: ringFrames}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	var err error
	if w.ring, err = unix.Mmap(fd, 0, ringBlock*ringBlocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map ring: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL})}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// close ends all at once: the kernel waits for readers of each socket's hook.
func (ws watchers) close() {
	var wg sync.WaitGroup
	for _, w := range ws {
		wg.Go(func() {
			if w.ring != nil {
				_ = unix.Munmap(w.ring)
			}
			w.file.Close()
		})
	}
	wg.Wait()
}

// dropped is how many packets did not fit into the rings.
func (ws watchers) dropped() (n int) {
	for _, w := range ws {
		if st, err := unix.GetsockoptTpacketStats(int(w.file.Fd()), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n += int(st.Drops)
		}
	}
	return n
}

// collect hands over what comes until done says that it is all, or until. It
// looks every few milliseconds for an end of ctx.
func (ws watchers) collect(ctx context.Context, until time.Time, done func(sight) bool) error {
	fds := make([]unix.PollFd, len(ws))
	for i, w := range ws {
		fds[i] = unix.PollFd{Fd: int32(w.file.Fd()), Events: unix.POLLIN}
	}
	for {
		complete := false
		for _, w := range ws {
			for {
				s, ok := w.read()
				if !ok {
					break
				}
				complete = done(s) || complete
			}
		}
		if complete || ctx.Err() != nil {
			return ctx.Err()
		}
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		if _, err := unix.Poll(fds, int(min(left, 20*time.Millisecond).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("capture: poll: %w", err)
		}
	}
}

// read takes the next packet out of the ring. A frame of it is
//
//	status len snaplen mac|net sec nsec vlan ...   struct tpacket2_hdr, 32 bytes
//	family protocol ifindex hatype pkttype ...     struct sockaddr_ll
//	...                                            at mac: the packet
func (w *watcher) read() (sight, bool) {
	f := w.ring[w.next*ringFrame : (w.next+1)*ringFrame]
	status := (*uint32)(unsafe.Pointer(&f[0]))
	now := atomic.LoadUint32(status)
	if now&unix.TP_STATUS_USER == 0 {
		return sight{}, false
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(f[at:]) }
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(f[at:]) }
	const address = 32
	mac := int(u16(12))
	snap := min(int(u32(8)), ringFrame-mac)
	s := sight{
		endpoint: w.endpoint, order: w.order, length: int(u32(4)), at: int64(u32(16))*1e9 + int64(u32(20)), index: int(u32(address + 4)),
		out: f[address+10] == unix.PACKET_OUTGOING, offloaded: now&unix.TP_STATUS_CSUMNOTREADY != 0,
		data: append([]byte(nil), f[mac:mac+snap]...),
	}
	switch u16(address + 8) {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
	default:
		s.bare = true
	}
	w.order++
	atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
	w.next = (w.next + 1) % ringFrames
	return s, true
}

// marked is a filter for packets that carry one of two neighbouring marks,
// mark being even, where a probe, its answer or an error about it may have it,
// plain or in a tunnel.
func marked(protocol string, mark uint16) ([]bpf.RawInstruction, error) {
	const ip, udp, vxlan, eth = 20, 8, 8, 14
	var offsets []uint32
	for _, base := range []uint32{
		ip,                                 // a TUN or IPIP device
		eth + ip,                           // plain
		eth + ip + udp + vxlan + eth + ip,  // vxlan
		eth + ip + udp + ip, eth + ip + ip, // flannel's udp; ipip
	} {
		at := markOffsets[protocol]
		for _, o := range at {
			offsets = append(offsets, base+o)
		}
		// An error quotes the IP header and what follows after 8 bytes of its own.
		offsets = append(offsets, base+8+ip+at[0])
	}
	const each = 5 // instructions
	var prog []bpf.Instruction
	for i, o := range offsets {
		// A load beyond the end would drop the packet before the next offset.
		rest := each * (len(offsets) - i - 1)
		prog = append(prog,
			bpf.LoadExtension{Num: bpf.ExtLen},
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: o + 2, SkipFalse: 3},
			bpf.LoadAbsolute{Off: o, Size: 2},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfffe},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(mark), SkipTrue: uint8(rest + 1)},
		)
	}
	prog = append(prog, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: ringFrame})
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return raw, nil
}

// markOffsets are where behind the IP header the mark is: first in the probe,
// then in answers. NAT changes ports and an echo's identifier, so it is in an
// echo's sequence number, in the upper half of TCP's and of what acknowledges
// it; UDP has it in its ports, and in the payload for when they change.
var markOffsets = map[string][]uint32{"icmp": {6}, "tcp": {4, 8}, "udp": {0, 2, 8}}
