package nodes

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// threadNetns is the network namespace of the thread that opens it.
const threadNetns = "/proc/thread-self/ns/net"

// Namespace is an open network namespace. It lives as long as it is open or a
// process or socket is in it. It is safe for concurrent use.
type Namespace struct {
	name string
	file *os.File
	// own is true for the namespace that the process itself is in: its threads
	// need not be moved, so Do works there without privilege.
	own bool

	trees sysctlTrees

	viewMu  sync.Mutex // guards view and viewErr
	view    *View
	viewErr error
}

// NewNamespace is NewNamespaces for one.
func NewNamespace(name string, settings ...Sysctl) (*Namespace, error) {
	all, err := NewNamespaces([]string{name}, settings...)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// NewNamespaces creates one network namespace for each name, all or none of
// them, on one thread: the kernel creates namespaces one at a time anyway.
// Nothing in them is up, not even lo. They begin with the settings, none of a
// device. Whoever writes those later may wait long: the kernel tries writes of
// disable_ipv6 and forwarding again and again, never asleep, while anybody
// changes a device, address or route anywhere (restart_syscall,
// net/ipv6/addrconf.c).
func NewNamespaces(names []string, settings ...Sysctl) ([]*Namespace, error) {
	var all []*Namespace
	err := onThread(func() error {
		return thereAndBack(func() error {
			for _, name := range names {
				if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
					return fmt.Errorf("%s: create network namespace: %w", name, err)
				}
				f, err := openNetns(threadNetns)
				if err != nil {
					return fmt.Errorf("%s: open network namespace: %w", name, err)
				}
				n := &Namespace{name: name, file: f}
				all = append(all, n)
				if err := n.trees.writeAll(settings); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		})
	})
	if err != nil {
		for _, n := range all {
			n.Close()
		}
		return nil, err
	}
	return all, nil
}

// CurrentNamespace opens the namespace that the calling process was born in.
func CurrentNamespace(name string) (*Namespace, error) {
	var n *Namespace
	err := onThread(func() error {
		f, err := openNetns(threadNetns)
		if err != nil {
			return fmt.Errorf("%s: open network namespace: %w", name, err)
		}
		n = &Namespace{name: name, file: f, own: true}
		return nil
	})
	return n, err
}

// NamespaceFromFile makes a Namespace of an open one, such as an inherited
// descriptor. The Namespace owns f from now on.
func NamespaceFromFile(name string, f *os.File) *Namespace {
	return &Namespace{name: name, file: f}
}

// Name is the name that errors are prefixed with.
func (n *Namespace) Name() string { return n.name }

// File is the open namespace, for handing it on (it stays the Namespace's).
func (n *Namespace) File() *os.File { return n.file }

// Inode is the namespace's number, the one in /proc/PID/ns/net.
func (n *Namespace) Inode() (uint64, error) {
	var st unix.Stat_t
	err := n.withFd(func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil {
		return 0, fmt.Errorf("%s: stat network namespace: %w", n.name, err)
	}
	return st.Ino, nil
}

// Close lets go of the namespace and its view. Processes keep what they are in.
func (n *Namespace) Close() error {
	n.trees.close()
	n.viewMu.Lock()
	defer n.viewMu.Unlock()
	if n.view == nil {
		return n.file.Close()
	}
	return errors.Join(n.view.file.Close(), n.file.Close())
}

// Do runs f on a thread inside the namespace and returns its error. f may
// open what belongs to the namespace; it must not start goroutines that rely
// on being there. Do may be called from many goroutines at once.
func (n *Namespace) Do(f func() error) error {
	if n.own {
		return onThread(f)
	}
	return onThread(func() error {
		return thereAndBack(func() error {
			if err := n.enter(); err != nil {
				return err
			}
			return f()
		})
	})
}

// enter moves the calling thread into the namespace.
func (n *Namespace) enter() error {
	err := n.withFd(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
	if err != nil {
		return fmt.Errorf("%s: enter network namespace: %w", n.name, err)
	}
	return nil
}

// withFd lends the descriptor to f; it cannot be closed meanwhile.
func (n *Namespace) withFd(f func(fd int) error) error { return withFd(n.file, f) }

// withFd lends a file's descriptor to f; it cannot be closed meanwhile.
func withFd(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return os.ErrClosed // the only reason
	}
	return ferr
}

// onThread runs f in a goroutine of its own that is locked to its thread.
// thereAndBack decides whether others may use the thread afterwards.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine")
		defer func() { done <- err }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc/PID/ns/net is the main thread's: it stays where it is, and
			// busy here while another thread does the work.
			defer runtime.UnlockOSThread()
			err = onThread(f)
			return
		}
		err = f()
		var lost *lostThreadError
		if !errors.As(err, &lost) {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}

// lostThreadError says that a thread could not be moved back. The goroutine
// ends without unlocking, which makes the runtime end the thread.
type lostThreadError struct{ err error }

func (e *lostThreadError) Error() string {
	return "move the thread back to its network namespace: " + e.err.Error()
}
func (e *lostThreadError) Unwrap() error { return e.err }

// thereAndBack runs f, which may change the calling thread's network
// namespace, and moves the thread back.
func thereAndBack(f func() error) error {
	back, err := unix.Open(threadNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: open: %w", threadNetns, err)
	}
	defer unix.Close(back)
	err = f()
	if e := unix.Setns(back, unix.CLONE_NEWNET); e != nil {
		return errors.Join(err, &lostThreadError{e})
	}
	return err
}

func openNetns(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
