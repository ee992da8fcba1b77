package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
)

// node runs a node command and returns its result.
func (l *running) node(t *testing.T, args ...string) lab.NodeResult {
	t.Helper()
	var r lab.NodeResult
	unmarshal(t, l.run(t, append([]string{"node", "-l", l.name, "-o", "json"}, args...)...), &r)
	if r.SchemaVersion != 1 || r.DoneMs == 0 {
		t.Errorf("node %s: %+v, want schemaVersion 1 and a time", strings.Join(args, " "), r)
	}
	return r
}

// nodeStatus is one node's part of the status.
func (l *running) nodeStatus(t *testing.T, name string) lab.NodeStatus {
	t.Helper()
	st := l.status(t)
	i := slices.IndexFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Name == name })
	if i < 0 {
		t.Fatalf("status: no node %s", name)
	}
	return st.Nodes[i]
}

// knows is what an endpoint's kernel has that leads to a node, by tools that
// are not labctl's: its route, its VTEP's neighbour entry and FDB entry.
func (l *running) knows(t *testing.T, endpoint string, n lab.NodeStatus) []string {
	t.Helper()
	out := l.exec(t, endpoint, "sh", "-c",
		"ip -o -4 route show; ip -o neigh show dev flannel.1; bridge fdb show dev flannel.1")
	var known []string
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) > 0 && (f[0] == n.Subnets[0] || f[0] == base(n) || f[0] == n.VTEPMAC && slices.Contains(f, n.PublicIP)) {
			known = append(known, line)
		}
	}
	return known
}

// others calls f with each node but one.
func (l *running) others(t *testing.T, but string, f func(node string)) {
	t.Helper()
	for _, n := range l.status(t).Nodes {
		if n.Name != but && n.State == lab.Ready {
			f(n.Name)
		}
	}
}

// When `node add` returns, every kernel has what leads to the new node; when
// `node rm` does, none has. What the others say to each other goes on.
func TestNodeAddRemove(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		pings := []*traffic{l.traffic(t, "node1.c1", "node2.c1"), l.traffic(t, "node3.c2", "node1.c2")}
		before, leases := l.identity(t), l.leases(t)
		fds := 0
		for round := range 3 {
			r := l.node(t, "add", "more", "--containers", "2")
			if r.LeaseMs == 0 || r.ConvergedMs < r.LeaseMs || r.Others != 3 || r.State != lab.Ready {
				t.Errorf("add: %+v, want a lease, then 3 others, ready", r)
			}
			n := l.nodeStatus(t, "more")
			l.others(t, "more", func(node string) {
				if k := l.knows(t, node, n); len(k) != 3 {
					t.Errorf("after add %s knows of it %q, want a route, a neighbour and an FDB entry", node, k)
				}
			})
			l.isReady(t)
			l.run(t, "ping", "-l", l.name, "--all")
			if got := l.leases(t); len(got) != 4 {
				t.Errorf("%d leases, want 4", len(got))
			}
			r = l.node(t, "rm", "more")
			if r.ConvergedMs == 0 || r.Others != 3 || r.State != lab.Gone {
				t.Errorf("rm: %+v, want it converged with 3 others, gone", r)
			}
			l.others(t, "", func(node string) {
				if k := l.knows(t, node, n); len(k) != 0 {
					t.Errorf("after rm %s still has %q", node, k)
				}
			})
			if diff := cmp.Diff(before, l.identity(t)); diff != "" {
				t.Errorf("after rm (-before +after):\n%s", diff)
			}
			sameLeases(t, leases, l.leases(t))
			if ports := l.exec(t, "lan", "ip", "-o", "link"); strings.Contains(ports, "more") {
				t.Errorf("after rm the switch still has the port:\n%s", ports)
			}
			l.isReady(t)
			if round == 0 {
				fds = l.openFiles(t)
			}
		}
		eventually(t, 5*time.Second, func() error {
			if n := l.openFiles(t); n > fds {
				return fmt.Errorf("supervisor: %d open files after three rounds, %d after one", n, fds)
			}
			return nil
		})
		for _, p := range pings {
			p.whole(t)
		}
		// What came from one file and went back to it is the same lab.
		_, stderr, code := l.try(t, "up", "flannel-vxlan", "--name", l.name)
		if code != 0 || !strings.Contains(stderr, "unchanged") {
			t.Errorf("up after add and rm: exit status %d, %q, want 0, unchanged", code, stderr)
		}
	})
}

// openFiles is how many files the supervisor has open.
func (l *running) openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.record(t).Supervisor))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Nodes that come and go many times leave nothing: no file, thread, name,
// record or process.
func TestNodeLeavesNothing(t *testing.T) {
	t.Parallel()
	needTool(t, "ip")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		look := func() string {
			rec := l.record(t)
			var names []string
			for _, n := range rec.Namespaces {
				names = append(names, n.Name)
			}
			slices.Sort(names)
			links, err := filepath.Glob("/run/netns/" + l.name + ".*")
			if err != nil {
				t.Fatal(err)
			}
			dirs, err := filepath.Glob(l.dir() + "/*/*")
			if err != nil {
				t.Fatal(err)
			}
			dirs = slices.DeleteFunc(dirs, func(d string) bool { return strings.Contains(d, "/etcd/") })
			return fmt.Sprintf("%s\n%d links: %s\n%s\n%d processes", strings.Join(names, " "),
				len(rec.Links), strings.Join(links, " "), strings.Join(dirs, " "), l.countProcesses(t))
		}
		churn := func() {
			l.node(t, "add", "more")
			// A connection and a daemon of its own must not keep it, either.
			l.exec(t, "more.c1", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
			l.node(t, "rm", "more")
		}
		churn()
		l.isReady(t)
		before, files, threads := look(), l.openFiles(t), l.threads(t)
		for range 20 {
			churn()
		}
		eventually(t, 10*time.Second, func() error {
			if diff := cmp.Diff(before, look()); diff != "" {
				return fmt.Errorf("after 20 rounds (-before +after):\n%s", diff)
			}
			if n := l.openFiles(t); n > files {
				return fmt.Errorf("supervisor: %d open files after 20 rounds, %d before", n, files)
			}
			return nil
		})
		// The Go runtime keeps threads that were once needed, but not one a round.
		if n := l.threads(t); n > threads+10 {
			t.Errorf("supervisor: %d threads after 20 rounds, %d before", n, threads)
		}
		l.isReady(t)
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

func (l *running) threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", l.record(t).Supervisor))
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// countProcesses is how many processes live in the lab's PID namespace. Of a dead
// one that PID 1 has yet to wait for, only the network namespace is gone.
func (l *running) countProcesses(t *testing.T) int {
	t.Helper()
	want := fmt.Sprintf("pid:[%d]", l.record(t).PIDNamespace)
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range all {
		ns, err := os.Readlink(p)
		_, dead := os.Readlink(filepath.Join(filepath.Dir(p), "net"))
		if err == nil && dead == nil && ns == want {
			n++
		}
	}
	return n
}

// A power failure: processes are gone, what the kernel knew is gone, the lease
// stays; afterwards the node is who it was.
func TestNodeKill(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		pings := l.traffic(t, "node1.c1", "node2.c1")
		was, leases := l.nodeStatus(t, "node3"), l.leases(t)
		l.exec(t, "node3", "ip", "route", "add", "198.51.100.0/24", "via", "192.168.50.1")
		// One that its command waits for, one that left it.
		waiting := l.command("exec", "-l", l.name, "node3.c1", "--", "sleep", "1000")
		if err := waiting.Start(); err != nil {
			t.Fatal(err)
		}
		l.exec(t, "node3", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
		eventually(t, 5*time.Second, func() error {
			if n := l.countProcesses(t); n != 2+1+3+2 { // PID 1, supervisor, etcd, agents, sleeps
				return fmt.Errorf("%d processes, want 8", n)
			}
			return nil
		})
		if r := l.node(t, "kill", "node3"); r.State != lab.Dead || r.LeaseTTLMs != 30000 {
			t.Errorf("kill: %+v, want it dead, its lease for 30 s", r)
		}
		err := waiting.Wait()
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 128+int(syscall.SIGKILL) {
			t.Errorf("exec in a node that was killed: %v, want exit status 137", err)
		}
		if n := l.countProcesses(t); n != 2+1+2 {
			t.Errorf("%d processes after kill, want 5", n)
		}
		for inode, ns := range l.record(t).Namespaces {
			if strings.HasPrefix(ns.Name, "node3") {
				t.Errorf("still on record: %d %s", inode, ns.Name)
			}
		}
		if left, _ := filepath.Glob("/run/netns/" + l.name + ".node3*"); len(left) > 0 {
			t.Errorf("names left: %v", left)
		}
		sameLeases(t, leases, l.leases(t))
		l.others(t, "node3", func(node string) {
			if k := l.knows(t, node, was); len(k) != 3 {
				t.Errorf("%s has %q, want it to keep its route, neighbour and FDB entry until the lease ends", node, k)
			}
		})
		if _, _, code := l.try(t, "ping", "-l", l.name, "node1.c1", was.Containers[0].IP, "-c", "2", "-W", "50ms"); code != 1 {
			t.Errorf("ping to a container of the dead node: exit status %d, want 1", code)
		}
		r := l.node(t, "start", "node3")
		now := l.nodeStatus(t, "node3")
		if r.Subnet != was.Subnets[0] || r.ConvergedMs == 0 || now.PublicIP != was.PublicIP || now.AgentPid == was.AgentPid ||
			!cmp.Equal(now.Containers, was.Containers) {
			t.Errorf("start: %+v\n%+v, want the node as it was, with another agent:\n%+v", r, now, was)
		}
		l.others(t, "node3", func(node string) {
			if k := l.knows(t, node, now); len(k) != 3 {
				t.Errorf("after start %s knows of it %q", node, k)
			}
		})
		if routes := l.exec(t, "node3", "ip", "route"); strings.Contains(routes, "198.51.100") {
			t.Errorf("a route outlived the power failure:\n%s", routes)
		}
		l.isReady(t)
		l.run(t, "ping", "-l", l.name, "--all")
		pings.whole(t)
	})
}

const shortLease = `name: short
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
leaseTTL: 3s
nodes: 3
`

// file writes a lab file that the user can read.
func (u user) file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(u.runtime, freshName()+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

// The agent of a stopped node is gone for good, its kernel forwards; the others
// drop the node when its lease ends, and take it up again with the same subnet.
func TestNodeStop(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, u.file(t, shortLease))
		was := l.nodeStatus(t, "node3")
		pings, rest := l.traffic(t, "node1.c1", "node3.c1"), l.traffic(t, "node1.c1", "node2.c1")
		r := l.node(t, "stop", "node3")
		if r.State != lab.Stopped || r.LeaseTTLMs != 3000 {
			t.Errorf("stop: %+v, want it stopped, its lease for 3 s", r)
		}
		pings.whole(t)
		if err := syscall.Kill(was.AgentPid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("agent %d after stop: %v, want it gone", was.AgentPid, err)
		}
		if st := l.status(t); st.State != lab.Ready || len(st.Reasons) > 0 {
			t.Errorf("lab: %s %q, want ready: the node is as it was ordered to be", st.State, st.Reasons)
		}
		// The others drop it; it keeps what it had.
		eventually(t, 15*time.Second, func() error {
			for _, node := range []string{"node1", "node2"} {
				if k := l.knows(t, node, was); len(k) != 0 {
					return fmt.Errorf("%s still has %q", node, k)
				}
			}
			return nil
		})
		for _, other := range l.status(t).Nodes[:2] {
			if k := l.knows(t, "node3", other); len(k) != 3 {
				t.Errorf("node3 has %q of %s, want what its agent left", k, other.Name)
			}
		}
		if st := l.status(t); st.State != lab.Ready || l.nodeStatus(t, "node3").State != lab.Stopped {
			t.Errorf("lab: %s %q, want it ready and node3 stopped", st.State, st.Reasons)
		}
		if r := l.node(t, "start", "node3"); r.Subnet != was.Subnets[0] || r.ConvergedMs == 0 {
			t.Errorf("start: %+v, want subnet %s again", r, was.Subnets[0])
		}
		l.run(t, "ping", "-l", l.name, "--all")
		l.isReady(t)

		// Killed for longer than its lease lives.
		l.node(t, "kill", "node3")
		eventually(t, 15*time.Second, func() error {
			if n := len(l.leases(t)); n != 2 {
				return fmt.Errorf("%d leases, want 2", n)
			}
			return nil
		})
		if r := l.node(t, "start", "node3"); r.Subnet != was.Subnets[0] {
			t.Errorf("start after kill: %+v, want subnet %s again", r, was.Subnets[0])
		}
		l.run(t, "ping", "-l", l.name, "--all")
		rest.whole(t)
		// One that is removed while it is stopped takes nothing along.
		l.node(t, "stop", "node3")
		l.node(t, "rm", "node3")
		if n := len(l.leases(t)); n != 2 {
			t.Errorf("%d leases after rm of a stopped node, want 2", n)
		}
		l.isReady(t)
	})
}

// Many commands at once take their turns, and all come to their end.
func TestNodeCommandsAtOnce(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		var wg sync.WaitGroup
		for _, args := range [][]string{
			{"add", "a"}, {"add", "b"}, {"add", "c"}, {"kill", "node3"}, {"rm", "node2"}, {"stop", "node1"},
		} {
			wg.Go(func() {
				if _, stderr, code := l.try(t, append([]string{"node", "-l", l.name}, args...)...); code != 0 {
					t.Errorf("node %s: exit status %d: %s", strings.Join(args, " "), code, stderr)
				}
			})
		}
		wg.Wait()
		for _, name := range []string{"node1", "node3"} {
			wg.Go(func() {
				if _, stderr, code := l.try(t, "node", "-l", l.name, "start", name); code != 0 {
					t.Errorf("node start %s: exit status %d: %s", name, code, stderr)
				}
			})
		}
		wg.Wait()
		l.isReady(t)
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

// The supervisor is killed in the midst of node commands: `down` leaves nothing.
func TestNodeKilledSupervisor(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		for _, c := range [][]string{{"add", "more", "--containers", "3"}, {"kill", "node3"}, {"rm", "node3"}, {"start", "node2"}} {
			for _, after := range []time.Duration{0, 5, 20} {
				after *= time.Millisecond
				l := u.prepare(t)
				l.run(t, "up", "flannel-vxlan", "--name", l.name)
				l.run(t, "node", "-l", l.name, "kill", "node2")
				pid := l.record(t).Supervisor
				record, err := os.Stat(l.dir() + "/record.json")
				if err != nil {
					t.Fatal(err)
				}
				cmd := l.command(append([]string{"node", "-l", l.name}, c...)...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				go func() {
					_ = cmd.Wait() // its lab is killed
					close(ended)
				}()
				// From the first trace on, or the end.
				for done := false; !done; {
					now, err := os.Stat(l.dir() + "/record.json")
					select {
					case <-ended:
						done = true
					default:
						done = err == nil && !os.SameFile(now, record)
					}
				}
				select {
				case <-ended:
				case <-time.After(after): // the moment to test
				}
				kill(t, pid, syscall.SIGKILL)
				<-ended
				l.down(t)
			}
		}
	})
}

// Where underlay neighbours are set beforehand, those of a node that comes are,
// too, and go with it.
func TestNodeStaticNeighbours(t *testing.T) {
	t.Parallel()
	needTool(t, "ip")
	limit := lab.ThisMachine().GCThresh3
	few := 2
	for (few+1)*few+2*few <= limit/2 { // with etcd on the segment, and a container each
		few++
	}
	if few > 40 {
		t.Skipf("gc_thresh3 is %d here: it takes %d nodes to come near it", limit, few)
	}
	u := users(t)[0]
	l := u.up(t, u.file(t, "name: many\nnetwork: {Network: 10.0.0.0/8, Backend: {Type: vxlan}}\nsegments: {lan: {subnet: 192.168.50.0/24}}\nnodes: "+strconv.Itoa(few-1)+"\n"))
	static := func(endpoint, addr string) bool {
		return strings.Contains(l.exec(t, endpoint, "ip", "neigh", "show", addr, "dev", "eth0"), "extern_learn")
	}
	if l.status(t).StaticNeighbours {
		t.Fatalf("%d nodes: neighbours are set beforehand already", few-1)
	}
	l.node(t, "add", "more")
	more := l.nodeStatus(t, "more")
	for _, endpoint := range []string{"node1", "node2", "etcd"} {
		eventually(t, 5*time.Second, func() error {
			if !static(endpoint, more.PublicIP) || endpoint != "node1" && !static(endpoint, "192.168.50.1") {
				return fmt.Errorf("%s: neighbours are not set beforehand", endpoint)
			}
			return nil
		})
	}
	if !l.status(t).StaticNeighbours {
		t.Error("status: staticNeighbours is false")
	}
	l.node(t, "rm", "more")
	eventually(t, 5*time.Second, func() error {
		if static("node1", more.PublicIP) {
			return errors.New("node1: the entry of the node that left is still there")
		}
		return nil
	})
	l.isReady(t)
}

// A process of the user's that entered the node is named and ended.
func TestNodeKillEndsVisitors(t *testing.T) {
	t.Parallel()
	u := needRoot(t, "ip netns exec enters root's labs only")
	needTool(t, "ip")
	l := u.up(t, "flannel-vxlan")
	enter := func(endpoint string) *exec.Cmd {
		cmd := exec.Command("ip", "netns", "exec", l.name+"."+endpoint, "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // ended before
			_ = cmd.Wait()
		})
		eventually(t, 5*time.Second, func() error {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
			if err != nil || string(comm) != "sleep\n" {
				return fmt.Errorf("visitor: %q, %v, want sleep", comm, err)
			}
			return nil
		})
		return cmd
	}
	victim, other := enter("node3.c1"), enter("node2")
	_, stderr, code := l.try(t, "node", "kill", "node3", "-l", l.name)
	if want := fmt.Sprintf("node3: ended %d sleep in node3.c1", victim.Process.Pid); code != 0 || !strings.Contains(stderr, want) {
		t.Errorf("node kill: exit status %d, %q, want 0, %q", code, stderr, want)
	}
	if err := syscall.Kill(other.Process.Pid, 0); err != nil {
		t.Errorf("a visitor of another node: %v, want it alive", err)
	}
}
