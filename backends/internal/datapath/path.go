package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Path carries packets. Each direction has a thread of its own; what they
// share is the table, which is replaced and never changed. Its methods may be
// called from any goroutine.
type Path struct {
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
	level Level
	why   string
}

// Open opens everything that the path needs, in the network namespace of the
// calling thread: later it can be run from any other. It knows no peers.
func Open(c Config, self Self, log *slog.Logger) (_ *Path, err error) {
	p := &Path{log: log, config: c, socket: -1, wakeUp: -1, send: sendMessages}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.socket, err = c.Wire.Open(); err != nil {
		return nil, err
	}
	enlarge(p.socket)
	if p.wakeUp, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := p.climb(); err != nil {
		return nil, err
	}
	if p.router, err = openRouter(c.Wire, log); err != nil {
		return nil, err
	}
	p.Set(self, nil)
	return p, nil
}

// socketBuffer is room for what arrives while the receiving thread is busy:
// many times the default, which is less than three messages of 64 KiB.
const socketBuffer = 4 << 20

// enlarge gives a socket its buffers.
func enlarge(fd int) {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			// As much as an ordinary user is allowed; the kernel cuts it without a word.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// climb opens the device at the level that the config asks for, or at the
// highest that works here.
func (p *Path) climb() error {
	want, fixed := ParseLevel(p.config.Level)
	if !fixed {
		want = GSO
	}
	p.level = want
	var err error
	if want == GSO {
		if err = p.segmentation(); err == nil {
			if p.tun, err = openTun(p.config.Device, true); err == nil {
				return nil
			}
		}
		if fixed {
			return fmt.Errorf("level %s: %w; leave Backend.Level out for the highest that works here", want, err)
		}
		if p.config.Wire.Segmentation != nil {
			_ = unix.SetsockoptInt(p.socket, unix.SOL_UDP, unix.UDP_GRO, 0) // it may be the one that there is not
		}
		p.level, p.why = Batch, "gso: "+err.Error()
	} else {
		p.why = "Backend.Level is " + want.String()
	}
	p.tun, err = openTun(p.config.Device, false)
	return err
}

func (p *Path) segmentation() error {
	if p.config.Wire.Segmentation == nil {
		return nil
	}
	return p.config.Wire.Segmentation(p.socket)
}

// fallBack says once that something does not work here after all.
func (p *Path) fallBack(why string, err error) {
	p.mu.Lock()
	p.level = Batch
	if p.why != "" {
		p.why += "; "
	}
	p.why += fmt.Sprintf("%s: %v", why, err)
	p.mu.Unlock()
	p.log.Warn(p.config.Wire.Name+" goes on without "+why, "err", err)
}

// RefuseSegments makes the path one whose kernel does not cut messages, as
// before Linux 6.12 where the device computes no checksums. It is for tests,
// before Run.
func (p *Path) RefuseSegments(err error) {
	p.send = func(fd int, msgs []message) (int, error) {
		for i := range msgs {
			if msgs[i].Controllen > 0 && i == 0 {
				return 0, err
			}
			if msgs[i].Controllen > 0 {
				return sendMessages(fd, msgs[:i])
			}
		}
		return sendMessages(fd, msgs)
	}
}

// Set replaces the peers that packets are carried to and taken from. It never
// waits for the traffic, nor does the traffic wait for it.
func (p *Path) Set(self Self, peers []Peer) { p.table.Store(newTable(self, peers)) }

// Run carries packets until ctx ends, which is no error. It runs once, and
// closes what Open opened.
func (p *Path) Run(ctx context.Context) error {
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
func (p *Path) stop() {
	p.stopped.Store(true)
	one := [8]byte{0: 1, 7: 1} // not 0 in either byte order
	_, _ = unix.Write(p.wakeUp, one[:])
	// On a socket that is not connected this is an error, and wakes who waits.
	_ = unix.Shutdown(p.socket, unix.SHUT_RD)
}

func (p *Path) close() {
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
