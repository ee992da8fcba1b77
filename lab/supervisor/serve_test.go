package supervisor

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/internal/rpc"
)

// A connection that cannot be taken (too many open files) is not the end of
// the socket.
func TestServeGoesOn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	logged := make(chan struct{}, 100)
	s := &Supervisor{log: slog.New(slog.NewTextHandler(tell(logged), nil)), plan: &lab.Plan{Name: "x"}}
	var wg sync.WaitGroup
	wg.Go(func() { s.serve(ctx, l) })
	defer wg.Wait() // which it does only if serve ends with ctx
	defer cancel()
	// An error of accept(2) as any other.
	if err := l.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-logged:
	case <-time.After(10 * time.Second):
		t.Fatal("accept did not fail")
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	c, err := rpc.Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(10*time.Second, func() { c.Close() })
	defer stop.Stop()
	defer c.Close()
	if err := c.Send(lab.Request{Plan: &struct{}{}}); err != nil {
		t.Fatal(err)
	}
	var r lab.Response
	if _, err := c.Receive(&r); err != nil || r.Plan == nil || r.Plan.Name != "x" {
		t.Errorf("after an error of accept: %+v, %v, want the plan", r, err)
	}
}

// tell leaves word of each line that is written.
type tell chan struct{}

func (c tell) Write(b []byte) (int, error) {
	select {
	case c <- struct{}{}:
	default:
	}
	return len(b), nil
}

// A request that cannot be read is answered, with what to do.
func TestUnreadableRequest(t *testing.T) {
	t.Parallel()
	ours, theirs := rpcPair(t)
	s := &Supervisor{log: slog.New(slog.DiscardHandler), plan: &lab.Plan{Name: "x"}}
	var wg sync.WaitGroup
	wg.Go(func() { s.answer(t.Context(), ours) })
	defer wg.Wait()
	if err := theirs.Send("not a request"); err != nil {
		t.Fatal(err)
	}
	var r lab.Response
	if _, err := theirs.Receive(&r); err != nil || r.Error == "" || r.Cure == "" {
		t.Errorf("answer: %+v, %v, want an error with a cure", r, err)
	}
}
