package datapath

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// sender is the way out: from the device to other hosts. It belongs to one
// thread.
type sender struct {
	*Path
	buf    []byte // what one read gives
	b      *batches
	header int // of the wire
	// wait is what the thread sleeps on.
	wait     [2]unix.PollFd
	patience patience
}

func newSender(p *Path) *sender {
	w := p.config.Wire
	return &sender{
		Path: p, buf: make([]byte, vnetLen+maxPacket), header: w.header(),
		b:        newBatches(w.Port, p.level == GSO && w.Segmentation != nil),
		patience: patience{none: p.level < GSO},
		wait:     [2]unix.PollFd{{Fd: int32(p.tun.fd), Events: unix.POLLIN}, {Fd: int32(p.wakeUp), Events: unix.POLLIN}},
	}
}

// run reads for as long as there is something, and sends when there is not,
// or when no more fits.
func (s *sender) run() error {
	for !s.stopped.Load() {
		n, err := rawRead(s.tun.fd, s.buf)
		s.out.calls.add(1)
		switch {
		case err == nil:
			s.patience.reset()
			s.read(s.buf[:n])
			if s.config.Level == Plain.String() {
				s.flush()
			}
		case err == unix.EAGAIN:
			s.flush()
			if s.patience.again() {
				continue
			}
			if err := sleep(s.wait[:]); err != nil {
				return err
			}
			s.out.calls.add(1)
		case err == unix.EINTR:
		case err == unix.EBADFD:
			if err := s.renew(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: read: %w", s.tun.name, err)
		}
	}
	s.flush()
	return nil
}

// renew makes the device again, which somebody deleted. Its address and route
// are the reconciler's work.
func (s *sender) renew() error {
	s.flush()
	first := true
	for !s.stopped.Load() {
		err := s.tun.attach()
		if err == nil {
			s.log.Warn("device was deleted and is made anew", "device", s.tun.name)
			return nil
		}
		if first {
			s.log.Error("device was deleted and cannot be made anew yet", "err", err)
			first = false
		}
		if _, err := unix.Poll(s.wait[1:], int(100*time.Millisecond/time.Millisecond)); err != nil && err != unix.EINTR {
			return err
		}
	}
	return nil
}

// read takes what one read of the device gave.
func (s *sender) read(b []byte) {
	var h vnetHeader
	if s.tun.vnet {
		if len(b) < vnetLen {
			s.out.drop(malformed)
			return
		}
		h = readVnet(b)
		b = b[vnetLen:]
	}
	if r := checkPacket(b); r != accepted {
		s.out.drop(r)
		return
	}
	t := s.table.Load()
	to := t.lookup(destination(b))
	switch {
	case to == 0:
		s.out.drop(noRoute)
		s.router.unreachable(t, b)
		return
	case s.config.Hop && b[8] <= 1:
		s.out.drop(expired)
		s.router.expired(t, b)
		return
	case s.config.Hop:
		decrementTTL(b)
	}
	if h.gso != 0 {
		s.split(to, b, h)
		return
	}
	if h.flags&needsChecksum != 0 && !finish(b, int(h.csumStart), int(h.csumOffset)) {
		s.out.drop(malformed)
		return
	}
	if dst := s.room(to, len(b)); dst != nil {
		copy(dst[s.header:], b)
		s.wrap(dst, to)
	}
}

func (s *sender) split(to addr, b []byte, h vnetHeader) {
	cut, ok := newSplit(b, h)
	if !ok {
		s.out.drop(malformed)
		return
	}
	for n := cut.next(); n > 0; n = cut.next() {
		dst := s.room(to, n)
		if dst == nil {
			return
		}
		cut.put(dst[s.header:])
		s.wrap(dst, to)
	}
}

// room is where to write a packet of n bytes, behind the outer header; nil for
// one that is longer than any wire takes.
func (s *sender) room(to addr, n int) []byte {
	n += s.header
	dst := s.b.room(to, n)
	if dst == nil {
		s.flush()
		dst = s.b.room(to, n)
	}
	if dst == nil {
		s.out.drop(tooBig)
	}
	return dst
}

// wrap writes the outer header, if there is one, of a packet that is there.
func (s *sender) wrap(dst []byte, to addr) {
	if s.header > 0 {
		s.config.Wire.Header.Put(dst[:s.header], to.bytes(), dst[s.header:])
	}
}

// flush sends everything.
func (s *sender) flush() {
	msgs := s.b.messages()
	for done := 0; done < len(msgs); {
		n, err := s.send(s.socket, msgs[done:])
		s.out.calls.add(1)
		if err == unix.EINTR || err == unix.EAGAIN && s.sleepUntilWritable() {
			continue
		}
		if err != nil {
			s.failed(&s.b.parts[done], err)
			n = 1
		} else {
			s.out.batches.add(1)
			for _, p := range s.b.parts[done : done+n] {
				s.sent(p.count, p.end-p.start-p.count*s.header)
			}
		}
		done += n
	}
	s.b.clear()
}

// sleepUntilWritable waits until the socket takes more.
func (s *sender) sleepUntilWritable() bool {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(s.socket), Events: unix.POLLOUT}, s.wait[1]}, -1)
	s.out.calls.add(1)
	return err == nil && !s.stopped.Load() || err == unix.EINTR
}

func (s *sender) sent(packets, bytes int) {
	s.out.packets.add(packets)
	s.out.bytes.add(bytes)
}

// failed deals with a message that the kernel did not take.
func (s *sender) failed(p *part, err error) {
	cut := p.count > 1
	// EIO: the kernel does not cut for this route; before Linux 6.12 because its
	// device computes no checksums. EINVAL says so, too, unless it is that the
	// datagrams are too long.
	refused := cut && (err == unix.EIO || err == unix.EINVAL)
	why := err
	for at := p.start; at < p.end; at += p.size {
		d := s.b.buf[at:min(at+p.size, p.end)]
		if cut {
			err = s.sendOne(p.to, d)
		}
		switch err {
		case nil:
			s.sent(1, len(d)-s.header)
			s.out.batches.add(1)
			continue
		case unix.EMSGSIZE:
			s.tooLong(p.to, d)
		default:
			s.out.drop(sendError)
		}
		refused = false
	}
	if refused && s.b.segment {
		s.b.segment = false
		s.fallBack(s.config.Wire.Name+" segmentation", why)
	}
}

// tooLong sends what is longer than the path to a host takes in one piece: in
// pieces if the packet allows it, which the host puts together again; else its
// sender is told what would fit (RFC 1191).
func (s *sender) tooLong(to addr, d []byte) {
	if pkt := d[s.header:]; pkt[6]&dontFragment != 0 {
		s.out.drop(tooBig)
		s.router.tooBig(s.table.Load(), to, pkt)
		return
	}
	err := s.config.Wire.Fragment(s.socket, netip.AddrFrom4(to.bytes()), d)
	s.out.calls.add(3) // two of them change the socket and change it back
	if err != nil {
		s.out.drop(sendError)
		return
	}
	s.sent(1, len(d)-s.header)
	s.out.batches.add(1)
}

func (s *sender) sendOne(to addr, d []byte) error {
	for {
		err := unix.Sendto(s.socket, d, 0, &unix.SockaddrInet4{Port: s.config.Wire.Port, Addr: to.bytes()})
		s.out.calls.add(1)
		if err != unix.EINTR {
			return err
		}
	}
}
