package iperf

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A datagram begins with
//
//	 0        8                16                 24
//	| cookie | number, from 0 | sent at (ns, UTC) | any bytes
//
// in the machine's byte order: both ends are one process. The arrival is timed
// by the kernel with the same clock (SO_TIMESTAMPNS), which leaves the
// receiver's scheduler out.
const headerSize = 24

// hello is the number of datagrams that only make the receiver known to the
// sender, or the other way.
const hello = -1

func putHeader(b []byte, cookie uint64, n int64, at time.Duration) {
	binary.NativeEndian.PutUint64(b, cookie)
	binary.NativeEndian.PutUint64(b[8:], uint64(n))
	binary.NativeEndian.PutUint64(b[16:], uint64(at))
}

func header(b []byte) (cookie uint64, n int64, at time.Duration, ok bool) {
	if len(b) < headerSize {
		return 0, 0, 0, false
	}
	return binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), time.Duration(binary.NativeEndian.Uint64(b[16:])), true
}

// wallClock is the time since 1970.
func wallClock() time.Duration { return time.Duration(time.Now().UnixNano()) }

// message is struct mmsghdr.
type message struct {
	unix.Msghdr
	n uint32 // bytes received
}

// stamp is the ancillary data with the time of arrival.
type stamp struct {
	unix.Cmsghdr
	at unix.Timespec
}

// batch is buffers for datagrams of one length, sent or received by one system
// call.
type batch struct {
	bufs   [][]byte
	msgs   []message
	iovs   []unix.Iovec
	stamps []stamp // of a receiver
}

const (
	batchMost  = 64
	batchBytes = 256 << 10
)

func newBatch(length int, receive bool) *batch {
	n := min(max(batchBytes/length, 1), batchMost)
	b := &batch{msgs: make([]message, n), iovs: make([]unix.Iovec, n)}
	if receive {
		b.stamps = make([]stamp, n)
	}
	all := payload(n * length)
	for i := range n {
		buf := all[i*length : (i+1)*length]
		b.bufs = append(b.bufs, buf)
		b.iovs[i].Base = &buf[0]
		b.iovs[i].SetLen(length)
		b.msgs[i].Iov = &b.iovs[i]
		b.msgs[i].SetIovlen(1)
	}
	return b
}

// send sends the first n and returns how many went.
func (b *batch) send(fd, n int) (int, error) {
	return messageCall(unix.SYS_SENDMMSG, fd, b.msgs[:n], unix.MSG_NOSIGNAL)
}

// receive waits for one datagram and takes what else is there.
func (b *batch) receive(fd int) (int, error) {
	for i := range b.stamps {
		b.msgs[i].Control = (*byte)(unsafe.Pointer(&b.stamps[i]))
		b.msgs[i].SetControllen(int(unsafe.Sizeof(stamp{})))
	}
	return messageCall(unix.SYS_RECVMMSG, fd, b.msgs, unix.MSG_WAITFORONE)
}

func messageCall(call uintptr, fd int, msgs []message, flags int) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// datagram is what was received i-th, and when.
func (b *batch) datagram(i int) ([]byte, time.Duration) {
	s := &b.stamps[i]
	if b.msgs[i].Controllen >= unix.SizeofCmsghdr && s.Level == unix.SOL_SOCKET && s.Type == unix.SO_TIMESTAMPNS {
		return b.bufs[i][:b.msgs[i].n], time.Duration(s.at.Nano())
	}
	return b.bufs[i][:b.msgs[i].n], wallClock()
}
