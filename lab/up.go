package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// UpOptions are what Up needs beside the plan.
type UpOptions struct {
	Plan *Plan
	Spec []byte    // the lab file, kept in the run directory
	From time.Time // when the command started; timings count from here
	// OnEvent is called with each event while the lab is built.
	OnEvent func(Event)
	// BeforeRemoval is called when the build failed, before what was made is
	// removed: its logs are there still, and perhaps its supervisor. It may be nil.
	BeforeRemoval func(d Dir, why error)
}

// killTimeout is how long the end of all processes of a lab may take.
const killTimeout = 10 * time.Second

// Up builds the lab and waits until it is ready, a packet verified. When the
// same lab runs already it waits for that one and reports unchanged. When ctx
// ends or the build fails, everything made is removed before Up returns.
func Up(ctx context.Context, o UpOptions) (st *Status, unchanged bool, err error) {
	d, err := DirOf(o.Plan.Name)
	if err != nil {
		return nil, false, err
	}
	for {
		lock, err := d.Lock()
		if errors.Is(err, errLocked) {
			// Another command builds or removes it. Wait for either result.
			if rec, err := ReadRecord(d); err == nil && rec.Alive() {
				st, err := attach(ctx, d, o)
				return st, err == nil, attachFailure(ctx, d, err)
			}
			if err := pause(ctx, d); err != nil {
				return nil, false, err
			}
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", d, err)
		}
		if rec, err := ReadRecord(d); err == nil && rec.Alive() {
			lock.Close()
			st, err := attach(ctx, d, o)
			if errors.Is(err, ErrSupervisorGone) && ctx.Err() == nil && rec.awaitEnd(ctx) {
				continue // it was dying: then it is made anew
			}
			return st, err == nil, attachFailure(ctx, d, err)
		}
		st, err = build(ctx, d, o, lock)
		lock.Close()
		return st, false, err
	}
}

// pause waits a moment for another command.
func pause(ctx context.Context, d Dir) error {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return interrupted(ctx, d)
	case <-t.C:
		return nil
	}
}

// interrupted is why ctx ended: Ctrl-C, or too long a wait.
func interrupted(ctx context.Context, d Dir) error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return &Failure{Kind: TimedOut, Err: fmt.Errorf("%s: timed out", d.Name()), Cure: "give it longer with --timeout"}
	}
	return &Failure{Kind: Interrupted, Err: fmt.Errorf("%s: interrupted", d.Name())}
}

// awaitEnd waits until a lab whose supervisor does not answer is gone, and says
// whether it is: between SIGKILL and the end of PID 1 it still counts as alive.
func (r *Record) awaitEnd(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	for r.Alive() {
		if pause(ctx, "") != nil {
			return false
		}
	}
	return true
}

// attach waits for a lab that somebody else built or builds.
func attach(ctx context.Context, d Dir, o UpOptions) (*Status, error) {
	c := &Client{Dir: d}
	running, err := c.Plan(ctx)
	if err != nil {
		return nil, err
	}
	if diff := DiffPlans(running, o.Plan); len(diff) > 0 {
		return nil, &Failure{Kind: Usage, Err: fmt.Errorf("%s: runs already, from another lab file:\n  %s", d.Name(), strings.Join(diff, "\n  ")),
			Cure: fmt.Sprintf("labctl down %s first, or choose another name with --name", d.Name())}
	}
	return watchUntilReady(ctx, c, nil)
}

// attachFailure says in the words of one who waits for another's lab what
// became of it.
func attachFailure(ctx context.Context, d Dir, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return interrupted(ctx, d)
	case errors.Is(err, ErrSupervisorGone):
		return fmt.Errorf("%s: another labctl was building it; it was taken down, or that was interrupted", d.Name())
	}
	return err
}

// watchUntilReady follows the build to its end.
func watchUntilReady(ctx context.Context, c *Client, onEvent func(Event)) (*Status, error) {
	var failure error
	err := c.Watch(ctx, func(e Event) bool {
		if onEvent != nil {
			onEvent(e)
		}
		if e.Error != "" {
			failure = &Failure{Kind: e.Kind, Err: errors.New(e.Error), Cure: e.Cure}
			return false
		}
		return e.State == "" || e.State == Starting
	})
	if failure != nil {
		return nil, failure
	}
	if ctx.Err() != nil {
		return nil, interrupted(ctx, c.Dir)
	}
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, interrupted(ctx, c.Dir)
	}
	return st, err
}

// build makes the lab. The caller holds the lock.
func build(ctx context.Context, d Dir, o UpOptions, lock *os.File) (*Status, error) {
	// What an earlier lab of the name left goes first.
	if _, err := remove(d); err != nil {
		return nil, err
	}
	if err := CheckSpeakers(o.Plan); err != nil {
		return nil, errors.Join(err, removeDir(d))
	}
	for _, n := range o.Plan.Nodes {
		if err := CheckCommand(n); err != nil {
			return nil, errors.Join(err, removeDir(d))
		}
	}
	st, err := start(ctx, d, o, lock)
	if _, told := errors.AsType[*Failure](err); !told && errors.Is(err, syscall.ENOSPC) {
		err = &Failure{Kind: Failed, Err: err, Cure: fmt.Sprintf("make room on the file system of %s (df -h, df -i)", filepath.Dir(string(d)))}
	}
	if err != nil {
		if _, rerr := remove(d); rerr != nil {
			err = errors.Join(err, rerr)
		} else if rerr := removeDir(d); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return st, err
}

func start(ctx context.Context, d Dir, o UpOptions, lock *os.File) (*Status, error) {
	if err := os.MkdirAll(d.Logs(), 0o700); err != nil {
		return nil, err
	}
	plan, err := json.MarshalIndent(o.Plan, "", " ")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writeFile(d.Plan(), plan), writeFile(d.Spec(), o.Spec)); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket(), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(d.Socket(), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	cmd, err := startInit(d, l, lock, o.From)
	// The supervisor alone has it now: a connection that it cannot take any more
	// must fail, not wait for us.
	l.Close()
	if err != nil {
		return nil, err
	}
	// The dead shim would stay as a zombie, and how it ended is for whyGone.
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(exited)
	}()
	cl := &Client{Dir: d}
	st, err := watchUntilReady(ctx, cl, o.OnEvent)
	if f, ok := errors.AsType[*Failure](err); ok && f.Kind == TimedOut && ctx.Err() != nil {
		f.Err = fmt.Errorf("%w%s", f.Err, cl.missing())
	}
	if errors.Is(err, ErrSupervisorGone) {
		// The shim is ending by itself; how it does tells why.
		select {
		case <-exited:
		case <-time.After(time.Second):
		}
	}
	if err != nil && o.BeforeRemoval != nil {
		o.BeforeRemoval(d, err)
	}
	if err != nil {
		// The record may not be there yet; the process is ours.
		_ = cmd.Process.Kill() // already gone is as good
		select {
		case <-exited:
		case <-time.After(killTimeout):
			return nil, errors.Join(err, fmt.Errorf("process %d: still there %v after SIGKILL", cmd.Process.Pid, killTimeout))
		}
	}
	if errors.Is(err, ErrSupervisorGone) {
		return nil, whyGone(d, cmd.ProcessState)
	}
	return st, err
}

// missing says what a lab that is being built still lacks, as far as its
// supervisor can tell at once.
func (c *Client) missing() string {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil || len(st.Reasons) == 0 {
		return ""
	}
	return "; " + FirstOf(st.Reasons)
}

// FirstOf joins the first few of what may be hundreds of reasons.
func FirstOf(reasons []string) string {
	const most = 3
	s := strings.Join(reasons[:min(len(reasons), most)], "; ")
	if more := len(reasons) - most; more > 0 {
		s += fmt.Sprintf("; and %d more", more)
	}
	return s
}

// BugCure is what to do about an error that labctl has no other word for.
const BugCure = "labctl doctor looks at the machine; if it finds nothing, this is a bug of labctl"

// whyGone says why a lab ended while it was built: somebody took it down, or
// its supervisor died, of which its log may tell more.
func whyGone(d Dir, shim *os.ProcessState) error {
	if _, err := os.Lstat(d.downMark()); err == nil {
		return &Failure{Kind: Failed, Err: fmt.Errorf("%s: taken down while it was built", d.Name())}
	}
	// The shim ends with the supervisor's status, 128 and more for a signal.
	how := shim.String()
	if n := shim.ExitCode() - 128; n > 0 {
		how = "signal: " + syscall.Signal(n).String()
	}
	err := fmt.Errorf("%s: supervisor: died while it built the lab: %s", d.Name(), how)
	const lines = 10
	if b, rerr := readFile(d.Log("supervisor")); rerr == nil && len(b) > 0 {
		all := strings.Split(strings.TrimSpace(string(b)), "\n")
		err = fmt.Errorf("%w; the end of its log:\n  %s", err, strings.Join(all[max(0, len(all)-lines):], "\n  "))
	}
	return &Failure{Kind: Failed, Err: err, Cure: BugCure}
}

// startInit starts the init shim as PID 1 of new namespaces. Its network
// namespace is one of its own: nothing in it can reach the machine's. It has
// the lock, too, until its record is written: were we killed before, a command
// that finds no record would take the lab for gone.
func startInit(d Dir, l *net.UnixListener, lock *os.File, from time.Time) (*exec.Cmd, error) {
	lf, err := l.File()
	if err != nil {
		return nil, err
	}
	defer lf.Close()
	log, err := d.OpenLog("supervisor")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", InitCommand, string(d), strconv.FormatInt(from.UnixNano(), 10))
	cmd.Args[0] = "labctl"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lf, lock}
	cmd.SysProcAttr = NamespaceAttr()
	if err := cmd.Start(); err != nil {
		return nil, NamespaceFailure(err)
	}
	return cmd, nil
}
