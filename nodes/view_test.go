package nodes_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// newView is a view of a namespace with dirs in its /run.
func newView(t testing.TB, ns *nodes.Namespace, dirs map[string]string) *nodes.View {
	t.Helper()
	v, err := ns.View(dirs)
	if v == nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("this machine does not let a namespace have files of its own: %v", err)
	}
	return v
}

// inView runs a shell script in a view and returns what it printed.
func inView(t testing.TB, ns *nodes.Namespace, v *nodes.View, script string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := nodes.Start(ns, nodes.Command{Path: "/bin/sh", Args: []string{"sh", "-ec", script},
		Env: []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, Dir: "/", Stdout: w, Stderr: w, View: v})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Fatalf("%s: %v, %v\n%s", script, st, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestViewHasTheNamespacesDevices(t *testing.T) {
	t.Parallel()
	all := newNamespaces(t, "a", "b")
	r := newReconciler(t, all[0])
	apply(t, r, nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "view0", MTU: 1500}}}})
	for i, own := range []string{"view0", "lo"} {
		v := newView(t, all[i], nil)
		// A kernel with tunnels puts devices of its own into each namespace.
		var want []string
		for line := range strings.Lines(must(t, all[i], "ip -o link")) {
			name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
			want = append(want, strings.TrimSuffix(name, ":"))
		}
		slices.Sort(want)
		if !slices.Contains(want, own) {
			t.Errorf("ip link in %s has no %s: %v", all[i].Name(), own, want)
		}
		if got := inView(t, all[i], v, "ls /sys/class/net"); got != strings.Join(want, "\n") {
			t.Errorf("/sys/class/net of %s = %q, want %q", all[i].Name(), got, want)
		}
	}
	// What is mounted in the machine's /sys is still there.
	before, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil || len(before) == 0 {
		return
	}
	if got := inView(t, all[1], newView(t, all[1], nil), "ls -A /sys/fs/cgroup"); got == "" {
		t.Error("/sys/fs/cgroup is empty, the machine's is not")
	}
}

func TestViewHasItsOwnRun(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a", "b")
	dirs := []string{t.TempDir(), t.TempDir()}
	outside := list(t, "/run")
	mounts := mountinfo(t)
	for i := range ns {
		v := newView(t, ns[i], map[string]string{"flannel": dirs[i]})
		inView(t, ns[i], v, fmt.Sprintf("test ! -e /run/xtables.lock; echo %d > /run/flannel/subnet.env; echo %d > /run/xtables.lock", i, i))
		// Another process of the view sees it, and so does who gave the directory.
		if got := inView(t, ns[i], v, "cat /var/run/flannel/subnet.env /run/xtables.lock"); got != fmt.Sprintf("%d\n%d", i, i) {
			t.Errorf("%s: another process reads %q, want %d twice", ns[i].Name(), got, i)
		}
		if b, err := os.ReadFile(filepath.Join(dirs[i], "subnet.env")); err != nil || string(b) != fmt.Sprintln(i) {
			t.Errorf("%s: outside it is %q, %v, want %d", ns[i].Name(), b, err, i)
		}
		for _, name := range strings.Fields(outside) {
			if name != "flannel" && name != "xtables.lock" && !strings.Contains(inView(t, ns[i], v, "ls -A /run"), name) {
				t.Errorf("%s: /run/%s is missing", ns[i].Name(), name)
			}
		}
	}
	if got := mountinfo(t); got != mounts {
		t.Errorf("mounts outside: now\n%swere\n%s", got, mounts)
	}
	if _, err := os.Stat("/run/.machine"); err == nil {
		t.Error("/run/.machine exists outside")
	}
}

func TestViewMissingDirectory(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	v, err := ns.View(map[string]string{"flannel": "/nowhere"})
	if err == nil || !strings.HasPrefix(err.Error(), "a: /nowhere: ") || v == nil {
		t.Fatalf("View() = %v, %v, want a view and what is missing", v, err)
	}
	if got := inView(t, ns, v, "echo works"); got != "works" {
		t.Errorf("got %q", got)
	}
}

// A process's end takes what is left of its group along.
func TestWaitGroup(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := nodes.Start(ns, nodes.Command{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000 & exit 3"},
		Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: "/", Stdout: w, Setsid: true})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.WaitGroup()
	if err != nil || st.ExitCode() != 3 {
		t.Errorf("WaitGroup() = %v, %v, want exit status 3", st, err)
	}
	_, _ = io.ReadAll(r) // ends when sleep, which has the other end, is gone
}

func list(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// mountinfo is what is mounted where views mount something.
func mountinfo(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found strings.Builder
	for line := range strings.Lines(string(b)) {
		switch strings.Fields(line)[4] {
		case "/run", "/run/.machine", "/run/flannel", "/sys":
			found.WriteString(line)
		}
	}
	return found.String()
}

// A view keeps the namespace's devices, by its /sys: it must go with it.
func TestViewGoesWithItsNamespace(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Netns)
	all := newNamespaces(t, "here")
	far, err := nodes.NewNamespace("far")
	if err != nil {
		t.Fatal(err)
	}
	r := newReconciler(t, all[0])
	apply(t, r, nodes.State{Links: []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "near", MTU: 1500}, PeerNamespace: far, PeerName: "far"}}})
	newView(t, far, nil)
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	v := newView(t, all[0], nil)
	deadline := time.Now().Add(10 * time.Second)
	for strings.Contains(inView(t, all[0], v, "ls /sys/class/net"), "near") {
		if time.Now().After(deadline) {
			t.Fatal("the far end of a veth pair is still there 10 s after its namespace was closed")
		}
	}
}

// BenchmarkView is what the first command in a host costs more than the others.
func BenchmarkView(b *testing.B) {
	nodestest.Require(b, nodestest.Netns)
	dir := b.TempDir()
	for b.Loop() {
		b.StopTimer()
		ns, err := nodes.NewNamespace("a")
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := ns.View(map[string]string{"flannel": dir}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		ns.Close()
		b.StartTimer()
	}
}

// BenchmarkStart compares processes in a view with others.
func BenchmarkStart(b *testing.B) {
	ns := newNamespaces(b, "a")[0]
	for name, v := range map[string]*nodes.View{"plain": nil, "view": newView(b, ns, nil)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p, err := nodes.Start(ns, nodes.Command{Path: "/bin/true", Args: []string{"true"}, Dir: "/", View: v})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := p.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
