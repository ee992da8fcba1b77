package udp

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

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

// fragment sends a datagram that is longer than the path takes, in fragments.
func fragment(fd int, to netip.AddrPort, d []byte) error {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	err := unix.Sendto(fd, d, 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	return err
}
