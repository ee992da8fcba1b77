package datapath

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr.
type message struct {
	unix.Msghdr
	n uint32 // bytes received
}

// control is the ancillary data of a message: one number.
type control struct {
	unix.Cmsghdr
	value int32
	_     int32
}

// sendMessages returns how many were sent. The error is about the first, when
// that is 0. Neither it nor receiveMessages waits, so neither tells the Go
// scheduler, whose work around a system call costs as much as a small one.
func sendMessages(fd int, msgs []message) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// receiveMessages returns how many there were.
func receiveMessages(fd int, msgs []message) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// peerAddr is where a message goes to or comes from.
type peerAddr struct{ unix.RawSockaddrInet4 }

func (a *peerAddr) set(to addr, port int) {
	a.Family = unix.AF_INET
	a.Addr = to.bytes()
	be.PutUint16((*[2]byte)(unsafe.Pointer(&a.Port))[:], uint16(port))
}

func (a *peerAddr) addr() addr { return addr(be.Uint32(a.Addr[:])) }
