package lab

import (
	"os"
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
