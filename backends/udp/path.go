package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"labctl/backends"
)

// path carries packets. Each direction has a thread of its own; what they
// share is the table, which is replaced and never changed.
type path struct {
	log    *slog.Logger
	config Config

	tun    *tun
	socket int
	router *router
	wakeUp int // eventfd, readable once the path is to stop
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

// Run carries packets until ctx ends.
func (p *path) Run(ctx context.Context) error {
	defer p.close()
	defer context.AfterFunc(ctx, p.stop)()
	// While no processor of the Go scheduler's is idle, it takes the ones of
	// threads that wait in a system call away after 20 us, and starts further
	// threads that look for work. With two to spare it does not.
	if n := runtime.NumCPU() + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, thread := range []func() error{newSender(p).run, newReceiver(p).run} {
		wg.Go(func() {
			// Locked, the goroutine is its thread: no other ever waits for it
			// in a queue of the Go scheduler's.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs[i] = thread()
			p.stop()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stop wakes both threads.
func (p *path) stop() {
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
