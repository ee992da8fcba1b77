package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"labctl/lab"
)

// Cmd is a program to be run inside an endpoint, as exec.Cmd is one to be run
// here. It runs once.
type Cmd struct {
	Argv           []string
	Env            []string  // default: the test's
	Dir            string    // default: the test's
	Stdin          io.Reader // nil for /dev/null
	Stdout, Stderr io.Writer // nil for /dev/null

	ctx      context.Context
	endpoint *Endpoint
}

// Command prepares a program. When ctx ends before it does, it is hung up and
// then killed.
func (e *Endpoint) Command(ctx context.Context, argv ...string) *Cmd {
	return &Cmd{Argv: argv, ctx: ctx, endpoint: e}
}

// ExitError is the end of a program with another status than 0.
type ExitError struct {
	Code   int    // 126, 127: it could not be started
	Signal int    // what ended it, or 0
	Why    string // it could not be started
}

func (e *ExitError) Error() string {
	switch {
	case e.Why != "":
		return e.Why
	case e.Signal != 0:
		return fmt.Sprintf("ended by signal %d", e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Output runs the program and returns what it wrote to its standard output.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("labtest: Stdout already set")
	}
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// Run runs the program to its end. The error is an *ExitError when it ended
// with another status than 0.
func (c *Cmd) Run() error {
	var p pipes
	defer p.close()
	files, err := p.files(c.Stdin, c.Stdout, c.Stderr)
	if err != nil {
		return err
	}
	r := lab.ExecRequest{Endpoint: c.endpoint.name, Argv: c.Argv, Env: c.Env, Dir: c.Dir}
	if r.Env == nil {
		r.Env = os.Environ()
	}
	if r.Dir == "" {
		if r.Dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	exit, err := c.endpoint.lab.client.Exec(c.ctx, r, nil, files...)
	err = errors.Join(err, p.drain())
	switch {
	case err != nil:
		return err
	case exit.Code != 0 || exit.Signal != 0 || exit.Error != "":
		return &ExitError{exit.Code, exit.Signal, exit.Error}
	}
	return nil
}

// pipes connect readers and writers with the files that a process has.
type pipes struct {
	theirs []*os.File // the process's ends
	input  *os.File   // our end of its standard input
	copies sync.WaitGroup
	mu     sync.Mutex
	err    error
}

// files are a process's standard input, output and error.
func (p *pipes) files(in io.Reader, out, errs io.Writer) ([]*os.File, error) {
	if err := p.reader(in); err != nil {
		return nil, err
	}
	for _, w := range []io.Writer{out, errs} {
		if err := p.writer(w); err != nil {
			return nil, err
		}
	}
	return p.theirs, nil
}

func (p *pipes) null(flag int) error {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		p.theirs = append(p.theirs, f)
	}
	return err
}

func (p *pipes) reader(in io.Reader) error {
	if in == nil {
		return p.null(os.O_RDONLY)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.theirs, p.input = append(p.theirs, r), w
	// Not waited for: in may never end, and the process not want all of it.
	go func() {
		_, _ = io.Copy(w, in) // the process is free not to read it
		w.Close()
	}()
	return nil
}

func (p *pipes) writer(out io.Writer) error {
	if out == nil {
		return p.null(os.O_WRONLY)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.theirs = append(p.theirs, w)
	p.copies.Go(func() {
		defer r.Close()
		if _, err := io.Copy(out, r); err != nil {
			p.mu.Lock()
			p.err = errors.Join(p.err, err)
			p.mu.Unlock()
		}
	})
	return nil
}

// drain waits until all that the process wrote has been read.
func (p *pipes) drain() error {
	p.close()
	p.copies.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *pipes) close() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
	if p.input != nil {
		p.input.Close()
	}
}
