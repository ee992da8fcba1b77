package bgp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// BirdProgram is the program that NewBird runs.
const BirdProgram = "bird"

// ErrNoBird is of a machine without bird.
var ErrNoBird = errors.New("bird: not found on this machine; install the package bird2, or use speaker: gobgp")

// FindBird is the path of bird. Debian puts it where only root's PATH leads.
func FindBird() (string, error) {
	if path, err := exec.LookPath(BirdProgram); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, BirdProgram)); err == nil {
			return path, nil
		}
	}
	return "", ErrNoBird
}

// Files in bird's directory.
const (
	birdConf   = "bird.conf"
	birdSocket = "bird.ctl"
)

// Bird is a speaker beside this process: bird 2 (bird.network.cz). It ends with
// this process, and is started again when it ends by itself.
type Bird struct {
	program   string
	dir       string
	log       *slog.Logger
	restarted bool
	changed   chan struct{}
	stop      context.CancelFunc
	done      sync.WaitGroup
	running   chan struct{} // closed by the first Set: there is a configuration

	setting sync.Mutex // held by Set

	mu        sync.Mutex // guards all below
	config    Config
	strangers strangers
	exit      error // why bird does not run; nil while it does
	started   time.Time
}

var _ Speaker = (*Bird)(nil)

// NewBird runs bird with its files in dir. Nothing is started before the first
// Set. restarted says that the kernel still holds what an earlier one wrote.
func NewBird(dir string, log *slog.Logger, restarted bool) (*Bird, error) {
	program, err := FindBird()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &Bird{
		program: program, dir: dir, log: log, restarted: restarted, stop: stop, strangers: strangers{},
		changed: make(chan struct{}, 1), running: make(chan struct{}),
	}
	b.done.Go(func() { b.keep(ctx) })
	return b, nil
}

// Name is bird.
func (*Bird) Name() string { return "bird" }

// WritesKernel is true.
func (*Bird) WritesKernel() bool { return true }

// Changed receives when bird logs something, and twice a second: bird tells
// nobody of changes by itself.
func (b *Bird) Changed() <-chan struct{} { return b.changed }

// poll is how often a View may differ without bird having said a word.
const poll = 500 * time.Millisecond

// keep runs bird until ctx ends.
func (b *Bird) keep(ctx context.Context) {
	select {
	case <-b.running:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	const least, most = 100 * time.Millisecond, 2 * time.Second
	backoff := least
	for {
		began := time.Now()
		exited := make(chan error, 1)
		go func() { exited <- b.run(ctx) }()
		for over := false; !over; {
			select {
			case <-tick.C:
				notify(b.changed)
			case err := <-exited:
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					err = errors.New("it ended")
				}
				b.log.Warn("bird", "err", err)
				b.mu.Lock()
				b.exit, b.restarted = err, true
				b.mu.Unlock()
				notify(b.changed)
				over = true
			}
		}
		if time.Since(began) > most {
			backoff = least
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return
		}
		backoff = min(2*backoff, most)
	}
}

// run is one life of bird's. It is killed, not terminated: SIGTERM would tell
// the peers to forget its routes.
func (b *Bird) run(ctx context.Context) error {
	// The kernel sends Pdeathsig when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.mu.Lock()
	args := []string{"-f", "-c", birdConf, "-s", birdSocket}
	if b.restarted {
		args = append(args, "-R")
	}
	b.mu.Unlock()
	cmd := exec.CommandContext(ctx, b.program, args...)
	cmd.Dir = b.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.exit, b.started = nil, time.Now()
	b.mu.Unlock()
	var read sync.WaitGroup
	read.Go(func() { b.read(r) })
	err = cmd.Wait()
	read.Wait()
	return err
}

// birdStranger is what bird says of a connection from nobody's address.
var birdStranger = regexp.MustCompile(`Unexpected connect from unknown address (\S+)`)

// birdNote is a line of bird's log that is passed on.
var birdNote = regexp.MustCompile(`<(WARN|ERR|FATAL|BUG|RMT|AUTH)> (.*)`)

func (b *Bird) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if m := birdStranger.FindStringSubmatch(line); m != nil {
			if a, err := netip.ParseAddr(m[1]); err == nil {
				b.mu.Lock()
				_, known := b.strangers[a]
				b.strangers[a] = time.Now()
				b.mu.Unlock()
				if known {
					continue // it comes every second
				}
			}
		}
		if m := birdNote.FindStringSubmatch(line); m != nil {
			b.log.Warn("bird", "says", m[2])
		}
		notify(b.changed)
	}
	_, _ = io.Copy(io.Discard, r) // after a line that is too long
}

// Set writes bird.conf and has bird read it. bird finds out what changed.
func (b *Bird) Set(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	b.setting.Lock()
	defer b.setting.Unlock()
	file := filepath.Join(b.dir, birdConf)
	f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(birdConfig(c))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	b.mu.Lock()
	first := b.config.ASN == 0
	if first {
		b.started = time.Now()
	}
	c.Peers, c.Originate = slices.Clone(c.Peers), slices.Clone(c.Originate)
	b.config = c
	b.mu.Unlock()
	if first {
		close(b.running)
		return nil // it reads the file when it starts
	}
	if _, err := b.ask(ctx, "configure"); err != nil {
		if e, ok := errors.AsType[*birdError](err); ok {
			return e
		}
		// It does not run, and reads the file when it does.
	}
	notify(b.changed)
	return nil
}

// Close kills bird: its routes stay, in the kernel and with its peers.
func (b *Bird) Close() error {
	b.stop()
	b.done.Wait()
	return nil
}
