package lab

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Once the lock is gone the directory is anybody's who takes it anew: what an
// `up` that waited has put there stays.
func TestRemoveDirLeavesAnothersFiles(t *testing.T) {
	t.Parallel()
	d := Dir(t.TempDir() + "/x")
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := os.WriteFile(d.Plan(), []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeDir(d); err != nil {
		t.Errorf("removeDir() = %v", err)
	}
	if _, err := os.Stat(d.Plan()); err != nil {
		t.Errorf("another's file: %v", err)
	}
	if err := os.Remove(d.Plan()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeDir(d); err != nil {
			t.Errorf("removeDir() of an empty one = %v", err)
		}
	}
	if _, err := os.Stat(string(d)); !os.IsNotExist(err) {
		t.Errorf("%s: still there (%v)", d, err)
	}
}

// The directory of the names goes with them if the lab made it, and stays while
// anybody has a name in it.
func TestRemoveLinksTakesItsDirectory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		made, another bool
		stays         bool
	}{
		{"made by the lab", true, false, false},
		{"made by the lab, used by another", true, true, true},
		{"there before", false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "netns")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			r := Record{Links: map[string]string{}}
			if c.made {
				r.NamesDir = dir
				var err error
				if r.NamesID, err = identity(dir); err != nil {
					t.Fatal(err)
				}
			}
			link := func(name string) string {
				path := filepath.Join(dir, name)
				if err := os.Symlink("/proc/1/fd/9", path); err != nil {
					t.Fatal(err)
				}
				return path
			}
			r.Links[link("lab.node1")] = "/proc/1/fd/9"
			if c.another {
				link("other.node1")
			}
			for range 2 { // down may come a second time
				if err := r.RemoveLinks(); err != nil {
					t.Errorf("RemoveLinks() = %v", err)
				}
			}
			if _, err := os.Stat(dir); (err == nil) != c.stays {
				t.Errorf("the directory stays: %v (%v), want %v", err == nil, err, c.stays)
			}
			if _, err := os.Lstat(filepath.Join(dir, "other.node1")); (err == nil) != c.another {
				t.Errorf("another's name: %v", err)
			}
		})
	}
}

// A lab makes names, and adds them to its record, until it is killed: what it
// has added after the record was read is removed as well.
func TestRemoveSeesWhatWasAddedLast(t *testing.T) {
	t.Parallel()
	d, name := Dir(t.TempDir()), filepath.Join(t.TempDir(), "x.node1")
	shim := exec.Command("sleep", "1000")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	// Its parent is to reap it: a zombie counts as gone.
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		_ = shim.Wait() // killed by remove
	}()
	t.Cleanup(func() {
		_ = shim.Process.Kill() // gone, unless the test has failed
		<-reaped
	})
	rec := Record{PID: shim.Process.Pid}
	var err [3]error
	rec.BootID, err[0] = bootID()
	rec.StartTime, err[1] = startTime("/proc", rec.PID)
	rec.PIDNamespace, err[2] = pidNamespace("/proc", rec.PID)
	if err := errors.Join(err[:]...); err != nil {
		t.Fatal(err)
	}
	// The first reader is given a record without names; when it has read it, the
	// file is already another.
	early, jerr := json.Marshal(rec)
	if err := errors.Join(jerr, unix.Mkfifo(d.Record(), 0o600)); err != nil {
		t.Fatal(err)
	}
	added := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(d.Record(), os.O_WRONLY, 0)
		if err != nil {
			added <- err
			return
		}
		rec.Links = map[string]string{name: "/proc/1/fd/9"}
		_, err = f.Write(early)
		added <- errors.Join(err, rec.Write(d), os.Symlink("/proc/1/fd/9", name), f.Close())
	}()
	if _, err := remove(d); err != nil {
		t.Errorf("remove() = %v", err)
	}
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(name); err == nil {
		t.Error("a name is left, and no record that tells of it")
	}
}

// One lab's end and another's beginning make and remove the base at once.
func TestLockWhileTheBaseGoes(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "labctl")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			d := Dir(filepath.Join(base, name))
			for range 500 {
				lock, err := d.Lock()
				if err != nil {
					t.Errorf("Lock() = %v", err)
					return
				}
				if err := removeDir(d); err != nil {
					t.Errorf("removeDir() = %v", err)
				}
				lock.Close()
			}
		})
	}
	wg.Wait()
}
