package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab/internal/rpc"
	"labctl/lab/ping"
	"labctl/nodes"
)

// Client speaks with the supervisor of a running lab. Each call opens a
// connection of its own; calls may run at once.
type Client struct {
	Dir Dir
}

// ErrNotRunning says that there is no such lab.
var ErrNotRunning = errors.New("not running")

// Open finds the running lab called name. With an empty name it is the only
// one that runs.
func Open(name string) (*Client, error) {
	if name == "" {
		names, err := Names()
		if err != nil {
			return nil, err
		}
		switch len(names) {
		case 0:
			return nil, &Failure{Kind: Usage, Err: fmt.Errorf("lab: none is running"), Cure: "start one: labctl up flannel-vxlan" + OtherUsersHint()}
		case 1:
			name = names[0]
		default:
			return nil, &Failure{Kind: Usage, Err: fmt.Errorf("lab: %d are running: %s", len(names), strings.Join(names, ", ")),
				Cure: "name one with -l"}
		}
	}
	d, err := DirOf(name)
	if err != nil {
		return nil, err
	}
	rec, err := ReadRecord(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notRunning(name)
	}
	if err != nil {
		return nil, err
	}
	if !rec.Alive() {
		return nil, broken(d, errors.New("its processes are gone"))
	}
	return &Client{Dir: d}, nil
}

// broken is the error for a lab whose supervisor died.
func broken(d Dir, why error) error {
	return &Failure{Kind: Failed, Err: fmt.Errorf("%s: broken: %w", d.Name(), why),
		Cure: fmt.Sprintf("labctl down %[1]s removes what is left, labctl up makes it anew; its log is %[2]s", d.Name(), d.Log("supervisor"))}
}

// gone is the error for a lab whose supervisor does not answer: it was taken
// down, or its record is still there and it is broken.
func (c *Client) gone() error {
	if _, err := ReadRecord(c.Dir); err != nil {
		return fmt.Errorf("%s: %w", c.Dir.Name(), ErrSupervisorGone)
	}
	return broken(c.Dir, ErrSupervisorGone)
}

// silent is the error for a lab whose supervisor lives and does nothing.
func (c *Client) silent(how string) error {
	return &Failure{Kind: Failed, Err: fmt.Errorf("%s: its supervisor %s", c.Dir.Name(), how),
		Cure: fmt.Sprintf("somebody may have stopped it (kill -CONT); labctl down %s removes the lab in any state", c.Dir.Name())}
}

// notRunning is the error for a lab that is not there.
func notRunning(name string) error {
	return &Failure{Kind: Usage, Err: fmt.Errorf("%s: %w", name, ErrNotRunning), Cure: "labctl ls shows the labs that run" + OtherUsersHint()}
}

// OtherUsersHint tells a user other than root that root's labs are separate.
func OtherUsersHint() string {
	if os.Geteuid() == 0 {
		return ""
	}
	if _, err := os.Stat("/run/labctl"); err != nil {
		return ""
	}
	return "; root's labs are root's: sudo labctl ls"
}

// call sends a request with its files and returns the connection. ctx ends it.
func (c *Client) call(ctx context.Context, r Request, files ...*os.File) (*rpc.Conn, func(), error) {
	conn, err := rpc.Dial(ctx, c.Dir.Socket())
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil, nil, c.gone()
	case errors.Is(err, syscall.EAGAIN):
		return nil, nil, c.silent("takes no calls")
	default:
		return nil, nil, fmt.Errorf("%s: supervisor: %w", c.Dir.Name(), err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	closing := func() { stop(); conn.Close() }
	if err := conn.Send(r, files...); err != nil {
		closing()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return nil, nil, c.gone()
		}
		return nil, nil, fmt.Errorf("%s: %w", c.Dir.Name(), err)
	}
	return conn, closing, nil
}

func (c *Client) receive(ctx context.Context, conn *rpc.Conn) (Response, []*os.File, error) {
	var r Response
	files, err := conn.Receive(&r)
	if err != nil {
		if ctx.Err() != nil {
			return r, nil, ctx.Err()
		}
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			return r, nil, c.gone()
		}
		return r, nil, fmt.Errorf("%s: %w", c.Dir.Name(), err)
	}
	if r.Error != "" {
		return r, nil, &Failure{Kind: r.Kind, Err: errors.New(r.Error), Cure: r.Cure}
	}
	return r, files, nil
}

// ErrSupervisorGone says that the lab ended while it was asked: it was taken
// down, or its supervisor died.
var ErrSupervisorGone = errors.New("ended: its supervisor is gone")

// otherVersion is the failure for an answer without what was asked for.
func (c *Client) otherVersion() error {
	return &Failure{Kind: Failed, Err: fmt.Errorf("%s: its supervisor answers something else than was asked", c.Dir.Name()),
		Cure: "the lab may be of another version of labctl: labctl down and up make it anew"}
}

// ask sends a request that has one answer. Of a supervisor that somebody has
// stopped none would ever come.
func (c *Client) ask(ctx context.Context, r Request) (Response, []*os.File, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := c.whileStopped(func(pid int) {
		cancel(&Failure{Kind: Failed, Err: fmt.Errorf("%s: its supervisor, process %d, is stopped", c.Dir.Name(), pid),
			Cure: fmt.Sprintf("kill -CONT %d lets it go on; labctl down %s removes the lab in any state", pid, c.Dir.Name())})
	})
	defer stop()
	conn, done, err := c.call(ctx, r)
	if err != nil {
		return Response{}, nil, cmp.Or(why(ctx), err)
	}
	defer done()
	resp, files, err := c.receive(ctx, conn)
	if err != nil {
		err = cmp.Or(why(ctx), err)
	}
	return resp, files, err
}

// why is the failure that ended ctx, nil when it was none of ours.
func why(ctx context.Context) error {
	if f, ok := errors.AsType[*Failure](context.Cause(ctx)); ok {
		return f
	}
	return nil
}

// stoppedFor is how long a supervisor is seen stopped before a caller hears of it.
const stoppedFor = time.Second

// whileStopped calls f once the supervisor has been seen stopped twice in a row,
// unless stop was called before.
func (c *Client) whileStopped(f func(pid int)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(stoppedFor)
		defer t.Stop()
		for before := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			pid := c.stopped()
			if pid > 0 && pid == before {
				f(pid)
				return
			}
			before = pid
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// stopped is the supervisor's process if somebody has stopped it, else 0.
func (c *Client) stopped() int {
	rec, err := ReadRecord(c.Dir)
	if err != nil || !rec.Alive() {
		return 0
	}
	if state, parent := stateOf(strconv.Itoa(rec.Supervisor)); state != "T" || parent != rec.PID {
		return 0
	}
	return rec.Supervisor
}

// Status asks how the lab is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	r, _, err := c.ask(ctx, Request{Status: &struct{}{}})
	if err == nil && r.Status == nil {
		err = c.otherVersion()
	}
	return r.Status, err
}

// Plan asks what the lab was built from.
func (c *Client) Plan(ctx context.Context) (*Plan, error) {
	r, _, err := c.ask(ctx, Request{Plan: &struct{}{}})
	if err == nil && r.Plan == nil {
		err = c.otherVersion()
	}
	return r.Plan, err
}

// Watch calls f with each event, those of the build first, until f returns
// false, ctx ends or the lab is gone.
func (c *Client) Watch(ctx context.Context, f func(Event) bool) error {
	conn, done, err := c.call(ctx, Request{Watch: &struct{}{}})
	if err != nil {
		return err
	}
	defer done()
	for {
		r, _, err := c.receive(ctx, conn)
		if err != nil {
			return err
		}
		if r.Event != nil && !f(*r.Event) {
			return nil
		}
	}
}

// Fault does a fault, in the words of labctl fault, and returns those that
// last. Without words it only returns them.
func (c *Client) Fault(ctx context.Context, words ...string) ([]ActiveFault, error) {
	r, _, err := c.ask(ctx, Request{Fault: &FaultRequest{Words: words}})
	return r.Faults, err
}

// SetPolicies puts other network policies in the place of the lab's, and waits
// until all nodes have them. Flows that were let through before go on.
func (c *Client) SetPolicies(ctx context.Context, ps Policies) error {
	_, _, err := c.ask(ctx, Request{Policies: &PoliciesRequest{ps}})
	return err
}

// Tables asks what endpoints decide by where packets go; all of them and the
// segments when none is named.
func (c *Client) Tables(ctx context.Context, endpoints ...string) (map[string]*nodes.Tables, error) {
	r, _, err := c.ask(ctx, Request{Tables: &TablesRequest{Endpoints: endpoints}})
	return r.Tables, err
}

// Socket opens a socket in an endpoint's namespace (socket(2)'s arguments).
// The caller closes it.
func (c *Client) Socket(ctx context.Context, endpoint string, domain, typ, proto int) (*os.File, error) {
	_, files, err := c.ask(ctx, Request{Socket: &SocketRequest{Endpoint: endpoint, Domain: domain, Type: typ, Protocol: proto}})
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("%s: socket: %d files in the answer", endpoint, len(files))
	}
	return files[0], nil
}

// Pinger sends pings from an endpoint. The caller closes it.
func (c *Client) Pinger(ctx context.Context, endpoint string) (*ping.Pinger, error) {
	f, err := c.Socket(ctx, endpoint, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, err
	}
	return ping.New(f)
}

// signalTimeout is how long the supervisor has to pass on a signal.
const signalTimeout = 3 * time.Second

// Exec starts a process in an endpoint and waits for its end. files are its
// standard input, output and error, or with TTY its terminal. Signals that
// arrive on signals are passed on; where the supervisor does not do that, Exec
// ends: who presses Ctrl-C does not want to wait for ever.
func (c *Client) Exec(ctx context.Context, e ExecRequest, signals <-chan os.Signal, files ...*os.File) (*Exit, error) {
	conn, done, err := c.call(ctx, Request{Exec: &e}, files...)
	if err != nil {
		return nil, err
	}
	defer done()
	var unheard atomic.Pointer[syscall.Signal] // that ended the connection
	passed := make(chan struct{}, 1)
	if signals != nil {
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				var n syscall.Signal
				select {
				case s := <-signals:
					n, _ = s.(syscall.Signal)
				case <-stop:
					return
				}
				timeout := time.AfterFunc(signalTimeout, func() {
					unheard.Store(&n)
					conn.Close()
				})
				// An error means that the process has ended: Exit is on its way.
				if conn.Send(Signal{Signal: int(n)}) == nil {
					select {
					case <-passed:
					case <-stop:
					}
				}
				timeout.Stop()
			}
		}()
	}
	for {
		r, _, err := c.receive(ctx, conn)
		switch {
		case err != nil && unheard.Load() != nil:
			return nil, c.silent(fmt.Sprintf("does not pass on the signal: %v", *unheard.Load()))
		case err != nil:
			return nil, err
		case r.Exit != nil:
			return r.Exit, nil
		case r.Passed:
			select {
			case passed <- struct{}{}:
			default: // nobody waits any more
			}
		}
	}
}

// Output runs argv in an endpoint and returns what it printed on its standard
// output and error. It is for probes: small outputs, no input.
func (c *Client) Output(ctx context.Context, endpoint string, argv ...string) (stdout, stderr []byte, exit *Exit, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, nil, err
	}
	defer null.Close()
	type result struct {
		b   []byte
		err error
	}
	var pipes [2]*os.File
	var results [2]chan result
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, nil, err
		}
		defer w.Close()
		pipes[i] = w
		results[i] = make(chan result, 1)
		go func() {
			defer r.Close()
			b, err := io.ReadAll(r)
			results[i] <- result{b, err}
		}()
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	exit, err = c.Exec(ctx, ExecRequest{Endpoint: endpoint, Argv: argv, Env: os.Environ(), Dir: dir}, nil, null, pipes[0], pipes[1])
	for _, w := range pipes {
		w.Close()
	}
	out, errs := <-results[0], <-results[1]
	return out.b, errs.b, exit, errors.Join(err, out.err, errs.err)
}

// dialTimeout bounds the short questions that ls asks each lab.
const dialTimeout = time.Second

// StateOf is the state of the lab in d, Broken when nobody answers.
func StateOf(ctx context.Context, d Dir) (State, *Status) {
	rec, err := ReadRecord(d)
	if err != nil || !rec.Alive() {
		return Broken, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	st, err := (&Client{Dir: d}).Status(ctx)
	if err != nil {
		return Broken, nil
	}
	return st.State, st
}

// Address is the address of an endpoint, or the address that text is.
func (c *Client) Address(ctx context.Context, text string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a, nil
	}
	return c.address(ctx, text, ", and no address")
}

// EndpointAddress is the address of an endpoint.
func (c *Client) EndpointAddress(ctx context.Context, name string) (netip.Addr, error) {
	return c.address(ctx, name, "")
}

// address looks in the plan, then in the status; not goes on about a name that
// is in neither.
func (c *Client) address(ctx context.Context, text, not string) (netip.Addr, error) {
	p, err := c.Plan(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if a, ok := p.Address(text); ok {
		return a, nil
	}
	st, err := c.Status(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, n := range st.Nodes {
		for _, ct := range n.Containers {
			if n.Name+"."+ct.Name != text {
				continue
			}
			a, err := netip.ParseAddr(ct.IP)
			if err != nil {
				return a, fmt.Errorf("%s: has no address yet", text)
			}
			return a, nil
		}
	}
	return netip.Addr{}, &Failure{Kind: Usage, Err: fmt.Errorf("%s: no such endpoint in lab %s%s", text, c.Dir.Name(), not),
		Cure: p.endpointCure(text)}
}
