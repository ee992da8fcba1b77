package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"labctl/lab/packet"
)

// A ring's geometry. A block takes the largest frame there is, a segment of
// 64 KB that nobody has cut yet, and is handed over when it is full or its
// first packet is as old as retireAfter.
const (
	blockSize   = 128 << 10
	retireAfter = 10 * time.Millisecond
)

// ring is a packet socket bound to one interface, with the buffer that it
// shares with the kernel:
//
//	block:  status, count, offset ---> header | sockaddr_ll | packet --next--> header ...
//
// (Documentation/networking/packet_mmap.rst in the kernel's source). It is not
// safe for concurrent use.
type ring struct {
	fd     int
	link   packet.LinkType
	loop   bool
	blocks [][]byte
	memory []byte
	next   int // the block that comes next
	stats  Stats
}

// openRing takes over a packet socket that was opened with protocol 0, so that
// it has received nothing before it is bound and filtered.
func openRing(f *os.File, i Interface, filter []unix.SockFilter, size int) (*ring, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return nil, err
	}
	r := &ring{fd: fd, link: i.Link, loop: i.Loopback}
	if err := r.setUp(i.Index, filter, max(size/blockSize, 2)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *ring) setUp(index int, filter []unix.SockFilter, blocks int) error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("TPACKET_V3: %w", err)
	}
	// Frames have no size of their own in version 3, but the kernel wants numbers that fit.
	const frame = 2048
	req := unix.TpacketReq3{
		Block_size: blockSize, Block_nr: uint32(blocks),
		Frame_size: frame, Frame_nr: uint32(blocks * blockSize / frame),
		Retire_blk_tov: uint32(retireAfter / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("ring of %d KB: %w", blocks*blockSize>>10, err)
	}
	var err error
	if r.memory, err = unix.Mmap(r.fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("ring: mmap: %w", err)
	}
	for i := range blocks {
		r.blocks = append(r.blocks, r.memory[i*blockSize:(i+1)*blockSize])
	}
	if len(filter) > 0 {
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	all := uint16(unix.ETH_P_ALL)
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: index}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// Close gives the buffer and the socket back. It takes a while: see doc.go.
func (r *ring) Close() error {
	var err error
	if r.memory != nil {
		err = unix.Munmap(r.memory)
		r.memory, r.blocks = nil, nil
	}
	if r.fd >= 0 {
		err = errors.Join(err, unix.Close(r.fd))
		r.fd = -1
	}
	return err
}

// Where things lie in a block (struct tpacket_block_desc) and in a packet
// (struct tpacket3_hdr, then struct sockaddr_ll).
const (
	blockStatus, blockCount, blockFirst = 8, 12, 16

	pktNext, pktSec, pktNsec, pktCaptured, pktLen, pktStatus, pktMAC = 0, 4, 8, 12, 16, 20, 24
	pktVLAN, pktTPID                                                 = 32, 36
	pktType                                                          = 48 + 10
)

// status is the word that says whose a block is; the kernel writes it last.
func status(block []byte) *uint32 { return (*uint32)(unsafe.Pointer(&block[blockStatus])) }

// drain appends the packets of all blocks that are ours, as interface number n.
func (r *ring) drain(to []Packet, n int) []Packet {
	for range r.blocks {
		b := r.blocks[r.next]
		if atomic.LoadUint32(status(b))&unix.TP_STATUS_USER == 0 {
			break
		}
		to = r.read(b, to, n)
		atomic.StoreUint32(status(b), unix.TP_STATUS_KERNEL)
		r.next = (r.next + 1) % len(r.blocks)
	}
	return to
}

// read copies a block's packets.
func (r *ring) read(b []byte, to []Packet, n int) []Packet {
	u32 := binary.NativeEndian.Uint32
	at := u32(b[blockFirst:])
	for range u32(b[blockCount:]) {
		h := b[at:]
		p := Packet{
			Time:      time.Unix(int64(u32(h[pktSec:])), int64(u32(h[pktNsec:]))),
			Interface: n,
			Direction: Direction(h[pktType]),
			Len:       int(u32(h[pktLen:])),
		}
		mac := int(binary.NativeEndian.Uint16(h[pktMAC:]))
		data := h[mac : mac+int(u32(h[pktCaptured:]))]
		if u32(h[pktStatus:])&unix.TP_STATUS_VLAN_VALID != 0 && r.link == packet.LinkEthernet && len(data) >= 14 {
			p.Data = tagged(data, h)
			p.Len += 4
		} else {
			p.Data = append([]byte(nil), data...)
		}
		at += u32(h[pktNext:])
		// What loops back is seen twice: once is enough.
		if !r.loop || p.Direction != Out {
			r.stats.Packets++
			r.stats.Bytes += uint64(p.Len)
			to = append(to, p)
		}
	}
	return to
}

// tagged is a frame with its VLAN tag, which the kernel keeps beside it.
func tagged(data, header []byte) []byte {
	tpid := uint16(packet.TypeVLAN)
	if binary.NativeEndian.Uint32(header[pktStatus:])&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = binary.NativeEndian.Uint16(header[pktTPID:])
	}
	b := append(make([]byte, 0, len(data)+4), data[:12]...)
	b = binary.BigEndian.AppendUint16(b, tpid)
	b = binary.BigEndian.AppendUint16(b, uint16(binary.NativeEndian.Uint32(header[pktVLAN:])))
	return append(b, data[12:]...)
}

// count adds what the kernel dropped since the last time: asking sets its
// counter to 0.
func (r *ring) count() {
	if s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		r.stats.Drops += uint64(s.Drops)
	}
}
