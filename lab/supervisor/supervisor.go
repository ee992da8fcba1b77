package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"labctl/backends/bgp"
	"labctl/lab"
	"labctl/nodes"
)

// Supervisor is one running lab.
type Supervisor struct {
	dir      lab.Dir
	from     time.Time // when the command that asked for the lab was started
	hostProc *os.File
	log      *slog.Logger
	wg       sync.WaitGroup // reconcilers and processes
	watching sync.WaitGroup // connections that watch
	outside  *outside       // agents that do not report

	changing sync.Mutex // held by the one node command that changes the lab

	injecting sync.Mutex // held while a fault is done

	mu        sync.Mutex // guards all below
	faults    []fault    // that last; replaced, never changed
	faultID   int        // the last one's
	moved     *sync.Cond // on mu: what evaluate looks at may be another
	plan      *lab.Plan  // replaced, never changed, by node commands
	record    lab.Record
	endpoints map[string]*endpoint
	hosts     []*host
	etcd      *process
	etcdReady bool
	routers   []*router // those that speak BGP
	// speakers are the configurations of all BGP speakers by speakersOf.
	speakers   map[string]bgp.Config
	speakersOf *lab.Plan
	neighbours map[string][]underlayNeighbour // by underlayOf
	underlayOf *lab.Plan
	orderedOf  *lab.Plan // what orderChanged told last
	orderedOut []string
	events     []lab.Event
	watchers   map[chan lab.Event]struct{}
	state      lab.State
	timings    lab.Timings
	built      bool
	verified   bool
	verifying  bool
	up         chan struct{} // closed by comeUp
	gaveUp     bool          // those who wait know already that the build comes to nothing
	told       *lab.Status   // the status that watchers know
	changed    chan struct{} // capacity 1: something that the lab's state depends on
	asked      uint64        // how often agents were asked for their traffic, and for what their speakers know
	answered   chan struct{} // closed and made anew with each report
}

// Supervise is the supervisor's process. It returns when the lab cannot be
// built or when it is told to end (SIGTERM); the init shim then ends the rest.
func Supervise(dir lab.Dir, started string) error {
	nanos, err := strconv.ParseInt(started, 10, 64)
	if err != nil {
		return fmt.Errorf("start time %q: %w", started, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	unix.CloseOnExec(listenerFD)
	unix.CloseOnExec(hostProcFD)
	lf := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(lf)
	lf.Close()
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	s := &Supervisor{
		dir: dir, from: time.Unix(0, nanos),
		hostProc:  os.NewFile(hostProcFD, "/proc"),
		log:       slog.New(slog.NewTextHandler(os.Stderr, nil)),
		endpoints: map[string]*endpoint{},
		watchers:  map[chan lab.Event]struct{}{},
		outside:   newOutside(),
		state:     lab.Starting,
		changed:   make(chan struct{}, 1),
		up:        make(chan struct{}),
		answered:  make(chan struct{}),
	}
	s.moved = sync.NewCond(&s.mu)
	b, err := os.ReadFile(dir.Plan())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &s.plan); err != nil {
		return fmt.Errorf("%s: %w", dir.Plan(), err)
	}
	// Commands may ask from now on; they are told how far it is.
	go s.serve(ctx, l.(*net.UnixListener))
	if err := s.build(ctx); err != nil {
		s.fail(err)
		return err
	}
	s.follow(ctx)
	s.wg.Wait()
	return nil
}

// fail tells the watchers why there will be no lab, and gives them a moment to
// hear it before the process, and with it the lab, ends.
func (s *Supervisor) fail(err error) {
	s.log.Error("build", "err", err)
	e := lab.Event{Error: err.Error(), State: lab.Broken}
	if f, ok := errors.AsType[*lab.Failure](err); ok {
		e.Kind, e.Cure = f.Kind, f.Cure
	} else if cure := kernelCure(err); cure != "" {
		e.Kind, e.Cure = lab.Unable, cure
	}
	s.emit(e)
	s.mu.Lock()
	rec := s.record
	s.mu.Unlock()
	if err := rec.RemoveLinks(); err != nil {
		s.log.Error("remove links", "err", err)
	}
	s.dismiss()
}

// dismiss ends the watchers' streams and waits until they have been told all.
func (s *Supervisor) dismiss() {
	s.mu.Lock()
	for w := range s.watchers {
		delete(s.watchers, w)
		close(w)
	}
	s.mu.Unlock()
	told := make(chan struct{})
	go func() {
		s.watching.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-time.After(time.Second): // one that does not read is not waited for
	}
}

const unsupportedCure = "this kernel lacks what the lab needs; labctl doctor names it"

// kernelCure knows what a kernel's refusal means on this machine.
func kernelCure(err error) string {
	if m, ok := errors.AsType[*nodes.MissingError](err); ok {
		return m.Cure
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTSUP):
		return unsupportedCure
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "this machine does not allow it; labctl doctor names what to change"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "too many open files: raise the limit (ulimit -n)"
	case errors.Is(err, unix.ENOSPC):
		return "the disk is full, or user.max_net_namespaces is reached; labctl doctor tells which"
	}
	return ""
}

// step runs one step of the build and tells the watchers how long it took.
func (s *Supervisor) step(name string, f func() error) error {
	from := time.Now()
	if err := f(); err != nil {
		return err
	}
	s.emit(lab.Event{Step: name, Took: time.Since(from)})
	return nil
}

// emit tells the watchers. Events of the build are kept.
func (s *Supervisor) emit(e lab.Event) {
	e.Time = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emitLocked(e)
}

func (s *Supervisor) emitLocked(e lab.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if s.state == lab.Starting || e.Error != "" {
		s.events = append(s.events, e)
	}
	for w := range s.watchers {
		select {
		case w <- e:
		default:
			// A watcher that does not read is dropped; it sees its stream end.
			delete(s.watchers, w)
			close(w)
		}
	}
	switch {
	case e.Process != "":
		s.log.Info(e.Message, "process", e.Process)
	case e.Step != "":
		s.log.Info(e.Step, "took", e.Took)
	case e.State != "":
		s.log.Info("state", "is", e.State)
	}
}

// poke says that the lab's state may have changed.
func (s *Supervisor) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// sinceStart is a timing for the status.
func (s *Supervisor) sinceStart() int64 { return max(time.Since(s.from).Milliseconds(), 1) }

// hostPid is the pid of a child as the /proc shows it that commands see. The
// child must not have been waited for.
func (s *Supervisor) hostPid(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// "Pid:" in fdinfo is in the PID namespace of the procfs it is read from.
	f, err := openAt(s.hostProc, filepath.Join("self", "fdinfo", strconv.Itoa(fd)))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return 0, err
	}
	return parsePidfdInfo(b)
}

func openAt(dir *os.File, path string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func readlinkAt(dir *os.File, path string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Readlinkat(int(dir.Fd()), path, b)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: path, Err: err}
	}
	return string(b[:n]), nil
}
