package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"labctl/lab"
)

// prepare names a lab that the test itself brings up; what is left of it goes
// with the test.
func (u user) prepare(t *testing.T) *running {
	t.Helper()
	l := &running{u, freshName()}
	t.Cleanup(func() {
		if t.Failed() {
			l.describe(t)
		}
		l.down(t)
	})
	return l
}

// isBroken waits until status and ls say that the lab's processes are gone.
func (l *running) isBroken(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		_, stderr, code := l.try(t, "status", l.name)
		if code != 1 || !strings.Contains(stderr, "broken") {
			return fmt.Errorf("status: exit status %d, %q, want 1, broken", code, stderr)
		}
		var list labList
		unmarshal(t, l.run(t, "ls", "-o", "json"), &list)
		if !slices.ContainsFunc(list.Labs, func(x labLine) bool { return x.Name == l.name && x.State == lab.Broken }) {
			return fmt.Errorf("ls: %+v, want %s broken", list.Labs, l.name)
		}
		return nil
	})
}

// Whatever of a running lab is killed, `down` leaves nothing, and `up` makes
// it anew without one.
func TestKilledLab(t *testing.T) {
	t.Parallel()
	victims := map[string]func(t *testing.T, l *running) []int{
		"supervisor": func(t *testing.T, l *running) []int { return []int{l.record(t).Supervisor} },
		"PID 1":      func(t *testing.T, l *running) []int { return []int{l.record(t).PID} },
		"everything": func(t *testing.T, l *running) []int {
			rec := l.record(t)
			pids := []int{rec.Supervisor, rec.PID}
			for _, p := range l.status(t).Processes {
				pids = append(pids, p.Pid)
			}
			return pids
		},
	}
	for what, pids := range victims {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			forUsers(t, func(t *testing.T, u user) {
				l := u.prepare(t)
				for _, last := range []string{"down", "up"} {
					l.run(t, "up", "flannel-vxlan", "--name", l.name)
					for _, pid := range pids(t, l) {
						_ = syscall.Kill(pid, syscall.SIGKILL) // the first may have taken it along
					}
					l.isBroken(t)
					if last == "down" {
						l.down(t)
					}
				}
				// What is left of the second is in nobody's way.
				l.run(t, "up", "flannel-vxlan", "--name", l.name)
				l.run(t, "ping", "-l", l.name, "--all")
				l.isReady(t)
			})
		})
	}
}

// `up` is killed while it works: what it had begun goes with `down`, and is in
// no other `up`'s way.
func TestKilledUp(t *testing.T) {
	t.Parallel()
	exists := func(path string) func(l *running, stderr *counter) bool {
		return func(l *running, _ *counter) bool {
			left, err := filepath.Glob(strings.NewReplacer("DIR", l.dir(), "NAME", l.name).Replace(path))
			return err == nil && len(left) > 0
		}
	}
	moments := []struct {
		name string
		root bool
		when func(l *running, stderr *counter) bool
	}{
		{"at once", false, func(*running, *counter) bool { return true }},
		{"run directory", false, exists("DIR")},
		{"plan", false, exists("DIR/plan.json")},
		{"socket", false, exists("DIR/socket")},
		{"supervisor's log", false, exists("DIR/logs/supervisor.log")},
		{"record", false, exists("DIR/record.json")},
		{"first name", true, exists("/run/netns/NAME.*")},
		{"first line", false, func(_ *running, stderr *counter) bool { return stderr.lines() > 0 }},
		{"etcd", false, exists("DIR/etcd.sock")},
		{"a subnet", false, exists("DIR/nodes/*/subnet.env")},
		{"fourth line", false, func(_ *running, stderr *counter) bool { return stderr.lines() > 3 }},
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			forUsers(t, func(t *testing.T, u user) {
				if m.root && u.uid != 0 {
					t.Skip("only root's labs have names under /run/netns")
				}
				l := u.prepare(t)
				for _, then := range []string{"down", "up"} {
					stderr := &counter{}
					cmd := l.command("up", "flannel-vxlan", "--name", l.name)
					cmd.Stderr = stderr
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					ended := make(chan struct{})
					go func() {
						_ = cmd.Wait() // killed, mostly
						close(ended)
					}()
					for done := false; !done && !m.when(l, stderr); {
						select {
						case <-ended:
							done = true // too late: then it is whole
						default:
						}
					}
					_ = cmd.Process.Kill() // perhaps it had ended
					<-ended
					if then == "down" {
						l.down(t)
						continue
					}
					l.run(t, "up", "flannel-vxlan", "--name", l.name)
					l.run(t, "ping", "-l", l.name, "--all")
				}
			})
		})
	}
}

// counter counts lines.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(bytes.Count(b, []byte("\n"))))
	return len(b), nil
}

func (c *counter) lines() int64 { return c.n.Load() }

// A visitor's process is named and ended by `down`, also when the lab was dead
// before.
func TestVisitors(t *testing.T) {
	t.Parallel()
	u := needRoot(t, "ip netns exec enters root's labs only")
	needTool(t, "ip")
	for _, dead := range []bool{false, true} {
		t.Run(fmt.Sprintf("dead lab %v", dead), func(t *testing.T) {
			t.Parallel()
			l := u.up(t, "flannel-vxlan")
			// One goes when it is asked to, the other does not.
			visitors := []*exec.Cmd{
				exec.Command("ip", "netns", "exec", l.name+".node1", "sleep", "1000"),
				exec.Command("ip", "netns", "exec", l.name+".node2.c1", "sh", "-c", `trap "" TERM; echo ready; read x`),
			}
			stdin, theirs, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			visitors[1].Stdin = stdin
			out, err := visitors[1].StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan int, len(visitors))
			for i, v := range visitors {
				if err := v.Start(); err != nil {
					t.Fatal(err)
				}
				if i == 1 {
					if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
						t.Fatal(err)
					}
				}
				go func() {
					_ = v.Wait() // by a signal
					ended <- i
				}()
			}
			stdin.Close()
			eventually(t, 5*time.Second, func() error {
				comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", visitors[0].Process.Pid))
				if err != nil || string(comm) != "sleep\n" {
					return fmt.Errorf("visitor: %q, %v, want sleep", comm, err)
				}
				return nil
			})
			if dead {
				kill(t, l.record(t).Supervisor, syscall.SIGKILL)
				l.isBroken(t)
			}
			_, stderr, code := l.try(t, "down", l.name)
			if code != 0 {
				t.Errorf("down: exit status %d: %s", code, stderr)
			}
			for _, want := range []string{
				fmt.Sprintf("%d sleep in node1", visitors[0].Process.Pid),
				fmt.Sprintf("%d sh in node2.c1", visitors[1].Process.Pid),
			} {
				if !strings.Contains(stderr, want) {
					t.Errorf("down says %q, want %q", stderr, want)
				}
			}
			for range visitors {
				select {
				case <-ended:
				case <-time.After(5 * time.Second):
					t.Error("a visitor still runs after down")
					for _, v := range visitors {
						_ = v.Process.Kill() // one of them has ended
					}
				}
			}
			l.gone(t)
		})
	}
}

// A name under /run/netns that is somebody else's by now stays.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	u := needRoot(t, "only root's labs have names under /run/netns")
	l := u.up(t, "flannel-vxlan")
	file, link := "/run/netns/"+l.name+".node2", "/run/netns/"+l.name+".node3"
	for _, p := range []string{file, link} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(p) })
	}
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/ns/net", link); err != nil {
		t.Fatal(err)
	}
	kill(t, l.record(t).Supervisor, syscall.SIGKILL)
	l.isBroken(t)
	l.run(t, "down", l.name)
	if b, err := os.ReadFile(file); string(b) != "mine" {
		t.Errorf("%s: %q, %v, want it untouched", file, b, err)
	}
	if to, err := os.Readlink(link); to != "/proc/self/ns/net" {
		t.Errorf("%s: to %q, %v, want it untouched", link, to, err)
	}
	for _, p := range []string{file, link} {
		if err := os.Remove(p); err != nil {
			t.Error(err)
		}
	}
	l.gone(t)
}

// A record that outlived its lab names a process number that is another's by
// now: that one is not harmed.
func TestForeignProcess(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		sleep := exec.Command("sleep", "1000")
		sleep.SysProcAttr = u.command().SysProcAttr
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = sleep.Wait() // killed at the end
			close(ended)
		}()
		t.Cleanup(func() {
			_ = sleep.Process.Kill()
			<-ended
		})
		for what, spoil := range map[string]func(r *lab.Record){
			"start time":    func(r *lab.Record) { r.StartTime++ },
			"PID namespace": func(r *lab.Record) { r.PIDNamespace++ },
			"boot":          func(r *lab.Record) { r.BootID = "another" },
		} {
			real := u.up(t, "flannel-vxlan")
			rec := *real.record(t)
			real.down(t)
			l := u.prepare(t)
			rec.Name = l.name
			rec.PID = sleep.Process.Pid
			identify(t, &rec)
			spoil(&rec)
			if err := os.MkdirAll(l.dir(), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := rec.Write(lab.Dir(l.dir())); err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{filepath.Dir(l.dir()), l.dir(), l.dir() + "/record.json"} {
				if err := os.Chown(p, u.uid, u.uid); err != nil {
					t.Fatal(err)
				}
			}
			l.isBroken(t)
			l.down(t)
			select {
			case <-ended:
				t.Fatalf("another %s: down killed process %d, which is not the lab's", what, rec.PID)
			default:
			}
			if err := sleep.Process.Signal(syscall.Signal(0)); err != nil {
				t.Fatalf("another %s: process %d: %v", what, rec.PID, err)
			}
		}
	})
}

// identify makes a record name its process rightly in all respects.
func identify(t *testing.T, r *lab.Record) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", r.PID)
	b, err := os.ReadFile(proc + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if _, err := fmt.Sscan(f[19], &r.StartTime); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(proc + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	r.PIDNamespace = fi.Sys().(*syscall.Stat_t).Ino
	if !r.Alive() {
		t.Fatalf("record %+v does not find its process", r)
	}
}

// One lab's end is no other's.
func TestKilledNeighbour(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		dies, lives := u.up(t, "flannel-vxlan"), u.up(t, "flannel-vxlan")
		pings := lives.traffic(t, "node1.c1", "node2.c1")
		kill(t, dies.record(t).PID, syscall.SIGKILL)
		dies.isBroken(t)
		dies.down(t)
		pings.whole(t)
		lives.isReady(t)
		for _, p := range lives.status(t).Processes {
			if p.Restarts != 0 {
				t.Errorf("%s: %d restarts, want none", p.Name, p.Restarts)
			}
		}
		lives.run(t, "ping", "-l", lives.name, "--all")
	})
}

// down needs no room on the disk: what it notes for others may fail.
func TestDownWithoutItsNote(t *testing.T) {
	t.Parallel()
	l := users(t)[0].up(t, "bridge-nat")
	if err := os.Mkdir(filepath.Join(l.dir(), "down"), 0o700); err != nil { // where the note would be
		t.Fatal(err)
	}
	l.down(t)
}

// A lab whose run directory somebody cannot see, because another file system is
// mounted there for them alone, is not lost.
func TestLabOfAnotherMountNamespace(t *testing.T) {
	t.Parallel()
	u := needRoot(t, "to mount something")
	needTool(t, "unshare")
	l := u.up(t, "bridge-nat")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /run && exec "$0" doctor --leaks -o json`, self).Output()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed { // other tests' labs may be lost
		t.Fatal(err)
	}
	var list leakList
	unmarshal(t, string(out), &list)
	for _, leak := range list.Leaks {
		if leak.Lab == l.name {
			t.Errorf("doctor --leaks: %+v", leak)
		}
	}
}

// A supervisor that somebody has stopped answers nobody: who asks is told so, and
// how it goes on.
func TestStoppedSupervisor(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		pid := l.record(t).Supervisor
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"status", l.name},
			{"up", "flannel-vxlan", "--name", l.name},
			{"fault", "list", "-l", l.name},
			{"node", "stop", "node1", "-l", l.name},
		} {
			_, stderr, code := l.try(t, args...)
			want := fmt.Sprintf("%s: its supervisor, process %d, is stopped\n  cure: kill -CONT %d ", l.name, pid, pid)
			if code != 1 || !strings.Contains(stderr, want) {
				t.Errorf("labctl %s: exit status %d, %q, want 1, %q", strings.Join(args, " "), code, stderr, want)
			}
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		l.run(t, "status", l.name)
	})
}

// A full disk is named with its cure, and what was begun goes.
func TestUpWithoutRoom(t *testing.T) {
	t.Parallel()
	needRoot(t, "to mount something")
	needTool(t, "unshare")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount -t tmpfs -o size=4k tmpfs /run && ! "$0" up flannel-vxlan --name "$1" && find /run -mindepth 1`
	out, err := exec.Command("unshare", "--mount", "sh", "-c", script, self, freshName()).CombinedOutput()
	const want = "no space left on device\n  cure: make room on the file system of /run/labctl (df -h, df -i)\n"
	if err != nil || !strings.HasSuffix(string(out), want) {
		t.Errorf("up on a full disk: %v\n%s\nwant at the end, and no files after it:\n%s", err, out, want)
	}
}
