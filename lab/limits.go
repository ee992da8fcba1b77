package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Descriptors that the supervisor holds: for each namespace itself, the
// two netlink sockets of its reconciler, and its monitor's; and for itself.
const (
	filesPerNamespace = 7
	filesOfItsOwn     = 64
	filesOfEtcd       = 200 // etcd refuses to start with 150 or fewer
)

// ThisMachine reads what plans depend on.
func ThisMachine() Machine {
	m := Machine{GCThresh3: 1024} // the kernel's default, where it cannot be read
	if b, err := os.ReadFile("/proc/sys/net/ipv4/neigh/default/gc_thresh3"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			m.GCThresh3 = n
		}
	}
	return m
}

// CheckLimits says whether this machine's limits are enough for the plan,
// before anything is made.
func CheckLimits(p *Plan) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("open files: limit: %w", err)
	}
	need := FilesNeeded(p)
	if r.Max < need { // the Go runtime raises the soft limit to the hard one
		return &Failure{Kind: Unable, Err: fmt.Errorf("%s: needs %d open files, the limit is %d", p.Name, need, r.Max),
			Cure: fmt.Sprintf("ulimit -Hn %d (as root), or a smaller lab", need)}
	}
	return nil
}

// FilesNeeded is how many files the lab's busiest process will have open.
func FilesNeeded(p *Plan) uint64 {
	namespaces := len(p.Endpoints()) + len(p.Segments)
	return max(uint64(namespaces*filesPerNamespace+filesOfItsOwn), filesOfEtcd)
}
