package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// otherVersion is the cure for what a labctl of the lab's own version never says.
const otherVersion = "the lab may be of another version of labctl: labctl down and up make it anew"

// acceptPause is how long no connection is taken after one could not be.
const acceptPause = 100 * time.Millisecond

// serve answers on the lab's socket until ctx ends.
func (s *Supervisor) serve(ctx context.Context, l *net.UnixListener) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Too many open files, most likely: whoever calls waits until there
			// are fewer.
			s.log.Error("socket", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		go s.answer(ctx, rpc.New(c))
	}
}

// answer serves one connection: one request.
func (s *Supervisor) answer(ctx context.Context, c *rpc.Conn) {
	defer c.Close()
	// The socket's mode lets nobody else in; this holds even if it is changed.
	// Inside a user namespace the owner is 0 and everybody else unmapped.
	if uid, err := c.PeerUID(); err != nil || uid != os.Geteuid() {
		s.log.Error("socket: refused", "uid", uid, "err", err)
		return
	}
	var r lab.Request
	files, err := c.Receive(&r)
	if err != nil {
		if !errors.Is(err, io.EOF) { // a caller that said nothing
			s.log.Error("socket: request", "err", err)
			_ = c.Send(lab.Response{Error: fmt.Sprintf("request: %v", err), Kind: lab.Failed, Cure: otherVersion}) // the caller may be gone
		}
		return
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	switch {
	case r.Status != nil:
		s.askTraffic(ctx)
		err = c.Send(lab.Response{Status: s.status()})
	case r.Plan != nil:
		err = c.Send(lab.Response{Plan: s.current()})
	case r.Watch != nil:
		s.watch(c)
	case r.Exec != nil:
		s.exec(ctx, c, *r.Exec, files)
	case r.Socket != nil:
		err = s.socket(c, *r.Socket)
	case r.Tables != nil:
		var tables map[string]*nodes.Tables
		if tables, err = s.tables(r.Tables.Endpoints); err == nil {
			err = c.Send(lab.Response{Tables: tables})
		}
	case r.Policies != nil:
		if err = s.setPolicies(ctx, r.Policies.Policies); err == nil {
			err = c.Send(lab.Response{})
		}
	case r.Fault != nil:
		var faults []lab.ActiveFault
		if faults, err = s.inject(ctx, *r.Fault); err == nil {
			err = c.Send(lab.Response{Faults: faults})
		}
	case r.Node != nil:
		var result *lab.NodeResult
		if result, err = s.node(ctx, c, *r.Node); err == nil {
			err = c.Send(lab.Response{Node: result})
		}
	default:
		err = &lab.Failure{Kind: lab.Failed, Err: errors.New("request: not known to this lab"), Cure: otherVersion}
	}
	if err != nil {
		resp := lab.Response{Error: err.Error()}
		if f, ok := errors.AsType[*lab.Failure](err); ok {
			resp.Kind, resp.Cure = f.Kind, f.Cure
		}
		_ = c.Send(resp) // the caller may be gone
	}
}

// watch sends the build's events so far and then each as it comes.
func (s *Supervisor) watch(c *rpc.Conn) {
	s.watching.Add(1)
	defer s.watching.Done()
	s.mu.Lock()
	past := slices.Clone(s.events)
	if s.state != lab.Starting {
		past = append(past, lab.Event{State: s.state})
	}
	w := make(chan lab.Event, 1024)
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	for _, e := range past {
		if c.Send(lab.Response{Event: &e}) != nil {
			return
		}
	}
	// The reader is not expected to say more: what comes is its end.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			var ignored struct{}
			if _, err := c.Receive(&ignored); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case e, ok := <-w:
			if !ok || c.Send(lab.Response{Event: &e}) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// socket opens a socket in an endpoint's namespace and hands it over.
func (s *Supervisor) socket(c *rpc.Conn, r lab.SocketRequest) error {
	e, err := s.endpoint(r.Endpoint)
	if err != nil {
		return err
	}
	var f *os.File
	err = e.ns.Do(func() error {
		fd, err := unix.Socket(r.Domain, r.Type|unix.SOCK_CLOEXEC, r.Protocol)
		if err != nil {
			return fmt.Errorf("%s: socket: %w", e.name, err)
		}
		f = os.NewFile(uintptr(fd), "socket")
		return nil
	})
	if err != nil {
		return err
	}
	defer f.Close()
	return c.Send(lab.Response{}, f)
}

// endpoint finds an endpoint by name.
func (s *Supervisor) endpoint(name string) (*endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.endpoints[name]; ok {
		return e, nil
	}
	for _, h := range s.hosts {
		if h.out == lab.Dead && h.has(name) {
			return nil, &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: not there: %s was killed", name, h.name),
				Cure: "labctl node start " + h.name}
		}
	}
	var names []string
	for n := range s.endpoints {
		names = append(names, n)
	}
	sort.Strings(names)
	cure := "there are " + strings.Join(names, ", ")
	if near := lab.Nearest(name, names); near != "" {
		cure = "did you mean " + near + "? " + cure
	}
	return nil, &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: no such endpoint in lab %s", name, s.plan.Name), Cure: cure}
}

// drifts are the differences of an endpoint for the status.
func drifts(endpoint string, changes []nodes.Change) []lab.Drift {
	d := []lab.Drift{}
	for _, c := range changes {
		d = append(d, lab.Drift{Endpoint: endpoint, Change: c, Text: c.String()})
	}
	return d
}

func healedDrifts(endpoint string, healed []nodes.Healed) []lab.Drift {
	d := []lab.Drift{}
	for _, h := range healed {
		d = append(d, lab.Drift{Endpoint: endpoint, Change: h.Change, Text: h.Change.String()})
	}
	return d
}
