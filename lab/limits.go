package lab

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What a lab takes. Those of the supervisor's descriptors are, for each
// namespace: itself, its files, the sockets of its reconciler and monitor, and
// two directories of settings.
const (
	filesPerNamespace = 9
	filesOfItsOwn     = 64
	filesOfEtcd       = 200 // etcd refuses to start with 150 or fewer
	filesPerClient    = 1   // of etcd's

	threadsPerAgent = 12 // of the Go runtime: it has more only while many wait for the kernel
	threadsOfItsOwn = 100

	memoryPerNode   = 12 << 20 // private to its agent, with what the supervisor and etcd have of it
	memoryPerNetns  = 1 << 20  // of the kernel's
	memoryPerEntry  = 1 << 10  // of the kernel's, for what one host knows of another
	memoryOfItsOwn  = 64 << 20
	bridgePortsMost = maxPorts
)

// Capacity is what a machine has of what labs need much of; Unlimited where
// nothing bounds it, or where that cannot be read.
type Capacity struct {
	OpenFiles  uint64 // of one process
	Threads    uint64 // that may still be started
	Namespaces uint64 // network namespaces
	Inotify    uint64 // instances of one user
	Memory     uint64 // bytes that are free, or can be made so
	// ThreadsBy and MemoryBy name what bounds them, as far as that is known.
	ThreadsBy, MemoryBy string
}

// Unlimited is the Capacity of what has no bound.
const Unlimited = math.MaxUint64

// Need is how much of one thing a lab needs, and what there is of it.
type Need struct {
	Name string // open files
	Need uint64
	Have uint64
	Unit string // "" for a number of things, else MB
	Cure string // when it is not enough
}

// Enough says whether there is as much as is needed.
func (n Need) Enough() bool { return n.Need <= n.Have }

func (n Need) String() string {
	unit := ""
	if n.Unit != "" {
		unit = " " + n.Unit
	}
	have := "no limit"
	if n.Have != Unlimited {
		have = fmt.Sprintf("%d%s", n.Have, unit)
	}
	return fmt.Sprintf("needs %d%s, there are %s", n.Need, unit, have)
}

// Needs is what a lab takes, beside what the machine has.
func Needs(p *Plan, c Capacity) []Need {
	namespaces := uint64(len(p.Endpoints()) + len(p.Segments))
	nodes := uint64(len(p.Nodes))
	agents, commands := uint64(0), uint64(0)
	for _, n := range p.Nodes {
		if n.Agent {
			agents++
		}
		if n.Command != nil {
			commands = 1 // one instance watches the files of all
		}
	}
	ports := 0
	for _, s := range p.Segments {
		on := 0
		for _, n := range p.allNICs() {
			if n.Segment == s.Name {
				on++
			}
		}
		ports = max(ports, on)
	}
	const mb = 1 << 20
	have := c.Memory
	if have != Unlimited {
		have /= mb
	}
	known := uint64(p.Neighbours.Expected) + 3*agents*agents // a route, a neighbour and an FDB entry for each other host
	memory := (memoryOfItsOwn + nodes*memoryPerNode + namespaces*memoryPerNetns + known*memoryPerEntry) / mb
	threads := threadsOfItsOwn + agents*threadsPerAgent
	files := FilesNeeded(p)
	return []Need{
		{Name: "open files", Need: files, Have: c.OpenFiles, Cure: fmt.Sprintf("ulimit -Hn %d (as root)", files)},
		{Name: "threads", Need: threads, Have: c.Threads, Cure: c.threadsCure(threads)},
		{Name: "network namespaces", Need: namespaces + 1, Have: c.Namespaces, Cure: fmt.Sprintf("sysctl user.max_net_namespaces=%d (as root)", 2*namespaces)},
		{Name: "inotify instances", Need: commands, Have: c.Inotify, Cure: "sysctl fs.inotify.max_user_instances=512 (as root)"},
		{Name: "bridge ports", Need: uint64(ports), Have: bridgePortsMost, Cure: "spread the nodes over several segments"},
		{Name: "memory", Need: memory, Have: have, Unit: "MB", Cure: c.memoryCure()},
	}
}

func (c Capacity) threadsCure(need uint64) string {
	switch c.ThreadsBy {
	case "":
		return "end other programs"
	case "ulimit":
		return "ulimit -Hu unlimited (as root)"
	case "pids.max":
		return "raise pids.max of the control group that you are in (systemd: TasksMax=infinity)"
	}
	return fmt.Sprintf("sysctl %s=%d (as root)", c.ThreadsBy, 4*need)
}

func (c Capacity) memoryCure() string {
	if c.MemoryBy == "" {
		return "end other programs, or take a machine with more"
	}
	return "raise " + c.MemoryBy + " of the control group that you are in"
}

// allNICs are all ends of veth pairs on segments.
func (p *Plan) allNICs() []NICPlan {
	var all []NICPlan
	for _, r := range p.Routers {
		all = append(all, r.NICs...)
	}
	if p.Etcd != nil {
		all = append(all, p.Etcd.NIC)
	}
	for _, n := range p.Nodes {
		all = append(all, n.NICs()...)
	}
	return all
}

// CheckLimits says whether this machine's limits are enough for the plan,
// before anything is made.
func CheckLimits(p *Plan) error { return checkNeeds(p.Name, Needs(p, ThisCapacity())) }

func checkNeeds(lab string, needs []Need) error {
	for _, n := range needs {
		if !n.Enough() {
			return &Failure{Kind: Unable, Err: fmt.Errorf("%s: %s: %s", lab, n.Name, n), Cure: n.Cure + ", or a smaller lab"}
		}
	}
	return nil
}

// FilesNeeded is how many files the lab's busiest process will have open.
func FilesNeeded(p *Plan) uint64 {
	namespaces := uint64(len(p.Endpoints()) + len(p.Segments))
	agents := uint64(len(p.Nodes))
	return max(namespaces*filesPerNamespace+filesOfItsOwn, filesOfEtcd+agents*filesPerClient)
}

// ThisMachine reads what plans depend on.
func ThisMachine() Machine {
	m := Machine{GCThresh3: 1024} // the kernel's default, where it cannot be read
	if n := readLimit("/proc/sys/net/ipv4/neigh/default/gc_thresh3"); n != Unlimited {
		m.GCThresh3 = int(n)
	}
	return m
}

// ThisCapacity reads what this machine has for the caller.
func ThisCapacity() Capacity {
	c := Capacity{
		OpenFiles:  rlimit(unix.RLIMIT_NOFILE), // the Go runtime raises the soft limit to the hard one
		Namespaces: readLimit("/proc/sys/user/max_net_namespaces"),
		Inotify:    readLimit("/proc/sys/fs/inotify/max_user_instances"),
		Threads:    Unlimited,
		Memory:     available(),
	}
	bound := func(by string, limit, used uint64) {
		if limit == Unlimited {
			return
		}
		if left := limit - min(used, limit); left < c.Threads {
			c.Threads, c.ThreadsBy = left, by
		}
	}
	used := threadsInUse()
	bound("kernel.pid_max", readLimit("/proc/sys/kernel/pid_max"), used)
	bound("kernel.threads-max", readLimit("/proc/sys/kernel/threads-max"), used)
	if os.Geteuid() != 0 { // root's are not counted
		bound("ulimit", rlimit(unix.RLIMIT_NPROC), 0)
	}
	for _, dir := range controlGroups() {
		bound("pids.max", readLimit(filepath.Join(dir, "pids.max")), readUsed(filepath.Join(dir, "pids.current")))
		most, current := readLimit(filepath.Join(dir, "memory.max")), readUsed(filepath.Join(dir, "memory.current"))
		if left := most - min(current, most); most != Unlimited && left < c.Memory {
			c.Memory, c.MemoryBy = left, "memory.max"
		}
	}
	return c
}

func rlimit(resource int) uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(resource, &r); err != nil {
		return Unlimited
	}
	return r.Max // RLIM_INFINITY is Unlimited
}

// readLimit is the number in a file; Unlimited for "max", and without one.
func readLimit(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return Unlimited
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return Unlimited
	}
	return n
}

// readUsed is the number in a file, 0 without one.
func readUsed(path string) uint64 {
	if n := readLimit(path); n != Unlimited {
		return n
	}
	return 0
}

// available is MemAvailable of /proc/meminfo, in bytes.
func available() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Unlimited
	}
	return parseAvailable(string(b))
}

func parseAvailable(meminfo string) uint64 {
	for line := range strings.Lines(meminfo) {
		var kb uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return Unlimited
}

// threadsInUse is how many threads the machine has: "0.00 0.01 0.05 1/376 17038".
func threadsInUse() uint64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	return parseThreads(string(b))
}

func parseThreads(loadavg string) uint64 {
	f := strings.Fields(loadavg)
	if len(f) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(f[3], "/")
	n, _ := strconv.ParseUint(all, 10, 64) // 0 when it is none
	return n
}

// controlGroups are the directories of the caller's control group (cgroups(7),
// version 2) and of those around it.
func controlGroups() []string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	return parseControlGroups(string(b))
}

func parseControlGroups(text string) []string {
	const root = "/sys/fs/cgroup"
	var dirs []string
	for line := range strings.Lines(text) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for dir := filepath.Join(root, path); strings.HasPrefix(dir, root+"/"); dir = filepath.Dir(dir) {
			dirs = append(dirs, dir)
		}
		dirs = append(dirs, root)
	}
	return dirs
}
