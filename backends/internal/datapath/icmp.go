package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	icmpUnreachable = 3 // type
	icmpExceeded    = 11

	icmpNet                 = 0 // code of icmpUnreachable
	icmpFragmentationNeeded = 4

	icmpHeader = 8
	// icmpQuote is how much of the packet in question is sent back: as much as
	// fits in 576 bytes (RFC 1812 4.3.2.3).
	icmpQuote = leastMTU - ipHeader - icmpHeader

	// leastMTU is what every IPv4 host can receive in one piece (RFC 791).
	leastMTU = 576
)

// router tells senders of packets what went wrong, as any router does. It is
// used by the sending thread.
//
// The host itself sends, by a raw socket. What is written into the device with
// the host's own address as its source, as flannel does, the kernel drops as a
// martian.
type router struct {
	log      *slog.Logger
	raw      int // -1 when we may not
	asking   int // a socket to learn path MTUs with
	port     int
	overhead int // of the wire
	limit    limiter
	buf      [icmpHeader + icmpQuote]byte
}

// openRouter opens what a router needs in the namespace of the calling thread.
func openRouter(w Wire, log *slog.Logger) (*router, error) {
	r := &router{log: log, port: cmp.Or(w.Port, discard), overhead: w.Overhead, limit: limiter{rate: 1000, burst: 50}}
	var err error
	if r.asking, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
		return nil, fmt.Errorf("%s: open socket: %w", w.Name, err)
	}
	r.raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		r.raw = -1
		log.Warn(w.Name+" sends no ICMP errors: ping and traceroute through the tunnel tell less; run as root, or with the capability NET_RAW", "err", err)
		return r, nil
	case err != nil:
		unix.Close(r.asking)
		return nil, fmt.Errorf("icmp: open socket: %w", err)
	}
	// It only sends. ICMP_FILTER, a bit for each type that is not wanted.
	const icmpFilter = 1
	_ = unix.SetsockoptInt(r.raw, unix.SOL_RAW, icmpFilter, -1)
	return r, nil
}

func (r *router) close() {
	unix.Close(r.asking)
	if r.raw >= 0 {
		unix.Close(r.raw)
	}
}

// unreachable: no host has the destination.
func (r *router) unreachable(t *table, pkt []byte) { r.tell(t, icmpUnreachable, icmpNet, 0, pkt) }

// expired: the TTL came to its end in the device.
func (r *router) expired(t *table, pkt []byte) { r.tell(t, icmpExceeded, 0, 0, pkt) }

// tooBig: the path to the host does not take the packet in one piece.
func (r *router) tooBig(t *table, to addr, pkt []byte) {
	if !r.worthTelling(pkt) {
		return
	}
	if mtu := r.pathMTU(to) - r.overhead; mtu >= 68 && mtu < len(pkt) {
		r.send(t.base, source(pkt), r.message(icmpUnreachable, icmpFragmentationNeeded, mtu, pkt))
	}
}

// discard is a port to ask about, where the wire has none: nothing is sent.
const discard = 9

// pathMTU is what the kernel knows of the path to a host; 0 for nothing.
func (r *router) pathMTU(to addr) int {
	if unix.Connect(r.asking, &unix.SockaddrInet4{Port: r.port, Addr: to.bytes()}) != nil {
		return 0
	}
	mtu, err := unix.GetsockoptInt(r.asking, unix.IPPROTO_IP, unix.IP_MTU)
	if err != nil {
		return 0
	}
	return mtu
}

func (r *router) tell(t *table, typ, code byte, mtu int, pkt []byte) {
	if r.worthTelling(pkt) {
		r.send(t.base, source(pkt), r.message(typ, code, mtu, pkt))
	}
}

func (r *router) worthTelling(pkt []byte) bool {
	return r.raw >= 0 && mayTell(pkt) && r.limit.allow(time.Now())
}

// mayTell says whether an error about pkt may be sent (RFC 1122 3.2.2, RFC
// 1812 4.3.2.7): not about errors, later fragments, or what was not from one
// host to one host.
func mayTell(pkt []byte) bool {
	if laterFragment(pkt) || !unicast(source(pkt)) || !unicast(destination(pkt)) {
		return false
	}
	if pkt[9] != protoICMP {
		return true
	}
	h := headerLen(pkt)
	if len(pkt) <= h {
		return false
	}
	switch pkt[h] {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43: // questions and answers
		return true
	}
	return false
}

// unicast says whether a can be one host's on a network.
func unicast(a addr) bool {
	top := a >> 24
	return top != 0 && top != 127 && top < 224
}

// message is an ICMP error about pkt, valid until the next call.
func (r *router) message(typ, code byte, mtu int, pkt []byte) []byte {
	b := r.buf[:icmpHeader+min(len(pkt), icmpQuote)]
	b[0], b[1] = typ, code
	le.PutUint16(b[2:], 0)
	be.PutUint32(b[4:], uint32(mtu)) // the lower half (RFC 1191)
	copy(b[icmpHeader:], pkt)
	le.PutUint16(b[2:], ^fold(sum(b, 0)))
	return b
}

// send sends from our address on the device, as long as it is there.
func (r *router) send(from, to addr, b []byte) {
	var c struct {
		unix.Cmsghdr
		unix.Inet4Pktinfo
	}
	c.Level, c.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
	c.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
	c.Spec_dst = from.bytes()
	oob := unsafe.Slice((*byte)(unsafe.Pointer(&c)), unix.CmsgSpace(unix.SizeofInet4Pktinfo))
	dst := &unix.SockaddrInet4{Addr: to.bytes()}
	if err := unix.Sendmsg(r.raw, b, oob, dst, 0); err != nil {
		_ = unix.Sendmsg(r.raw, b, nil, dst, 0) // whoever asked has to wait, as with any router
	}
}

// limiter is a token bucket: burst at once, rate a second.
type limiter struct {
	rate, burst float64
	tokens      float64
	last        time.Time
}

func (l *limiter) allow(now time.Time) bool {
	if l.last.IsZero() {
		l.tokens = l.burst
	} else {
		l.tokens = min(l.burst, l.tokens+now.Sub(l.last).Seconds()*l.rate)
	}
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
