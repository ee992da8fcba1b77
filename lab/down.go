package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Removed tells what Down found.
type Removed struct {
	Found bool // there was something to remove
	// Ended are processes that sat in a namespace of the lab without being the
	// lab's (ip netns exec), as "1234 tcpdump in node1".
	Ended []string
}

// Down removes the lab called name, whatever state it is in. A lab that is
// not there is no error. It wins over an `up` that is under way.
func Down(ctx context.Context, name string) (*Removed, error) {
	d, err := DirOf(name)
	if err != nil {
		return nil, err
	}
	r := &Removed{}
	deadline := time.Now().Add(killTimeout)
	for {
		if _, err := os.Lstat(string(d)); errors.Is(err, fs.ErrNotExist) {
			return r, nil
		}
		// Killing needs no lock: the command that has it sees its lab die.
		if rec, err := ReadRecord(d); err == nil && rec.Alive() {
			r.Found = true
			// A disk without room is no reason to stay: an up that sees its lab end
			// only says less of why.
			_ = d.markDown()
			ended, err := rec.endVisitors(everywhere)
			r.Ended = append(r.Ended, ended...)
			if err != nil {
				return r, err
			}
			if err := rec.Kill(killTimeout); err != nil {
				return r, err
			}
		}
		lock, err := d.LockExisting()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // removed by the other command in the meantime
		case errors.Is(err, errLocked):
			if time.Now().After(deadline) {
				return r, lockFailure(d)
			}
			if err := pause(ctx, d); err != nil {
				return r, fmt.Errorf("%w while another labctl builds or removes it", err)
			}
			continue
		case err != nil:
			return r, err
		}
		r.Found = true
		ended, err := remove(d)
		r.Ended = append(r.Ended, ended...)
		if err == nil {
			err = removeDir(d)
		}
		lock.Close()
		return r, err
	}
}

// markDown notes that somebody asked for the lab's removal.
func (d Dir) markDown() error {
	f, err := openFile(d.downMark(), os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return err
	}
	return f.Close()
}

// lockFailure names the command that has the lock and does not let it go.
func lockFailure(d Dir) error {
	f := &Failure{Kind: Failed, Err: fmt.Errorf("%s: another labctl builds or removes it and does not end", d.Name()),
		Cure: "end that command, then try again"}
	if pid := d.lockHolder(); pid > 0 {
		f.Cure = fmt.Sprintf("it may be stopped (Ctrl-Z): kill -KILL %d, then try again", pid)
	}
	return f
}

// remove takes away all of a lab but its run directory and the lock in it. The
// caller holds the lock.
func remove(d Dir) (ended []string, err error) {
	rec, err := ReadRecord(d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Nothing was made: the record comes first.
	case err != nil:
		return nil, &Failure{Kind: Failed, Err: err, Cure: fmt.Sprintf("the record is damaged; when no labctl process is left, remove %s by hand", d)}
	default:
		if err := rec.Kill(killTimeout); err != nil {
			return nil, err
		}
		// Until it was dead the lab may have added to its record.
		if rec, err = ReadRecord(d); err != nil {
			return nil, err
		}
		if ended, err = rec.endVisitors(everywhere); err != nil {
			return ended, err
		}
		if err := rec.RemoveLinks(); err != nil {
			return ended, err
		}
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return ended, err
	}
	var errs []error
	for _, e := range entries {
		if p := d.path(e.Name()); p != d.lock() {
			errs = append(errs, os.RemoveAll(p))
		}
	}
	return ended, errors.Join(errs...)
}

// removeDir takes the run directory, which remove has emptied but for the lock,
// and, when it was the last, the base. The caller holds the lock.
func removeDir(d Dir) error {
	if err := os.Remove(d.lock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// From here on the lock is another command's for the taking: what it has put
	// there is not ours to remove.
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	// Other labs keep the base; that is no error.
	_ = os.Remove(filepath.Dir(string(d)))
	return nil
}

// graceForVisitors is how long a process that sits in a lab's namespace has
// between SIGTERM and SIGKILL.
const graceForVisitors = 500 * time.Millisecond
