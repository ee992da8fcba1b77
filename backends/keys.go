package backends

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keys is all keys under a prefix at one revision. The map and its values are
// shared and never written to.
type Keys struct {
	All       map[string]*mvccpb.KeyValue // by full key
	Revision  int64
	ClusterID uint64
}

// ListKeys reads all keys under a prefix.
func ListKeys(ctx context.Context, c *clientv3.Client, prefix string) (Keys, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return Keys{}, fmt.Errorf("%s: %w", prefix, err)
	}
	k := Keys{All: make(map[string]*mvccpb.KeyValue, len(resp.Kvs)), Revision: resp.Header.Revision, ClusterID: resp.Header.ClusterId}
	for _, kv := range resp.Kvs {
		k.All[string(kv.Key)] = kv
	}
	return k, nil
}

// WatchKeys follows all keys under a prefix. Each Keys on the channel is
// complete, and a newer one replaces one that was not read. While the store is
// away nothing is sent. The channel is closed after ctx has ended.
func WatchKeys(ctx context.Context, c *clientv3.Client, prefix string) <-chan Keys {
	w := &keyWatcher{client: c, prefix: prefix, out: make(chan Keys, 1), connected: make(chan struct{}, 1)}
	go w.run(ctx)
	return w.out
}

// keyWatcher is one WatchKeys. It belongs to one goroutine.
type keyWatcher struct {
	client    *clientv3.Client
	prefix    string
	out       chan Keys
	connected chan struct{} // has word when a connection was made anew
	now       Keys
}

func (w *keyWatcher) run(ctx context.Context) {
	defer close(w.out)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { onConnect(ctx, w.client, func() { signal(w.connected) }) })
	b := backoff{least: 10 * time.Millisecond, most: time.Second}
	for {
		select {
		case <-w.connected: // the list that follows is as new as it gets
		default:
		}
		if keys, err := ListKeys(ctx, w.client, w.prefix); err == nil {
			w.now = keys
			w.publish()
			if w.follow(ctx) {
				b.reset()
			}
		}
		if b.wait(ctx) != nil {
			return
		}
	}
}

// follow applies events until everything has to be read again: the watch
// broke, its start was compacted away, the connection is a new one (the store
// may be another), or it is time. It reports whether the watch worked.
func (w *keyWatcher) follow(ctx context.Context) (worked bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := w.client.Watch(clientv3.WithRequireLeader(ctx), w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.now.Revision+1))
	again := time.NewTimer(resync)
	defer again.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok || resp.Err() != nil || resp.Header.ClusterId != w.now.ClusterID || resp.Header.Revision < w.now.Revision {
				return worked
			}
			worked = true
			w.apply(resp)
		case <-w.connected:
			return true
		case <-again.C:
			return true
		}
	}
}

func (w *keyWatcher) apply(resp clientv3.WatchResponse) {
	next := Keys{All: maps.Clone(w.now.All), Revision: resp.Header.Revision, ClusterID: w.now.ClusterID}
	for _, ev := range resp.Events {
		if ev.Type == clientv3.EventTypeDelete {
			delete(next.All, string(ev.Kv.Key))
		} else {
			next.All[string(ev.Kv.Key)] = ev.Kv
		}
	}
	w.now = next
	if len(resp.Events) > 0 {
		w.publish()
	}
}

// publish sends what is known now, in place of what was not read.
func (w *keyWatcher) publish() {
	select {
	case <-w.out:
	default:
	}
	w.out <- w.now // never blocks: this is the only sender, and there is room for one
}
