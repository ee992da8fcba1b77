package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, the unit of times in /proc (100 on every Linux).
const clockTicks = 100

// usage is what processors have done so far, in seconds of one.
type usage struct {
	user, system, irq, softirq, idle, steal float64 // the whole machine; nice is user
	own                                     float64 // user time of this process
	agents                                  float64 // all time of the agents
	agentsUser                              float64 // user time of the agents
}

// readUsage looks at the machine, ourselves and the agents. One that has ended
// has used nothing.
func readUsage(agents []int) (usage, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return usage{}, err
	}
	u, err := parseMachine(data)
	if err != nil {
		return u, err
	}
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.own = float64(r.Utime.Nano()) / 1e9
	for _, pid := range agents {
		all, user, err := processTime(pid)
		if err != nil {
			return u, err
		}
		u.agents += all
		u.agentsUser += user
	}
	return u, nil
}

// parseMachine reads the first line of /proc/stat (proc_stat(5)).
func parseMachine(data []byte) (u usage, err error) {
	line, _, _ := strings.Cut(string(data), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return u, fmt.Errorf("/proc/stat: begins with %.60q", line)
	}
	var v [9]float64
	for i := 1; i < len(v); i++ {
		ticks, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("/proc/stat: %w", err)
		}
		v[i] = float64(ticks) / clockTicks
	}
	return usage{user: v[1] + v[2], system: v[3], idle: v[4] + v[5], irq: v[6], softirq: v[7], steal: v[8]}, nil
}

// processTime is the CPU time of a process: all of it by the process's own
// clock (clock_getcpuclockid(3)), which is exact, the user time in ticks.
func processTime(pid int) (all, user float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if gone(err) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if all, user, err = parseProcess(data); err != nil {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	const scheduled = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &ts); err == nil { // else it ended just now
		all = float64(ts.Nano()) / 1e9
	}
	return all, user, nil
}

// parseProcess reads utime and stime of /proc/PID/stat (proc_pid_stat(5)).
func parseProcess(data []byte) (all, user float64, err error) {
	// After the name, which may have anything in it but ends with ).
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const utime, stime = 11, 12
	if len(f) <= stime {
		return 0, 0, fmt.Errorf("%.60q", data)
	}
	u, uerr := strconv.ParseUint(f[utime], 10, 64)
	s, serr := strconv.ParseUint(f[stime], 10, 64)
	return (float64(u) + float64(s)) / clockTicks, float64(u) / clockTicks, errors.Join(uerr, serr)
}

// gone says whether a process's file could not be read because it has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

func (u usage) since(b usage) usage {
	return usage{user: u.user - b.user, system: u.system - b.system, irq: u.irq - b.irq, softirq: u.softirq - b.softirq,
		idle: u.idle - b.idle, steal: u.steal - b.steal, own: u.own - b.own,
		agents: max(u.agents-b.agents, 0), agentsUser: max(u.agentsUser-b.agentsUser, 0)}
}

func (u usage) plus(b usage) usage {
	return usage{user: u.user + b.user, system: u.system + b.system, irq: u.irq + b.irq, softirq: u.softirq + b.softirq,
		idle: u.idle + b.idle, steal: u.steal + b.steal, own: u.own + b.own, agents: u.agents + b.agents, agentsUser: u.agentsUser + b.agentsUser}
}

// busy is all but idle, waiting and what the hypervisor took.
func (u usage) busy() float64 { return u.user + u.system + u.irq + u.softirq }

// total is all time there was.
func (u usage) total() float64 { return u.busy() + u.idle + u.steal }

// foreign is user time that was neither ours nor the agents'.
func (u usage) foreign() float64 { return max(u.user-u.own-u.agentsUser, 0) }

// privateMemory is what memory a process shares with no other, in MB. The error
// is [os.ErrProcessDone] for one that has ended.
func privateMemory(pid int) (mb float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if gone(err) {
		return 0, fmt.Errorf("memory of process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return 0, err
	}
	if mb, err = parsePrivate(string(data)); err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return mb, nil
}

// parsePrivate adds up what /proc/PID/smaps_rollup says is private, in MB.
func parsePrivate(text string) (mb float64, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && (f[0] == "Private_Dirty:" || f[0] == "Private_Clean:") {
			kb, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return 0, err
			}
			mb += float64(kb) / 1024
		}
	}
	return mb, nil
}
