package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// Descriptors that the supervisor is started with.
const (
	listenerFD = 3
	hostProcFD = 4 // the /proc that commands see
	lockFD     = 4 // the init shim's: the run directory's lock
)

// Init is the init shim: PID 1 of a lab. It writes the lab's record, gives the
// lab a /proc of its own, starts the supervisor, passes signals on, reaps what
// is left to it, and ends with the supervisor; the kernel then ends the rest
// (pid_namespaces(7)).
func Init(dir lab.Dir, started string) (code int, err error) {
	if os.Getpid() != 1 {
		return 1, errors.New("init shim: not PID 1 of a PID namespace; it is for labctl up to start")
	}
	// What is mounted in here stays in here; what the machine mounts arrives.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return 1, fmt.Errorf("/: make mounts private: %w", err)
	}
	hostProc, err := os.Open("/proc")
	if err != nil {
		return 1, err
	}
	rec := lab.Record{SchemaVersion: 1, Name: dir.Name(), Created: time.Now(), Rootless: lab.InUserNamespace()}
	if err := rec.Identify("/proc"); err != nil {
		return 1, fmt.Errorf("record: %w", err)
	}
	if err := rec.Write(dir); err != nil {
		return 1, fmt.Errorf("record: %w", err)
	}
	// From now on whoever removes the lab finds us.
	if err := unix.Close(lockFD); err != nil {
		return 1, err
	}
	// In some containers /proc is masked and the kernel refuses another one;
	// then the lab's processes see the machine's, which works as well.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		fmt.Fprintf(os.Stderr, "init shim: /proc: mount: %v; processes see the machine's\n", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	child, err := syscall.ForkExec("/proc/self/exe", []string{"labctl", "__supervise", string(dir), started}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, listenerFD, hostProc.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 1, fmt.Errorf("supervisor: start: %w", err)
	}
	// The supervisor alone answers on the socket: when it is gone, so is it.
	if err := unix.Close(listenerFD); err != nil {
		return 1, err
	}
	hostProc.Close()
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(child); ended {
				return code, nil
			}
		case syscall.SIGURG, syscall.SIGPIPE:
			// The Go runtime's own.
		default:
			if n, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(child, n) // ended: SIGCHLD is on its way
			}
		}
	}
	return 1, nil
}

// reap collects every child that has ended and says whether child was one.
func reap(child int) (code int, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid == child {
			ended = true
			code = ws.ExitStatus()
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
		}
	}
}
