package supervisor

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"

	"labctl/lab"
	"labctl/lab/internal/rpc"
	"labctl/nodes"
)

// A process that is ended while it waits to be started again is not started
// once more, to be killed at once.
func TestEndedWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, held := range []bool{false, true} {
		proc, err := os.Open("/proc")
		if err != nil {
			t.Fatal(err)
		}
		defer proc.Close()
		ns, err := nodes.CurrentNamespace("here")
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		dir := lab.Dir(t.TempDir())
		if err := os.Mkdir(dir.Logs(), 0o700); err != nil {
			t.Fatal(err)
		}
		s := &Supervisor{dir: dir, hostProc: proc, log: slog.New(slog.DiscardHandler), watchers: map[chan lab.Event]struct{}{}, changed: make(chan struct{}, 1)}
		s.moved = sync.NewCond(&s.mu)
		events := make(chan lab.Event, 16)
		s.watchers[events] = struct{}{}
		starts := 0
		p := &process{
			name: "agent", ns: ns, s: s, state: waiting,
			program: "/bin/sh", argv: []string{"sh", "-c", "exit 1"},
			started: func(*rpc.Conn) { starts++ }, ended: func() {},
		}
		p.hold(held)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p.begin(ctx)
		<-events // it ended, and waits
		p.end(0)
		if starts != 1 {
			t.Errorf("held %v: started %d times, want 1", held, starts)
		}
		if st := p.status().State; st != stopped {
			t.Errorf("held %v: state %q, want %q", held, st, stopped)
		}
	}
}
