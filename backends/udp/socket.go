package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer is room for what arrives while the receiving thread is busy:
// many times the default, which is less than three datagrams of 64 KiB.
const socketBuffer = 4 << 20

// openSocket opens the socket that all datagrams go through, in the network
// namespace of the calling thread. Its port is the source port, too.
//
// It blocks where the calls do not say otherwise.
func openSocket(local netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("udp %s: open socket: %w", local, err)
	}
	fail := func(what string, err error, cure string) (int, error) {
		unix.Close(fd)
		return -1, fmt.Errorf("udp %s: %s: %w%s", local, what, err, cure)
	}
	// Never fragment: who sent a packet that is too big learns it by ICMP.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO); err != nil {
		return fail("path MTU discovery", err, "")
	}
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			// As much as an ordinary user is allowed; the kernel cuts it without a word.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(local.Port()), Addr: local.Addr().As4()})
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fail("bind", err, "; end the process that has the port (ss -ulnp), or give the network another Backend.Port")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail("bind", err, "; the public address must be one of this host's: ip addr")
	case errors.Is(err, unix.EACCES):
		return fail("bind", err, "; give the network a Backend.Port of 1024 or more")
	case err != nil:
		return fail("bind", err, "")
	}
	return fd, nil
}

// segmentation switches on that many datagrams are received as one, and sees
// whether they can be sent so (UDP_GRO and UDP_SEGMENT, Linux 5.0 and 4.18).
func segmentation(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0); err != nil {
		return fmt.Errorf("UDP_SEGMENT: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		return fmt.Errorf("UDP_GRO: %w", err)
	}
	return nil
}

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

// sendMessages returns how many were sent. Neither it nor receiveMessages waits, so neither tells the
// Go scheduler, whose work around a system call costs as much as a small one.
// The error is about the first, when
// that is 0.
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

// sockaddr is where a datagram goes to or comes from.
func (a *peerAddr) set(to addr, port int) {
	a.Family = unix.AF_INET
	a.Addr = to.bytes()
	be.PutUint16((*[2]byte)(unsafe.Pointer(&a.Port))[:], uint16(port))
}

type peerAddr struct{ unix.RawSockaddrInet4 }

func (a *peerAddr) addr() addr { return addr(be.Uint32(a.Addr[:])) }
