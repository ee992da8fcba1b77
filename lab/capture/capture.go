package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"labctl/lab/packet"
)

// Direction is what a packet was for the interface that saw it (packet(7),
// sll_pkttype).
type Direction uint8

const (
	In        Direction = unix.PACKET_HOST
	Broadcast Direction = unix.PACKET_BROADCAST
	Multicast Direction = unix.PACKET_MULTICAST
	OtherHost Direction = unix.PACKET_OTHERHOST // in, for another MAC: on a bridge's ports
	Out       Direction = unix.PACKET_OUTGOING
)

// String is tcpdump's word: In, Out, B, M, P.
func (d Direction) String() string {
	switch d {
	case In:
		return "In"
	case Broadcast:
		return "B"
	case Multicast:
		return "M"
	case OtherHost:
		return "P"
	case Out:
		return "Out"
	}
	return "?"
}

// Packet is what one interface saw.
type Packet struct {
	Time      time.Time // the kernel's; one clock for all namespaces
	Interface int       // index into the Capture's Interfaces
	Direction Direction
	Data      []byte // from the Ethernet header on; from the IP header on devices that have none
	Len       int    // on the wire
	Comment   string // for the file
}

// Stats is what an interface's socket counted.
type Stats struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Drops   uint64 `json:"drops"` // the kernel's: the ring was full
}

// Options of a capture. The zero value captures everything.
type Options struct {
	// Filter is classic BPF for each link type; nil lets everything pass.
	Filter map[packet.LinkType][]unix.SockFilter
	// Memory is for all rings together, 0 for a default of 128 MB.
	Memory int
}

// Window is how long packets are held back, to be sorted by time.
const Window = 50 * time.Millisecond

// Capture reads several interfaces. One goroutine may call Run and Stats;
// Close comes after.
type Capture struct {
	Interfaces []Interface

	rings   []*ring
	started time.Time
	held    []Packet
}

// Open begins to capture: what is sent from now on is seen.
func Open(ctx context.Context, s Sockets, interfaces []Interface, o Options) (*Capture, error) {
	if len(interfaces) == 0 {
		return nil, errors.New("capture: no interface")
	}
	memory := o.Memory
	if memory == 0 {
		memory = 128 << 20
	}
	each := min(memory/len(interfaces), 16<<20)
	c := &Capture{Interfaces: slices.Clone(interfaces), rings: make([]*ring, len(interfaces))}
	// At once, because the kernel takes as long to set up a ring as to close one.
	g, ctx := errgroup.WithContext(ctx)
	for n, i := range interfaces {
		g.Go(func() (err error) {
			c.rings[n], err = open(ctx, s, i, o.Filter[i.Link], each)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.started = time.Now()
	return c, nil
}

func open(ctx context.Context, s Sockets, i Interface, filter []unix.SockFilter, size int) (*ring, error) {
	typ := unix.SOCK_RAW
	if i.Link == packet.LinkRaw {
		typ = unix.SOCK_DGRAM // from the IP header on, whatever the device puts before it
	}
	f, err := s.Socket(ctx, i.Endpoint, unix.AF_PACKET, typ, 0)
	if err != nil {
		return nil, err
	}
	r, err := openRing(f, i, filter, size)
	if err != nil {
		return nil, fmt.Errorf("%s: capture: %w", i, err)
	}
	return r, nil
}

// Close closes the sockets, all at once: each waits until no processor uses it
// any more (synchronize_net), and they wait together.
func (c *Capture) Close() error {
	errs := make([]error, len(c.rings))
	var wg sync.WaitGroup
	for i, r := range c.rings {
		if r != nil {
			wg.Go(func() { errs[i] = r.Close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stats tells what each interface's socket counted so far, in the order of
// Interfaces.
func (c *Capture) Stats() []Stats {
	stats := make([]Stats, len(c.rings))
	for i, r := range c.rings {
		if r.fd >= 0 {
			r.count()
		}
		stats[i] = r.stats
	}
	return stats
}

// Started is when the capture began.
func (c *Capture) Started() time.Time { return c.started }

// ErrStop ends Run without an error.
var ErrStop = errors.New("enough")

// Run gives packets to f, in the order of time, as they come, until ctx ends or
// f returns an error. What was captured before ctx ended is given out still. An
// empty batch tells that nothing came for a while. The batch is f's to keep.
func (c *Capture) Run(ctx context.Context, f func([]Packet) error) error {
	w, err := newWaiter(c.rings)
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, w.wake)()
	var end time.Time // of the capture, once ctx has ended
	for {
		// Taken before the rings are read: what is older than Window is all there.
		now := time.Now()
		for i, r := range c.rings {
			c.held = r.drain(c.held, i)
		}
		if end.IsZero() && ctx.Err() != nil {
			end = now
		}
		over := !end.IsZero() && now.Sub(end) > Window
		ready := c.ready(now.Add(-Window), end)
		if err := f(ready); errors.Is(err, ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
		if over {
			return nil
		}
		if err := w.wait(c.pause(!end.IsZero())); err != nil {
			return err
		}
	}
}

// pause is how long to wait for packets: no longer than for those that are held.
func (c *Capture) pause(ending bool) time.Duration {
	if ending || len(c.held) > 0 {
		return Window / 5
	}
	return time.Second
}

// ready takes those that no later one can come before, and leaves out what came
// after the end.
func (c *Capture) ready(until, end time.Time) []Packet {
	slices.SortStableFunc(c.held, c.compare)
	n, _ := slices.BinarySearchFunc(c.held, until, func(p Packet, t time.Time) int { return p.Time.Compare(t) })
	ready := c.held[:n:n]
	c.held = c.held[n:]
	if !end.IsZero() {
		ready = slices.DeleteFunc(ready, func(p Packet) bool { return p.Time.After(end) })
	}
	return ready
}

// compare orders by time. Where something on the machine asks for timestamps,
// the kernel stamps a packet when it arrives, once for all interfaces that it
// then passes on its way up: first the one where it still is in its tunnel, and
// a bridge's port before the bridge.
func (c *Capture) compare(a, b Packet) int {
	port := func(p Packet) int {
		if c.Interfaces[p.Interface].Master != 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(b.Len, a.Len), cmp.Compare(port(a), port(b)))
}
