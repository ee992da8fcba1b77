package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// Machine is what a run was made on.
type Machine struct {
	Kernel   string  `json:"kernel"`
	Arch     string  `json:"arch"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	Threads  string  `json:"threads"`  // simultaneous multithreading, as the kernel puts it: on, off, notsupported ...
	Governor string  `json:"governor"` // of the clock's frequency, "" where there is none to see
	Virtual  bool    `json:"virtual"`  // the processor says that a hypervisor runs it
	MemoryMB int     `json:"memoryMB"`
	Load     float64 `json:"load"` // the load average of the minute before
	Rootless bool    `json:"rootless"`
}

// thisMachine is what the machine tells of itself; what it does not tell is
// left out.
func thisMachine() Machine {
	m := Machine{Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Rootless: lab.Rootless(),
		Kernel: told("/proc/sys/kernel/osrelease"), Threads: told("/sys/devices/system/cpu/smt/control"),
		Governor: told("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")}
	for line := range strings.Lines(told("/proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Virtual = slices.Contains(strings.Fields(value), "hypervisor")
		}
	}
	for line := range strings.Lines(told("/proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kb, _ := strconv.Atoi(f[1])
			m.MemoryMB = kb / 1024
		}
	}
	if f := strings.Fields(told("/proc/loadavg")); len(f) > 0 {
		m.Load, _ = strconv.ParseFloat(f[0], 64)
	}
	return m
}

// told is the content of a file of the kernel's, "" where there is none.
func told(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// allowedProcessors are those that this process may run on.
func allowedProcessors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("processors: %w", err)
	}
	var all []int
	for i := 0; len(all) < set.Count(); i++ {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all, nil
}

// megahertz is the processors' clock now, on average; 0 where it is not told.
func megahertz() float64 {
	files, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
	if err != nil {
		return 0
	}
	var sum float64
	for _, f := range files {
		khz, _ := strconv.ParseFloat(told(f), 64)
		sum += khz / 1000
	}
	if len(files) == 0 {
		return 0
	}
	return sum / float64(len(files))
}

// When a run is called noisy.
const (
	stealMost   = 0.01
	foreignMost = 0.03
	mhzMost     = 0.05
)

// noiseOf judges what else the machine did: over the whole of the trials.
func noiseOf(u usage, load float64, mhz []float64, cores int) Noise {
	n := Noise{Load: load}
	if t := u.total(); t > 0 {
		n.Steal, n.Foreign = u.steal/t, u.foreign()/t
	}
	if len(mhz) > 1 && mhz[0] > 0 {
		sorted := slices.Sorted(slices.Values(mhz))
		n.MHzChange = (sorted[len(sorted)-1] - sorted[0]) / sorted[len(sorted)/2]
	}
	because := func(is bool, text string) {
		if is {
			n.Reasons = append(n.Reasons, text)
		}
	}
	percent := func(part float64) string { return strconv.FormatFloat(100*part, 'f', 1, 64) + " %" }
	because(n.Steal > stealMost, "the hypervisor took "+percent(n.Steal)+" of the processors")
	because(n.Foreign > foreignMost, "other programs took "+percent(n.Foreign)+" of the processors")
	because(n.MHzChange > mhzMost, "the processors' clock changed by "+percent(n.MHzChange))
	because(load > float64(cores), "the load average was "+strconv.FormatFloat(load, 'f', 1, 64)+" before")
	return n
}
