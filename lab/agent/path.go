package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
	"labctl/backends"
)

// openPath opens the data path of a backend that carries packets itself; for
// any other it does nothing.
func (a *flannelSystem) openPath(l backends.Lease) error {
	c, ok := a.backend.(backends.Carrier)
	if !ok {
		return nil
	}
	p, err := c.Open(l, a.underlay, a.Log)
	if err != nil {
		err = fmt.Errorf("%s: %w", a.Node, err)
		a.update(func(r *Report) { a.trouble, r.Unsupported = err.Error(), denied(err) })
		if denied(err) {
			return unsupported{err}
		}
		return err
	}
	a.mu.Lock()
	a.path = p
	a.mu.Unlock()
	a.update(func(r *Report) { r.Traffic = a.traffic() })
	return nil
}

// denied says whether err means that this machine will never do it.
func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

// carry runs the data path until ctx ends.
func (a *flannelSystem) carry(ctx context.Context) error {
	if a.path == nil {
		return nil
	}
	return a.path.Run(ctx)
}

// traffic is what the data path carried so far. The caller holds mu, or is the
// one who opened the path.
func (a *flannelSystem) traffic() *backends.Traffic {
	if a.path == nil {
		return nil
	}
	t := a.path.Traffic()
	return &t
}
