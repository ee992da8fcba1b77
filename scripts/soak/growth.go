package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has.
type usage struct {
	memory  float64 // MB that are nobody else's and no file's
	files   int
	threads int
}

// sample is one look at the lab's processes: supervisor, init, etcd, and the
// most that any agent has. Restarts are as they come: whoever grows does so
// between them as well.
type sample map[string]usage

// The margins of growth: what garbage, threads of the Go runtime and a
// connection that is about to be closed amount to.
const (
	marginMemory  = 8 // MB, and a quarter
	marginFiles   = 4
	marginThreads = 6
)

// sample reads the lab's processes while no flow is under way.
func (s *soak) sample(ctx context.Context) error {
	s.traffic.pause.Lock()
	defer s.traffic.pause.Unlock()
	if err := rest(ctx, 50*time.Millisecond); err != nil { // what has ended is closed by then
		return err
	}
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "record.json"))
	if err != nil {
		return err
	}
	var record struct{ PID, Supervisor int }
	if err := json.Unmarshal(b, &record); err != nil {
		return fmt.Errorf("record.json: %w", err)
	}
	found := sample{}
	take := func(role string, pid int) error {
		u, err := look(pid)
		if err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		had := found[role]
		found[role] = usage{max(had.memory, u.memory), max(had.files, u.files), max(had.threads, u.threads)}
		return nil
	}
	for role, pid := range map[string]int{"supervisor": record.Supervisor, "init": record.PID} {
		if err := take(role, pid); err != nil {
			return err
		}
	}
	for _, p := range st.Processes {
		role := p.Name
		if slices.Contains(s.hosts, role) {
			role = "agents"
		}
		if err := take(role, p.Pid); err != nil {
			return err
		}
	}
	s.samples = append(s.samples, found)
	return nil
}

// look reads what /proc has of a process.
func look(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "RssAnon:":
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				return u, fmt.Errorf("%s/status: %w", dir, err)
			}
			u.memory = float64(kb) / 1024
		case "Threads:":
			if u.threads, err = strconv.Atoi(f[1]); err != nil {
				return u, fmt.Errorf("%s/status: %w", dir, err)
			}
		}
	}
	files, err := os.ReadDir(dir + "/fd")
	u.files = len(files)
	return u, err
}

// thirds are the most of the first third of the samples and the least of the
// last: a peak in between is no growth.
func thirds(samples []sample, role string) (first, last usage) {
	n := max(len(samples)/3, 1)
	for i, s := range samples[:n] {
		u := s[role]
		if i == 0 {
			first = u
		}
		first = usage{max(first.memory, u.memory), max(first.files, u.files), max(first.threads, u.threads)}
	}
	for i, s := range samples[len(samples)-n:] {
		u := s[role]
		if i == 0 {
			last = u
		}
		last = usage{min(last.memory, u.memory), min(last.files, u.files), min(last.threads, u.threads)}
	}
	return first, last
}

// growth says what is beyond the margins.
func growth(samples []sample) []string {
	if len(samples) < 3 {
		return []string{fmt.Sprintf("growth: %d samples are too few to tell; give more -time", len(samples))}
	}
	var grown []string
	for _, role := range slices.Sorted(maps.Keys(samples[0])) {
		a, b := thirds(samples, role)
		if b.memory > a.memory*1.25+marginMemory {
			grown = append(grown, fmt.Sprintf("%s: memory grew from %.1f to %.1f MB", role, a.memory, b.memory))
		}
		if b.files > a.files+marginFiles {
			grown = append(grown, fmt.Sprintf("%s: open files grew from %d to %d", role, a.files, b.files))
		}
		if b.threads > a.threads+marginThreads {
			grown = append(grown, fmt.Sprintf("%s: threads grew from %d to %d", role, a.threads, b.threads))
		}
	}
	return grown
}

func printSamples(samples []sample) {
	if len(samples) == 0 {
		return
	}
	fmt.Printf("\n%-12s %-16s %-12s %-12s of %d samples: most of the first third, least of the last\n", "PROCESS", "PRIVATE MB", "FILES", "THREADS", len(samples))
	for _, role := range slices.Sorted(maps.Keys(samples[0])) {
		a, b := thirds(samples, role)
		fmt.Printf("%-12s %-16s %-12s %s\n", role, fmt.Sprintf("%.1f -> %.1f", a.memory, b.memory), fmt.Sprintf("%d -> %d", a.files, b.files), fmt.Sprintf("%d -> %d", a.threads, b.threads))
	}
}
