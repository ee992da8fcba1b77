package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"labctl/nodes"
)

// A visitor is a process that entered a namespace of the lab from outside
// (ip netns exec). It would keep the namespace alive after the lab.

// visitor is one of them.
type visitor struct {
	pid            int
	comm, endpoint string
}

// visitors are those that are there. For a rootless lab there are none:
// entering takes the capabilities that only the lab itself has.
func (r *Record) visitors() ([]visitor, error) {
	if r.Rootless || len(r.Namespaces) == 0 {
		return nil, nil
	}
	if boot, err := bootID(); err != nil || boot != r.BootID {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []visitor
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		name, ok := r.visits(pid)
		if !ok {
			continue
		}
		comm, err := os.ReadFile("/proc/" + e.Name() + "/comm")
		if err != nil {
			continue // gone
		}
		found = append(found, visitor{pid, string(bytes.TrimSpace(comm)), name})
	}
	return found, nil
}

// endVisitors ends those of the chosen endpoints, and returns a line on each.
func (r *Record) endVisitors(of func(endpoint string) bool) ([]string, error) {
	all, err := r.visitors()
	if err != nil {
		return nil, err
	}
	var ended []string
	var errs []error
	for _, v := range all {
		if !of(v.endpoint) {
			continue
		}
		if err := r.end(v.pid); err != nil {
			errs = append(errs, err)
			continue
		}
		ended = append(ended, fmt.Sprintf("%d %s in %s", v.pid, v.comm, v.endpoint))
	}
	return ended, errors.Join(errs...)
}

// everywhere chooses all endpoints of a lab.
func everywhere(string) bool { return true }

// visits says whether pid sits in a network namespace of the lab without
// belonging to the lab's PID namespace, and in which.
func (r *Record) visits(pid int) (string, bool) {
	var st unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	if unix.Stat(path, &st) != nil {
		return "", false
	}
	ns, ok := r.Namespaces[st.Ino]
	if !ok {
		return "", false
	}
	if p, err := pidNamespace("/proc", pid); err != nil || p == r.PIDNamespace {
		return "", false // the lab's own: it goes with PID 1
	}
	// The inode may be in use again by another namespace; the cookie never is.
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	open := nodes.NamespaceFromFile(ns.Name, f)
	defer open.Close()
	cookie, err := Cookie(open)
	return ns.Name, err == nil && cookie == ns.Cookie
}

// end terminates a visitor, then kills it.
func (r *Record) end(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if _, ok := r.visits(pid); !ok {
		return nil // the number belongs to another by now
	}
	for _, s := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, graceForVisitors}, {unix.SIGKILL, killTimeout}} {
		if err := unix.PidfdSendSignal(fd, s.signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("process %d: kill: %w", pid, err)
		}
		if ended, err := awaitExit(fd, s.wait); err != nil {
			return fmt.Errorf("process %d: wait: %w", pid, err)
		} else if ended {
			return nil
		}
	}
	return fmt.Errorf("process %d: still there after SIGKILL", pid)
}

// Cookie is the namespace's number that is never used again in this boot
// (SO_NETNS_COOKIE, Linux 5.14).
func Cookie(ns *nodes.Namespace) (uint64, error) {
	var cookie uint64
	err := ns.Do(func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	return cookie, err
}
