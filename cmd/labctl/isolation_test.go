package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The machine's own namespace is the same before, while and after a lab runs.
func TestRootNamespaceUntouched(t *testing.T) {
	t.Parallel()
	needTool(t, "ip")
	forUsers(t, func(t *testing.T, u user) {
		// The kernel loads modules when they are first used, and these bring
		// settings along: not labctl's doing, and not to be undone.
		u.up(t, "flannel-vxlan").down(t)

		before := ownNamespace(t)
		l := u.prepare(t)
		l.run(t, "up", "flannel-vxlan", "--name", l.name)
		untouched(t, "a lab runs", before, ownNamespace(t))
		if u.uid == 0 {
			names := l.names(t)
			for _, want := range []string{"etcd", "lan", "node1", "node1.c1", "node1.c2", "node2", "node2.c1", "node2.c2", "node3", "node3.c1", "node3.c2"} {
				if !slices.Contains(names, l.name+"."+want) {
					t.Errorf("ip netns list: %q, want %s.%s", names, l.name, want)
				}
			}
		}

		pings := l.traffic(t, "node1.c1", "node2.c1")
		l.run(t, "ping", "-l", l.name, "--all")
		untouched(t, "packets flow", before, ownNamespace(t))
		pings.whole(t)

		for _, command := range []string{"ip link del flannel.1", "ip link del eth0", "ip link del cni0", "echo 0 >/proc/sys/net/ipv4/ip_forward"} {
			l.exec(t, "node1", "sh", "-c", command)
		}
		l.isReady(t)
		untouched(t, "it has been healed", before, ownNamespace(t))

		l.down(t)
		untouched(t, "it is down", before, ownNamespace(t))
	})
}

// names are the lab's own among `ip netns list`.
func (l *running) names(t *testing.T) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(output(t, "ip", "netns", "list")) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, l.name+".") {
			names = append(names, name)
		}
	}
	return names
}

func untouched(t *testing.T, when string, before, now map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, now); diff != "" {
		t.Errorf("the machine's namespace when %s (-before +now):\n%s", when, diff)
	}
}

// changing are settings that change by themselves.
var changing = []string{
	"net/netfilter/nf_conntrack_count",
	"net/ipv4/route/flush", "net/ipv6/route/flush",
}

// lifetimes are what DHCP and router advertisements count down.
var lifetimes = regexp.MustCompile(`"(valid_life_time|preferred_life_time|expires)":\d+`)

// ownNamespace is the state of the machine's own namespace, without the names of
// labs.
func ownNamespace(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, args := range []string{"-j link", "-j addr", "-j route show table all", "-j -6 route show table all", "-j rule", "-j -6 rule"} {
		m["ip "+args] = lifetimes.ReplaceAllString(output(t, "ip", strings.Fields(args)...), `"$1":0`)
	}
	if _, err := exec.LookPath("tc"); err == nil {
		m["tc qdisc"] = output(t, "tc", "-j", "qdisc")
	}
	if _, err := exec.LookPath("nft"); err == nil && os.Geteuid() == 0 {
		m["nft list ruleset"] = output(t, "nft", "-s", "list", "ruleset")
	}
	m["ip netns list"] = strings.Join(foreignNames(t), "\n")
	for _, f := range []string{"/proc/mounts", "/proc/modules"} {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without modules
			t.Fatal(err)
		}
		if f == "/proc/modules" {
			b = moduleNames(b)
		}
		m[f] = string(b)
	}
	err := filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key := strings.TrimPrefix(path, "/proc/sys/")
		if slices.Contains(changing, key) {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil { // some cannot be read
			m[key] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// foreignNames are the names under /run/netns that are not links into a
// supervisor, as those of all labs are.
func foreignNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(output(t, "ip", "netns", "list")) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		to, err := os.Readlink("/run/netns/" + name)
		isLab := err == nil && strings.HasPrefix(to, "/proc/")
		_, err = os.Lstat("/run/netns/" + name)
		gone := err != nil // with another test's lab
		if !isLab && !gone && !testName.MatchString(name) {
			names = append(names, strings.TrimSpace(line))
		}
	}
	return names
}

// testName is what labs of tests are called.
var testName = regexp.MustCompile(`^t\d+-\d+\.`)

func moduleNames(b []byte) []byte {
	var names []byte
	for line := range bytes.Lines(b) {
		name, _, _ := bytes.Cut(line, []byte(" "))
		names = append(append(names, name...), '\n')
	}
	return names
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w: %s", cmd, err, errs.String()))
	}
	return string(out)
}

// No process of a lab has a socket in the machine's own namespace, let alone
// one that listens. The test's own listener shows that there one would be seen.
func TestNothingListensInTheMachinesNamespace(t *testing.T) {
	t.Parallel()
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		want := fmt.Sprintf("pid:[%d]", l.record(t).PIDNamespace)
		all, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		machines := socketsOf(t, "/proc/self")
		if ours := slices.DeleteFunc(openSockets("/proc/self"), func(s string) bool { return !machines[s] }); len(ours) == 0 {
			t.Error("the test's own listener is not seen: nothing else would be")
		}
		processes, sockets := 0, 0
		for _, p := range all {
			if ns, err := os.Readlink(p + "/ns/pid"); err != nil || ns != want {
				continue
			}
			processes++
			for _, s := range openSockets(p) {
				sockets++
				if machines[s] {
					t.Errorf("%s has %s, which is in the machine's namespace", p, s)
				}
			}
		}
		if processes < 6 || sockets < 20 { // PID 1, supervisor, etcd, three agents
			t.Errorf("%d processes with %d sockets seen, want all of the lab's", processes, sockets)
		}
		onlyTheOwnerIsAnswered(t, l)
	})
}

// openSockets are the sockets that a process has open, as socket:[INODE].
func openSockets(proc string) []string {
	fds, err := filepath.Glob(proc + "/fd/*")
	if err != nil {
		return nil
	}
	var found []string
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
			found = append(found, to)
		}
	}
	return found
}

// socketsOf are the sockets of a process's network namespace that can be
// reached from outside it.
func socketsOf(t *testing.T, proc string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for table, column := range map[string]int{"tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "raw": 9, "raw6": 9, "packet": 8} {
		b, err := os.ReadFile(proc + "/net/" + table)
		if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > column {
				found["socket:["+f[column]+"]"] = true
			}
		}
	}
	return found
}

// onlyTheOwnerIsAnswered has others knock at a lab's socket: its mode lets them
// not in, and where it does they are not answered.
func onlyTheOwnerIsAnswered(t *testing.T, l *running) {
	t.Helper()
	socket := l.dir() + "/socket"
	for path, want := range map[string]fs.FileMode{l.dir(): fs.ModeDir | 0o700, filepath.Dir(l.dir()): fs.ModeDir | 0o700, socket: fs.ModeSocket | 0o600} {
		if fi, err := os.Lstat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}
	if os.Geteuid() != 0 {
		return // nobody else to be
	}
	// Without a way there by the directories, which would keep others out alone.
	fd, err := unix.Open(socket, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	door := os.NewFile(uintptr(fd), socket)
	defer door.Close()
	knock := func(uid int) string {
		t.Helper()
		cmd := user{uid: uid}.program("labknock")
		cmd.ExtraFiles = []*os.File{door}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	const other = 54320
	if got := knock(other); !strings.Contains(got, "permission denied") {
		t.Errorf("user %d at a socket of user %d: %q, want no way in", other, l.uid, got)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{other, 0, 54321} {
		if got := knock(uid); strings.Contains(got, `"status"`) != (uid == l.uid) || uid != l.uid && got != "" {
			t.Errorf("user %d at an open socket of user %d: %q", uid, l.uid, got)
		}
	}
	if log, err := os.ReadFile(l.dir() + "/logs/supervisor.log"); err != nil || !bytes.Contains(log, []byte("socket: refused")) {
		t.Errorf("the supervisor's log does not say whom it refused: %v\n%s", err, log)
	}
}

// labknock asks for the status at the socket that is descriptor 3.
func labknock() {
	c, err := net.Dial("unix", "/proc/self/fd/3")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Write([]byte("0 {\"status\":{}}\n")); err != nil {
		return // it was closed before
	}
	answer, _ := bufio.NewReader(c).ReadString('\n') // a connection that is closed has said what it said
	fmt.Print(answer)
}

// Somebody else was first in /tmp, where an ordinary user's labs are kept
// when there is no other place.
func TestTmpOfSomebodyElse(t *testing.T) {
	t.Parallel()
	needRoot(t, "to be two users")
	uid := 1_000_000 + os.Getpid() // nobody's, and no other test's
	victim, attacker := user{uid: uid}, uid+1
	base, elsewhere := fmt.Sprintf("/tmp/labctl-%d", uid), t.TempDir()
	for _, trap := range []struct {
		name string
		set  func() error
	}{
		{"a directory", func() error { return os.Mkdir(base, 0o777) }},
		{"a private directory", func() error { return os.Mkdir(base, 0o700) }},
		{"a link", func() error { return os.Symlink(elsewhere, base) }},
		{"a file", func() error { return os.WriteFile(base, nil, 0o666) }},
	} {
		t.Cleanup(func() { os.Remove(base) })
		if err := errors.Join(trap.set(), os.Lchown(base, attacker, attacker), os.Chown(elsewhere, attacker, attacker)); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"up", "flannel-vxlan"}, {"down", "flannel-vxlan"}, {"down", "--all"}, {"ls"}, {"doctor", "--leaks"}} {
			cmd := victim.command(args...)
			cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR=")
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != 4 || !strings.Contains(string(out), base+": not a private directory") {
				t.Errorf("%s of another user: labctl %s: exit status %d, %s", trap.name, strings.Join(args, " "), code, out)
			}
		}
		if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
			t.Errorf("%s: %v was made elsewhere, %v", trap.name, left, err)
		}
		if err := os.Remove(base); err != nil {
			t.Fatal(err)
		}
	}
}

// A run directory that others can write to, or that is another's, hides no other
// lab: they are listed and removed, and it is named, each with its own cure.
func TestRunDirectoryThatIsRefused(t *testing.T) {
	t.Parallel()
	all := users(t)
	u := all[len(all)-1] // root's run directory is the machine's
	base := filepath.Join(u.runtime, "labctl")
	for _, d := range []string{"", "dead", "open", "writable"} {
		d = filepath.Join(base, d)
		if err := errors.Join(os.Mkdir(d, 0o700), os.Lchown(d, u.uid, u.uid)); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(base, "dead", "record.json")
	if err := errors.Join(os.WriteFile(record, []byte(`{"name":"dead","pid":1}`), 0o600), os.Lchown(record, u.uid, u.uid)); err != nil {
		t.Fatal(err)
	}
	var refused []string
	for _, name := range []string{"open", "writable"} {
		d := filepath.Join(base, name)
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
		refused = append(refused, "labctl: "+d+": not a private directory of user "+strconv.Itoa(u.uid)+"\n  cure: chmod go-w "+d)
	}
	check := func(args, out string, code, want int, words ...string) {
		t.Helper()
		if code != want {
			t.Errorf("%s: exit status %d, want %d", args, code, want)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in\n%s", args, w, out)
			}
		}
	}
	stdout, stderr, code := u.try(t, "ls")
	check("ls", stdout+stderr, code, 4, append(refused, "dead  broken")...)
	var list labList
	stdout, stderr, code = u.try(t, "ls", "-o", "json")
	check("ls -o json", stderr, code, 4, refused...)
	if unmarshal(t, stdout, &list); len(list.Labs) != 1 || list.Labs[0].Name != "dead" {
		t.Errorf("ls -o json: %+v, want dead alone", list.Labs)
	}
	var leaks leakList
	stdout, _, code = u.try(t, "doctor", "--leaks", "-o", "json")
	check("doctor --leaks", "", code, 1)
	unmarshal(t, stdout, &leaks)
	cures := map[string]string{"dead": "labctl down dead", "open": "chmod go-w", "writable": "chmod go-w"}
	for _, l := range leaks.Leaks {
		if want, ok := cures[l.Lab]; !ok || !strings.Contains(l.Cure, want) || l.What != filepath.Join(base, l.Lab) {
			t.Errorf("doctor --leaks: %+v", l)
		}
		delete(cures, l.Lab)
	}
	if len(cures) > 0 {
		t.Errorf("doctor --leaks: %v are not there", cures)
	}
	stdout, stderr, code = u.try(t, "down", "--all")
	check("down --all", stdout+stderr, code, 4, append(refused, "dead: removed")...)
	if _, err := os.Stat(filepath.Join(base, "dead")); err == nil {
		t.Error("down --all: dead is still there")
	}
}
