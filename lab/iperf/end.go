package iperf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// End is one of the two endpoints.
type End struct {
	Name string
	Addr netip.Addr
	// Socket opens a socket in its namespace (socket(2)'s arguments).
	Socket func(ctx context.Context, domain, typ, proto int) (*os.File, error)
}

// connectTimeout is how long B may take to be reached.
const connectTimeout = 3 * time.Second

// look is how often a wait sees whether it was called off.
const look = 50 * time.Millisecond

// open gives a blocking descriptor that Go does not know of.
func (e End) open(ctx context.Context, domain, typ int) (int, error) {
	f, err := e.Socket(ctx, domain, typ, 0)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd makes it block
	if err != nil {
		return -1, fmt.Errorf("%s: socket: %w", e.Name, err)
	}
	return fd, nil
}

// domain is the address family that reaches e.
func (e End) domain() int {
	if e.Addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// bind gives fd a free port at e's address.
func (e End) bind(fd int) (netip.AddrPort, error) {
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(e.Addr, 0))); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: bind %s: %w", e.Name, e.Addr, err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: port: %w", e.Name, err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(e.Addr, uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(e.Addr, uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%s: port: address is a %T", e.Name, sa)
}

// wait polls fd until it is ready for events, the deadline or ctx's end.
func wait(ctx context.Context, fd int, events int16, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(min(left, look).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// unreached says in words why A did not reach B.
func unreached(a, b End, to netip.AddrPort, protocol string, err error) error {
	if _, ok := errors.AsType[*lab.Failure](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	why := err.Error()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		why = fmt.Sprintf("no answer within %v", connectTimeout)
		if protocol == "udp" {
			why = fmt.Sprintf("nothing arrived within %v", connectTimeout)
		}
	case errors.Is(err, unix.ENETUNREACH):
		why = "no route (network is unreachable)"
	case errors.Is(err, unix.EHOSTUNREACH):
		why = "no route to host"
	case errors.Is(err, unix.ECONNREFUSED):
		why = "refused: something on the way answers for it"
	case errors.Is(err, unix.EPERM):
		why = "forbidden by a firewall of " + a.Name + "'s (operation not permitted)"
	}
	return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("iperf: %s -> %s (%s, %s): %s", a.Name, b.Name, to, protocol, why),
		Cure: fmt.Sprintf("labctl status shows what is not as it should be; labctl ping %s %s tells whether packets pass at all", a.Name, b.Name)}
}

// cookieBytes tell our connections from anybody else's.
func cookieBytes(cookie uint64) []byte { return binary.NativeEndian.AppendUint64(nil, cookie) }

// algorithms is the file that lists TCP's congestion control algorithms.
const algorithms = "/proc/sys/net/ipv4/tcp_available_congestion_control"

func setCongestion(fd int, name string) error {
	err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	if err == nil {
		return nil
	}
	cure := "cat " + algorithms + " lists those there are"
	if data, err := os.ReadFile(algorithms); err == nil {
		cure = "there are " + strings.Join(strings.Fields(string(data)), ", ")
	}
	why := err
	switch {
	case errors.Is(err, unix.ENOENT):
		why = errors.New("this kernel has no such algorithm")
	case errors.Is(err, unix.EPERM):
		why = errors.New("only root may choose it")
	}
	return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("--congestion %s: %w", name, why), Cure: cure}
}
