package lab

import (
	"os"
	"path/filepath"
	"testing"
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
