package etcd

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// child is set in the process that TestKill starts and kills: the data
// directory.
const child = "LABCTL_ETCD_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(child); dir != "" {
		serve(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// serve is the child: it says "ready" and waits to be killed.
func serve(dir string) {
	s, err := Start(context.Background(), Config{Dir: dir, ClientURLs: []string{socketURL(dir)}})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("ready\n")
	<-s.Done()
}

func socketURL(dir string) string { return "unix://" + filepath.Join(dir, "sock") }

func dial(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// shortDir is a directory whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestServeAllListeners(t *testing.T) {
	dir := shortDir(t)
	s := start(t, Config{Dir: dir, ClientURLs: []string{socketURL(dir), "http://127.0.0.1:0"}})
	if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if len(s.Endpoints()) != 2 || strings.HasSuffix(s.Endpoints()[1], ":0") {
		t.Fatalf("Endpoints() = %v, want two with a port", s.Endpoints())
	}
	for _, ep := range s.Endpoints() {
		resp, err := dial(t, ep).Get(t.Context(), "k")
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
			t.Errorf("%s: Get(k) = %v, %v", ep, resp, err)
		}
	}
}

func TestShortLeases(t *testing.T) {
	s := start(t, Config{Dir: shortDir(t)})
	g, err := s.Client().Grant(t.Context(), 1)
	if err != nil || g.TTL != 1 {
		t.Fatalf("Grant(1 s) = %v, %v, want a TTL of 1 s", g, err)
	}
}

func TestCloseTwice(t *testing.T) {
	s := start(t, Config{Dir: shortDir(t)})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	<-s.Done()
	if err := s.Err(); err != nil {
		t.Errorf("Err() after Close = %v", err)
	}
}

func TestRestartKeepsData(t *testing.T) {
	dir := shortDir(t)
	s := start(t, Config{Dir: dir})
	put, err := s.Client().Put(t.Context(), "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = start(t, Config{Dir: dir})
	get, err := s.Client().Get(t.Context(), "k")
	if err != nil || len(get.Kvs) != 1 {
		t.Fatalf("Get(k) after restart = %v, %v", get, err)
	}
	if get.Header.ClusterId != put.Header.ClusterId || get.Header.Revision < put.Header.Revision {
		t.Errorf("after restart: cluster %x revision %d, before: %x %d",
			get.Header.ClusterId, get.Header.Revision, put.Header.ClusterId, put.Header.Revision)
	}
}

// Seed D8 and design decision 8: an etcd that is killed goes on where it was.
func TestKillKeepsData(t *testing.T) {
	dir := shortDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	c := dial(t, socketURL(dir))
	var revision int64
	for range 50 {
		resp, err := c.Put(t.Context(), "k", "v")
		if err != nil {
			t.Fatal(err)
		}
		revision = resp.Header.Revision
	}
	cmd.Process.Kill()
	cmd.Wait()

	// The socket that the killed one left is no obstacle.
	start(t, Config{Dir: dir, ClientURLs: []string{socketURL(dir)}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := c.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != revision {
		t.Errorf("k is at %v, want revision %d", resp.Kvs, revision)
	}
}

func TestStartErrors(t *testing.T) {
	dir := shortDir(t)
	start(t, Config{Dir: dir, ClientURLs: []string{socketURL(dir)}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(shortDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"port in use", Config{Dir: shortDir(t), ClientURLs: []string{"http://" + l.Addr().String()}}, "another process listens there"},
		{"socket in use", Config{Dir: shortDir(t), ClientURLs: []string{socketURL(dir)}}, "another server listens there"},
		{"directory in use", Config{Dir: dir}, "another server uses this directory"},
		{"not a socket", Config{Dir: shortDir(t), ClientURLs: []string{"unix://" + file}}, "is not a socket"},
		{"directory is a file", Config{Dir: file}, "not a directory"},
		{"long socket", Config{Dir: dir, ClientURLs: []string{"unix:///" + strings.Repeat("x", 200)}}, "at most 107 bytes"},
		{"relative socket", Config{Dir: dir, ClientURLs: []string{"unix://x"}}, "absolute path"},
		{"no port", Config{Dir: dir, ClientURLs: []string{"http://127.0.0.1"}}, "http://ADDRESS:PORT"},
		{"https", Config{Dir: dir, ClientURLs: []string{"https://127.0.0.1:1"}}, "neither http nor unix"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Start(t.Context(), tt.cfg)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "etcd: ") {
				t.Errorf("Start() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestStartIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := Start(ctx, Config{Dir: shortDir(t), ClientURLs: []string{"http://127.0.0.1:0"}})
	if err == nil { // it was ready before it looked
		s.Close()
		return
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Start() = %v, want context.Canceled", err)
	}
}

func BenchmarkStart(b *testing.B) {
	for _, name := range []string{"fresh", "restart"} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				use := filepath.Join(dir, "same")
				if name == "fresh" {
					use = b.TempDir()
				}
				s, err := Start(b.Context(), Config{Dir: use, ClientURLs: []string{"http://127.0.0.1:0"}})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				s.Close()
				b.StartTimer()
			}
		})
	}
}

// One that was killed before it served anybody leaves a directory that etcd
// alone would never be ready on: the log is there, and no member in it.
func TestKilledBeforeItServed(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	s, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "d")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	keys := func() int64 {
		t.Helper()
		s, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "d")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := s.Client().Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return r.Count
	}
	if n := keys(); n != 1 {
		t.Errorf("%d keys in a directory that was served from, want 1", n)
	}
	if err := os.Truncate(filepath.Join(dir, "d", "lock"), 0); err != nil {
		t.Fatal(err)
	}
	if n := keys(); n != 0 {
		t.Errorf("%d keys in one that was not, want a new store", n)
	}
}
