package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits in sockaddr_un's sun_path with its final zero.
const maxSocketPath = 107

// Base is the directory that holds the run directories of the caller's labs:
// /run/labctl for root, $XDG_RUNTIME_DIR/labctl or /tmp/labctl-UID for others.
// It need not exist.
func Base() (string, error) {
	if os.Geteuid() == 0 {
		return "/run/labctl", nil
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		// A relative one is to be ignored (XDG base directory specification).
		if filepath.IsAbs(d) && owned(d) == nil {
			return filepath.Join(d, "labctl"), nil
		}
	}
	d := "/tmp/labctl-" + strconv.Itoa(os.Geteuid())
	if err := owned(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // /tmp is everybody's: somebody else may have been there first
	}
	return d, nil
}

// owned checks that d is a directory (not a link to one) that nobody but the
// caller can write to. fs.ErrNotExist when it is not there.
func owned(d string) error {
	fi, err := os.Lstat(d)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	refuse := func(cure string) error {
		return &Failure{Kind: Unable, Err: fmt.Errorf("%s: not a private directory of user %d", d, os.Geteuid()), Cure: cure}
	}
	switch {
	case !fi.IsDir():
		return refuse("rm " + d)
	case !ok || int(st.Uid) != os.Geteuid():
		return refuse("have its owner or root remove it, or set XDG_RUNTIME_DIR to a directory of yours")
	case fi.Mode().Perm()&0o022 != 0:
		return refuse("chmod go-w " + d + ", when nobody else has put anything into it")
	}
	return nil
}

// Dir is the run directory of one lab. It holds all that labctl keeps on disk
// for it; `down` removes it whole.
type Dir string

// DirOf is the run directory of the lab called name. It need not exist.
func DirOf(name string) (Dir, error) {
	// A name is part of a path that `down` removes: nothing like ".." gets there.
	if !labName().MatchString(name) {
		return "", &Failure{Kind: Usage, Err: fmt.Errorf("%q: not a lab's name", name), Cure: "labctl ls shows the labs that run" + OtherUsersHint()}
	}
	base, err := Base()
	if err != nil {
		return "", err
	}
	d := Dir(filepath.Join(base, name))
	if err := d.private(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if n := len(d.Socket()); n > maxSocketPath {
		return "", &Failure{Kind: Usage, Err: fmt.Errorf("%s: a socket's path of %d bytes, at most %d", d.Socket(), n, maxSocketPath),
			Cure: "choose a shorter name, or a shorter XDG_RUNTIME_DIR"}
	}
	return d, nil
}

// private checks that nobody but the caller can put anything into the run
// directory or in its place: a link there could have `up` write and `down`
// remove elsewhere. fs.ErrNotExist when it is not there.
func (d Dir) private() error {
	for _, p := range []string{filepath.Dir(string(d)), string(d)} {
		if err := owned(p); err != nil {
			return err
		}
	}
	return nil
}

// Names are the labs of the caller that have a run directory, sorted.
func Names() ([]string, error) {
	base, err := Base()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && labName().MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Name is the lab's name.
func (d Dir) Name() string { return filepath.Base(string(d)) }

// Record is the file that says which processes and names are the lab's.
func (d Dir) Record() string { return d.path("record.json") }

// Socket is the supervisor's unix socket.
func (d Dir) Socket() string { return d.path("socket") }

// Plan is the plan that the lab was built from, with the nodes of now.
func (d Dir) Plan() string { return d.path("plan.json") }

// Spec is the lab file as it was given; after `node add` or `node rm`, as it
// would have to be for the lab that runs now.
func (d Dir) Spec() string { return d.path("lab.yaml") }

// Logs is the directory of the processes' logs.
func (d Dir) Logs() string { return d.path("logs") }

// Log is the log of one process: supervisor, etcd or a node.
func (d Dir) Log(process string) string { return d.path("logs", process+".log") }

// OpenLog opens the log of one process to add to it, through no link.
func (d Dir) OpenLog(process string) (*os.File, error) {
	return openFile(d.Log(process), os.O_CREATE|os.O_APPEND|os.O_WRONLY)
}

// Etcd is the store's data directory.
func (d Dir) Etcd() string { return d.path("etcd") }

// EtcdSocket is the store's unix socket, for the supervisor.
func (d Dir) EtcdSocket() string { return d.path("etcd.sock") }

// Node is the directory that is /run/flannel to a node.
func (d Dir) Node(node string) string { return d.path("nodes", node) }

// Speaker is where an endpoint's BGP speaker has its files.
func (d Dir) Speaker(endpoint string) string { return d.path("nodes", endpoint) }

// SubnetEnv is the file that a node's agent writes for the container runtime.
func (d Dir) SubnetEnv(node string) string { return d.path("nodes", node, "subnet.env") }

// WriteExtended replaces plan and lab file.
func (d Dir) WriteExtended(e *Extended) error {
	plan, err := json.MarshalIndent(e.Plan, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(writeFile(d.Plan(), plan), writeFile(d.Spec(), e.File))
}

// downMark is there once somebody asked for the lab's removal: an `up` that
// sees its lab end looks whether that is why.
func (d Dir) downMark() string { return d.path("down") }

// lock is held by the command that builds or removes the lab.
func (d Dir) lock() string { return d.path("lock") }

// errLocked says that another command is building or removing the lab.
var errLocked = errors.New("locked")

// Lock makes the run directory when it is not there and takes its lock without
// waiting. The lock ends with the process at the latest. An error is errLocked
// when another command has it.
func (d Dir) Lock() (*os.File, error) {
	for {
		// Not os.MkdirAll, which fails when a `down` removes the base between its
		// mkdir and its look at who was first.
		if err := os.Mkdir(filepath.Dir(string(d)), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		err := os.Mkdir(string(d), 0o700)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a `down` has removed the base, which was empty, in between
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		// /tmp is everybody's: since DirOf looked, another may have made the base.
		err = d.private()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by a `down` in between
		}
		if err != nil {
			return nil, err
		}
		f, err := d.tryLock()
		if errors.Is(err, fs.ErrNotExist) {
			continue // as above
		}
		return f, err
	}
}

// LockExisting is Lock for a directory that must not be made: fs.ErrNotExist
// when it is not there.
func (d Dir) LockExisting() (*os.File, error) { return d.tryLock() }

// locked says whether a command builds or removes the lab. It makes nothing.
func (d Dir) locked() bool {
	f, err := openFile(d.lock(), os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	// A command that wants the lock at this moment tries again.
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func (d Dir) tryLock() (*os.File, error) {
	f, err := openFile(d.lock(), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("%s: lock: %w", d.lock(), err)
	}
	// Whoever held it before may have removed the directory with the file.
	var held, named unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &held); err != nil {
		f.Close()
		return nil, err
	}
	if err := unix.Stat(d.lock(), &named); err != nil || named.Ino != held.Ino || named.Dev != held.Dev {
		f.Close()
		return nil, fmt.Errorf("%s: %w", d.lock(), fs.ErrNotExist)
	}
	return f, nil
}

// lockHolder is the process that took the lock, 0 when that is not known
// (proc_locks(5)).
func (d Dir) lockHolder() int {
	var st unix.Stat_t
	if unix.Stat(d.lock(), &st) != nil {
		return 0
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	return flockHolder(string(b), st.Dev, st.Ino)
}

// flockHolder finds who has the lock of a file in the text of /proc/locks.
func flockHolder(locks string, dev, inode uint64) int {
	for line := range strings.Lines(locks) {
		// 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		var major, minor uint32
		var ino uint64
		if n, _ := fmt.Sscanf(f[5], "%x:%x:%d", &major, &minor, &ino); n != 3 || ino != inode || unix.Mkdev(major, minor) != dev {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}

// writeFile replaces a file in one step, so that a reader never sees half.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := openFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// openFile opens a file of the run directory. The directory is the user's
// alone; a link in the place of a file, which would lead elsewhere, is refused
// all the same (ELOOP).
func openFile(path string, flag int) (*os.File, error) {
	return os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0o600)
}

// readFile reads a file of the run directory.
func readFile(path string) ([]byte, error) {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
