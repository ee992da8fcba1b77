package nodes

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is what Start runs.
type Command struct {
	Path string   // the program; it is not searched for
	Args []string // argv, with argv[0]
	Env  []string
	Dir  string
	// Stdin, Stdout and Stderr are /dev/null when nil. ExtraFiles become
	// descriptors 3, 4 ... All of them stay the caller's to close.
	Stdin, Stdout, Stderr *os.File
	ExtraFiles            []*os.File
	// TTY is the slave of a pseudo terminal: it becomes standard input, output
	// and error and the controlling terminal of a new session.
	TTY *os.File
	// View is the files that the process sees; nil for the caller's. It is one
	// of the namespace that the process is started in.
	View *View
	// Setsid starts a new session; without it the process leads a process
	// group of its own in the caller's session.
	Setsid bool
}

// Process is a running child. Its methods are safe for concurrent use, but
// only one goroutine, its owner, calls Wait.
type Process struct {
	p *os.Process

	mu   sync.Mutex // guards gone
	gone bool       // reaped: the number may be somebody else's
}

// Start runs c inside ns. The child is forked from a thread that is there, so
// it is in the namespace from its first instruction on.
func Start(ns *Namespace, c Command) (*Process, error) {
	files := []*os.File{c.Stdin, c.Stdout, c.Stderr}
	attr := &syscall.SysProcAttr{Setsid: c.Setsid, Setpgid: !c.Setsid}
	if c.TTY != nil {
		files = []*os.File{c.TTY, c.TTY, c.TTY}
		attr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	}
	var null *os.File
	for i := range files {
		if files[i] != nil {
			continue
		}
		if null == nil {
			var err error
			if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", ns.name, c.Path, err)
			}
			defer null.Close()
		}
		files[i] = null
	}
	var p *os.Process
	in := ns.Do
	if c.View != nil {
		in = c.View.Do
	}
	err := in(func() (err error) {
		p, err = os.StartProcess(c.Path, c.Args, &os.ProcAttr{
			Dir: c.Dir, Env: c.Env, Files: append(files, c.ExtraFiles...), Sys: attr,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ns.name, err)
	}
	return &Process{p: p}, nil
}

// Pid is the process' number, and that of its process group.
func (p *Process) Pid() int { return p.p.Pid }

// Wait waits for the process to end and reaps it. It is called once.
func (p *Process) Wait() (*os.ProcessState, error) {
	p.awaitEnd()
	return p.reap()
}

// WaitGroup is Wait for a program that may leave others behind: what is left
// of the process group when the process ends is killed.
func (p *Process) WaitGroup() (*os.ProcessState, error) {
	p.awaitEnd()
	p.Kill()
	return p.reap()
}

// awaitEnd waits for the end of the process and leaves it as a zombie: until it
// is reaped its number, which signals go to, cannot be another's.
func (p *Process) awaitEnd() {
	for unix.Waitid(unix.P_PID, p.p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	} // another error is reap's to tell
}

// reap gives back the number of a process that has ended; nobody signals it
// meanwhile.
func (p *Process) reap() (*os.ProcessState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st, err := p.p.Wait()
	p.gone = true
	return st, err
}

// Kill kills the whole process group. After Wait has returned it does nothing.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		unix.Kill(-p.p.Pid, unix.SIGKILL)
	}
}

// SignalGroup sends a signal to the whole process group. After Wait has
// returned it is os.ErrProcessDone.
func (p *Process) SignalGroup(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return os.ErrProcessDone
	}
	return unix.Kill(-p.p.Pid, s)
}
