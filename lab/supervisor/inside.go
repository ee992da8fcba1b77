package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout is how long processes may take to die of SIGKILL.
const killTimeout = 5 * time.Second

// killInside kills every process of the lab that is in one of the network
// namespaces, whoever started it, until there is none. (Processes from outside
// the lab cannot be reached from here; the command ends them.)
func killInside(inodes map[uint64]bool) error {
	levels, err := pidLevels("self")
	if err != nil {
		return err
	}
	deadline := time.Now().Add(killTimeout)
	for {
		left, err := killOnce(inodes, len(levels))
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes: still there %v after SIGKILL", left, killTimeout)
		}
	}
}

// killOnce kills those that are there now, waits for them a moment each, and
// says how many they were.
func killOnce(inodes map[uint64]bool, level int) (int, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	found := 0
	for _, p := range all {
		name := filepath.Base(p)
		if !isIn(name, inodes) {
			continue
		}
		// /proc may be the machine's, where a new one could not be mounted;
		// its numbers are not ours, but it tells ours.
		pids, err := pidLevels(name)
		if err != nil || len(pids) < level {
			continue // gone, or not the lab's
		}
		fd, err := unix.PidfdOpen(pids[level-1], 0)
		if err != nil {
			continue // gone
		}
		// The pidfd stands for one process; only now is looking safe.
		if isIn(name, inodes) {
			found++
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				unix.Close(fd)
				return found, fmt.Errorf("process %s: kill: %w", name, err)
			}
			// Interrupted or not there yet: the next round looks again.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		}
		unix.Close(fd)
	}
	return found, nil
}

// isIn says whether a process is in one of the namespaces. A dead one, not yet
// waited for, is in none.
func isIn(pid string, inodes map[uint64]bool) bool {
	var st unix.Stat_t
	return unix.Stat("/proc/"+pid+"/ns/net", &st) == nil && inodes[st.Ino]
}

// pidLevels are the numbers of a process, from the PID namespace of /proc down
// to its own.
func pidLevels(pid string) ([]int, error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return nil, err
	}
	pids, err := parsePidLevels(b)
	if err != nil {
		return nil, fmt.Errorf("/proc/%s/status: %w", pid, err)
	}
	return pids, nil
}

// parsePidLevels reads a process's numbers from its status, which are one at
// least.
func parsePidLevels(status []byte) ([]int, error) {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte("NSpid:"))
		if !ok {
			continue
		}
		var pids []int
		for _, f := range bytes.Fields(rest) {
			n, err := parsePid(f)
			if err != nil {
				return nil, fmt.Errorf("NSpid: %w", err)
			}
			pids = append(pids, n)
		}
		if len(pids) == 0 {
			break
		}
		return pids, nil
	}
	return nil, errors.New("no NSpid line with numbers")
}

// parsePid reads a process's number. 0, which is one outside of /proc's
// namespace, and -1, which is one that has ended, are none to send a signal to.
func parsePid(b []byte) (int, error) {
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err == nil && n <= 0 {
		err = fmt.Errorf("%d: no process", n)
	}
	return n, err
}
