package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
	"labctl/nodes/nodestest"
)

// traffic is a stream of pings that runs while something dies.
type traffic struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
}

// traffic starts pings, one every 10 ms, and waits for the first answer.
func (l *running) traffic(t *testing.T, from, to string) *traffic {
	t.Helper()
	tr := &traffic{cmd: l.command("ping", "-l", l.name, from, to, "-c", "100000", "-i", "10ms", "-W", "5s"), done: make(chan struct{})}
	out, err := tr.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tr.done)
		s := bufio.NewScanner(out)
		for s.Scan() {
			tr.mu.Lock()
			tr.lines = append(tr.lines, s.Text())
			tr.mu.Unlock()
		}
	}()
	t.Cleanup(func() { tr.stop() })
	tr.goesOn(t)
	return tr
}

// answers is how many pings were answered so far.
func (tr *traffic) answers() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := 0
	for _, line := range tr.lines {
		if strings.Contains(line, "bytes from ") {
			n++
		}
	}
	return n
}

// goesOn waits until more answers have come.
func (tr *traffic) goesOn(t *testing.T) {
	t.Helper()
	from := tr.answers()
	eventually(t, 10*time.Second, func() error {
		if n := tr.answers(); n < from+5 {
			return fmt.Errorf("pings: %d answers in all, want more", n)
		}
		return nil
	})
}

func (tr *traffic) stop() {
	_ = tr.cmd.Process.Signal(syscall.SIGINT) // stopped before
	<-tr.done
	_ = tr.cmd.Wait() // its status is the pings'
}

var pingSummary = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// whole ends the stream and checks that nothing was lost.
func (tr *traffic) whole(t *testing.T) {
	t.Helper()
	tr.goesOn(t)
	tr.stop()
	all := strings.Join(tr.lines, "\n")
	m := pingSummary.FindStringSubmatch(all)
	if m == nil {
		t.Fatalf("pings: no summary in\n%s", all[max(0, len(all)-1000):])
	}
	sent, _ := strconv.Atoi(m[1])
	received, _ := strconv.Atoi(m[2])
	if sent == 0 || received < sent {
		var bad []string
		for _, line := range tr.lines {
			if !strings.Contains(line, "bytes from ") {
				bad = append(bad, line)
			}
		}
		t.Errorf("pings: %d of %d answered, want all:\n%s", received, sent, strings.Join(bad, "\n"))
	}
	t.Logf("%d pings, %d answered", sent, received)
}

// watcher collects what `status -w` tells.
type watcher struct {
	mu   sync.Mutex
	seen []lab.Status
}

func (l *running) watch(t *testing.T) *watcher {
	t.Helper()
	w := &watcher{}
	cmd := l.command("status", l.name, "-w", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for d := json.NewDecoder(out); ; {
			var st lab.Status
			if d.Decode(&st) != nil {
				return
			}
			w.mu.Lock()
			w.seen = append(w.seen, st)
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the lab may have ended it
		<-done
		_ = cmd.Wait() // killed
	})
	w.wait(t, "the status", func(lab.Status) bool { return true })
	return w
}

// wait waits until a status was seen that f accepts.
func (w *watcher) wait(t *testing.T, what string, f func(lab.Status) bool) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if slices.ContainsFunc(w.seen, f) {
			return nil
		}
		var got []string
		for _, st := range w.seen {
			got = append(got, fmt.Sprintf("%s %q", st.State, st.Reasons))
		}
		return fmt.Errorf("status -w: want %s, got %s", what, strings.Join(got, "; "))
	})
}

// degraded accepts a status that gives a reason with these words.
func degraded(reason string) func(lab.Status) bool {
	return func(st lab.Status) bool {
		return st.State == lab.Degraded && slices.ContainsFunc(st.Reasons, func(r string) bool { return strings.Contains(r, reason) })
	}
}

// leases are those in the store.
func (l *running) leases(t *testing.T) []storedLease {
	t.Helper()
	needTool(t, "etcdctl")
	var r struct{ KVs []storedLease }
	unmarshal(t, l.etcdctl(t, "get", "--prefix", "/coreos.com/network/subnets/", "-w", "json"), &r)
	if len(r.KVs) == 0 {
		t.Fatal("store: no leases")
	}
	return r.KVs
}

// storedLease is a lease as etcdctl prints it.
type storedLease struct {
	Key, Value []byte
	Lease      int64 `json:"lease"`
	Created    int64 `json:"create_revision"`
	Revision   int64 `json:"mod_revision"`
}

// restarted waits until a process runs again under another number.
func (l *running) restarted(t *testing.T, name string, before lab.ProcessStatus) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		p := l.process(t, name)
		if p.State != "running" || p.Pid == before.Pid || p.Restarts != before.Restarts+1 {
			return fmt.Errorf("%s: %+v, want it restarted once more than %+v", name, p, before)
		}
		return nil
	})
}

// identity is what must outlive the death of processes: subnets and VTEPs.
func (l *running) identity(t *testing.T) []string {
	t.Helper()
	var s []string
	for _, n := range l.status(t).Nodes {
		s = append(s, fmt.Sprint(n.Name, n.Subnets, n.VTEPMAC, l.deviceMAC(t, n.Name), n.Containers))
	}
	return s
}

// Seed D8: the store dies, and containers go on talking.
func TestEtcdKilled(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		identity, leases := l.identity(t), l.leases(t)
		pings := l.traffic(t, "node1.c1", "node2.c1")
		w := l.watch(t)
		before := l.process(t, "etcd")
		kill(t, before.Pid, syscall.SIGKILL)
		w.wait(t, "degraded, etcd", degraded("etcd"))
		l.restarted(t, "etcd", before)
		l.isReady(t)
		if p := l.process(t, "etcd"); p.LastExit != "signal: killed" {
			t.Errorf("etcd's last exit: %q, want killed", p.LastExit)
		}
		pings.whole(t)
		if diff := cmp.Diff(identity, l.identity(t)); diff != "" {
			t.Errorf("after etcd's restart (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(leases, l.leases(t)); diff != "" {
			t.Errorf("leases after etcd's restart (-before +after):\n%s", diff)
		}
	})
}

// The store stands still for a while: nobody minds.
func TestEtcdStopped(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		identity, leases := l.identity(t), l.leases(t)
		pings := l.traffic(t, "node1.c1", "node3.c2")
		before := l.process(t, "etcd")
		kill(t, before.Pid, syscall.SIGSTOP)
		t.Cleanup(func() { _ = syscall.Kill(before.Pid, syscall.SIGCONT) }) // gone with the lab
		<-time.After(3 * time.Second)                                       // so long it stands
		kill(t, before.Pid, syscall.SIGCONT)
		l.isReady(t)
		pings.whole(t)
		if p := l.process(t, "etcd"); p.Pid != before.Pid || p.Restarts != 0 {
			t.Errorf("etcd: %+v, want it as before: %+v", p, before)
		}
		if diff := cmp.Diff(identity, l.identity(t)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(leases, l.leases(t)); diff != "" {
			t.Errorf("leases (-before +after):\n%s", diff)
		}
	})
}

// An agent dies: its host keeps subnet, VTEP and traffic. One that dies again
// and again is restarted after longer and longer pauses, but never long ones.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		identity, leases := l.identity(t), l.leases(t)
		pings := l.traffic(t, "node1.c1", "node2.c1")
		w := l.watch(t)
		const times = 6
		for i := range times {
			before := l.process(t, "node1")
			from := time.Now()
			kill(t, before.Pid, syscall.SIGKILL)
			w.wait(t, fmt.Sprintf("degraded, node1's agent waiting after %d restarts", i), func(st lab.Status) bool {
				return degraded("node1: agent")(st) && slices.ContainsFunc(st.Processes, func(p lab.ProcessStatus) bool {
					return p.Name == "node1" && p.State == "waiting" && p.Pid == 0 && p.Restarts == i && p.LastExit == "signal: killed"
				}) ||
					// The first pauses are too short to be seen for sure on a busy machine.
					i < 2 && slices.ContainsFunc(st.Processes, func(p lab.ProcessStatus) bool {
						return p.Name == "node1" && p.Restarts > i && p.LastExit == "signal: killed"
					})
			})
			l.restarted(t, "node1", before)
			// 2 s of pause at most, and the start.
			if took := time.Since(from); took > nodestest.Slow(t, 4*time.Second) {
				t.Errorf("kill %d: restarted after %v, want 2 s and a little", i+1, took)
			} else {
				t.Logf("kill %d: restarted after %v", i+1, took.Round(time.Millisecond))
			}
			l.isReady(t)
		}
		pings.whole(t)
		if diff := cmp.Diff(identity, l.identity(t)); diff != "" {
			t.Errorf("after the agent's restarts (-before +after):\n%s", diff)
		}
		sameLeases(t, leases, l.leases(t))
	})
}

// sameLeases checks that no lease was lost, not for a moment.
func sameLeases(t *testing.T, before, after []storedLease) {
	t.Helper()
	if len(before) != len(after) {
		t.Fatalf("%d leases, want %d", len(after), len(before))
	}
	for i, b := range before {
		a := after[i]
		if !bytes.Equal(a.Key, b.Key) || !bytes.Equal(a.Value, b.Value) || a.Created != b.Created {
			t.Errorf("lease %s %s, made in revision %d; was %s %s, %d", a.Key, a.Value, a.Created, b.Key, b.Value, b.Created)
		}
	}
}

// All agents and the store die at once.
func TestAllProcessesKilled(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		identity, leases := l.identity(t), l.leases(t)
		pings := l.traffic(t, "node2.c2", "node3.c1")
		before := l.status(t).Processes
		if len(before) != 4 {
			t.Fatalf("processes: %+v, want etcd and three agents", before)
		}
		for _, p := range before {
			kill(t, p.Pid, syscall.SIGKILL)
		}
		for _, p := range before {
			l.restarted(t, p.Name, p)
		}
		l.isReady(t)
		pings.whole(t)
		l.run(t, "ping", "-l", l.name, "--all")
		if diff := cmp.Diff(identity, l.identity(t)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		sameLeases(t, leases, l.leases(t))
	})
}
