package backends

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// resync is how often Watch reads everything again although nothing was
// missed as far as it knows.
const resync = 30 * time.Second

// Watch follows all leases. Each Snapshot on the channel is complete, and a
// newer one replaces one that was not read, so a slow reader gets the present
// and not a backlog. Malformed keys and values are Problems; a good lease
// whose value becomes malformed stands as it was. While the store is away
// nothing is sent: what was said last stands.
//
// When the store lost its memory (see Snapshot.Replaced), leases of before
// stay for grace, which should be their TTL, or until their owners have
// registered again: the data path works as long as it is left alone.
//
// gather, when not nil, is asked with the number of leases for how long to wait
// before they are counted again; with its first 0 they are listed, and the watch
// begins. Where many hosts come up at once, each event goes to every one of
// them, and so do the leases of each list: the square of their number.
//
// The channel is closed after ctx has ended.
func (s *Store) Watch(ctx context.Context, grace time.Duration, gather func(leases int) time.Duration) <-chan Snapshot {
	w := &watcher{store: s, grace: grace, gather: gather, out: make(chan Snapshot, 1), connected: make(chan struct{}, 1)}
	go w.run(ctx)
	return w.out
}

// watcher is one Watch. It belongs to one goroutine.
type watcher struct {
	store *Store
	grace time.Duration
	// gather is nil from the first 0 on.
	gather func(leases int) time.Duration
	out    chan Snapshot
	// connected has word when a connection was made anew.
	connected chan struct{}

	now   head             // of entries; zero before the first list
	keys  map[string]entry // by full key
	past  map[string]entry // of before the store was replaced, not registered again
	until time.Time        // when past is given up
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.out)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { onConnect(ctx, w.store.client, func() { signal(w.connected) }) })
	b := backoff{least: 10 * time.Millisecond, most: time.Second}
	for {
		select {
		case <-w.connected: // the list that follows is as new as it gets
		default:
		}
		keys, now, err := w.store.list(ctx, w.keys)
		if err == nil {
			w.renew(keys, now)
			if w.gathers(ctx, w.publish()) {
				continue // with a list of those that have come
			}
			if w.follow(ctx) {
				b.reset()
			}
		}
		if b.wait(ctx) != nil {
			return
		}
	}
}

// gathers waits until enough leases have come, and says whether it has waited.
func (w *watcher) gathers(ctx context.Context, leases int) bool {
	if w.gather == nil {
		return false
	}
	waited := false
	for d := w.gather(leases); d > 0; d = w.gather(leases) {
		waited = true
		t := time.NewTimer(d)
		select {
		case <-ctx.Done():
			t.Stop()
			return false
		case <-t.C:
		}
		n, err := w.store.count(ctx)
		if err != nil {
			return true // the list tries again
		}
		leases = n
	}
	w.gather = nil
	return waited
}

// renew takes over a full list.
func (w *watcher) renew(keys map[string]entry, now head) {
	if w.replaced(now) {
		past := maps.Clone(w.keys)
		for key, e := range w.past {
			if _, ok := past[key]; !ok {
				past[key] = e
			}
		}
		w.past, w.until = past, time.Now().Add(w.grace)
	}
	w.keys, w.now = keys, now
}

// replaced reports whether the store is not the one, or not as far, as it was.
func (w *watcher) replaced(now head) bool {
	return w.now != (head{}) && (now.cluster != w.now.cluster || now.revision < w.now.revision)
}

// follow applies events until everything has to be read again: the watch
// broke, its start was compacted away, the connection is a new one (the store
// may be another), or it is time.
// It reports whether the watch worked.
func (w *watcher) follow(ctx context.Context) (worked bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := w.store.client.Watch(clientv3.WithRequireLeader(ctx), w.store.subnetsKey(),
		clientv3.WithPrefix(), clientv3.WithRev(w.now.revision+1))
	again := time.NewTimer(resync)
	defer again.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok || resp.Err() != nil {
				return worked
			}
			now := head{resp.Header.Revision, resp.Header.ClusterId}
			if w.replaced(now) {
				return worked
			}
			worked = true
			w.now = now
			if w.apply(resp.Events) {
				w.publish()
			}
		case <-w.graceOver():
			w.publish()
		case <-w.connected:
			return true
		case <-again.C:
			return true
		}
	}
}

// graceOver fires when past is to be given up; never when there is none.
func (w *watcher) graceOver() <-chan time.Time {
	if len(w.past) == 0 {
		return nil
	}
	return time.After(time.Until(w.until))
}

func (w *watcher) apply(events []*clientv3.Event) (changed bool) {
	for _, ev := range events {
		key := string(ev.Kv.Key)
		if ev.Type == clientv3.EventTypeDelete {
			delete(w.keys, key)
		} else {
			w.keys[key] = decodeEntry(w.store.subnetsKey(), ev.Kv, w.keys[key])
		}
		changed = true
	}
	return changed
}

// publish sends what is known now, in place of what was not read. It returns how
// many leases that are.
func (w *watcher) publish() int {
	w.forget()
	all := w.keys
	if len(w.past) > 0 {
		all = maps.Clone(w.past)
		maps.Copy(all, w.keys)
	}
	s := snapshotOf(all, w.now.revision, w.now.cluster)
	s.Replaced = len(w.past) > 0
	select {
	case <-w.out:
	default:
	}
	w.out <- s // never blocks: this is the only sender, and there is room for one
	return len(s.Leases)
}

// forget drops what is past: the grace is over, its key or its host is
// registered again, or its subnet is somebody else's.
func (w *watcher) forget() {
	if len(w.past) == 0 {
		return
	}
	if !time.Now().Before(w.until) {
		w.past = nil
		return
	}
	hosts := make(map[netip.Addr]bool)
	for _, e := range w.keys {
		hosts[e.lease.PublicIP] = true
	}
	for key, e := range w.past {
		_, again := w.keys[key]
		if again || !e.lease.Subnet.IsValid() || hosts[e.lease.PublicIP] || w.overlaps(e.lease.Subnet) {
			delete(w.past, key)
		}
	}
}

func (w *watcher) overlaps(subnet netip.Prefix) bool {
	for _, e := range w.keys {
		if e.subnet.IsValid() && e.subnet.Overlaps(subnet) {
			return true
		}
	}
	return false
}
