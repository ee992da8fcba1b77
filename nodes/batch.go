package nodes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// batchSize is how many requests go to the kernel in one system call. All of
// them may fail, and the kernel drops answers that do not fit into a receive
// buffer of the default size (net.core.rmem_default): this many do.
const batchSize = 128

// batch is a route netlink socket for many requests that all change something.
// The kernel answers the last one of a system call, and those that fail.
type batch struct {
	fd   int
	port uint32 // the origin of the notifications that it causes
	seq  uint32
	out  []byte // room for requests
}

// openBatch opens one inside ns.
func openBatch(ns *Namespace) (*batch, error) {
	b := &batch{fd: -1}
	err := ns.Do(func() (err error) {
		b.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	timeout := unix.NsecToTimeval(int64(10 * time.Second))
	err = errors.Join(
		unix.Bind(b.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(b.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptInt(b.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), // answers without the request
	)
	var self unix.Sockaddr
	if err == nil {
		self, err = unix.Getsockname(b.fd)
	}
	if err != nil {
		unix.Close(b.fd)
		return nil, err
	}
	b.port = self.(*unix.SockaddrNetlink).Pid // what the kernel returns for this family
	return b, nil
}

func (b *batch) close() { unix.Close(b.fd) }

// send sends requests and calls result with the outcome of each, in order.
func (b *batch) send(requests []request, result func(i int, err error)) error {
	for from := 0; from < len(requests); from += batchSize {
		part := requests[from:min(from+batchSize, len(requests))]
		outcome, err := b.exchange(part)
		if err != nil {
			return err
		}
		for i, err := range outcome {
			result(from+i, err)
		}
	}
	return nil
}

// exchange is one system call and its answers.
func (b *batch) exchange(part []request) ([]error, error) {
	buf := b.out[:0]
	first := b.seq + 1
	for i, r := range part {
		b.seq++
		flags := r.flags | unix.NLM_F_REQUEST
		if i == len(part)-1 {
			flags |= unix.NLM_F_ACK
		}
		buf = r.append(buf, flags, b.seq)
	}
	b.out = buf
	if err := unix.Sendto(b.fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("netlink: send: %w", err)
	}
	outcome := make([]error, len(part))
	answer := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(b.fd, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("netlink: receive: %w", err)
		}
		if parseAnswers(answer[:n], first, outcome) {
			return outcome, nil
		}
	}
}

// parseAnswers notes what the kernel says of the requests, of which the first
// has the number first. done says that the last was among them.
func parseAnswers(m []byte, first uint32, outcome []error) (done bool) {
	for len(m) >= unix.SizeofNlMsghdr+4 {
		size := int(binary.NativeEndian.Uint32(m))
		if size < unix.SizeofNlMsghdr+4 || size > len(m) {
			break
		}
		seq := binary.NativeEndian.Uint32(m[8:])
		if i := int(seq - first); binary.NativeEndian.Uint16(m[4:]) == unix.NLMSG_ERROR && i >= 0 && i < len(outcome) {
			if errno := -int32(binary.NativeEndian.Uint32(m[unix.SizeofNlMsghdr:])); errno != 0 {
				outcome[i] = unix.Errno(errno)
			}
			if i == len(outcome)-1 {
				return true
			}
		}
		m = m[min((size+3)&^3, len(m)):]
	}
	return false
}

// request is one rtnetlink message without its header.
type request struct {
	kind  uint16
	flags uint16
	body  [unix.SizeofRtMsg]byte // a struct rtmsg or ndmsg: both have 12 bytes
	attrs []byte
}

func (r *request) attr(kind uint16, value []byte) {
	r.attrs = binary.NativeEndian.AppendUint16(r.attrs, uint16(unix.SizeofRtAttr+len(value)))
	r.attrs = binary.NativeEndian.AppendUint16(r.attrs, kind)
	r.attrs = append(r.attrs, value...)
	for len(r.attrs)%unix.RTA_ALIGNTO != 0 {
		r.attrs = append(r.attrs, 0)
	}
}

func (r *request) append(b []byte, flags uint16, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(r.body)+len(r.attrs)))
	b = binary.NativeEndian.AppendUint16(b, r.kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // the kernel fills in the port
	b = append(b, r.body[:]...)
	return append(b, r.attrs...)
}

// setNeighbour asks for a permanent neighbour or FDB entry, in the place of the
// one with the same address or MAC. flags are NTF_*.
func setNeighbour(family uint8, index int, addr netip.Addr, mac []byte, flags uint8) request {
	r := request{kind: unix.RTM_NEWNEIGH, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE}
	r.body[0] = family
	binary.NativeEndian.PutUint32(r.body[4:], uint32(index))
	binary.NativeEndian.PutUint16(r.body[8:], unix.NUD_PERMANENT)
	r.body[10] = flags
	r.attr(unix.NDA_DST, addr.AsSlice())
	r.attr(unix.NDA_LLADDR, mac)
	return r
}

// familyOf is the address family of a.
func familyOf(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// nextHop is a Hop with the index of its device.
type nextHop struct {
	Hop
	index int
}

// setRoute asks for a route of the main table, in the place of the one with the
// same destination and metric. index is its device's; 0 for none, as with a
// route that has several hops.
func setRoute(k kroute, index int, hops []nextHop) request {
	r := request{kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE}
	r.body = [unix.SizeofRtMsg]byte{
		familyOf(k.dst.Addr()), uint8(k.dst.Bits()), 0, 0,
		unix.RT_TABLE_MAIN, uint8(k.protocol), uint8(k.scope), uint8(k.kind),
	}
	if k.onlink {
		binary.NativeEndian.PutUint32(r.body[8:], unix.RTNH_F_ONLINK)
	}
	r.attr(unix.RTA_DST, k.dst.Addr().AsSlice())
	if k.via.IsValid() {
		r.attr(unix.RTA_GATEWAY, k.via.AsSlice())
	}
	if k.src.IsValid() {
		r.attr(unix.RTA_PREFSRC, k.src.AsSlice())
	}
	if index != 0 {
		r.attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	}
	if len(hops) > 0 {
		r.attr(unix.RTA_MULTIPATH, multipath(hops))
	}
	if k.priority != 0 {
		r.attr(unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, uint32(k.priority)))
	}
	return r
}

// multipath is a row of struct rtnexthop, each with its gateway.
func multipath(hops []nextHop) []byte {
	var all []byte
	for _, h := range hops {
		var gw request
		if h.Via.IsValid() {
			gw.attr(unix.RTA_GATEWAY, h.Via.AsSlice())
		}
		flags := byte(0)
		if h.OnLink {
			flags = unix.RTNH_F_ONLINK
		}
		all = binary.NativeEndian.AppendUint16(all, uint16(unix.SizeofRtNexthop+len(gw.attrs)))
		all = append(all, flags, 0) // the second is the weight less one
		all = binary.NativeEndian.AppendUint32(all, uint32(h.index))
		all = append(all, gw.attrs...)
	}
	return all
}
