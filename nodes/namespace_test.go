package nodes_test

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"labctl/nodes"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDo(t *testing.T) {
	t.Parallel()
	all := newNamespaces(t, "a", "b")
	home := inode(t, "/proc/self/ns/net")
	var wg sync.WaitGroup
	for range 50 {
		for _, n := range all {
			wg.Go(func() {
				want, err := n.Inode()
				if err != nil {
					t.Error(err)
				}
				err = n.Do(func() error {
					if got := inode(t, "/proc/thread-self/ns/net"); got != want {
						t.Errorf("inside %s: netns %d, want %d", n.Name(), got, want)
					}
					return os.ErrExist
				})
				if !errors.Is(err, os.ErrExist) {
					t.Errorf("Do() = %v, want f's error", err)
				}
			})
		}
	}
	wg.Wait()
	if got := inode(t, "/proc/thread-self/ns/net"); got != home {
		t.Errorf("outside: netns %d, want %d", got, home)
	}
	var ifs []net.Interface
	if err := all[0].Do(func() (err error) { ifs, err = net.Interfaces(); return err }); err != nil || len(ifs) == 0 || ifs[0].Name != "lo" {
		t.Fatalf("a new namespace has %v, %v, want lo first", ifs, err)
	}
	for _, i := range ifs[1:] { // a kernel with tunnels makes one of each kind, down
		if i.Flags&net.FlagUp != 0 {
			t.Errorf("a new namespace has %s, which is up", i.Name)
		}
	}
}

func TestDoAfterClose(t *testing.T) {
	t.Parallel()
	n := newNamespaces(t, "a")[0]
	n.Close()
	called := false
	err := n.Do(func() error { called = true; return nil })
	if !errors.Is(err, os.ErrClosed) || called || !strings.HasPrefix(err.Error(), "a: ") {
		t.Errorf("Do() = %v (called %v), want a: ... closed", err, called)
	}
}

// TestDoGoexit ends f's goroutine as t.Fatal does.
func TestDoGoexit(t *testing.T) {
	t.Parallel()
	n := newNamespaces(t, "a")[0]
	done := make(chan error, 1)
	go func() { done <- n.Do(func() error { runtime.Goexit(); return nil }) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Do() = nil, want an error")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Do hangs")
	}
}

func TestCurrentNamespace(t *testing.T) {
	t.Parallel()
	n, err := nodes.CurrentNamespace("here")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	got, err := n.Inode()
	if want := inode(t, "/proc/self/ns/net"); err != nil || got != want {
		t.Errorf("Inode() = %d, %v, want %d", got, err, want)
	}
}

func TestNamespaceFromFile(t *testing.T) {
	t.Parallel()
	a := newNamespaces(t, "a")[0]
	fd, err := unix.FcntlInt(a.File().Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	b := nodes.NamespaceFromFile("b", os.NewFile(uintptr(fd), "b"))
	defer b.Close()
	ai, _ := a.Inode()
	if bi, err := b.Inode(); err != nil || ai != bi {
		t.Errorf("Inode() = %d, %v, want %d", bi, err, ai)
	}
}
