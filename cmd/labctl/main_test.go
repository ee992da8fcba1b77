package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"labctl/lab"
	"labctl/nodes/nodestest"
)

// The test binary is labctl, too, when it is called so: by scripts, by tests,
// and by itself inside labs.
func TestMain(m *testing.M) {
	// What a lab starts is called by the program's path; go test passes flags.
	byPath := strings.HasSuffix(os.Args[0], ".test") || filepath.Base(os.Args[0]) == "exe"
	if len(os.Args) > 1 && byPath && !strings.HasPrefix(os.Args[1], "-") {
		os.Args[0] = "labctl"
	}
	// Most tests wait for labs most of the time.
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testscript.Main(m, map[string]func(){
		"labctl": main, "labcheck": labcheck, "labget": labget, "labknock": labknock, "nonetfilter": nonetfilter,
	})
}

// user is somebody who runs labctl.
type user struct {
	name    string
	uid     int
	runtime string // XDG_RUNTIME_DIR
}

// users are those whom a test can be: whoever runs it, and if that is root an
// ordinary user besides. Rootless labs are not to be second class.
func users(t *testing.T) []user {
	t.Helper()
	own := t.TempDir()
	if os.Geteuid() != 0 {
		if err := os.Chmod(own, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Log("as root this test would run root's labs as well: sudo make test")
		return []user{{"user", os.Geteuid(), own}}
	}
	// Others must get to their directory.
	const uid = 54321
	runtime, err := os.MkdirTemp("/tmp", "labctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	if err := os.Chown(runtime, uid, uid); err != nil {
		t.Fatal(err)
	}
	return []user{{"root", 0, own}, {"user", uid, runtime}}
}

// forUsers runs f as each of them, at once.
func forUsers(t *testing.T, f func(t *testing.T, u user)) {
	for _, u := range users(t) {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			f(t, u)
		})
	}
}

// needRoot skips what only root can do, and says what is not tested.
func needRoot(t *testing.T, why string) user {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: %s; sudo make test runs it", why)
	}
	return users(t)[0]
}

// needTool skips when an oracle is not installed.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("needs %s, which is not installed: make tools installs it", n)
		}
	}
}

// command is labctl with arguments, not started.
func (u user) command(args ...string) *exec.Cmd {
	return u.program("labctl", args...)
}

// program is one of the programs that the test binary can be.
func (u user) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = name
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+u.runtime, "NO_COLOR=1", "GORACE=halt_on_error=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if u.uid != os.Geteuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}
	}
	return cmd
}

// try runs labctl and returns what it printed and its exit status.
func (u user) try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := u.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatalf("labctl %s: %v", strings.Join(args, " "), err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// run is try for what must succeed.
func (u user) run(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := u.try(t, args...)
	if code != 0 {
		t.Fatalf("labctl %s: exit status %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// running is a lab that a test brought up.
type running struct {
	user
	name string
}

var labCount atomic.Int64

// freshName is a lab's name that nobody else has.
func freshName() string {
	return fmt.Sprintf("t%d-%d", os.Getpid(), labCount.Add(1))
}

// up brings a lab up under a fresh name; it goes with the test.
func (u user) up(t *testing.T, file string, args ...string) *running {
	t.Helper()
	l := &running{u, freshName()}
	t.Cleanup(func() {
		if t.Failed() {
			l.describe(t)
		}
		l.down(t)
	})
	u.run(t, append([]string{"up", file, "--name", l.name}, args...)...)
	return l
}

// down takes the lab down and checks that nothing of it is left.
func (l *running) down(t *testing.T) {
	t.Helper()
	l.run(t, "down", l.name)
	l.gone(t)
}

// gone checks that nothing of the lab is left.
func (l *running) gone(t *testing.T) {
	t.Helper()
	if _, err := os.Lstat(l.dir()); err == nil {
		t.Errorf("%s: still there after down", l.dir())
	}
	left, err := filepath.Glob("/run/netns/" + l.name + ".*")
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("names left after down: %v", left)
	}
	for _, p := range processes(t, l.dir()) {
		t.Errorf("process left after down: %s", p)
	}
}

// processes are those whose arguments name the directory.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		// Names of labs begin alike: what follows the directory must end it.
		b = append(b, 0)
		if err == nil && (bytes.Contains(b, []byte(dir+"/")) || bytes.Contains(b, []byte(dir+"\x00"))) {
			found = append(found, p+": "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// dir is the lab's run directory.
func (l *running) dir() string {
	if l.uid == 0 {
		return "/run/labctl/" + l.name
	}
	return l.runtime + "/labctl/" + l.name
}

// describe shows what is known of a lab in whose test something failed.
func (l *running) describe(t *testing.T) {
	stdout, stderr, _ := l.try(t, "status", l.name, "-o", "wide")
	t.Logf("status:\n%s%s", stdout, stderr)
	logs, err := filepath.Glob(l.dir() + "/logs/*.log")
	if err != nil {
		t.Log(err)
	}
	for _, f := range logs {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Log(err)
		}
		t.Logf("%s:\n%s", f, b[max(0, len(b)-2000):])
	}
}

// status is the lab's status.
func (l *running) status(t *testing.T) *lab.Status {
	t.Helper()
	stdout, stderr, _ := l.try(t, "status", l.name, "-o", "json")
	var st lab.Status
	if err := json.Unmarshal([]byte(stdout), &st); err != nil {
		t.Fatalf("status: %v\n%s%s", err, stdout, stderr)
	}
	return &st
}

// record is the lab's record on disk.
func (l *running) record(t *testing.T) *lab.Record {
	t.Helper()
	r, err := lab.ReadRecord(lab.Dir(l.dir()))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exec runs a command in an endpoint and returns its output.
func (l *running) exec(t *testing.T, endpoint string, argv ...string) string {
	t.Helper()
	return l.run(t, append([]string{"exec", "-l", l.name, endpoint, "--"}, argv...)...)
}

// entries are what a tool lists with -j in an endpoint.
func (l *running) entries(t *testing.T, endpoint string, argv ...string) []map[string]any {
	t.Helper()
	out := l.exec(t, endpoint, argv...)
	var v []map[string]any
	if strings.TrimSpace(out) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return v
}

// eventually waits until f returns nil, and says how long that took. On a busy
// machine a look takes long: the last one begins when the time, which is Slow, is
// over.
func eventually(t *testing.T, within time.Duration, f func() error) time.Duration {
	t.Helper()
	within = nodestest.Slow(t, within)
	from := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		last := time.Since(from) > within
		err := f()
		if err == nil {
			return time.Since(from)
		}
		if last {
			t.Fatalf("after %v: %v", within, err)
		}
		<-tick.C
	}
}

func unmarshal(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}
