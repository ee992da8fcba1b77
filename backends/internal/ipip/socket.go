package ipip

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openSocket opens the raw socket of protocol 4, in the network namespace of
// the calling thread. As long as it is open the kernel answers nobody that it
// knows no such protocol.
//
// It blocks where the calls do not say otherwise.
func openSocket(local netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return -1, fmt.Errorf("ipip %s: open raw socket: %w; run as root, or with the capability NET_RAW", local, err)
	}
	if err != nil {
		return -1, fmt.Errorf("ipip %s: open raw socket: %w", local, err)
	}
	fail := func(what string, err error, cure string) (int, error) {
		unix.Close(fd)
		return -1, fmt.Errorf("ipip %s: %s: %w%s", local, what, err, cure)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1); err != nil {
		return fail("write headers", err, "")
	}
	// The header says whether a packet may be fragmented. What hosts on the way
	// tell of their MTU the kernel remembers all the same.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
		return fail("path MTU discovery", err, "")
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: local.As4()})
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail("bind", err, "; it must be one of this host's addresses: ip addr")
	case err != nil:
		return fail("bind", err, "")
	}
	return fd, nil
}

// fragment sends a message that is longer than the underlay's device takes,
// which the kernel cuts only where it writes the header itself.
func fragment(fd int, to netip.Addr, message []byte) error {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 0)
	oob := append(number(unix.IP_TTL, int32(message[8])), number(unix.IP_TOS, int32(message[1]))...)
	err := unix.Sendmsg(fd, message[minHeader:], oob, &unix.SockaddrInet4{Addr: to.As4()}, 0)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1)
	return err
}

// number is ancillary data for IP.
func number(kind int32, v int32) []byte {
	var c struct {
		unix.Cmsghdr
		value int32
		_     int32
	}
	c.Level, c.Type, c.value = unix.IPPROTO_IP, kind, v
	c.SetLen(unix.CmsgLen(4))
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&c)), unix.CmsgSpace(4))...)
}
