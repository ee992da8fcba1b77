package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// listener is GoBGP's log. GoBGP tells why a session does not come up there
// and nowhere else: its API has the state only. What is of warning level or
// above, and sessions that go up and down, are passed on.
type listener struct {
	next slog.Handler
	wake func()
	peer netip.Addr // of the records, by WithAttrs
	*heard
}

// heard is what was said about each peer.
type heard struct {
	mu        sync.Mutex // guards all below
	failures  map[netip.Addr]Failure
	silent    []netip.Addr // whose hold time ran out, and nobody took notice yet
	strangers strangers
}

func newListener(log *slog.Logger, wake func()) *listener {
	return &listener{next: log.Handler(), wake: wake, heard: &heard{failures: map[netip.Addr]Failure{}, strangers: strangers{}}}
}

func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

func (l *listener) WithGroup(name string) slog.Handler {
	c := *l
	c.next = l.next.WithGroup(name)
	return &c
}

func (l *listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *l
	c.next = l.next.WithAttrs(attrs)
	for _, a := range attrs {
		c.take(a)
	}
	return &c
}

// take notes the peer that records are about.
func (l *listener) take(a slog.Attr) {
	if a.Key == "Key" {
		if addr, err := netip.ParseAddr(a.Value.String()); err == nil {
			l.peer = addr
		}
	}
}

// unknownPeer is what a connection from an address without peer is logged as.
const unknownPeer = "Can't find configuration for a new passive connection"

func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	switch r.Message {
	case "failed to connect", "outgoing connection IO error", "received notification", "sent notification", "hold timer expired", "Peer Down",
		"Peer Up", "Mismatched local address", unknownPeer, "skipped asn negotiation":
		if f, ok := l.read(r); ok {
			l.note(f)
		}
		l.wake()
	case "Set state to UP", "Set state to DOWN":
		// BFD's, for which there is no event. It is so an instant later, and
		// who is woken looks after settle.
		l.wake()
	}
	if r.Level >= slog.LevelWarn || r.Message == "Peer Up" || r.Message == "Peer Down" || r.Message == unknownPeer {
		return l.next.Handle(ctx, r)
	}
	return nil
}

// about is a failure and whom it is about.
type about struct {
	peer     netip.Addr
	failure  Failure
	stranger bool
	silent   bool
	up       bool
}

// read makes sense of a record.
func (l *listener) read(r slog.Record) (about, bool) {
	c := *l
	at := map[string]slog.Value{}
	r.Attrs(func(a slog.Attr) bool {
		c.take(a)
		at[a.Key] = a.Value.Resolve()
		return true
	})
	a := about{peer: c.peer}
	if !a.peer.IsValid() {
		return a, false
	}
	switch r.Message {
	case "Peer Up":
		a.up = true
	case "failed to connect":
		a.failure = dialFailure(at["Error"].String())
	case "outgoing connection IO error":
		// It took the connection and closed it before it said a word.
		a.failure = Failure{Cause: WrongSource, Evidence: "the connection was closed before an OPEN came"}
	case "Mismatched local address":
		a.failure = Failure{Cause: WrongSource, Evidence: fmt.Sprintf("it connected to %s, and %s is expected", at["Addr"], at["Configured addr"])}
	case unknownPeer:
		a.stranger = true
	case "hold timer expired":
		a.silent = true
		a.failure = Failure{Cause: Silent, Evidence: "the hold time ran out"}
	case "received notification", "sent notification":
		code, sub := number(at["Code"]), number(at["Subcode"])
		a.failure = Failure{Cause: Ended, Evidence: r.Message + ": " + packet.NewNotificationErrorCode(code, sub).String()}
		switch {
		case code == packet.BGP_ERROR_OPEN_MESSAGE_ERROR && sub == packet.BGP_ERROR_SUB_BAD_PEER_AS:
			a.failure.Cause = WrongAS
		case code == packet.BGP_ERROR_HOLD_TIMER_EXPIRED:
			a.failure.Cause = Silent
		}
	case "Peer Down":
		a.failure = Failure{Cause: Ended, Evidence: "the session went down: " + at["Reason"].String()}
	default:
		return a, false
	}
	return a, true
}

func number(v slog.Value) uint8 {
	switch v.Kind() {
	case slog.KindInt64:
		return uint8(v.Int64())
	case slog.KindUint64:
		return uint8(v.Uint64())
	}
	return 0
}

func (l *listener) note(a about) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case a.up:
		delete(l.failures, a.peer)
		return
	case a.stranger:
		l.strangers[a.peer] = now
		return
	}
	a.failure.At = now
	// That the session went down says less than what was said about why.
	if old, ok := l.failures[a.peer]; ok && a.failure.Cause == Ended && now.Sub(old.At) < time.Second && old.Cause != Ended {
		return
	}
	l.failures[a.peer] = a.failure
	if a.silent {
		l.silent = append(l.silent, a.peer)
	}
}

func (l *listener) failure(peer netip.Addr) *Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.failures[peer]; ok {
		return &f
	}
	return nil
}

func (l *listener) forget(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failures, peer)
}

// restore undoes forget.
func (l *listener) restore(peer netip.Addr, f *Failure) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[peer] = *f
}

func (l *listener) takeSilent() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.silent
	l.silent = nil
	return s
}

func (l *listener) strangersBut(peers map[netip.Addr]Peer) []Stranger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.strangers.but(peers)
}
