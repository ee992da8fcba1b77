package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"labctl/lab"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// A process that dies is started again after a pause that doubles up to
// maxBackoff, and begins anew once it has lived for steady. The longest pause
// is well below a lease's TTL: a killed agent keeps its subnet.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
	steady     = 10 * time.Second
)

// process is a program that the lab keeps running in an endpoint.
type process struct {
	name string
	ns   *nodes.Namespace
	argv []string // guarded by mu: etcd's changes with the lab
	env  []string
	s    *Supervisor
	// program is what runs when it is not labctl itself: a name in PATH or a
	// path. It has no control stream, sees the files of view, and when it ends
	// all of its process group does.
	program string
	view    *nodes.View
	after   <-chan struct{} // it is first started when this is closed; nil for at once
	// message is called with each line of the control stream, undecoded, from
	// the process's own goroutine.
	message func(c *rpc.Conn) error
	// started and ended are called around each life of the process.
	started func(c *rpc.Conn)
	ended   func()

	mu       sync.Mutex
	pid      int // as commands see it
	state    string
	restarts int
	lastExit string
	held     bool
	release  chan struct{} // closed when held ends
	grace    time.Duration // between SIGTERM and SIGKILL when keep's context ends
	cancel   context.CancelFunc
	done     chan struct{}  // closed when keep has returned
	child    *nodes.Process // nil while it does not run
}

// The states of a process in lab.ProcessStatus.
const (
	running = "running"
	waiting = "waiting"
	stopped = "stopped"
)

// begin keeps the process running until the lab or end ends it.
func (p *process) begin(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	p.set(func() { p.cancel, p.done = cancel, done })
	p.s.wg.Go(func() {
		defer close(done)
		p.keep(ctx)
	})
}

// end ends the process for good: by SIGKILL, or if there is a grace by SIGTERM
// first. It returns when the process is gone, at once if it was never begun.
func (p *process) end(grace time.Duration) {
	p.mu.Lock()
	p.grace = grace
	cancel, done := p.cancel, p.done
	p.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// finish is what the end of the context does to a child; gone is closed when
// it has been waited for.
func (p *process) finish(child *nodes.Process, gone <-chan struct{}) {
	p.mu.Lock()
	grace := p.grace
	p.mu.Unlock()
	if grace > 0 && child.SignalGroup(syscall.SIGTERM) == nil {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-gone:
		case <-t.C:
		}
	}
	child.Kill()
}

// keep starts the process and starts it again whenever it ends, until ctx does.
func (p *process) keep(ctx context.Context) {
	defer p.set(func() { p.state, p.pid = stopped, 0 })
	backoff := minBackoff
	if p.after != nil {
		select {
		case <-p.after:
		case <-ctx.Done():
			return
		}
	}
	for {
		from := time.Now()
		err := p.live(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(from) > steady {
			backoff = minBackoff
		}
		p.set(func() { p.state, p.pid, p.lastExit = waiting, 0, err.Error() })
		p.s.emit(lab.Event{Process: p.name, Message: fmt.Sprintf("ended: %v; starts again in %v", err, backoff)})
		p.s.poke()
		t := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if !p.waitRelease(ctx) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
		p.set(func() { p.restarts++ })
	}
}

// live runs the process once. The error says how it ended.
func (p *process) live(ctx context.Context) error {
	log, err := p.s.dir.OpenLog(p.name)
	if err != nil {
		return err
	}
	defer log.Close()
	if p.program != "" {
		return p.liveAlone(ctx, log)
	}
	conn, theirs, err := rpc.Pair()
	if err != nil {
		return err
	}
	defer conn.Close()
	p.mu.Lock()
	argv := p.argv
	p.mu.Unlock()
	child, err := nodes.Start(p.ns, nodes.Command{
		Path: "/proc/self/exe", Args: argv, Env: p.env, Dir: "/",
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{theirs}, Setsid: true,
	})
	theirs.Close()
	if err != nil {
		return err
	}
	pid, err := p.s.hostPid(child.Pid())
	if err != nil {
		pid = child.Pid()
	}
	p.set(func() { p.state, p.pid, p.child = running, pid, child })
	defer p.set(func() { p.child = nil })
	if p.started != nil {
		p.started(conn)
	}
	gone := make(chan struct{})
	defer close(gone)
	stop := context.AfterFunc(ctx, func() { p.finish(child, gone) })
	defer stop()
	// The stream ends with the process, whose end of it is the only one.
	streamErr := p.message(conn)
	if streamErr != nil {
		child.Kill() // it speaks nonsense
	}
	state, err := child.Wait()
	if p.ended != nil {
		p.ended()
	}
	switch {
	case streamErr != nil:
		return fmt.Errorf("control stream: %w", streamErr)
	case err != nil:
		return err
	case killed(state):
		return errors.New(state.String())
	}
	return fmt.Errorf("%s%s", state, lastLine(p.s.dir.Log(p.name)))
}

// liveAlone is live for a program that is not labctl.
func (p *process) liveAlone(ctx context.Context, log *os.File) error {
	path, _, err := lookPath(p.program, "/", p.env)
	if err != nil {
		return err
	}
	child, err := nodes.Start(p.ns, nodes.Command{
		Path: path, Args: p.argv, Env: p.env, Dir: "/", Stdout: log, Stderr: log, View: p.view, Setsid: true,
	})
	if err != nil {
		return err
	}
	pid, err := p.s.hostPid(child.Pid())
	if err != nil {
		pid = child.Pid()
	}
	p.set(func() { p.state, p.pid, p.child = running, pid, child })
	defer p.set(func() { p.child = nil })
	p.started(nil)
	gone := make(chan struct{})
	defer close(gone)
	stop := context.AfterFunc(ctx, func() { p.finish(child, gone) })
	defer stop()
	state, err := child.WaitGroup()
	p.set(func() { p.state, p.pid = waiting, 0 })
	p.ended()
	if err != nil {
		return err
	}
	if killed(state) {
		return errors.New(state.String())
	}
	const longest = 200 // enough of a program that logs much in a line
	line := []rune(lastLine(p.s.dir.Log(p.name)))
	if len(line) > longest {
		line = append(line[:longest], []rune("...")...)
	}
	return fmt.Errorf("%s%s", state, string(line))
}

// killed says whether somebody ended a process, of which its log does not know.
func killed(state *os.ProcessState) bool {
	ws, ok := state.Sys().(syscall.WaitStatus)
	return ok && (ws.Signal() == syscall.SIGKILL || ws.Signal() == syscall.SIGTERM)
}

func (p *process) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// hold keeps the process from being started again.
func (p *process) hold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on && !p.held {
		p.release = make(chan struct{})
	}
	if !on && p.held {
		close(p.release)
	}
	p.held = on
}

// waitRelease waits while the process is held; false when ctx ended.
func (p *process) waitRelease(ctx context.Context) bool {
	p.mu.Lock()
	held, release := p.held, p.release
	p.mu.Unlock()
	if !held {
		return ctx.Err() == nil
	}
	select {
	case <-release:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *process) status() lab.ProcessStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return lab.ProcessStatus{Name: p.name, Pid: p.pid, State: p.state, Restarts: p.restarts, LastExit: p.lastExit}
}

// lastLine is the end of a process's log, which mostly says why it ended.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(fi.Size(), 2048))
	if _, err := f.ReadAt(b, fi.Size()-int64(len(b))); err != nil {
		return ""
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return ""
	}
	return ": " + string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// parsePidfdInfo reads the number from a pidfd's fdinfo.
func parsePidfdInfo(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return parsePid(v)
		}
	}
	return 0, fmt.Errorf("fdinfo: no Pid line")
}
