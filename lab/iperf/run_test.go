package iperf

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"labctl/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here is an end on this machine.
func here(name string) End {
	return End{Name: name, Addr: netip.MustParseAddr("127.0.0.1"), Socket: func(_ context.Context, domain, typ, proto int) (*os.File, error) {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
		return os.NewFile(uintptr(fd), "socket"), err
	}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		p    Params
	}{
		{"tcp", Params{Streams: 1}},
		{"tcp reversed, 3 streams", Params{Streams: 3, Reverse: true}},
		{"tcp paced", Params{Streams: 2, Rate: 20e6}},
		{"udp", Params{UDP: true, Streams: 1, Rate: 5e6, Length: 1000}},
		{"udp reversed, 2 streams", Params{UDP: true, Streams: 2, Reverse: true, Rate: 2e6}},
		{"udp, small and as fast as possible", Params{UDP: true, Streams: 1, Length: 64}},
		{"the first part omitted", Params{Streams: 1, Omit: 100 * time.Millisecond, Rate: 10e6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.p
			p.Duration, p.Interval = 400*time.Millisecond, 100*time.Millisecond
			if err := p.Check(); err != nil {
				t.Fatal(err)
			}
			var seen []Interval
			r, err := Run(t.Context(), here("a"), here("b"), p, []Agent{{Node: "n", Pid: os.Getpid()}}, func(i Interval) { seen = append(seen, i) })
			if err != nil {
				t.Fatal(err)
			}
			want := int((p.Omit + p.Duration) / p.Interval)
			if len(seen) != want || len(r.Intervals) != want || len(r.Streams) != p.Streams {
				t.Errorf("%d intervals told, %d reported, %d streams; want %d, %[4]d, %d", len(seen), len(r.Intervals), len(r.Streams), want, p.Streams)
			}
			if r.Seconds < 0.4 || r.Interrupted || !r.Delivered() {
				t.Errorf("seconds %v, interrupted %v, delivered %v", r.Seconds, r.Interrupted, r.Delivered())
			}
			omitted := 0
			for _, i := range r.Intervals {
				if i.Omitted {
					omitted++
				}
			}
			if omitted != int(p.Omit/p.Interval) {
				t.Errorf("%d intervals omitted, want %d", omitted, p.Omit/p.Interval)
			}
			for _, s := range r.Streams {
				checkSample(t, r, s, p)
			}
			if len(r.CPU.Agents) != 1 || r.CPU.Machine <= 0 {
				t.Errorf("cpu %+v", r.CPU)
			}
		})
	}
}

// checkSample looks at one stream's sums. How fast it was is for benchmarks,
// but a rate that was asked for is not exceeded.
func checkSample(t *testing.T, r *Report, s Sample, p Params) {
	t.Helper()
	underWay := int64(0) // when the measured part began
	if p.Omit > 0 {
		underWay = s.Bytes / 10
	}
	if s.SentBytes+underWay < s.Bytes || s.Bytes <= 0 {
		t.Errorf("stream %d: %d bytes sent, %d arrived", s.ID, s.SentBytes, s.Bytes)
	}
	// What it was late with in the omitted part it may send in the measured one.
	if slack := 1 + p.Omit.Seconds()/r.Seconds + 8*float64(r.Length)/(float64(p.Rate)*r.Seconds); p.Rate > 0 && s.SentBitsPerSecond > float64(p.Rate)*(slack+0.15) {
		t.Errorf("stream %d: %.0f bits a second, asked for %d", s.ID, s.SentBitsPerSecond, p.Rate)
	}
	if (s.UDP != nil) != p.UDP || (s.TCP != nil) == p.UDP {
		t.Fatalf("stream %d: tcp %v, udp %v", s.ID, s.TCP, s.UDP)
	}
	if u := s.UDP; u != nil {
		if got := (u.Packets - u.Lost) * int64(r.Length); got != s.Bytes {
			t.Errorf("stream %d: %d of %d datagrams lost: %d bytes, %d arrived", s.ID, u.Lost, u.Packets, got, s.Bytes)
		}
		if p.Rate > 0 && u.Lost > 0 && u.SocketDrops == 0 {
			t.Errorf("stream %d: %d datagrams lost on loopback", s.ID, u.Lost)
		}
	}
}

func TestRunIsInterrupted(t *testing.T) {
	t.Parallel()
	for _, udp := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		p := Params{UDP: udp, Rate: 1e6, Streams: 2, Duration: time.Hour, Interval: 50 * time.Millisecond}
		n, bytes := 0, int64(0)
		r, err := Run(ctx, here("a"), here("b"), p, nil, func(i Interval) {
			bytes += i.Sum.Bytes
			if n++; n >= 2 && bytes > 0 {
				cancel()
			}
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if !r.Interrupted || len(r.Intervals) < 2 || r.Seconds > 60 || r.Sum.Bytes == 0 {
			t.Errorf("udp %v: interrupted %v, %d intervals, %v s, %d bytes", udp, r.Interrupted, len(r.Intervals), r.Seconds, r.Sum.Bytes)
		}
	}
}

// What cannot be is told in words, and leaves nothing behind.
func TestRunFails(t *testing.T) {
	t.Parallel()
	p := Params{Streams: 1, Duration: time.Second, Interval: time.Second}
	refused := errors.New("no such endpoint")
	broken := here("a")
	broken.Socket = func(context.Context, int, int, int) (*os.File, error) { return nil, refused }
	elsewhere := here("b")
	elsewhere.Addr = netip.MustParseAddr("192.0.2.1")
	tests := []struct {
		name string
		a, b End
		p    Params
		want string
	}{
		{"no socket", broken, here("b"), p, "no such endpoint"},
		{"not b's address", here("a"), elsewhere, p, "cannot assign requested address"},
		{"no such algorithm", here("a"), here("b"), Params{Streams: 1, Duration: 1, Congestion: "nosuch"}, "--congestion nosuch: this kernel has no such algorithm"},
		{"larger than a packet", here("a"), here("b"), Params{UDP: true, Streams: 1, Duration: time.Second, Interval: time.Second, Length: 70000}, "message too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Run(t.Context(), tt.a, tt.b, tt.p, nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run() = %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("called off", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := wait(ctx, 0, 0, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
			t.Errorf("wait() = %v, want %v", err, context.Canceled)
		}
	})
}

func TestUnreached(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{os.ErrDeadlineExceeded, "no answer within 3s"},
		{unix.EHOSTUNREACH, "no route to host"},
		{unix.ENETUNREACH, "no route (network is unreachable)"},
		{unix.ECONNREFUSED, "refused"},
		{unix.EPERM, "forbidden by a firewall of a's"},
	} {
		err := unreached(End{Name: "a"}, End{Name: "b"}, netip.MustParseAddrPort("10.0.0.1:5201"), "tcp", tt.err)
		if !strings.Contains(err.Error(), "iperf: a -> b (10.0.0.1:5201, tcp): "+tt.want) {
			t.Errorf("unreached(%v) = %v, want %q in it", tt.err, err, tt.want)
		}
		if f, ok := errors.AsType[*lab.Failure](err); !ok || !strings.Contains(f.Cure, "labctl status") {
			t.Errorf("unreached(%v): no cure", tt.err)
		}
	}
}

func TestParamsCheck(t *testing.T) {
	t.Parallel()
	good := Params{Duration: time.Second, Interval: time.Second, Streams: 1}
	for _, tt := range []struct {
		name   string
		change func(*Params)
		want   string
	}{
		{"good", func(*Params) {}, ""},
		{"no time", func(p *Params) { p.Duration = 0 }, "--time"},
		{"too long", func(p *Params) { p.Duration = MaxDuration + 1 }, "--time"},
		{"negative omit", func(p *Params) { p.Omit = -1 }, "--omit"},
		{"too often", func(p *Params) { p.Interval = time.Millisecond }, "--interval"},
		{"too many samples", func(p *Params) { p.Interval, p.Duration = 10*time.Millisecond, MaxDuration }, "--interval"},
		{"no stream", func(p *Params) { p.Streams = 0 }, "--parallel"},
		{"too many streams", func(p *Params) { p.Streams = MaxStreams + 1 }, "--parallel"},
		{"a write too long", func(p *Params) { p.Length = MaxTCPWrite + 1 }, "--length"},
		{"a datagram without room for its number", func(p *Params) { p.UDP, p.Length = true, headerSize-1 }, "--length 23: not between 24 and 65507"},
		{"a datagram too long", func(p *Params) { p.UDP, p.Length = true, MaxDatagram+1 }, "--length"},
		{"udp has no congestion control", func(p *Params) { p.UDP, p.Congestion = true, "cubic" }, "--congestion"},
		{"too fast", func(p *Params) { p.Rate = 2e12 }, "--bitrate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := good
			tt.change(&p)
			err := p.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Check() = %v, want %q", err, tt.want)
			}
			if err != nil && lab.ExitCode(err) != 2 {
				t.Errorf("Check(): exit code %d, want 2", lab.ExitCode(err))
			}
		})
	}
}
