package supervisor

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// Orders to a process that does not read keep nobody waiting, and when it reads
// again it has the last one soon.
func TestMailbox(t *testing.T) {
	t.Parallel()
	const orders = 10_000
	conn, theirs := rpcPair(t)
	s := &Supervisor{}
	var last atomic.Uint64
	large := strings.Repeat("x", 1<<20) // more than a socket holds
	m := s.openMailbox(conn, func() (agent.Order, bool) { return agent.Order{Ask: last.Load(), Down: []string{large}}, true })
	for range orders {
		last.Add(1)
		m.put()
	}
	read := 0
	for o := (agent.Order{}); o.Ask < orders; read++ {
		if _, err := theirs.Receive(&o); err != nil {
			t.Fatalf("after %d orders: %v", read, err)
		}
	}
	if read > orders/10 {
		t.Errorf("%d orders were read, want only some of the %d that were given", read, orders)
	}
	m.put()
	m.close()
	conn.Close()
	s.wg.Wait()
	var none *mailbox
	none.put() // to a process that does not run
}

// rpcPair are two ends of a control stream. A test that hangs on them fails.
func rpcPair(t *testing.T) (ours, theirs *rpc.Conn) {
	t.Helper()
	ours, f, err := rpc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = rpc.FromFile(f); err != nil {
		t.Fatal(err)
	}
	end := func() { ours.Close(); theirs.Close() }
	t.Cleanup(end)
	timeout := time.AfterFunc(10*time.Second, end)
	t.Cleanup(func() { timeout.Stop() })
	return ours, theirs
}
