package labtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

const twoHosts = `
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: 2
`

// A server of the test's own in one container, a client in another.
func TestTCP(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, "flannel-vxlan")
	server, client := l.Endpoint("node2.c1"), l.Endpoint("node1.c1")
	ln, err := server.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ln.Addr().String(), server.Addr().String()+":80"; got != want {
		t.Errorf("Addr() = %s, want %s", got, want)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: client.Dial}}
	for _, host := range []string{ln.Addr().String(), "node2.c1:80"} {
		resp, err := hc.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(b) != client.Addr().String() {
			t.Errorf("GET %s: the server saw %q, %v, want %s", host, b, err, client.Addr())
		}
	}
	s.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := client.Dial(t.Context(), "tcp", "node2.c1:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial to a closed port: %v, want ECONNREFUSED", err)
	}
}

func TestUDP(t *testing.T) {
	t.Parallel()
	l := labtest.UpSpec(t, twoHosts)
	pc, err := l.Endpoint("node2.c1").ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := l.Endpoint("node1").Dial(t.Context(), "udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(pc.SetDeadline(time.Now().Add(5*time.Second)), c.SetDeadline(time.Now().Add(5*time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, from, err := pc.ReadFrom(b)
	if err != nil || string(b[:n]) != "ping" {
		t.Fatalf("ReadFrom: %q, %v, want ping", b[:n], err)
	}
	if _, err := pc.WriteTo([]byte("pong"), from); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Read(b); err != nil || string(b[:n]) != "pong" {
		t.Errorf("Read: %q, %v, want pong", b[:n], err)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "small.yaml")
	if err := os.WriteFile(file, []byte(twoHosts), 0o600); err != nil {
		t.Fatal(err)
	}
	l := labtest.UpFile(t, file)
	if !strings.HasPrefix(l.Name(), "small-") {
		t.Errorf("Name() = %s, want the file's and more", l.Name())
	}
	if st := l.Status(); st.State != lab.Ready || len(st.Nodes) != 2 {
		t.Errorf("Status() = %s with %d nodes, want ready with 2", st.State, len(st.Nodes))
	}
	e := l.Endpoint("node1")
	if out := e.Exec(t, "sh", "-c", "echo $LABCTL_ENDPOINT"); out != "node1\n" {
		t.Errorf("Exec: %q, want node1", out)
	}
	c := e.Command(t.Context(), "sh", "-c", "cat; echo bad >&2; exit 7")
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader("in"), &out, &errs
	err := c.Run()
	if x, ok := errors.AsType[*labtest.ExitError](err); !ok || x.Code != 7 || out.String() != "in" || errs.String() != "bad\n" {
		t.Errorf("Run() = %v, %q, %q, want exit status 7, in, bad", err, out.String(), errs.String())
	}
	_, err = e.Command(t.Context(), "no-such-program").Output()
	if x, ok := errors.AsType[*labtest.ExitError](err); !ok || x.Code != 127 {
		t.Errorf("no-such-program: %v, want 127", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := e.Command(ctx, "sleep", "100").Run(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command longer than its context: %v, want its end", err)
	}
	if _, err := l.Endpoint("node1.c1").Ping(t.Context(), "node2.c1"); err != nil {
		t.Error(err)
	}
	if _, err := l.Endpoint("node1.c1").Ping(t.Context(), "192.0.2.1"); err == nil {
		t.Error("ping of nobody: no error")
	}
}

// Hosts whose agents are of the lab file: the test binary again, called by the
// lab and by a script.
func TestAgentsOfTheFile(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, "flannel-mixed")
	for _, to := range []string{"node2.c1", "node3.c1"} {
		if _, err := l.Endpoint("node1.c1").Ping(t.Context(), to); err != nil {
			t.Error(err)
		}
	}
	// What takes the test binary for labctl does not start the tests again.
	err := l.Endpoint("node1").Command(t.Context(), "sh", "-c", `exec "$LABCTL" version`).Run()
	if x, ok := errors.AsType[*labtest.ExitError](err); !ok || x.Code != 2 {
		t.Errorf(`"$LABCTL" version: %v, want exit status 2`, err)
	}
}

// helper makes tests of the binary do what other tests look at from outside.
const helper = "LABCTL_LABTEST_HELPER"

// TestHelper is no test but what the tests below run in another process.
func TestHelper(t *testing.T) {
	switch os.Getenv(helper) {
	case "":
		t.Skip("is run by other tests")
	case "die":
		l := labtest.UpSpec(t, twoHosts)
		fmt.Println("name", l.Name())
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	case "fail":
		l := labtest.UpSpec(t, twoHosts)
		fmt.Println("name", l.Name())
		t.Error("as it should")
	case "unable":
		labtest.UpSpec(t, twoHosts+"\ninternet: {subnet: 203.0.113.0/24}\n")
	case "main":
		os.Unsetenv("LABCTL_LABTEST")
		labtest.UpSpec(t, twoHosts)
	}
}

// run runs TestHelper and says what it printed and the name of its lab.
func run(t *testing.T, what string, prepare ...string) (out, name string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestHelper$", "-test.v")
	if len(prepare) > 0 {
		cmd = exec.Command("sh", "-c", strings.Join(prepare, " ")+` exec "$0" "$@"`, self, "-test.run=^TestHelper$", "-test.v")
	}
	cmd.Env = append(os.Environ(), helper+"="+what)
	b, _ := cmd.CombinedOutput() // how it ended is in the output
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "name "); ok {
			name = n
		}
	}
	return string(b), name
}

// gone waits until nothing of a lab is left.
func gone(t *testing.T, name string) {
	t.Helper()
	d, err := lab.DirOf(name)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		_, err := os.Lstat(string(d))
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still there: %v", d, err)
		}
	}
}

func TestAKilledTestLeavesNoLab(t *testing.T) {
	t.Parallel()
	out, name := run(t, "die")
	if name == "" {
		t.Fatalf("no lab came up:\n%s", out)
	}
	gone(t, name)
}

func TestAFailedTestTellsOfItsLab(t *testing.T) {
	t.Parallel()
	out, name := run(t, "fail")
	for _, want := range []string{"lab " + name + ": ready", "supervisor.log:", "node1.log:"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	gone(t, name)
}

func TestAMachineThatCannotSkips(t *testing.T) {
	t.Parallel()
	out, _ := run(t, "unable", "ulimit -n 100;")
	if !strings.Contains(out, "--- SKIP: TestHelper") || !strings.Contains(out, "cure: ulimit") {
		t.Errorf("want it skipped with the cure:\n%s", out)
	}
}

func TestUpWantsMain(t *testing.T) {
	t.Parallel()
	out, _ := run(t, "main")
	if !strings.Contains(out, "--- FAIL: TestHelper") || !strings.Contains(out, "labtest.Main(m)") {
		t.Errorf("want it failed with what is missing:\n%s", out)
	}
}

// When root runs the tests, an ordinary user runs them once more.
func TestAsUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user runs the tests: this was it; sudo make test runs root's as well")
	}
	const uid = 54321
	dir, err := os.MkdirTemp("/tmp", "labctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "labtest.test")
	// A child that another test forks meanwhile would have the file open for
	// writing, and nobody could execute it.
	syscall.ForkLock.RLock()
	err = errors.Join(os.Chown(dir, uid, uid), os.WriteFile(program, self, 0o755))
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.timeout=2m", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user %d: %v\n%s", uid, err, out)
	}
	if strings.Contains(string(out), "--- SKIP: TestTCP") {
		t.Logf("as user %d:\n%s", uid, out)
	}
	left, err := os.ReadDir(filepath.Join(dir, "labctl"))
	if err == nil {
		t.Errorf("left of user %d's labs: %v", uid, left)
	}
}
