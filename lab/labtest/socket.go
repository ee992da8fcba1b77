package labtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects from inside the endpoint: network is tcp or udp (or tcp4,
// udp4), addr is ADDRESS:PORT, or ENDPOINT:PORT of the lab. Names are not
// looked up otherwise: a lab has no DNS.
func (e *Endpoint) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := e.resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	f, err := e.socket(ctx, network)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := connect(ctx, f, to); err != nil {
		return nil, fmt.Errorf("%s: dial %s %s: %w", e.name, network, addr, err)
	}
	return net.FileConn(f)
}

// Listen listens inside the endpoint: network is tcp or tcp4, addr is :PORT
// for all of its addresses, or ADDRESS:PORT. Port 0 is any that is free. The
// listener's Addr has the endpoint's address where addr has none, so that it
// can be dialled as it is.
func (e *Endpoint) Listen(network, addr string) (net.Listener, error) {
	f, bound, err := e.bind(network, addr, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := control(f, func(fd int) error { return unix.Listen(fd, unix.SOMAXCONN) }); err != nil {
		return nil, fmt.Errorf("%s: listen %s: %w", e.name, addr, err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return listener{l, net.TCPAddrFromAddrPort(bound)}, nil
}

// listener tells an address that others can dial.
type listener struct {
	net.Listener
	addr net.Addr
}

func (l listener) Addr() net.Addr { return l.addr }

// ListenPacket is Listen for network udp or udp4.
func (e *Endpoint) ListenPacket(network, addr string) (net.PacketConn, error) {
	f, bound, err := e.bind(network, addr, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return packetConn{c, net.UDPAddrFromAddrPort(bound)}, nil
}

type packetConn struct {
	net.PacketConn
	addr net.Addr
}

func (c packetConn) LocalAddr() net.Addr { return c.addr }

// bind opens a socket of the wanted type and gives it its address.
func (e *Endpoint) bind(network, addr string, want int) (*os.File, netip.AddrPort, error) {
	ctx := e.lab.t.Context()
	text := addr
	if strings.HasPrefix(text, ":") {
		text = "0.0.0.0" + text
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || !at.Addr().Is4() {
		return nil, at, fmt.Errorf("%s: listen %s: want :PORT or an IPv4 ADDRESS:PORT", e.name, addr)
	}
	if typ, err := socketType(network); err != nil || typ != want {
		return nil, at, fmt.Errorf("%s: listen: %w", e.name, net.UnknownNetworkError(network))
	}
	f, err := e.socket(ctx, network)
	if err != nil {
		return nil, at, err
	}
	err = control(f, func(fd int) error {
		if want == unix.SOCK_STREAM { // as package net does
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
			return err
		}
		sa, err := unix.Getsockname(fd)
		if in, ok := sa.(*unix.SockaddrInet4); ok {
			at = netip.AddrPortFrom(at.Addr(), uint16(in.Port))
		}
		return err
	})
	if err == nil && at.Addr().IsUnspecified() {
		var own netip.Addr
		if own, err = e.lab.client.Address(ctx, e.name); err == nil {
			at = netip.AddrPortFrom(own, at.Port())
		}
	}
	if err != nil {
		f.Close()
		return nil, at, fmt.Errorf("%s: listen %s: %w", e.name, addr, err)
	}
	return f, at, nil
}

func socketType(network string) (int, error) {
	switch network {
	case "tcp", "tcp4":
		return unix.SOCK_STREAM, nil
	case "udp", "udp4":
		return unix.SOCK_DGRAM, nil
	}
	return 0, net.UnknownNetworkError(network)
}

func (e *Endpoint) socket(ctx context.Context, network string) (*os.File, error) {
	typ, err := socketType(network)
	if err != nil {
		return nil, err
	}
	return e.lab.client.Socket(ctx, e.name, unix.AF_INET, typ, 0)
}

// resolve reads ADDRESS:PORT or ENDPOINT:PORT.
func (e *Endpoint) resolve(ctx context.Context, addr string) (netip.AddrPort, error) {
	if to, err := netip.ParseAddrPort(addr); err == nil {
		if !to.Addr().Is4() {
			return to, fmt.Errorf("%s: not an IPv4 address", addr)
		}
		return to, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	to, err := e.lab.client.Address(ctx, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(net.JoinHostPort(to.String(), port))
}

// control calls f with the file's descriptor.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	err = raw.Control(func(fd uintptr) { derr = do(int(fd)) })
	return errors.Join(err, derr)
}

// connect connects a socket, and gives up when ctx ends.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) error {
	return control(f, func(fd int) error {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		if !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return established(ctx, fd)
	})
}

// lookEvery is how often a connect looks whether its context has ended.
const lookEvery = 20 * time.Millisecond

// established waits for the end of a connect(2) in progress.
func established(ctx context.Context, fd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(lookEvery.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err == nil && code != 0 {
				err = syscall.Errno(code)
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
