package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"labctl/lab"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// hangUpGrace is how long a process whose command went away has after SIGHUP.
const hangUpGrace = time.Second

// exec runs a command's process in an endpoint.
func (s *Supervisor) exec(ctx context.Context, c *rpc.Conn, r lab.ExecRequest, files []*os.File) {
	refuse := func(code int, err error) {
		_ = c.Send(lab.Response{Exit: &lab.Exit{Code: code, Error: err.Error()}}) // the caller may be gone
	}
	e, err := s.endpoint(r.Endpoint)
	if err != nil {
		resp := lab.Response{Error: err.Error()}
		if f, ok := errors.AsType[*lab.Failure](err); ok {
			resp.Kind, resp.Cure = f.Kind, f.Cure
		}
		_ = c.Send(resp)
		return
	}
	want := 3
	if r.TTY {
		want = 1
	}
	if len(files) != want || len(r.Argv) == 0 {
		refuse(125, fmt.Errorf("exec: %d files and %d arguments", len(files), len(r.Argv)))
		return
	}
	path, code := "", 125
	look := func() (err error) {
		path, code, err = lookPath(r.Argv[0], r.Dir, r.Env)
		return err
	}
	view := s.view(e)
	if view != nil {
		err = view.Do(look)
	} else {
		err = look()
	}
	if err != nil {
		refuse(code, err)
		return
	}
	cmd := nodes.Command{Path: path, Args: r.Argv, Dir: r.Dir, View: view,
		Env: append(r.Env, "LABCTL_LAB="+s.dir.Name(), "LABCTL_ENDPOINT="+e.name, "LABCTL="+ownProgram())}
	if r.TTY {
		cmd.TTY = files[0]
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	}
	p, err := nodes.Start(e.ns, cmd)
	if err != nil {
		code := 126
		if errors.Is(err, fs.ErrNotExist) {
			code = 127
		}
		refuse(code, err)
		return
	}
	// The process has its own copies: a pipe must end when the process does.
	for _, f := range files {
		f.Close()
	}
	pid, err := s.hostPid(p.Pid())
	if err != nil {
		pid = p.Pid()
	}
	_ = c.Send(lab.Response{Started: &lab.Started{Pid: pid}})
	ended := make(chan struct{})
	go s.obey(ctx, c, p, ended)
	state, err := p.Wait()
	close(ended)
	exit := &lab.Exit{}
	if ws, ok := state.Sys().(syscall.WaitStatus); err == nil && ok {
		exit.Code = ws.ExitStatus()
		if ws.Signaled() {
			exit.Signal = int(ws.Signal())
			exit.Code = 128 + exit.Signal
		}
	} else {
		exit.Code, exit.Error = 125, fmt.Sprint(err)
	}
	_ = c.Send(lab.Response{Exit: exit})
}

// obey passes on signals, and ends the process when its command goes away.
func (s *Supervisor) obey(ctx context.Context, c *rpc.Conn, p *nodes.Process, ended <-chan struct{}) {
	for {
		var sig lab.Signal
		if _, err := c.Receive(&sig); err != nil {
			break
		}
		_ = p.SignalGroup(syscall.Signal(sig.Signal)) // ended: Exit is on its way
		_ = c.Send(lab.Response{Passed: true})        // the caller may be gone
	}
	_ = p.SignalGroup(syscall.SIGHUP)
	t := time.NewTimer(hangUpGrace)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
		p.Kill()
	case <-ctx.Done():
		p.Kill()
	}
}

// lookPath finds a program as execvp(3) would in the command's directory and
// environment. The code is the shell's: 127 not found, 126 not executable.
func lookPath(name, dir string, env []string) (path string, code int, err error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		list := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, e := range env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				list = v
			}
		}
		for _, d := range filepath.SplitList(list) {
			candidates = append(candidates, filepath.Join(d, name))
		}
	}
	code, err = 127, fmt.Errorf("%s: not found", name)
	for _, p := range candidates {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		_, e := exec.LookPath(p)
		if e == nil {
			return p, 0, nil
		}
		if _, serr := os.Stat(p); serr == nil {
			code, err = 126, fmt.Errorf("%s: not executable", p)
		}
	}
	return "", code, err
}
