package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Config is what a lab says about its store.
type Config struct {
	Name string // of the member; the data directory remembers it. "": "lab"
	Dir  string // for the data; made if need be. A directory used before is continued
	// ClientURLs is where clients are served: http://192.168.50.254:2379,
	// unix:///run/labctl/x/etcd.sock. Port 0 is any free one, see Endpoints.
	// None is fine: Client works without.
	ClientURLs []string
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *os.File
	log    *journal
	urls   []string

	close sync.Once
	done  chan struct{}
	mu    sync.Mutex     // guards what follows
	err   error          // why it ended
	grpc  []*grpc.Server // one for each listener
}

// Start runs a server and returns when it serves clients: after 10 to 30 ms,
// on a directory used before too. Whoever starts it closes it.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("etcd: %w", err)
		}
	}()
	if cfg.Name == "" {
		cfg.Name = "lab"
	}
	if err := checkFiles(); err != nil {
		return nil, err
	}
	urls, err := parseURLs(cfg.ClientURLs)
	if err != nil {
		return nil, err
	}
	if err := checkFree(urls); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Server{log: newJournal(), done: make(chan struct{})}
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.discardUnserved(cfg.Dir); err != nil {
		s.lock.Close()
		return nil, err
	}
	c := settings(cfg, urls, s.log)
	c.ServiceRegister = func(g *grpc.Server) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.grpc = append(s.grpc, g)
	}
	err = s.start(ctx, c)
	if err == nil {
		if _, err = s.lock.WriteAt([]byte(served), 0); err != nil {
			s.stop()
		}
	}
	if err != nil {
		s.lock.Close()
		return nil, err
	}
	s.client = v3client.New(s.etcd.Server)
	s.urls = endpoints(s.etcd, urls)
	go s.watch()
	return s, nil
}

// start runs StartEtcd, which calls os.Exit by way of its logger when it gives
// up: the journal turns that into the end of the calling goroutine.
func (s *Server) start(ctx context.Context, cfg *embed.Config) error {
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		e, err := embed.StartEtcd(cfg)
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		if errors.Is(r.err, unix.EADDRINUSE) {
			return fmt.Errorf("%w; another process listens there: stop it, or choose another port", r.err)
		}
		if r.err != nil {
			return s.log.explain(r.err)
		}
		s.etcd = r.etcd
	case <-s.log.fatal:
		return s.log.explain(errors.New("start"))
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case <-s.log.fatal:
		return s.log.explain(errors.New("start"))
	case <-s.etcd.Server.StopNotify():
		s.stop()
		return s.log.explain(errors.New("stopped before it was ready"))
	case err := <-s.etcd.Err():
		s.stop()
		return s.log.explain(err)
	case <-ctx.Done():
		s.stop()
		return s.log.explain(fmt.Errorf("not ready: %w", context.Cause(ctx)))
	}
}

// stop ends etcd. Its own Close
//   - waits up to 5 s for calls under way, and meanwhile takes no renewals but
//     lets leases end: so connections are cut first;
//   - waits for listeners that wait for the server to be ready or stopped: so
//     a server that was never ready is stopped first;
//   - may not come to an end when the server gave up: so that is not waited for.
func (s *Server) stop() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, g := range s.listeners() {
			g.Stop()
		}
		select {
		case <-s.etcd.Server.ReadyNotify():
		default:
			s.etcd.Server.Stop()
		}
		s.etcd.Close()
	}()
	select {
	case <-ended:
	case <-s.log.fatal:
		select {
		case <-ended:
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) listeners() []*grpc.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.grpc)
}

// watch notices when the server ends by itself.
func (s *Server) watch() {
	select {
	case err := <-s.etcd.Err():
		s.end(err)
	case <-s.log.fatal:
		s.end(errors.New("gave up"))
	case <-s.etcd.Server.StopNotify():
		s.end(nil)
	case <-s.done:
	}
}

// end records why, once. The caller closes.
func (s *Server) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return
	default:
	}
	if err != nil {
		s.err = fmt.Errorf("etcd: %w", s.log.explain(err))
	}
	close(s.done)
}

// Client is a client without sockets, for the process of the server. It ends
// with the server; do not close it.
func (s *Server) Client() *clientv3.Client { return s.client }

// Endpoints is the ClientURLs, with the ports that were chosen.
func (s *Server) Endpoints() []string { return s.urls }

// Done is closed when the server has ended, by Close or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended by itself; nil while it runs and after Close.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close stops the server and waits until it has gone. It can be called again.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.end(nil)
		s.client.Close()
		s.stop()
		s.lock.Close()
	})
	return nil
}

// checkFiles makes sure that there are descriptors enough: with 150 or fewer
// etcd ends the process.
func checkFiles() error {
	const need = 256
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	if l.Cur >= need {
		return nil
	}
	if l.Max >= need {
		l.Cur = l.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &l) == nil {
			return nil
		}
	}
	return fmt.Errorf("open files: the limit of %d is too low; raise it to %d or more (ulimit -n)", l.Cur, need)
}

// served stands in the lock's file once a server has served clients from its
// directory.
const served = "served\n"

// discardUnserved removes what is left of a server that was killed before it
// served anybody. etcd takes it for a member that was there before, and waits
// for ever for the members that it did not come to write down.
func (s *Server) discardUnserved(dir string) error {
	info, err := s.lock.Stat()
	if err != nil || info.Size() > 0 {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, "member"))
}

// lockDir makes sure that no other server uses the directory: etcd itself
// would wait for the other to end. The lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another server uses this directory; stop it, or choose another", dir)
		}
		return nil, fmt.Errorf("%s: lock: %w", path, err)
	}
	return f, nil
}
