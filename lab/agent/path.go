package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
	"labctl/backends"
)

// path is a data path in user space, whatever its peers are: a backend's, or
// Calico's IPIP.
type path interface {
	Run(ctx context.Context) error
	Traffic() backends.Traffic
}

// opened takes the path that the host's packets go through once the agent runs.
// err is why there is none.
func (a *Agent) opened(p path, err error) error {
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
	a.beside = append(a.beside, p.Run)
	a.update(func(r *Report) { r.Traffic = a.traffic() })
	return nil
}

// denied says whether err means that this machine will never do it.
func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

// traffic is what the path carried so far; nil without one. The caller holds
// mu, or is the one who opened the path.
func (a *Agent) traffic() *backends.Traffic {
	if a.path == nil {
		return nil
	}
	t := a.path.Traffic()
	return &t
}
