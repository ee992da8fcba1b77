package calico

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends"
)

// callTimeout bounds one call to the store, which else waits for a connection
// as long as its context lasts.
const callTimeout = 3 * time.Second

// Store is a Calico datastore in etcd. It is safe for concurrent use.
type Store struct {
	client *clientv3.Client
}

// NewStore is a Store on a client that stays the caller's to close.
func NewStore(c *clientv3.Client) *Store { return &Store{c} }

// Close ends the connection and every call that is under way on it.
func (s *Store) Close() error { return s.client.Close() }

// errNoPool means that nobody has configured the network yet.
var errNoPool = errors.New(poolKey + ": not found")

// Watch follows the whole store. Each Snapshot is complete; a newer one
// replaces one that was not read. The channel is closed after ctx has ended.
func (s *Store) Watch(ctx context.Context) <-chan Snapshot {
	out := make(chan Snapshot, 1)
	go func() {
		defer close(out)
		for k := range backends.WatchKeys(ctx, s.client, Root) {
			select {
			case <-out:
			default:
			}
			out <- snapshotOf(k) // never blocks: this is the only sender
		}
	}()
	return out
}

// Read is the whole store now.
func (s *Store) Read(ctx context.Context) (Snapshot, error) {
	k, err := backends.ListKeys(ctx, s.client, Root)
	return snapshotOf(k), err
}

// ipam is the part of the store that IPAM decides by.
func (s *Store) ipam(ctx context.Context) (Snapshot, error) {
	k, err := backends.ListKeys(ctx, s.client, ipam)
	return snapshotOf(k), err
}

// WaitConfig returns the configuration as soon as there is one. A wrong one is
// an error at once.
func (s *Store) WaitConfig(ctx context.Context) (Config, error) {
	wait := 10 * time.Millisecond
	for {
		snap, err := s.Read(ctx)
		if err == nil && !errors.Is(snap.ConfigErr, errNoPool) {
			return snap.Config, snap.ConfigErr
		}
		if err == nil {
			err = snap.ConfigErr
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 250*time.Millisecond)
		case <-ctx.Done():
			return Config{}, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// PutConfigOnce stores a configuration unless there is one already.
func (s *Store) PutConfigOnce(ctx context.Context, c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	values, err := c.values()
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	for _, k := range slices.Sorted(maps.Keys(values)) {
		ops = append(ops, clientv3.OpPut(k, values[k]))
	}
	_, err = s.commit(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.Version(poolKey), "=", 0)}, ops)
	if err != nil {
		return fmt.Errorf("%s: %w", poolKey, err)
	}
	return nil
}

// Reserve gives a host a block before it asks. A block that is the host's
// already stays as it is; another host's is an error (a *TakenError).
func (s *Store) Reserve(ctx context.Context, block netip.Prefix, host string) error {
	b := newBlock(block, host)
	v, err := b.value()
	if err != nil {
		return err
	}
	affinity := affinityOf(host, block)
	ok, err := s.commit(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.Version(blockKey(block)), "=", 0), clientv3.Compare(clientv3.Version(affinity), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(blockKey(block), v), clientv3.OpPut(affinity, Confirmed.value())})
	if err != nil || ok {
		return err
	}
	snap, err := s.ipam(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(snap.BlocksOf(host), block) {
		return nil
	}
	e := &TakenError{Block: block}
	if b := snap.block(block); b != nil {
		e.By = b.Host
	}
	return e
}

// TakenError says who has a block.
type TakenError struct {
	Block netip.Prefix
	By    string // "" when nobody has it for sure yet
}

func (e *TakenError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("block %s: is being claimed", e.Block)
	}
	return fmt.Sprintf("block %s: is %s's; choose another", e.Block, e.By)
}

// Register tells the others of a host and its containers, and of none besides.
func (s *Store) Register(ctx context.Context, n Node, containers []Workload) error {
	snap, err := s.Read(ctx)
	if err != nil {
		return err
	}
	values := map[string]string{}
	if values[nodeKey(n.Name)], err = n.value(); err != nil {
		return err
	}
	for _, w := range containers {
		if values[workloadKey(w.Host, w.Name)], err = w.value(); err != nil {
			return err
		}
	}
	var ops []clientv3.Op
	for _, k := range slices.Sorted(maps.Keys(values)) {
		ops = append(ops, clientv3.OpPut(k, values[k]))
	}
	for _, w := range snap.Workloads {
		if k := workloadKey(w.Host, w.Name); w.Host == n.Name && values[k] == "" {
			ops = append(ops, clientv3.OpDelete(k))
		}
	}
	return s.write(ctx, ops)
}

// maxOps is how many operations etcd takes in one transaction.
const maxOps = 128

// write runs operations that depend on nothing.
func (s *Store) write(ctx context.Context, ops []clientv3.Op) error {
	for some := range slices.Chunk(ops, maxOps) {
		if _, err := s.commit(ctx, nil, some); err != nil {
			return err
		}
	}
	return nil
}

// RemoveNode takes a host that has left for good out of the store: its
// addresses, its blocks and itself. A block of which others have borrowed
// addresses stays, as nobody's. It returns the revision from which on the host
// is gone.
func (s *Store) RemoveNode(ctx context.Context, host string) (revision int64, err error) {
	for {
		snap, err := s.Read(ctx)
		if err != nil {
			return 0, err
		}
		raced, err := s.vacate(ctx, snap, host)
		if err != nil {
			return 0, err
		}
		if raced {
			continue
		}
		ops := []clientv3.Op{clientv3.OpDelete(nodeKey(host))}
		for _, w := range snap.Workloads {
			if w.Host == host {
				ops = append(ops, clientv3.OpDelete(workloadKey(host, w.Name)))
			}
		}
		if err := s.write(ctx, ops); err != nil {
			return 0, err
		}
		after, err := s.Read(ctx)
		return after.Revision, err
	}
}

// vacate gives up all addresses and blocks of a host. It reports whether
// somebody else wrote meanwhile.
func (s *Store) vacate(ctx context.Context, snap Snapshot, host string) (raced bool, err error) {
	for _, b := range snap.Blocks {
		after := b.clone()
		changed := after.release(func(a Allocation) bool { return a.Host == host })
		own := b.Host == host
		if !changed && !own {
			continue
		}
		cmps := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(blockKey(b.CIDR)), "=", b.revision)}
		var ops []clientv3.Op
		if own {
			after.Host = ""
			ops = append(ops, clientv3.OpDelete(affinityOf(host, b.CIDR)))
		}
		if after.Host == "" && len(after.Allocations()) == 0 {
			ops = append(ops, clientv3.OpDelete(blockKey(b.CIDR)))
		} else {
			v, err := after.value()
			if err != nil {
				return false, err
			}
			ops = append(ops, clientv3.OpPut(blockKey(b.CIDR), v))
		}
		ok, err := s.commit(ctx, cmps, ops)
		if err != nil {
			return false, err
		}
		raced = raced || !ok
	}
	for _, a := range snap.Affinities {
		if b := snap.block(a.Block); a.Host == host && (b == nil || b.Host != host) {
			if _, err := s.commit(ctx, nil, []clientv3.Op{clientv3.OpDelete(affinityOf(host, a.Block))}); err != nil {
				return false, err
			}
		}
	}
	return raced, nil
}

func (s *Store) commit(ctx context.Context, cmps []clientv3.Cmp, ops []clientv3.Op) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}
