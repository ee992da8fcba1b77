package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"labctl/lab"
)

// A run directory that is a link, or that others may write to, is not used:
// neither by up, nor by down, which would remove what is behind it.
func TestRunDirectoryOfOthersIsRefused(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's run directory is /run/labctl, which only root can put anything into")
	}
	runtime, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Chmod(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	base := filepath.Join(runtime, "labctl")
	refused := func(name string) {
		t.Helper()
		if d, err := lab.DirOf(name); err == nil || lab.ExitCode(err) != 4 || !strings.Contains(err.Error(), "not a private directory") {
			t.Errorf("DirOf(%q) = %q, %v, want it refused", name, d, err)
		}
		if _, err := lab.Down(t.Context(), name); err == nil {
			t.Errorf("Down(%q) went on", name)
		}
	}
	if err := os.Symlink(elsewhere, base); err != nil {
		t.Fatal(err)
	}
	refused("a")
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(base, "a")); err != nil {
		t.Fatal(err)
	}
	refused("a")
	if err := os.Mkdir(filepath.Join(base, "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(base, "b"), 0o777); err != nil {
		t.Fatal(err)
	}
	refused("b")
	if _, err := lab.DirOf("c"); err != nil {
		t.Errorf("DirOf of one that is not there: %v", err)
	}
}

// In /tmp somebody may make the base directory after DirOf has found none.
func TestLockLooksAgain(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	base := filepath.Join(dir, "labctl")
	if err := os.Symlink(elsewhere, base); err != nil {
		t.Fatal(err)
	}
	f, err := lab.Dir(filepath.Join(base, "a")).Lock()
	if err == nil {
		f.Close()
	}
	if lab.ExitCode(err) != 4 {
		t.Errorf("Lock() behind a link = %v, want it refused", err)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "a", "lock")); err == nil {
		t.Error("Lock() wrote behind the link")
	}
}
