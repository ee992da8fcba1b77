package iperf

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is what the measured transfer cost, --omit included, in seconds of one
// processor. The kernel may count softirq that runs while a thread sends as
// that thread's time as well: do not add them up.
type CPU struct {
	Sender   float64 `json:"senderSeconds"`
	Receiver float64 `json:"receiverSeconds"`
	Agents   []Agent `json:"agents"`
	// Of the whole machine, whatever else it did.
	Softirq        float64 `json:"softirqSeconds"`
	SoftirqPerGbit float64 `json:"softirqSecondsPerGbit"`
	Machine        float64 `json:"machineSeconds"` // all but idle
	MachinePerGbit float64 `json:"machineSecondsPerGbit"`
}

// Agent is the agent of one of the two nodes.
type Agent struct {
	Node    string  `json:"node"`
	Pid     int     `json:"pid"`
	Seconds float64 `json:"seconds"`
}

// clockTicks is USER_HZ, the unit of times in /proc (100 on every Linux).
const clockTicks = 100

// usage is the state of the counters at one moment.
type usage struct {
	softirq, machine float64
	agents           []Agent
}

// readUsage looks at the machine and the agents. Seconds are those so far. An
// agent that is gone has used none.
func readUsage(agents []Agent) (usage, error) {
	var u usage
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	if u.softirq, u.machine, err = parseMachine(data); err != nil {
		return u, err
	}
	for _, a := range agents {
		a.Seconds = 0
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.Pid)); err == nil {
			if a.Seconds, err = parseProcess(data); err != nil {
				return u, err
			}
		}
		u.agents = append(u.agents, a)
	}
	return u, nil
}

// parseMachine reads the first line of /proc/stat (proc_stat(5)): all but
// idle, waiting and what the hypervisor took; guests are in user already.
func parseMachine(data []byte) (softirq, busy float64, err error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	f := bytes.Fields(line)
	const idle, iowait, soft, steal = 4, 5, 7, 8
	if len(f) <= soft || string(f[0]) != "cpu" {
		return 0, 0, fmt.Errorf("/proc/stat: begins with %.60q", line)
	}
	for i := 1; i < min(len(f), steal); i++ {
		ticks, err := strconv.ParseUint(string(f[i]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i == soft {
			softirq = float64(ticks) / clockTicks
		}
		if i != idle && i != iowait {
			busy += float64(ticks) / clockTicks
		}
	}
	return softirq, busy, nil
}

// parseProcess reads utime and stime of /proc/PID/stat (proc_pid_stat(5)).
func parseProcess(data []byte) (float64, error) {
	// After the name, which may have anything in it but ends with ).
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const utime, stime = 11, 12
	if len(f) <= stime {
		return 0, fmt.Errorf("/proc/PID/stat: %.60q", data)
	}
	var sum float64
	for _, i := range []int{utime, stime} {
		ticks, err := strconv.ParseUint(string(f[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		sum += float64(ticks)
	}
	return sum / clockTicks, nil
}

// since is what was used between before and now.
func (u usage) since(before usage, bytes int64) CPU {
	c := CPU{Softirq: u.softirq - before.softirq, Machine: u.machine - before.machine, Agents: []Agent{}}
	for i, a := range u.agents {
		// Restarted ones begin at 0.
		a.Seconds = max(a.Seconds-before.agents[i].Seconds, 0)
		c.Agents = append(c.Agents, a)
	}
	if gbit := float64(bytes) * 8 / 1e9; gbit > 0 {
		c.SoftirqPerGbit, c.MachinePerGbit = c.Softirq/gbit, c.Machine/gbit
	}
	return c
}

// threadTime is the CPU time of the calling thread so far.
func threadTime() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
