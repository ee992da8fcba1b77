package backends

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// DefaultPrefix is where flannel keeps its network when not told otherwise.
const DefaultPrefix = "/coreos.com/network"

// callTimeout bounds one call to the store. The client waits for a connection
// before it sends (etcd's default), so a call to a dead store would otherwise
// last as long as its context.
const callTimeout = 3 * time.Second

// Store is one flannel network in etcd. It is safe for concurrent use.
type Store struct {
	client *clientv3.Client
	prefix string
	owned  bool // Close closes client
}

// NewStore is a Store on a client that stays the caller's to close, such as
// the in-process one of an embedded server.
func NewStore(c *clientv3.Client) *Store {
	return &Store{client: c, prefix: DefaultPrefix}
}

// WithPrefix is the network under another prefix, on the same connection. The
// connection is closed by closing the Store that it came from.
func (s *Store) WithPrefix(prefix string) *Store {
	return &Store{client: s.client, prefix: prefix}
}

// Close ends the connection and every call that is under way on it.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	return s.client.Close()
}

func (s *Store) configKey() string  { return s.prefix + "/config" }
func (s *Store) subnetsKey() string { return s.prefix + "/subnets/" }
func (s *Store) subnetKey(subnet netip.Prefix) string {
	return s.subnetsKey() + Key{Subnet: subnet}.String()
}

// WaitConfig returns the network config and its bytes as stored. While the key
// is missing or etcd is away it waits; a config that is there but wrong is an
// error at once (a *ConfigError).
func (s *Store) WaitConfig(ctx context.Context) (Network, []byte, error) {
	b := backoff{least: 10 * time.Millisecond, most: 250 * time.Millisecond}
	last := errors.New("etcd has not answered")
	for {
		raw, err := s.config(ctx)
		if err == nil && raw != nil {
			n, err := ParseNetwork(raw)
			if err != nil {
				return Network{}, raw, fmt.Errorf("%s: %w", s.configKey(), err)
			}
			return n, raw, nil
		}
		switch {
		case err == nil:
			last = errors.New("not found; write the network config there")
		case ctx.Err() == nil:
			last = err
		}
		if b.wait(ctx) != nil {
			return Network{}, nil, fmt.Errorf("%s: %w: %w", s.configKey(), last, context.Cause(ctx))
		}
	}
}

// config is the config's bytes, nil when there is none.
func (s *Store) config(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.configKey())
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return resp.Kvs[0].Value, nil
}

// PutConfig stores a network config as it is, after checking that it parses:
// agents that are running do not read it again.
func (s *Store) PutConfig(ctx context.Context, raw []byte) error {
	if _, err := ParseNetwork(raw); err != nil {
		return err
	}
	if _, err := s.client.Put(ctx, s.configKey(), string(raw)); err != nil {
		return fmt.Errorf("%s: %w", s.configKey(), err)
	}
	return nil
}

// PutConfigOnce is PutConfig unless there is a config already, which then
// stays: a store that was restarted keeps what was changed in it.
func (s *Store) PutConfigOnce(ctx context.Context, raw []byte) error {
	if _, err := ParseNetwork(raw); err != nil {
		return err
	}
	_, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(s.configKey()), "=", 0)).
		Then(clientv3.OpPut(s.configKey(), string(raw))).
		Commit()
	if err != nil {
		return fmt.Errorf("%s: %w", s.configKey(), err)
	}
	return nil
}

// Reserve pins subnet to the host with this public address: a key without
// TTL. When the host has the subnet already nothing is done, also when it has it
// by a lease, which is what flanneld makes of a reservation; a subnet that
// another host has is an error (a *TakenError).
func (s *Store) Reserve(ctx context.Context, subnet netip.Prefix, publicIP netip.Addr) error {
	value, err := Attrs{PublicIP: publicIP}.Encode()
	if err != nil {
		return fmt.Errorf("reserve %s: %w", subnet, err)
	}
	if subnet != subnet.Masked() || !subnet.Addr().Is4() {
		return fmt.Errorf("reserve %s: not an IPv4 subnet; give its base address", subnet)
	}
	for {
		done, err := s.reserve(ctx, subnet, publicIP, string(value))
		if _, taken := errors.AsType[*TakenError](err); taken {
			return fmt.Errorf("reserve: %w", err)
		}
		if err != nil {
			return fmt.Errorf("reserve %s: %w", subnet, err)
		}
		if done {
			return nil
		}
	}
}

// reserve is one try; done is false when some lease changed meanwhile, which
// could overlap.
func (s *Store) reserve(ctx context.Context, subnet netip.Prefix, publicIP netip.Addr, value string) (done bool, err error) {
	now, err := s.Leases(ctx)
	if err != nil {
		return false, err
	}
	for _, l := range now.Leases {
		if l.Subnet == subnet && l.PublicIP == publicIP {
			return true, nil
		}
		if l.Subnet.Overlaps(subnet) {
			return false, &TakenError{Subnet: subnet, By: l}
		}
	}
	key := s.subnetKey(subnet)
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(key), "=", 0),
			clientv3.Compare(clientv3.ModRevision(s.subnetsKey()).WithPrefix(), "<", now.Revision+1)).
		Then(clientv3.OpPut(key, value)).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil || resp.Succeeded {
		return err == nil, err
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 && kvs[0].ModRevision <= now.Revision {
		return false, &TakenError{Subnet: subnet} // else it would be among the leases
	}
	return false, nil
}

// TakenError says who has a subnet.
type TakenError struct {
	Subnet netip.Prefix
	By     Lease // zero when the owner could not be read
}

func (e *TakenError) Error() string {
	if !e.By.Subnet.IsValid() {
		return fmt.Sprintf("subnet %s: taken by a key that cannot be read", e.Subnet)
	}
	return fmt.Sprintf("subnet %s: %s has %s; choose another, or delete that lease", e.Subnet, e.By.PublicIP, e.By.Subnet)
}

// Leases is all leases now, by one range request.
func (s *Store) Leases(ctx context.Context) (Snapshot, error) {
	entries, head, err := s.list(ctx, nil)
	if err != nil {
		return Snapshot{}, err
	}
	return snapshotOf(entries, head.revision, head.cluster), nil
}

// head is where the store was when it answered.
type head struct {
	revision int64
	cluster  uint64
}

// list reads all keys under subnets/. before is what was known, for values
// that have become unreadable since.
func (s *Store) list(ctx context.Context, before map[string]entry) (map[string]entry, head, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.subnetsKey(), clientv3.WithPrefix())
	if err != nil {
		return nil, head{}, fmt.Errorf("%s: %w", s.subnetsKey(), err)
	}
	entries := make(map[string]entry, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		key := string(kv.Key)
		entries[key] = decodeEntry(s.subnetsKey(), kv, before[key])
	}
	return entries, head{resp.Header.Revision, resp.Header.ClusterId}, nil
}

// count is how many keys a list would find.
func (s *Store) count(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.subnetsKey(), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.subnetsKey(), err)
	}
	return int(resp.Count), nil
}

// Compact makes the store forget all revisions but the one of now: watchers
// that are behind have to list anew.
func (s *Store) Compact(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.configKey())
	if err == nil {
		_, err = s.client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	}
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil // nothing has happened since the last time
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// get reads one subnet's key; nil when there is none.
func (s *Store) get(ctx context.Context, subnet netip.Prefix) (*mvccpb.KeyValue, head, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := s.client.Get(ctx, s.subnetKey(subnet))
	if err != nil {
		return nil, head{}, err
	}
	h := head{resp.Header.Revision, resp.Header.ClusterId}
	if len(resp.Kvs) == 0 {
		return nil, h, nil
	}
	return resp.Kvs[0], h, nil
}

// onConnect calls f each time a connection to the store was made anew, until
// ctx ends. etcd's client resumes its watches by itself and without a word,
// also on a store that is not the one it was: then nothing would ever come.
func onConnect(ctx context.Context, c *clientv3.Client, f func()) {
	conn := c.ActiveConnection()
	if conn == nil { // in-process: lives and dies with its server
		return
	}
	for state := conn.GetState(); conn.WaitForStateChange(ctx, state); {
		// From ready to ready means that it was not in between.
		if state = conn.GetState(); state == connectivity.Ready {
			f()
		}
	}
}

// signal leaves word on a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sortProblems(p []Problem) {
	slices.SortFunc(p, func(a, b Problem) int { return cmp.Compare(a.Key, b.Key) })
}
