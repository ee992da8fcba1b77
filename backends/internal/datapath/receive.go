package datapath

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// slots is how many messages one system call takes.
	slots = 16
	// slotSize has room for the largest message and for a header before it. It
	// is no power of two: the beginnings of all slots, which is what small
	// messages use, would fall on the same lines of the processor's cache.
	slotSize = headroom + maxPacket + tail + 64 + 1
	headroom = 16
	// tail is room for the data of the next message that continues what this
	// one ends with: a message ends where it is full, not where the sender's
	// packets end.
	tail = maxPacket
	// large is from where on a message fills the cache enough by itself.
	large = 8 << 10
	// few is how many of them to take at a time: a packet of 64 KiB comes as one
	// and a bit.
	few = 2
)

// receiver is the way in: from other hosts to the device. It belongs to one
// thread.
type receiver struct {
	*Path
	slots    [slots][]byte
	msgs     [slots]message
	iovs     [slots]unix.Iovec
	names    [slots]peerAddr
	controls [slots]control
	first    int // slot to receive into
	held     int // slot of what the merger holds
	take     int // how many messages to ask for
	most     int

	m        merger
	scratch  []byte // for one packet; see cut
	patience patience
	wait     [2]unix.PollFd
}

func newReceiver(p *Path) *receiver {
	r := &receiver{Path: p, take: 1, patience: patience{none: p.level < GSO}}
	r.wait = [2]unix.PollFd{{Fd: int32(p.socket), Events: unix.POLLIN}, {Fd: int32(p.wakeUp), Events: unix.POLLIN}}
	r.m = merger{write: r.write, off: p.level < GSO}
	all := slots
	if p.level == Plain {
		all = 1
	}
	r.most = all
	// Pages that are never touched take no memory.
	mem := make([]byte, all*slotSize)
	for i := range all {
		r.slots[i] = mem[i*slotSize : (i+1)*slotSize : (i+1)*slotSize]
		r.iovs[i].Base = &r.slots[i][headroom]
		r.iovs[i].SetLen(maxPacket)
	}
	return r
}

// run receives for as long as there is something, looks again for a while, so
// that the end of a message, which the next may continue, can be held until
// there is none, and sleeps.
func (r *receiver) run() error {
	for !r.stopped.Load() {
		r.first = 0
		last := r.most
		switch {
		case !r.m.holds():
		case r.take == few: // two pairs in turn, which stay in the cache
			if r.held < few {
				r.first = few
			}
		default:
			if r.first = r.held + 1; r.first == r.most {
				r.first, last = 0, r.held
			}
		}
		msgs := r.msgs[r.first:min(r.first+r.take, last)]
		r.prepare(msgs)
		n, err := receiveMessages(r.socket, msgs)
		r.in.calls.add(1)
		switch err {
		case nil:
			r.patience.reset()
			r.received(n)
		case unix.EAGAIN:
			r.m.flush()
			if !r.patience.again() {
				if err := sleep(r.wait[:]); err != nil {
					return err
				}
				r.in.calls.add(1)
			}
		case unix.EINTR, unix.ENOBUFS, unix.ENOMEM:
		default:
			return fmt.Errorf("%s: receive: %w", r.config.Wire.Name, err)
		}
	}
	r.m.flush()
	return nil
}

func (r *receiver) prepare(msgs []message) {
	for k := range msgs {
		i := r.first + k
		m := &msgs[k].Msghdr
		m.Name, m.Namelen = (*byte)(unsafe.Pointer(&r.names[i])), unix.SizeofSockaddrInet4
		m.Iov = &r.iovs[i]
		m.SetIovlen(1)
		m.Control = (*byte)(unsafe.Pointer(&r.controls[i]))
		m.SetControllen(int(unsafe.Sizeof(r.controls[i])))
		m.Flags = 0
	}
}

// received takes what one system call gave.
func (r *receiver) received(n int) {
	t := r.table.Load()
	longest := 0
	for i := r.first; i < r.first+n; i++ {
		r.message(t, i)
		longest = max(longest, int(r.msgs[i].n))
	}
	if !r.m.holds() {
		r.m.flush()
	}
	r.take = r.most
	if longest > large {
		r.take = min(few, r.most)
	}
}

// message takes one message, which may be many packets of one length.
func (r *receiver) message(t *table, i int) {
	m := &r.msgs[i]
	if m.Flags&unix.MSG_TRUNC != 0 {
		r.in.drop(truncated)
		return
	}
	from := r.names[i].addr()
	sends, known := t.senders[from]
	start, length := headroom, int(m.n)
	if length == 0 && r.stopped.Load() { // shutdown looks like one
		return
	}
	if r.config.VerifySource && !known && length > 0 {
		size := r.size(i)
		r.dropMany(unknownSender, (length+size-1)/size)
		return
	}
	header := r.config.Wire.Header
	if header != nil {
		n, ok := header.Strip(r.slots[i][start : start+length])
		if !ok {
			r.in.drop(malformed)
			return
		}
		start, length = start+n, length-n
	}
	size := r.size(i)
	for at := 0; at < length; at += size {
		n := min(size, length-at)
		d := r.slots[i][start+at : start+at+n]
		if why := r.check(t, d, from, sends); why != accepted {
			r.in.drop(why)
			continue
		}
		if header != nil && unfinished(d) {
			switch {
			case len(d) <= r.config.MTU:
				finishTransport(d)
			case d[9] == protoTCP:
				r.cut(d)
				continue
			default: // datagrams that the kernel merged: nothing tells where one ends
				r.in.drop(tooBig)
				continue
			}
		}
		if r.m.add(r.slots[i], start+at, n) {
			r.held = i
		}
	}
	if length == 0 {
		r.in.drop(malformed)
	}
}

// size is the length of each packet of a message but the last: it is said only
// of those that are many in one.
func (r *receiver) size(i int) int {
	m, c := &r.msgs[i], &r.controls[i]
	if m.Controllen > 0 && c.Level == unix.SOL_UDP && c.Type == unix.UDP_GRO && c.value > 0 {
		return int(c.value)
	}
	return int(m.n)
}

// cut writes a TCP packet that is longer than the device takes: one that the
// kernel merged, or was not going to cut before the next device, and whose
// checksum it left to hardware. A raw socket gives it as it is and tells
// nothing. Where it was, or would have been, cut does not matter to TCP.
func (r *receiver) cut(d []byte) {
	r.m.flush()
	if len(d) < headerLen(d)+tcpHeader {
		r.in.drop(malformed)
		return
	}
	headers := headerLen(d) + int(d[headerLen(d)+12]>>4)*4
	s, ok := newSplit(d, vnetHeader{gso: gsoTCP4, size: uint16(max(r.config.MTU-headers, 1))})
	if !ok {
		r.in.drop(malformed)
		return
	}
	if r.scratch == nil {
		r.scratch = make([]byte, headroom+maxPacket)
	}
	for n := s.next(); n > 0; n = s.next() {
		s.put(r.scratch[headroom : headroom+n])
		_ = r.write(r.scratch, headroom, headroom+n, 1, vnetHeader{}) // only merged ones are refused
	}
}

// check tells what is wrong with a packet of a peer's.
func (r *receiver) check(t *table, d []byte, from addr, sends []span) reason {
	if why := checkPacket(d); why != accepted {
		return why
	}
	if !r.config.VerifySource {
		return accepted
	}
	// A host's own packets have its address on the device, which is one of those
	// behind it, or the one on the underlay.
	if src := source(d); !anyContains(sends, src) && src != from {
		return spoofedSource
	}
	if !t.self.contains(destination(d)) {
		return notOurs
	}
	return accepted
}

// write hands a packet, or many in one, to the kernel: slot[start:end], with
// room for a header before it.
func (r *receiver) write(slot []byte, start, end, count int, h vnetHeader) error {
	bytes := end - start + (count-1)*int(h.headerLen)
	if r.tun.vnet {
		start -= vnetLen
		h.put(slot[start:])
	}
	for {
		err := rawWrite(r.tun.fd, slot[start:end])
		r.in.calls.add(1)
		switch err {
		case nil:
			r.in.batches.add(1)
			r.in.packets.add(count)
			r.in.bytes.add(bytes)
			return nil
		case unix.EINTR:
		case unix.EINVAL:
			if count > 1 {
				r.fallBack("merging packets for "+r.tun.name, err)
				return err
			}
			// The kernel looks at the header, too.
			r.in.drop(malformed)
			return nil
		case unix.EIO, unix.EBADFD:
			r.dropMany(noDevice, count)
			return nil
		default:
			r.dropMany(sendError, count)
			return nil
		}
	}
}

func (r *receiver) dropMany(why reason, n int) { r.in.drops[why].add(n) }
