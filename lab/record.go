package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Record is what a lab left on the machine outside its own namespaces: enough
// to find its processes again without mistaking another for them, and the only
// names that `down` may remove. The init shim writes it before anything is
// made; the supervisor adds to it before it makes what it adds.
type Record struct {
	SchemaVersion int       `json:"schemaVersion"`
	Name          string    `json:"name"`
	Created       time.Time `json:"created"`
	Rootless      bool      `json:"rootless"`

	// Pids are those of the /proc that commands see.
	BootID       string `json:"bootID"`
	PID          int    `json:"pid"`       // the init shim: when it dies, all die
	StartTime    uint64 `json:"startTime"` // its start in clock ticks after boot, proc_pid_stat(5) field 22
	PIDNamespace uint64 `json:"pidNamespace"`
	Supervisor   int    `json:"supervisor,omitempty"`

	// Links are the symbolic links under /run/netns, each with its target.
	Links map[string]string `json:"links,omitempty"`
	// NamesDir is the directory of the links if a lab made it, this one or another,
	// and NamesID which one: it goes with the last of the links.
	NamesDir string `json:"namesDir,omitempty"`
	NamesID  string `json:"namesID,omitempty"`
	// Namespaces are the lab's network namespaces, by inode, each with its
	// cookie (SO_NETNS_COOKIE), which unlike the inode is never used again.
	Namespaces map[uint64]NamespaceRecord `json:"namespaces,omitempty"`
}

// NamespaceRecord tells one network namespace from all others of this boot.
type NamespaceRecord struct {
	Name   string `json:"name"`
	Cookie uint64 `json:"cookie"`
}

// ReadRecord reads the record of the lab in d. fs.ErrNotExist when there is none.
func ReadRecord(d Dir) (*Record, error) {
	b, err := readFile(d.Record())
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Record(), err)
	}
	return r, nil
}

// ParseRecord decodes a record.
func ParseRecord(b []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// Write puts the record into d in one step.
func (r *Record) Write(d Dir) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return writeFile(d.Record(), append(b, '\n'))
}

// Identify fills in the fields that tell the calling process from others. proc
// is where the /proc that commands see is mounted.
func (r *Record) Identify(proc string) error {
	self, err := os.Readlink(proc + "/self")
	if err != nil {
		return err
	}
	if r.PID, err = strconv.Atoi(self); err != nil {
		return fmt.Errorf("%s/self: %w", proc, err)
	}
	if r.BootID, err = bootID(); err != nil {
		return err
	}
	if r.StartTime, err = startTime(proc, r.PID); err != nil {
		return err
	}
	r.PIDNamespace, err = pidNamespace(proc, r.PID)
	return err
}

// Alive says whether the lab's init shim still runs.
func (r *Record) Alive() bool {
	boot, err := bootID()
	if err != nil || boot != r.BootID {
		return false
	}
	start, err := startTime("/proc", r.PID)
	if err != nil || start != r.StartTime {
		return false
	}
	ns, err := pidNamespace("/proc", r.PID)
	return err == nil && ns == r.PIDNamespace
}

// Kill ends the init shim and with it every process of the lab, and waits
// until they are gone. It does nothing when the shim does not run.
func (r *Record) Kill(timeout time.Duration) error {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	// The pidfd stands for one process; only now is looking at the number safe.
	if !r.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: kill: %w", r.PID, err)
	}
	if ended, err := awaitExit(fd, timeout); err != nil {
		return fmt.Errorf("process %d: wait: %w", r.PID, err)
	} else if !ended {
		return fmt.Errorf("process %d: still there %v after SIGKILL", r.PID, timeout)
	}
	return nil
}

// awaitExit waits until the process of a pidfd has ended, and says whether it
// has. A signal that arrives meanwhile (Ctrl-C) does not shorten it.
func awaitExit(pidfd int, timeout time.Duration) (bool, error) {
	for deadline := time.Now().Add(timeout); ; {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 || left == 0 {
			return n > 0, nil
		}
	}
}

// RemoveLinks removes the links that still lead where the record says, and
// their directory if a lab made it and nobody has anything in it.
func (r *Record) RemoveLinks() error {
	var errs []error
	for path, target := range r.Links {
		got, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) || err == nil && got != target {
			continue // gone, or somebody else's by now
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if r.NamesDir != "" {
		errs = append(errs, r.removeNamesDir())
	}
	return errors.Join(errs...)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

func startTime(proc string, pid int) (uint64, error) {
	path := fmt.Sprintf("%s/%d/stat", proc, pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	start, err := parseStartTime(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return start, nil
}

// parseStartTime reads field 22 of proc_pid_stat(5). The command's name, field
// 2, may hold blanks and parentheses: count from the last one.
func parseStartTime(stat []byte) (uint64, error) {
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("%d fields", len(f)+2)
	}
	if f[0] == "Z" {
		return 0, errors.New("a zombie")
	}
	return strconv.ParseUint(f[19], 10, 64)
}

func pidNamespace(proc string, pid int) (uint64, error) {
	var st unix.Stat_t
	path := fmt.Sprintf("%s/%d/ns/pid", proc, pid)
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Ino, nil
}
