package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab/internal/rpc"
)

// hung is a lab whose socket is there and whose supervisor does nothing: room
// is how many connections wait without being taken.
func hung(t *testing.T, room int) *Client {
	t.Helper()
	d := Dir(t.TempDir())
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: d.Socket()}), unix.Listen(fd, room)); err != nil {
		t.Fatal(err)
	}
	return &Client{Dir: d}
}

// A supervisor that somebody has stopped takes no more calls at some time, and
// the caller hears of it.
func TestNoRoomForCalls(t *testing.T) {
	t.Parallel()
	c := hung(t, 0)
	full := false
	for range 3 { // more than wait
		conn, err := rpc.Dial(t.Context(), c.Dir.Socket())
		if full = errors.Is(err, syscall.EAGAIN); full {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if !full {
		t.Fatal("the socket has room for any number")
	}
	_, err := c.Status(t.Context())
	f, ok := errors.AsType[*Failure](err)
	if !ok || !strings.Contains(f.Cure, "labctl down") {
		t.Errorf("Status() = %v, want an error with a cure", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Status() of a caller who went away = %v, want that", err)
	}
}

// Ctrl-C ends a command whose supervisor does not pass the signal on.
func TestExecSignalUnheard(t *testing.T) {
	t.Parallel()
	c := hung(t, 5)
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGINT
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Exec(ctx, ExecRequest{Endpoint: "node1", Argv: []string{"sleep", "1000"}}, signals)
	f, ok := errors.AsType[*Failure](err)
	if !ok || !strings.Contains(f.Error(), "interrupt") || !strings.Contains(f.Cure, "labctl down") {
		t.Errorf("Exec() = %v, want that the signal was not passed on, with a cure", err)
	}
}

// A supervisor that passes signals on is waited for, however many they are.
func TestExecSignalsPassed(t *testing.T) {
	t.Parallel()
	d := Dir(t.TempDir())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const many = 5
	signals := make(chan os.Signal, many)
	for range many {
		signals <- syscall.SIGUSR1
	}
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			u, err := l.AcceptUnix()
			if err != nil {
				return err
			}
			conn := rpc.New(u)
			defer conn.Close()
			var r Request
			if _, err := conn.Receive(&r); err != nil {
				return err
			}
			for range many {
				var s Signal
				if _, err := conn.Receive(&s); err != nil {
					return err
				}
				if err := conn.Send(Response{Passed: true}); err != nil {
					return err
				}
			}
			return conn.Send(Response{Exit: &Exit{Code: 7}})
		}()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	exit, err := (&Client{Dir: d}).Exec(ctx, ExecRequest{Endpoint: "node1", Argv: []string{"x"}}, signals)
	if err != nil || exit.Code != 7 {
		t.Errorf("Exec() = %+v, %v, want the command's status", exit, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestFirstOf(t *testing.T) {
	t.Parallel()
	for want, reasons := range map[string][]string{"": nil, "a; b; c": {"a", "b", "c"}, "a; b; c; and 2 more": {"a", "b", "c", "d", "e"}} {
		if got := FirstOf(reasons); got != want {
			t.Errorf("FirstOf(%q) = %q, want %q", reasons, got, want)
		}
	}
}
