package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A link in the place of a file of the run directory leads nowhere: what is
// behind it is neither written nor believed.
func TestFilesAreNoLinks(t *testing.T) {
	t.Parallel()
	e := &Extended{Plan: &Plan{Name: "x"}, File: []byte("name: x")}
	for _, test := range []struct {
		name string
		path func(d Dir) string
		do   func(d Dir) error
	}{
		{"lock", Dir.lock, func(d Dir) error { _, err := d.tryLock(); return err }},
		{"down", Dir.downMark, Dir.markDown},
		{"record", Dir.Record, func(d Dir) error { _, err := ReadRecord(d); return err }},
		{"new record", func(d Dir) string { return d.Record() + ".tmp" }, func(d Dir) error { return (&Record{}).Write(d) }},
		{"new plan", func(d Dir) string { return d.Plan() + ".tmp" }, func(d Dir) error { return d.WriteExtended(e) }},
		{"new lab file", func(d Dir) string { return d.Spec() + ".tmp" }, func(d Dir) error { return d.WriteExtended(e) }},
		{"log", func(d Dir) string { return d.Log("supervisor") }, func(d Dir) error { _, err := d.OpenLog("supervisor"); return err }},
	} {
		for _, there := range []bool{true, false} {
			d, victim := Dir(t.TempDir()), filepath.Join(t.TempDir(), "victim")
			const text = "{}"
			if there {
				if err := os.WriteFile(victim, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.MkdirAll(d.Logs(), 0o700), os.Symlink(victim, test.path(d))); err != nil {
				t.Fatal(err)
			}
			if err := test.do(d); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s: %v, want a link refused", test.name, err)
			}
			got, err := os.ReadFile(victim)
			if there && (err != nil || string(got) != text) || !there && err == nil {
				t.Errorf("%s: behind the link is %q, %v", test.name, got, err)
			}
		}
	}
	// What is replaced whole takes a link's place.
	d, victim := Dir(t.TempDir()), filepath.Join(t.TempDir(), "victim")
	for _, path := range []string{d.Record(), d.Plan(), d.Spec()} {
		if err := os.Symlink(victim, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join((&Record{}).Write(d), d.WriteExtended(e)); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("a link was written through")
	}
}
