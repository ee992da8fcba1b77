package backends

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Forget removes all that the store has of the host with this public address,
// reservations too: for a host that has left for good. Its agent has ended
// before, or would register again. It returns the leases that were there and
// the revision from which on they are not, 0 when there were none. It waits
// for a store that is away until ctx ends.
func (s *Store) Forget(ctx context.Context, publicIP netip.Addr) ([]Lease, int64, error) {
	b := backoff{least: 10 * time.Millisecond, most: 500 * time.Millisecond}
	for {
		leases, revision, err := s.forget(ctx, publicIP)
		if err == nil {
			return leases, revision, nil
		}
		if b.wait(ctx) != nil {
			return nil, 0, fmt.Errorf("leases of %s: delete: %w", publicIP, err)
		}
	}
}

func (s *Store) forget(ctx context.Context, publicIP netip.Addr) ([]Lease, int64, error) {
	now, err := s.Leases(ctx)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leases := now.Of(publicIP)
	revision := int64(0)
	for _, l := range leases {
		key := s.subnetKey(l.Subnet)
		resp, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", l.Revision)).
			Then(clientv3.OpDelete(key)).
			Commit()
		if err != nil {
			return nil, 0, err
		}
		if !resp.Succeeded {
			return nil, 0, errRaced
		}
		revision = resp.Header.Revision
		if l.ID == 0 {
			continue
		}
		if _, err := s.client.Revoke(ctx, clientv3.LeaseID(l.ID)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil, 0, err
		}
	}
	return leases, revision, nil
}
