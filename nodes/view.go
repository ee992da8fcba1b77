package nodes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// View is a namespace's files: a mount namespace in which the machine looks as
// to a host of its own. No mount of it is seen outside. All processes that are
// in it see the same:
//
//	/sys                fresh, with the devices of the network namespace
//	/run                a tmpfs; what the machine has there are links into ...
//	/run/.machine       ... the machine's /run
//	/run/NAME           directories given to Namespace.View, /run/flannel
//
// What daemons of hosts lock and listen on in /run (xtables.lock, charon.vici)
// is not linked, and so each view's own. What the machine puts into /run
// later is under /run/.machine only.
//
// A View is safe for concurrent use.
type View struct {
	ns   *Namespace
	file *os.File
}

// runDir and machineRun are a view's /run and, in it, the machine's.
const (
	runDir     = "/run"
	machineRun = ".machine"
)

// ownRun are the files of daemons in /run that hosts do not share.
var ownRun = []string{"flannel", "xtables.lock", "charon.vici", "charon.pid", "charon.ctl"}

// View is the namespace's files, made at the first call; they are closed with
// the namespace. dirs are directories that stand in their /run, by name; later
// calls get what the first one asked for. Parts that this machine does not
// allow, as containers may not mount a /sys, are left as the machine has them;
// the error tells which, and the View is usable all the same unless it is nil.
func (n *Namespace) View(dirs map[string]string) (*View, error) {
	n.viewMu.Lock()
	defer n.viewMu.Unlock()
	if n.view == nil && n.viewErr == nil {
		n.view, n.viewErr = newView(n, dirs)
	}
	return n.view, n.viewErr
}

func newView(ns *Namespace, dirs map[string]string) (*View, error) {
	v := &View{ns: ns}
	var missing error
	err := onOwnThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("%s: create mount namespace: %w", ns.name, err)
		}
		// The machine's mounts may come in, ours must not get out.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("%s: make mounts private: %w", ns.name, err)
		}
		missing = errors.Join(freshSys(), ownRunDir(dirs))
		fd, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: open mount namespace: %w", ns.name, err)
		}
		v.file = os.NewFile(uintptr(fd), "mnt")
		return nil
	})
	if err != nil {
		return nil, err
	}
	if missing != nil {
		missing = fmt.Errorf("%s: %w", ns.name, missing)
	}
	return v, missing
}

// Do runs f on a thread that is in the view and in its network namespace. Like
// Namespace.Do, it is not for goroutines that f starts.
func (v *View) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := v.enter(); err != nil {
			return err
		}
		return f()
	})
}

// enter moves the calling thread, which must end afterwards.
func (v *View) enter() error {
	if err := v.ns.enter(); err != nil {
		return err
	}
	// A thread that shares its working directory with others may not change
	// its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("%s: unshare working directory: %w", v.ns.name, err)
	}
	err := withFd(v.file, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNS) })
	if err != nil {
		return fmt.Errorf("%s: enter mount namespace: %w", v.ns.name, err)
	}
	return nil
}

// onOwnThread runs f on a thread that nobody uses afterwards: it ends with f.
// New threads of the Go runtime are not made from such a one.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine")
		defer func() { done <- err }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/PID is what it is in.
			defer runtime.UnlockOSThread()
			err = onOwnThread(f)
			return
		}
		err = f() // without an unlock the thread ends with the goroutine
	}()
	return <-done
}

// freshSys mounts a sysfs that shows the thread's network namespace. What is
// mounted inside the old one (cgroup, bpf, debug) goes along.
func freshSys() error {
	var inside []string
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		below := slices.ContainsFunc(inside, func(p string) bool { return strings.HasPrefix(m, p+"/") })
		if strings.HasPrefix(m, "/sys/") && !below && !slices.Contains(inside, m) {
			inside = append(inside, m)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys", &st); err != nil {
		return fmt.Errorf("/sys: %w", err)
	}
	trees := map[string]int{}
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, m := range inside {
		if fd, err := openTree(m); err == nil {
			trees[m] = fd
		}
	}
	// A container with a read-only one gets no other.
	flags := uintptr(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC) | uintptr(st.Flags&unix.ST_RDONLY)
	if err := unix.Mount("sysfs", "/sys", "sysfs", flags, ""); err != nil {
		return fmt.Errorf("/sys: mount: %w", err)
	}
	for m, fd := range trees {
		// One whose directory is not there now is not missed.
		_ = moveTree(fd, m)
	}
	return nil
}

// ownRunDir puts a tmpfs over /run through which the machine's is seen.
func ownRunDir(dirs map[string]string) error {
	trees := map[string]int{}
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for name, dir := range dirs {
		fd, err := openTree(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		trees[name] = fd
	}
	tree, err := openTree(runDir)
	if err != nil {
		return fmt.Errorf("%s: %w", runDir, err)
	}
	trees[machineRun] = tree
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", runDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=64m"); err != nil {
		return fmt.Errorf("%s: mount: %w", runDir, err)
	}
	if err := fillRun(trees, entries); err != nil {
		return errors.Join(err, unix.Unmount(runDir, unix.MNT_DETACH))
	}
	return nil
}

// fillRun puts mounts into an empty /run, and links to the rest of the
// machine's.
func fillRun(trees map[string]int, machine []os.DirEntry) error {
	for name, fd := range trees {
		to := filepath.Join(runDir, name)
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := moveTree(fd, to); err != nil {
			return fmt.Errorf("%s: %w", to, err)
		}
	}
	for _, e := range machine {
		if _, given := trees[e.Name()]; given || slices.Contains(ownRun, e.Name()) {
			continue
		}
		if err := os.Symlink(filepath.Join(machineRun, e.Name()), filepath.Join(runDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// openTree copies a directory's mounts, to be put elsewhere.
func openTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("copy mounts: %w", err)
	}
	return fd, nil
}

func moveTree(fd int, to string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move mounts: %w", err)
	}
	return nil
}

// mountPoints are those of the thread's mount namespace, in the order of the
// kernel: what is mounted inside another mount comes after it.
func mountPoints() ([]string, error) {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountPoints(b), nil
}

func parseMountPoints(mountinfo []byte) []string {
	var points []string
	for line := range bytes.Lines(mountinfo) {
		// 36 35 98:0 /root /mount/point options ...
		if f := bytes.Fields(line); len(f) > 4 {
			points = append(points, string(f[4]))
		}
	}
	return points
}
