package supervisor

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends"
	"labctl/backends/calico"
	"labctl/lab"
)

// registry is what the store has of the nodes, for commands that change which
// nodes there are.
type registry interface {
	// reserve gives a node its subnet before its agent asks. The error is
	// errTaken when it is another's.
	reserve(ctx context.Context, p lab.NodePlan) error
	// forget takes a node out, whose agent has ended. It returns the revision
	// from which on it is not there, 0 when it was not.
	forget(ctx context.Context, p lab.NodePlan) (revision int64, err error)
}

var errTaken = errors.New("taken")

// taken is an error that is errTaken, too.
type taken struct{ error }

func (taken) Is(target error) bool { return target == errTaken }

// dial lends a connection to etcd.
func (s *Supervisor) dial(ctx context.Context, f func(ctx context.Context, c *clientv3.Client) error) error {
	c, err := backends.Access{Endpoints: []string{"unix://" + s.dir.EtcdSocket()}}.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	return f(ctx, c)
}

// store lends what the store has of the nodes.
func (s *Supervisor) store(ctx context.Context, f func(ctx context.Context, r registry) error) error {
	return s.dial(ctx, func(ctx context.Context, c *clientv3.Client) error {
		if s.current().Calico != nil {
			return f(ctx, blocks{calico.NewStore(c)})
		}
		return f(ctx, leases{backends.NewStore(c)})
	})
}

// leases are flannel's.
type leases struct{ store *backends.Store }

func (l leases) reserve(ctx context.Context, p lab.NodePlan) error {
	err := l.store.Reserve(ctx, p.Subnet, p.NIC.Addr.Addr())
	if _, ok := errors.AsType[*backends.TakenError](err); ok {
		return taken{err}
	}
	return err
}

func (l leases) forget(ctx context.Context, p lab.NodePlan) (int64, error) {
	_, revision, err := l.store.Forget(ctx, p.NIC.Addr.Addr())
	return revision, err
}

// blocks are Calico's.
type blocks struct{ store *calico.Store }

func (b blocks) reserve(ctx context.Context, p lab.NodePlan) error {
	err := b.store.Reserve(ctx, p.Subnet, p.Name)
	if _, ok := errors.AsType[*calico.TakenError](err); ok {
		return taken{fmt.Errorf("reserve: %w", err)}
	}
	return err
}

func (b blocks) forget(ctx context.Context, p lab.NodePlan) (int64, error) {
	return b.store.RemoveNode(ctx, p.Name)
}
