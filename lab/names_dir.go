package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// NamesDir is where ip(8) looks for named namespaces.
const NamesDir = "/run/netns"

// ClaimNames makes the directory of the names, when it is not there, and has
// the record of the lab in d say so before it is. One that another lab made and
// has on record is this lab's, too: whichever ends last takes it. The caller
// writes the record.
//
// It is made in the run directory and moved to its place, its identity on
// record: of whoever dies in between, `down` takes nobody else's for the lab's.
func (r *Record) ClaimNames(d Dir, names string) error {
	for {
		id, err := identity(names)
		if err == nil {
			if r.NamesDir, r.NamesID = "", ""; d.made(names, id) {
				r.NamesDir, r.NamesID = names, id
			}
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		own := d.path("netns")
		if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if r.NamesID, err = identity(own); err != nil {
			return err
		}
		r.NamesDir = names
		if err := r.Write(d); err != nil {
			return err
		}
		err = unix.Renameat2(unix.AT_FDCWD, own, unix.AT_FDCWD, names, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue // somebody was faster
		}
		if slices.Contains([]error{unix.EXDEV, unix.EINVAL, unix.ENOSYS}, err) {
			// It cannot be moved there. One that is made there stays for good: nothing
			// would tell it from another's.
			if err = os.Mkdir(names, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
				continue
			}
		}
		if err != nil {
			return &os.LinkError{Op: "rename", Old: own, New: names, Err: err}
		}
		return nil
	}
}

// made says whether a lab, this one or another of the same user, made the
// directory of the names.
func (d Dir) made(names, id string) bool {
	records, err := filepath.Glob(filepath.Join(filepath.Dir(string(d)), "*", filepath.Base(d.Record())))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(records, func(path string) bool {
		// One that cannot be read, or goes at this moment, claims nothing.
		rec, err := ReadRecord(Dir(filepath.Dir(path)))
		return err == nil && rec.NamesDir == names && rec.NamesID == id
	})
}

// removeNamesDir removes the directory of the names if it is the one on record
// and nobody has anything in it.
func (r *Record) removeNamesDir() error {
	id, err := identity(r.NamesDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && id != r.NamesID {
		return nil // gone, or another's by now
	}
	if err == nil {
		err = unix.Rmdir(r.NamesDir)
	}
	// Others' names keep it, and ip netns, which mounts it on itself.
	if err == nil || slices.Contains([]error{unix.ENOENT, unix.ENOTEMPTY, unix.EBUSY}, err) {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: r.NamesDir, Err: err}
}

// identity tells the directory at path from any other that is ever there: inodes
// are used again, so it has the time of its making where the file system knows.
func identity(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d %d %d.%09d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}
