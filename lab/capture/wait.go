package capture

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waiter waits for rings, or for wake, which may be called from anywhere.
type waiter struct {
	fds          []unix.PollFd // the rings', and the pipe's
	read, writes *os.File      // a pipe; nothing is written, its end is the news
}

func newWaiter(rings []*ring) (*waiter, error) {
	r, wr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	w := &waiter{read: r, writes: wr}
	for _, r := range rings {
		w.fds = append(w.fds, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	w.fds = append(w.fds, unix.PollFd{Fd: int32(r.Fd())})
	return w, nil
}

// wake ends a wait under way, or the next one.
func (w *waiter) wake() { w.writes.Close() }

func (w *waiter) Close() {
	w.read.Close()
	w.writes.Close()
}

// wait returns when a block of a ring is ready, at most d later.
func (w *waiter) wait(d time.Duration) error {
	_, err := unix.Poll(w.fds, int(d.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	rings, pipe := w.fds[:len(w.fds)-1], &w.fds[len(w.fds)-1]
	if pipe.Revents&unix.POLLHUP != 0 {
		pipe.Fd = -1 // once is enough
	}
	for _, p := range rings {
		if p.Revents&unix.POLLERR != 0 {
			// The interface went down or away. Asking clears the error; the socket
			// goes on when the interface comes up again.
			_, _ = unix.GetsockoptInt(int(p.Fd), unix.SOL_SOCKET, unix.SO_ERROR)
		}
	}
	return nil
}
