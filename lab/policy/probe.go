package policy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"labctl/lab"
)

// Times are how long Probe waits. What is dropped can only be seen by waiting.
type Times struct {
	// Quiet is how long after the last packet was sent a flow that should not
	// pass is given to pass all the same.
	Quiet time.Duration
	// Patience is how long one that should pass is waited for.
	Patience time.Duration
}

// DefaultTimes are for a machine that is not idle: TCP sends a SYN again after
// a second, so one may be lost.
var DefaultTimes = Times{Quiet: 250 * time.Millisecond, Patience: 4 * time.Second}

const (
	// atOnce bounds the flows, and with them the descriptors, of one batch.
	atOnce = 400
	// again is after how long what was not answered is sent anew (the kernel
	// does so for TCP).
	again = 500 * time.Millisecond
)

// Prober sends packets through a running lab. It gives every flow a source
// port, and every batch an ICMP id, that no earlier one of its own had:
// connection tracking lets what looks like an earlier flow pass. It is not safe
// for concurrent use.
type Prober struct {
	client *lab.Client
	times  Times
	source uint32
	id     uint16
}

// NewProber is for a lab that runs.
func NewProber(c *lab.Client, t Times) *Prober {
	return &Prober{client: c, times: t, source: rand.Uint32N(sourceCount), id: uint16(rand.Uint32())}
}

// Probe sends packets of each flow and notes in Actual whether an answer came:
// a TCP handshake, a datagram's echo, an ICMP echo. Every packet comes from a
// socket of the sender's namespace, and is answered by one of the receiver's.
// A TCP port on which somebody listens already is used as it is.
func (p *Prober) Probe(ctx context.Context, all []Endpoint, flows []Flow) error {
	if len(all) < 2 {
		return errTooFew
	}
	for part := range slices.Chunk(flows, atOnce) {
		b := &batch{Prober: p, flows: part, addrs: map[string]netip.Addr{}}
		for _, e := range all {
			b.addrs[e.Name] = e.Addr
		}
		err := b.run(ctx)
		b.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// batch is some flows that are probed together: one loop over all their
// sockets.
type batch struct {
	*Prober
	flows  []Flow
	addrs  map[string]netip.Addr
	ends   []end
	resend []func() // by flow; nil when the kernel does it
}

// end is a socket that is waited for.
type end struct {
	file   *os.File
	fd     int
	events int16
	ready  func() (more bool) // false: it is done with
}

const firstSource, sourceCount = 20000, 40000

func (b *batch) close() {
	for _, e := range b.ends {
		if e.file != nil {
			e.file.Close()
		}
	}
}

// socket opens one in an endpoint.
func (b *batch) socket(ctx context.Context, endpoint string, typ, proto int) (*os.File, int, error) {
	f, err := b.client.Socket(ctx, endpoint, unix.AF_INET, typ, proto)
	if err != nil {
		return nil, 0, err
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s: socket: %w", endpoint, err)
	}
	return f, fd, nil
}

// wait adds a socket and returns its place.
func (b *batch) wait(e end) int {
	b.ends = append(b.ends, e)
	return len(b.ends) - 1
}

func (b *batch) run(ctx context.Context) error {
	if err := b.receivers(ctx); err != nil {
		return err
	}
	senders := map[string]func(i int) error{} // of ICMP, by endpoint
	b.resend = make([]func(), len(b.flows))
	// What should be dropped goes first, so that it has the most time.
	order := make([]int, len(b.flows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch x, y := b.flows[i].Expected, b.flows[j].Expected; {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
	for _, i := range order {
		f := b.flows[i]
		var err error
		switch f.Protocol {
		case lab.ICMP:
			send := senders[f.From]
			if send == nil {
				if send, err = b.pinger(ctx, f.From); err != nil {
					return err
				}
				senders[f.From] = send
			}
			err = send(i)
		case lab.UDP:
			err = b.datagram(ctx, i)
		default:
			err = b.connect(ctx, i)
		}
		if err != nil {
			return err
		}
		// Answers may not pile up behind the sending.
		if err := b.poll(0); err != nil {
			return err
		}
	}
	return b.loop(ctx)
}

// loop waits for answers until nothing more is to be expected.
func (b *batch) loop(ctx context.Context) error {
	sent := time.Now()
	next := sent.Add(again)
	for {
		if err := b.poll(10 * time.Millisecond); err != nil {
			return err
		}
		now := time.Now()
		if !slices.ContainsFunc(b.flows, func(f Flow) bool { return !f.Actual }) {
			return nil
		}
		missing := slices.ContainsFunc(b.flows, func(f Flow) bool { return f.Expected && !f.Actual })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !missing && now.Sub(sent) >= b.times.Quiet, now.Sub(sent) >= b.times.Patience:
			return nil
		case now.After(next):
			next = now.Add(again)
			for i, send := range b.resend {
				if send != nil && !b.flows[i].Actual {
					send()
				}
			}
		}
	}
}

// poll calls those whose sockets have something.
func (b *batch) poll(wait time.Duration) error {
	fds := make([]unix.PollFd, len(b.ends))
	for i, e := range b.ends {
		fds[i] = unix.PollFd{Fd: int32(e.fd), Events: e.events}
	}
	n, err := unix.Poll(fds, int(wait.Milliseconds()))
	if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	for i, p := range fds {
		if p.Revents != 0 && !b.ends[i].ready() {
			b.ends[i].fd = -1 // poll(2) ignores it
		}
	}
	return nil
}

// receivers are sockets behind all ports that flows go to.
func (b *batch) receivers(ctx context.Context) error {
	type place struct {
		endpoint string
		port     Port
	}
	there := map[place]bool{}
	for _, f := range b.flows {
		p := place{f.To, f.Port}
		if there[p] || f.Protocol == lab.ICMP { // which the kernel answers
			continue
		}
		there[p] = true
		typ := unix.SOCK_STREAM
		if f.Protocol == lab.UDP {
			typ = unix.SOCK_DGRAM
		}
		file, fd, err := b.socket(ctx, f.To, typ, 0)
		if err != nil {
			return err
		}
		e := end{file: file, fd: -1}
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: f.Port.Port})
		switch {
		case errors.Is(err, unix.EADDRINUSE) && f.Protocol == lab.TCP:
			// Its owner's handshake is as good.
		case errors.Is(err, unix.EADDRINUSE):
			file.Close()
			return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: udp port %d is in use there", f.To, f.Port.Port), Cure: "choose others with --port"}
		case err != nil:
			file.Close()
			return fmt.Errorf("%s: bind %s: %w", f.To, f.Port, err)
		case f.Protocol == lab.TCP:
			// The kernel completes handshakes; nobody need accept them.
			if err := unix.Listen(fd, atOnce); err != nil {
				file.Close()
				return fmt.Errorf("%s: listen on %s: %w", f.To, f.Port, err)
			}
		default:
			e.fd, e.events = fd, unix.POLLIN
			e.ready = func() bool {
				buf := make([]byte, 64)
				for {
					n, from, err := unix.Recvfrom(fd, buf, 0)
					if err != nil {
						return true // nothing more, or an ICMP error about an echo
					}
					_ = unix.Sendto(fd, buf[:n], 0, from) // what is lost is sent anew
				}
			}
		}
		b.wait(e)
	}
	return nil
}

// bind gives a sender's socket a port that no earlier flow had.
func (p *Prober) bind(fd int) error {
	for {
		p.source++
		port := firstSource + int(p.source%sourceCount)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
}

func (b *batch) to(i int) *unix.SockaddrInet4 {
	f := b.flows[i]
	return &unix.SockaddrInet4{Addr: b.addrs[f.To].As4(), Port: f.Port.Port}
}

// connect begins a TCP connection.
func (b *batch) connect(ctx context.Context, i int) error {
	file, fd, err := b.socket(ctx, b.flows[i].From, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	e := b.wait(end{file, -1, unix.POLLOUT, func() bool {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		// A refusal has come from the receiver, too.
		b.flows[i].Actual = err == nil && (code == 0 || syscall.Errno(code) == unix.ECONNREFUSED)
		return false
	}})
	if err := b.bind(fd); err != nil {
		return fmt.Errorf("%s: bind: %w", b.flows[i].From, err)
	}
	switch err := unix.Connect(fd, b.to(i)); {
	case err == nil, errors.Is(err, unix.EINPROGRESS):
		b.ends[e].fd = fd
	case !unreachable(err):
		return fmt.Errorf("%s: connect to %s: %w", b.flows[i].From, b.flows[i].To, err)
	}
	return nil
}

// unreachable says of an error that the kernel knows no way: the flow does not
// pass.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}

// datagram sends one, which is sent back.
func (b *batch) datagram(ctx context.Context, i int) error {
	file, fd, err := b.socket(ctx, b.flows[i].From, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	b.wait(end{file, fd, unix.POLLIN, func() bool {
		_, _, err := unix.Recvfrom(fd, make([]byte, 64), 0)
		b.flows[i].Actual = err == nil
		return err != nil
	}})
	if err := b.bind(fd); err != nil {
		return fmt.Errorf("%s: bind: %w", b.flows[i].From, err)
	}
	if err := unix.Connect(fd, b.to(i)); err != nil {
		if unreachable(err) {
			return nil
		}
		return fmt.Errorf("%s: connect to %s: %w", b.flows[i].From, b.flows[i].To, err)
	}
	send := func() { _, _ = unix.Write(fd, []byte("labctl policy")) } // what is lost is sent anew
	b.resend[i] = send
	send()
	return nil
}

// pinger returns what sends an echo request of a flow from an endpoint.
func (b *batch) pinger(ctx context.Context, endpoint string) (func(i int) error, error) {
	file, fd, err := b.socket(ctx, endpoint, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, err
	}
	b.id++
	id := b.id
	b.wait(end{file, fd, unix.POLLIN, func() bool {
		buf := make([]byte, 256)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return true
			}
			b.echoed(endpoint, id, buf[:n])
		}
	}})
	return func(i int) error {
		msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Seq: i, Data: []byte("labctl policy")}}
		packet, err := msg.Marshal(nil)
		if err != nil {
			return err
		}
		send := func() { _ = unix.Sendto(fd, packet, 0, b.to(i)) } // what is lost is sent anew
		b.resend[i] = send
		send()
		return nil
	}, nil
}

// echoed notes an echo reply, an IPv4 packet as a raw socket has it.
func (b *batch) echoed(endpoint string, id uint16, p []byte) {
	if len(p) < 20 {
		return
	}
	header := int(p[0]&0xf) * 4
	if header < 20 || len(p) < header+8 {
		return
	}
	m := p[header:]
	if m[0] != byte(ipv4.ICMPTypeEchoReply) || binary.BigEndian.Uint16(m[4:]) != id {
		return
	}
	if i := int(binary.BigEndian.Uint16(m[6:])); i < len(b.flows) && b.flows[i].From == endpoint && b.flows[i].Protocol == lab.ICMP {
		b.flows[i].Actual = true
	}
}
