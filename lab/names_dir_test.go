package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// namesTest is labs that have names in one directory.
type namesTest struct {
	*testing.T
	base, names string
}

func newNamesTest(t *testing.T) namesTest {
	dir := t.TempDir()
	return namesTest{t, filepath.Join(dir, "labctl"), filepath.Join(dir, "netns")}
}

// claim is what a lab does before it makes names.
func (t namesTest) claim(name string) (Dir, error) {
	t.Helper()
	d := Dir(filepath.Join(t.base, name))
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	r := &Record{Name: name}
	if err := r.ClaimNames(d, t.names); err != nil {
		return d, err
	}
	if err := r.Write(d); err != nil {
		t.Fatal(err)
	}
	return d, nil
}

// up is claim and one name.
func (t namesTest) up(name string) Dir {
	t.Helper()
	d, err := t.claim(name)
	if err != nil {
		t.Fatalf("ClaimNames() = %v", err)
	}
	r, err := ReadRecord(d)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.names, name+".node1")
	r.Links = map[string]string{path: "/proc/1/fd/9"}
	if err := r.Write(d); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/1/fd/9", path); err != nil {
		t.Fatal(err)
	}
	return d
}

// down is what is done when the lab in d has ended.
func (t namesTest) down(d Dir) {
	t.Helper()
	r, err := ReadRecord(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveLinks(); err != nil {
		t.Errorf("RemoveLinks() = %v", err)
	}
	if err := os.RemoveAll(string(d)); err != nil {
		t.Fatal(err)
	}
}

// there says whether the directory has to be there.
func (t namesTest) there(want bool, when string) {
	t.Helper()
	if _, err := os.Stat(t.names); (err == nil) != want {
		t.Errorf("%s: there: %v (%v), want %v", when, err == nil, err, want)
	}
}

// Whichever lab ends last takes the directory that one of them made.
func TestNamesDirectoryGoesWithTheLastLab(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		x := newNamesTest(t)
		labs := []Dir{x.up("a"), x.up("b"), x.up("c")}
		for i, n := range order {
			x.there(true, "with labs")
			x.down(labs[n])
			if i == 1 {
				labs = append(labs, x.up("d")) // knows only of the one that is left
			}
		}
		x.there(true, "with a lab")
		x.down(labs[3])
		x.there(false, "without labs")
	}
}

// A directory that was there before stays, though it is empty.
func TestNamesDirectoryOfAnother(t *testing.T) {
	t.Parallel()
	x := newNamesTest(t)
	if err := os.Mkdir(x.names, 0o755); err != nil {
		t.Fatal(err)
	}
	a, b := x.up("a"), x.up("b")
	x.down(a)
	x.down(b)
	x.there(true, "after the labs")
}

// A lab may be killed between its record and the directory, and somebody else
// be the one who makes it.
func TestNamesDirectoryOfAnotherInBetween(t *testing.T) {
	t.Parallel()
	x := newNamesTest(t)
	x.names = filepath.Join(x.names, "later", "netns")
	d, err := x.claim("a")
	if err == nil {
		t.Fatalf("a directory below none was made: %s", x.names)
	}
	if r, err := ReadRecord(d); err != nil || r.NamesDir != x.names {
		t.Fatalf("on record is %+v (%v), want %s", r, err, x.names)
	}
	if err := os.MkdirAll(x.names, 0o755); err != nil {
		t.Fatal(err)
	}
	x.down(d)
	x.there(true, "after the lab")
}

// One that was removed and made again is another's, though its inode may be the
// same.
func TestNamesDirectoryMadeAnew(t *testing.T) {
	t.Parallel()
	x := newNamesTest(t)
	d := x.up("a")
	if err := os.RemoveAll(x.names); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(x.names, 0o755); err != nil {
		t.Fatal(err)
	}
	x.down(d)
	x.there(true, "after the lab")
}
