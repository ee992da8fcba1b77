package ping

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Probe is one echo request.
type Probe struct {
	To   netip.Addr
	Size int           // bytes after the ICMP header, as ping -s counts; the IP packet is 28 more
	DF   bool          // do not fragment, here or on the way (IP_PMTUDISC_PROBE)
	TTL  int           // 0: the kernel's default
	Wait time.Duration // for the answer
}

// Result is what became of a probe.
type Result struct {
	To   netip.Addr    `json:"to"`
	RTT  time.Duration `json:"-"` // rttMs in JSON
	TTL  int           `json:"ttl,omitempty"`
	Size int           `json:"size"`
	// Lost says why there was no answer: "no answer", or what an ICMP error or
	// the sending kernel said. "" for an answer.
	Lost string `json:"lost,omitempty"`
	// From is who sent the ICMP error.
	From netip.Addr `json:"from,omitzero"`
}

// MarshalJSON gives the round trip in milliseconds, as ping(8) prints it.
func (r Result) MarshalJSON() ([]byte, error) {
	type plain Result
	return json.Marshal(struct {
		plain
		RTTMs float64 `json:"rttMs"`
	}{plain(r), float64(r.RTT.Microseconds()) / 1000})
}

// MaxSize is the payload of the largest IPv4 packet.
const MaxSize = 65535 - 20 - 8

// Pinger sends probes from one raw ICMP socket. It is safe for concurrent use:
// probes may be under way to many hosts at once.
type Pinger struct {
	conn *net.IPConn
	id   uint16

	mu      sync.Mutex // guards all below
	seq     uint16
	waiting map[uint16]chan answer
	closed  error
	df      bool
	ttl     int
}

type answer struct {
	at   time.Time
	ttl  int
	lost string
	from netip.Addr
}

// New takes over a raw ICMP socket (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)).
// f is closed.
func New(f *os.File) (*Pinger, error) {
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("icmp socket: %w", err)
	}
	conn, ok := c.(*net.IPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("icmp socket: is a %T", c)
	}
	p := &Pinger{conn: conn, id: uint16(rand.Uint32()), waiting: map[uint16]chan answer{}}
	// Many answers may come at once (ping --all); and the kernel's time of
	// arrival leaves the scheduler out of the round trip.
	if err := p.control(func(fd int) error {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20))
	}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("icmp socket: %w", err)
	}
	go p.receive()
	return p, nil
}

func (p *Pinger) control(f func(fd int) error) error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// Close ends all probes that are under way.
func (p *Pinger) Close() error { return p.conn.Close() }

// Probe sends one request and waits for what becomes of it. The error is for
// probes that could not be made at all; a lost one is a Result.
func (p *Pinger) Probe(ctx context.Context, pr Probe) (Result, error) {
	r := Result{To: pr.To, Size: pr.Size}
	if pr.Size < 0 || pr.Size > MaxSize {
		return r, fmt.Errorf("size %d: not between 0 and %d", pr.Size, MaxSize)
	}
	if !pr.To.Is4() {
		return r, fmt.Errorf("%s: not an IPv4 address", pr.To)
	}
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.id), Data: pattern(pr.Size)}}
	ch := make(chan answer, 1)

	p.mu.Lock()
	if p.closed != nil {
		defer p.mu.Unlock()
		return r, p.closed
	}
	for p.waiting[p.seq] != nil {
		p.seq++
	}
	seq := p.seq
	p.seq++
	p.waiting[seq] = ch
	msg.Body.(*icmp.Echo).Seq = int(seq)
	b, err := msg.Marshal(nil)
	if err == nil {
		err = p.options(pr)
	}
	var sent time.Time
	if err == nil {
		sent = time.Now()
		_, err = p.conn.WriteToIP(b, &net.IPAddr{IP: pr.To.AsSlice()})
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.waiting, seq)
		p.mu.Unlock()
	}()
	if err != nil {
		if lost := refusal(err); lost != "" {
			r.Lost = lost
			return r, nil
		}
		return r, fmt.Errorf("%s: send: %w", pr.To, err)
	}
	t := time.NewTimer(pr.Wait)
	defer t.Stop()
	select {
	case a, ok := <-ch:
		if !ok {
			return r, net.ErrClosed
		}
		r.Lost, r.TTL, r.From = a.lost, a.ttl, a.from
		r.RTT = max(a.at.Sub(sent), 0)
	case <-t.C:
		r.Lost = "no answer"
	case <-ctx.Done():
		return r, ctx.Err()
	}
	return r, nil
}

// options sets the socket up for a probe. The caller holds mu, so that the
// next write is the probe's.
func (p *Pinger) options(pr Probe) error {
	if pr.DF != p.df {
		v := unix.IP_PMTUDISC_DONT
		if pr.DF {
			v = unix.IP_PMTUDISC_PROBE
		}
		if err := p.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, v) }); err != nil {
			return err
		}
		p.df = pr.DF
	}
	if pr.TTL != p.ttl {
		v := pr.TTL
		if v == 0 {
			v = -1 // the default
		}
		if err := p.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, v) }); err != nil {
			return err
		}
		p.ttl = pr.TTL
	}
	return nil
}

// refusal is what the sending kernel's errors mean for the packet.
func refusal(err error) string {
	switch {
	case errors.Is(err, unix.EMSGSIZE):
		return "message too long for the interface"
	case errors.Is(err, unix.ENETUNREACH):
		return "network is unreachable: no route"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "no route to host"
	case errors.Is(err, unix.EPERM):
		return "dropped by the sender's firewall"
	case errors.Is(err, unix.ENOBUFS):
		return "no buffer space"
	case errors.Is(err, unix.EINVAL):
		return "invalid route"
	}
	return ""
}

// receive hands what arrives to the probe that waits for it.
func (p *Pinger) receive() {
	buf := make([]byte, 65536)
	oob := make([]byte, 256)
	for {
		n, oobn, _, src, err := p.conn.ReadMsgIP(buf, oob)
		now := time.Now()
		if err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if !errors.Is(err, net.ErrClosed) && temporary(err) {
				continue // an error that an earlier packet met on its way
			}
			p.mu.Lock()
			p.closed = net.ErrClosed
			for seq, ch := range p.waiting {
				close(ch)
				delete(p.waiting, seq)
			}
			p.mu.Unlock()
			return
		}
		seq, a, ok := parse(buf[:n], p.id)
		if !ok {
			continue
		}
		a.at = arrival(oob[:oobn], now)
		if a.lost != "" {
			a.from, _ = netip.AddrFromSlice(src.IP.To4())
		}
		p.mu.Lock()
		if ch := p.waiting[seq]; ch != nil {
			ch <- a
			delete(p.waiting, seq)
		}
		p.mu.Unlock()
	}
}

// temporary errors belong to a packet, not to the socket (ip(7), "errors").
func temporary(err error) bool {
	for _, e := range []unix.Errno{unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EMSGSIZE, unix.EPROTO, unix.EACCES, unix.EHOSTDOWN, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// arrival is the kernel's time of receipt, or now.
func arrival(oob []byte, now time.Time) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return now
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			sec := int64(binary.NativeEndian.Uint64(m.Data))
			nsec := int64(binary.NativeEndian.Uint64(m.Data[8:]))
			return time.Unix(sec, nsec)
		}
	}
	return now
}

// pattern is the payload, one that a corrupted or truncated packet would show.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}
