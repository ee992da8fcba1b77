package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// round is one kill.
type round struct {
	user   user
	op     operation
	victim string        // one of victims
	point  string        // a file that must be there first, "" for none
	after  time.Duration // and then so long
	how    string        // "down", or "up" and then down
}

// operation is what labctl is doing meanwhile.
type operation struct {
	name string
	args []string
	lab  bool          // a lab is there already
	took time.Duration // about as long, on a slow machine
	// other says that the lab is then another than the file's.
	other bool
}

var operations = []operation{
	{name: "up", args: []string{"up", "/run/work/lab.yaml"}, took: 400 * time.Millisecond},
	{name: "down", args: []string{"down", labName}, lab: true, took: 30 * time.Millisecond},
	{name: "node add", args: []string{"node", "add", "node3"}, lab: true, took: 100 * time.Millisecond, other: true},
	{name: "node rm", args: []string{"node", "rm", "node2"}, lab: true, took: 60 * time.Millisecond, other: true},
	{name: "node kill", args: []string{"node", "kill", "node2"}, lab: true, took: 60 * time.Millisecond},
	{name: "capture", args: []string{"capture", "-w", "/dev/null", "--duration", "300ms"}, lab: true, took: 300 * time.Millisecond},
	{name: "exec", args: []string{"exec", "node1.c1", "--", "sleep", "0.3"}, lab: true, took: 300 * time.Millisecond},
	{name: "iperf", args: []string{"iperf", "node1.c1", "node2.c1", "-t", "0.3"}, lab: true, took: 400 * time.Millisecond},
}

// points are what comes to be while a lab is built, below the run directory
// unless they are whole paths.
var points = []string{"", "", "", "lock", "plan.json", "socket", "logs/supervisor.log", "record.json", "/run/netns/" + labName + ".node1", "etcd.sock", "nodes/*/subnet.env"}

// victims are whom SIGKILL is sent to, by how they were started.
var victims = map[string][]string{
	"command": nil, "supervisor": {"labctl __supervise"}, "PID 1": {"labctl __init"}, "etcd": {"labctl __etcd"}, "agent": {"labctl agent --node"},
	"all": {"labctl __", "labctl agent --node"},
}

func choose(rng *rand.Rand, users []user) round {
	names := slices.Sorted(maps.Keys(victims))
	r := round{user: users[rng.IntN(len(users))], victim: names[rng.IntN(len(names))], how: []string{"down", "up"}[rng.IntN(2)]}
	// up does the most, and is killed the most.
	if i := rng.IntN(len(operations) + 4); i < len(operations) {
		r.op = operations[i]
	} else {
		r.op = operations[0]
	}
	if r.op.name == "up" {
		r.point = points[rng.IntN(len(points))]
	}
	r.after = time.Duration(rng.Int64N(int64(r.op.took)))
	if r.point != "" || r.op.name == "up" && r.victim != "command" {
		r.after /= 8 // the moment counts
	}
	return r
}

func (r round) String() string {
	at := fmt.Sprintf("after %v", r.after.Round(100*time.Microsecond))
	if r.point != "" {
		at = fmt.Sprintf("%v after %s", r.after.Round(100*time.Microsecond), r.point)
	}
	return fmt.Sprintf("%s's %s: kill %s %s, then %s", r.user.name, r.op.name, r.victim, at, r.how)
}

// patience is for what takes less than a second on an idle machine.
const patience = 30 * time.Second

// play plays the round. What it returns are commands that did not do what they
// should.
func (r round) play(w *world) (faults []string) {
	fail := func(format string, a ...any) { faults = append(faults, fmt.Sprintf(format, a...)) }
	must := func(args ...string) {
		if out, code, err := w.run(r.user, args...); err != nil || code != 0 {
			fail("labctl %s: exit status %d, %v: %s", strings.Join(args, " "), code, err, out)
		}
	}
	if r.op.lab {
		must("up", "/run/work/lab.yaml")
	}
	cmd := w.command(r.user, r.op.args...)
	if err := cmd.Start(); err != nil {
		fail("%v", err)
		return faults
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, mostly
		close(ended)
	}()
	r.await(ended)
	r.kill(cmd.Process.Pid)
	if r.victim != "command" && r.victim != "all" {
		// It lives on without its victim, or ends; it must not hang.
		select {
		case <-ended:
		case <-time.After(patience):
			fail("labctl %s: does not end without %s", strings.Join(r.op.args, " "), r.victim)
		}
	}
	_ = cmd.Process.Kill() // perhaps it has ended
	<-ended
	if r.how == "up" {
		out, code, err := w.run(r.user, "up", "/run/work/lab.yaml")
		if differs := r.op.other && code == 2; err != nil || code != 0 && !differs {
			fail("labctl up after it: exit status %d, %v: %s", code, err, out)
		} else if code == 0 && r.op.name != "node kill" && !r.op.other {
			must("ping", "node1.c1", "node2.c1", "-c", "1")
		}
	}
	must("down", labName)
	must("doctor", "--leaks")
	return faults
}

// downAll takes all labs of each user's away at once, whatever state they are
// in. What it returns is as play's.
func (w *world) downAll() (faults []string) {
	for _, u := range w.users {
		for _, name := range []string{labName, labName + "-two"} {
			if out, code, err := w.run(u, "up", "/run/work/lab.yaml", "--name", name); err != nil || code != 0 {
				faults = append(faults, fmt.Sprintf("%s: up: exit status %d, %v: %s", u.name, code, err, out))
			}
			if name == labName {
				round{victim: "supervisor"}.kill(0)
			}
		}
		cmd := w.command(u, "up", "/run/work/lab.yaml", "--name", labName+"-three")
		if err := cmd.Start(); err != nil {
			faults = append(faults, err.Error())
			continue
		}
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if _, err := os.Stat(filepath.Join(u.base(), labName+"-three", "plan.json")); err == nil {
				break
			}
		}
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by that signal
		if out, code, err := w.run(u, "down", "--all"); err != nil || code != 0 {
			faults = append(faults, fmt.Sprintf("%s: down --all: exit status %d, %v: %s", u.name, code, err, out))
		}
	}
	return faults
}

// await waits for the moment of the kill, or the command's end.
func (r round) await(ended <-chan struct{}) {
	until := time.Now().Add(patience)
	for r.point != "" && time.Now().Before(until) {
		path := r.point
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.user.base(), labName, path)
		} else if r.user.uid != 0 {
			break // only root's labs have names there
		}
		if left, err := filepath.Glob(path); err == nil && len(left) > 0 {
			break
		}
		select {
		case <-ended:
			return
		default:
		}
	}
	if r.op.name == "up" && len(victims[r.victim]) == 1 {
		for pid := 0; pid == 0 && time.Now().Before(until); {
			select {
			case <-ended:
				return
			default:
			}
			pid = find(victims[r.victim][0])
		}
	}
	time.Sleep(r.after)
}

// kill kills the victims that there are.
func (r round) kill(command int) {
	if r.victim == "command" || r.victim == "all" {
		_ = syscall.Kill(command, syscall.SIGKILL) // it may have ended
	}
	all, err := processes()
	if err != nil {
		return
	}
	for _, p := range all {
		if !slices.ContainsFunc(victims[r.victim], func(start string) bool { return strings.HasPrefix(p.args, start) }) {
			continue
		}
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // an earlier one may have taken it along
		if r.victim == "agent" {
			return
		}
	}
}

// tally sums rounds up.
type tally struct {
	kills, faults, leaks, foreign int
	ops, victims, users           map[string]int
}

func (t *tally) add(r round, faults, left, changed []string) {
	if t.ops == nil {
		t.ops, t.victims, t.users = map[string]int{}, map[string]int{}, map[string]int{}
	}
	t.kills++
	t.faults += len(faults)
	t.leaks += len(left)
	t.foreign += len(changed)
	t.ops[r.op.name]++
	t.victims[r.victim]++
	t.users[r.user.name]++
}

func (t *tally) print(took time.Duration) {
	counts := func(m map[string]int) string {
		var s []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			s = append(s, fmt.Sprintf("%s %d", k, m[k]))
		}
		return strings.Join(s, ", ")
	}
	fmt.Printf("operations: %s\nvictims:    %s\nusers:      %s\n", counts(t.ops), counts(t.victims), counts(t.users))
	fmt.Printf("%d kills in %v: %d leaks, %d foreign changes, %d commands that did not do what they should\n", t.kills, took.Round(time.Second), t.leaks, t.foreign, t.faults)
}
