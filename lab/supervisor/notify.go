package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notifier tells of files that come, change or go in directories (inotify(7)).
type notifier struct{ f *os.File }

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &notifier{os.NewFile(uintptr(fd), "inotify")}, nil
}

// add watches a directory, until it is removed.
func (n *notifier) add(dir string) error {
	c, err := n.f.SyscallConn()
	if err != nil {
		return err
	}
	var aerr error
	err = c.Control(func(fd uintptr) {
		_, aerr = unix.InotifyAddWatch(int(fd), dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE)
	})
	if err := errors.Join(err, aerr); err != nil {
		return fmt.Errorf("%s: inotify: %w", dir, err)
	}
	return nil
}

// run leaves word in changed until ctx ends, which closes the notifier.
func (n *notifier) run(ctx context.Context, changed chan<- struct{}) error {
	defer context.AfterFunc(ctx, func() { n.f.Close() })()
	// Which file it was does not matter: all are looked at.
	b := make([]byte, 64*(unsafe.Sizeof(unix.InotifyEvent{})+unix.NAME_MAX+1))
	for {
		if _, err := n.f.Read(b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("inotify: %w", err)
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}
