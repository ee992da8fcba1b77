package supervisor

import (
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// mailbox is how a process is told its orders. An order says how all is to be,
// so only the last counts: one that has not been sent yet is replaced. Who
// gives orders never waits. A process that does not read, because somebody has
// stopped it, keeps nobody waiting but the mailbox's own goroutine, and when
// it goes on it comes to the last order.
type mailbox struct {
	news chan struct{} // capacity 1: there is an order to be sent
}

// openMailbox makes the mailbox of a process that has just been started. latest
// is the order as of now, false when none is to be sent; it is called without
// mu. The goroutine ends with close or with conn.
func (s *Supervisor) openMailbox(conn *rpc.Conn, latest func() (agent.Order, bool)) *mailbox {
	m := &mailbox{news: make(chan struct{}, 1)}
	s.wg.Go(func() {
		for range m.news {
			if o, ok := latest(); ok && conn.Send(o) != nil {
				return // it has ended, which whoever receives from it sees
			}
		}
	})
	return m
}

// put says that there is another order. It does not wait; it does nothing on
// the nil mailbox of a process that does not run.
func (m *mailbox) put() {
	if m == nil {
		return
	}
	select {
	case m.news <- struct{}{}:
	default: // the order that waits will be the last
	}
}

// close ends the mailbox. put must not be called any more.
func (m *mailbox) close() { close(m.news) }
