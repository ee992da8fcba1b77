package datapath

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxPayload is what fits in one UDP datagram over IPv4, and in one send
	// that the kernel cuts. No wire takes more.
	maxPayload = maxPacket - ipHeader - udpHeader
	// maxSegments is how many datagrams the kernel cuts one send into
	// (UDP_MAX_SEGMENTS, which was 64 before it was 128).
	maxSegments = 64
	maxMessages = 64
)

// batches is what is ready to be sent, back to back. What has the
// same length and goes to the same host is one message, which the kernel cuts
// (UDP_SEGMENT); only its last datagram may be shorter:
//
//	buf  | 1472 | 1472 | 1472 | 60 | 84 | 84 | 84 |
//	       '------- message -----'  '- message --'
//
// The buffer is small enough to stay in the processor's cache: to be sent, it
// is read while it is hot.
type batches struct {
	port    int
	segment bool // messages may have more than one datagram
	buf     []byte
	end     int // of what is in buf
	n       int // messages
	parts   [maxMessages]part

	msgs     [maxMessages]message
	iovs     [maxMessages]unix.Iovec
	names    [maxMessages]peerAddr
	controls [maxMessages]control
}

// part is one message.
type part struct {
	to         addr
	start, end int
	size       int  // of each datagram but the last
	count      int  // datagrams
	closed     bool // the last is shorter
}

func newBatches(port int, segment bool) *batches {
	return &batches{port: port, segment: segment, buf: make([]byte, maxPayload)}
}

// room is where to write a datagram of n bytes, nil when something must be
// sent first.
func (b *batches) room(to addr, n int) []byte {
	if b.end+n > len(b.buf) {
		return nil
	}
	dst := b.buf[b.end : b.end+n]
	if b.segment && b.n > 0 {
		p := &b.parts[b.n-1]
		if p.to == to && n <= p.size && !p.closed && p.count < maxSegments {
			p.closed = n < p.size
			p.count++
			b.end += n
			p.end = b.end
			return dst
		}
	}
	if b.n == maxMessages {
		return nil
	}
	b.parts[b.n] = part{to: to, start: b.end, end: b.end + n, size: n, count: 1}
	b.n++
	b.end += n
	return dst
}

// messages is what is there as the kernel wants it.
func (b *batches) messages() []message {
	for i := range b.n {
		p := &b.parts[i]
		b.names[i].set(p.to, b.port)
		b.iovs[i].Base = &b.buf[p.start]
		b.iovs[i].SetLen(p.end - p.start)
		m := &b.msgs[i].Msghdr
		*m = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &b.iovs[i]}
		m.SetIovlen(1)
		if p.count > 1 {
			b.controls[i].segmentSize(m, p.size)
		}
	}
	return b.msgs[:b.n]
}

// segmentSize tells the kernel to cut m.
func (c *control) segmentSize(m *unix.Msghdr, size int) {
	c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&c.value)) = uint16(size)
	m.Control = (*byte)(unsafe.Pointer(c))
	m.SetControllen(unix.CmsgSpace(2))
}

// clear forgets what was sent.
func (b *batches) clear() { b.n, b.end = 0, 0 }
