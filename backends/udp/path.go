package udp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"labctl/backends"
)

// path carries packets, on a thread of its own. What it shares with others is
// the table, which is replaced and never changed, and the counters.
type path struct {
	log    *slog.Logger
	config Config

	tun    *tun
	socket int
	router *router
	wakeUp int         // eventfd, readable once the path is to stop
	stop   unix.PollFd // to wait for that
	// send is sendMessages, but for tests.
	send func(fd int, msgs []message) (int, error)

	table   atomic.Pointer[table]
	stopped atomic.Bool
	out, in flow

	mu    sync.Mutex // guards the block below
	level level
	why   string
}

// open opens everything that the path needs, in the network namespace of the
// calling thread: later it can be run from any other.
func open(c Config, local netip.Addr, log *slog.Logger) (_ *path, err error) {
	p := &path{log: log, config: c, socket: -1, wakeUp: -1, send: sendMessages}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.socket, err = openSocket(netip.AddrPortFrom(local, uint16(c.Port))); err != nil {
		return nil, err
	}
	if p.wakeUp, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := p.climb(); err != nil {
		return nil, err
	}
	p.stop = unix.PollFd{Fd: int32(p.wakeUp), Events: unix.POLLIN}
	p.router, err = openRouter(c.Port, log)
	return p, err
}

// climb opens flannel0 at the level that the config asks for, or at the highest
// that works here.
func (p *path) climb() error {
	want, fixed := parseLevel(p.config.Level)
	if !fixed {
		want = gso
	}
	p.level = want
	var err error
	if want == gso {
		if err = segmentation(p.socket); err == nil {
			if p.tun, err = openTun(true); err == nil {
				return nil
			}
		}
		if fixed {
			return fmt.Errorf("level %s: %w; leave Backend.Level out for the highest that works here", want, err)
		}
		_ = unix.SetsockoptInt(p.socket, unix.SOL_UDP, unix.UDP_GRO, 0) // it may be the one that there is not
		p.level, p.why = batch, "gso: "+err.Error()
	} else {
		p.why = "Backend.Level is " + want.String()
	}
	p.tun, err = openTun(false)
	return err
}

// fallBack says once that something does not work here after all.
func (p *path) fallBack(why string, err error) {
	p.mu.Lock()
	p.level = batch
	if p.why != "" {
		p.why += "; "
	}
	p.why += fmt.Sprintf("%s: %v", why, err)
	p.mu.Unlock()
	p.log.Warn("udp goes on without "+why, "err", err)
}

// Set replaces the peers.
func (p *path) Set(self backends.Lease, peers []backends.Lease) {
	good, _ := usable(self, peers) // what is wrong with the others is told by Desired
	p.table.Store(newTable(self, good))
}

// Run carries packets until ctx ends, in both directions on one thread.
//
// With a thread for each direction they wake each other all the time: what is
// written to flannel0 goes through the receiving container's TCP before the
// write returns, and its answer is there to be read.
func (p *path) Run(ctx context.Context) error {
	defer p.close()
	defer context.AfterFunc(ctx, p.end)()
	// While no processor of the Go scheduler's is idle, it takes the ones of
	// threads that wait in a system call away after 20 us, and starts further
	// threads that look for work. With two to spare it does not.
	if n := runtime.NumCPU() + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	// Locked, the goroutine is its thread: no other ever waits for it in a
	// queue of the Go scheduler's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return p.carry(newReceiver(p), newSender(p))
}

// stepCalls is how many packets, or messages of many, go one way before the
// other direction has its turn.
const stepCalls = 16

func (p *path) carry(r *receiver, s *sender) error {
	defer s.flush()
	defer r.m.flush()
	patience := patience{none: p.level < gso}
	wait := []unix.PollFd{p.stop, {Fd: int32(p.socket), Events: unix.POLLIN}, {Fd: int32(p.tun.fd), Events: unix.POLLIN}}
	for !p.stopped.Load() {
		in, err := r.step()
		if err != nil {
			return err
		}
		out, err := s.step()
		if err != nil {
			return err
		}
		switch {
		case in || out:
			patience.reset()
		case patience.again():
		default:
			if err := sleep(wait); err != nil {
				return err
			}
			p.in.calls.add(1)
		}
	}
	return nil
}

// end wakes the thread.
func (p *path) end() {
	p.stopped.Store(true)
	one := [8]byte{0: 1, 7: 1} // not 0 in either byte order
	_, _ = unix.Write(p.wakeUp, one[:])
	// On a socket that is not connected this is an error, and wakes who waits.
	_ = unix.Shutdown(p.socket, unix.SHUT_RD)
}

func (p *path) close() {
	if p.tun != nil {
		p.tun.close()
	}
	if p.router != nil {
		p.router.close()
	}
	for _, fd := range []int{p.socket, p.wakeUp} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
