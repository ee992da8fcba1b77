package lab

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// sized is the plan of a lab of so many hosts.
func sized(t *testing.T, nodes int) *Plan {
	t.Helper()
	spec, err := Parse("sized.yaml", fmt.Appendf(nil, `name: sized
network: {Network: 10.0.0.0/8, SubnetLen: 24, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.0.0/20}}
nodes: %d
`, nodes))
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(spec, Machine{GCThresh3: 1024})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	const gb = 1 << 30
	roomy := Capacity{OpenFiles: Unlimited, Threads: Unlimited, Namespaces: Unlimited, Inotify: Unlimited, Memory: Unlimited}
	for _, test := range []struct {
		name  string
		nodes int
		have  func(*Capacity)
		want  string // what the lab lacks, "" for nothing
		cure  string
	}{
		{"no limits", 500, func(*Capacity) {}, "", ""},
		{"a stock machine, a small lab", 3, func(c *Capacity) { c.OpenFiles, c.Threads, c.Memory = 4096, 30000, gb }, "", ""},
		{"200 hosts and 4096 files", 200, func(c *Capacity) { c.OpenFiles = 4096 }, "", ""},
		{"300 hosts and 4096 files", 300, func(c *Capacity) { c.OpenFiles = 4096 }, "open files", "ulimit -Hn"},
		{"500 hosts and pid_max of 32768", 500, func(c *Capacity) { c.Threads, c.ThreadsBy = 32000, "kernel.pid_max" }, "", ""},
		{"few threads", 200, func(c *Capacity) { c.Threads, c.ThreadsBy = 1000, "kernel.pid_max" }, "threads", "sysctl kernel.pid_max="},
		{"few of the control group", 200, func(c *Capacity) { c.Threads, c.ThreadsBy = 1000, "pids.max" }, "threads", "TasksMax"},
		{"few of the user", 200, func(c *Capacity) { c.Threads, c.ThreadsBy = 1000, "ulimit" }, "threads", "ulimit -Hu"},
		{"few network namespaces", 200, func(c *Capacity) { c.Namespaces = 400 }, "network namespaces", "user.max_net_namespaces="},
		{"just enough network namespaces", 200, func(c *Capacity) { c.Namespaces = 403 }, "", ""},
		{"no inotify, and no need of it", 200, func(c *Capacity) { c.Inotify = 0 }, "", ""},
		{"little memory", 500, func(c *Capacity) { c.Memory = 2 * gb }, "memory", "end other programs"},
		{"little memory of the control group", 200, func(c *Capacity) { c.Memory, c.MemoryBy = gb, "memory.max" }, "memory", "raise memory.max"},
		{"200 hosts and 4 GB", 200, func(c *Capacity) { c.Memory = 4 * gb }, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := roomy
			test.have(&c)
			var lacks []string
			for _, n := range Needs(sized(t, test.nodes), c) {
				if n.Enough() {
					continue
				}
				lacks = append(lacks, n.Name)
				if !strings.Contains(n.Cure, test.cure) {
					t.Errorf("cure of %s = %q, want %q in it", n.Name, n.Cure, test.cure)
				}
			}
			if got := strings.Join(lacks, ", "); got != test.want {
				t.Errorf("lacks %q, want %q", got, test.want)
			}
		})
	}
}

// A machine's own figures are read: were they not, nothing would ever lack.
func TestThisCapacity(t *testing.T) {
	t.Parallel()
	c := ThisCapacity()
	for name, n := range map[string]uint64{"threads": c.Threads, "network namespaces": c.Namespaces, "inotify": c.Inotify, "memory": c.Memory} {
		if n == 0 || n == Unlimited {
			t.Errorf("%s = %d, want what /proc says", name, n)
		}
	}
	if c.ThreadsBy == "" {
		t.Error("nothing bounds the threads")
	}
	if err := CheckLimits(sized(t, 3)); err != nil {
		t.Errorf("a lab of three hosts does not fit on this machine: %v", err)
	}
}

// A lab that does not fit ends up with exit status 4, one line and a cure.
func TestCheckNeeds(t *testing.T) {
	t.Parallel()
	err := checkNeeds("big", []Need{{Name: "threads", Need: 1, Have: 1}, {Name: "open files", Need: 5000, Have: 4096, Cure: "ulimit -Hn 5000 (as root)"}})
	f, ok := errors.AsType[*Failure](err)
	if !ok || ExitCode(err) != 4 {
		t.Fatalf("checkNeeds() = %v, want a failure with exit status 4", err)
	}
	if got, want := f.Error()+"; "+f.Cure, "big: open files: needs 5000, there are 4096; ulimit -Hn 5000 (as root), or a smaller lab"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
