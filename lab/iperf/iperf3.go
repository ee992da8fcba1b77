package iperf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// Iperf3 has the real iperf3 measure, its server in b and its client in a. Its
// report has the form of Run's, as far as iperf3 tells: samples of intervals
// are those of its client.
func Iperf3(ctx context.Context, cl *lab.Client, a, b End, p Params, agents []Agent) (*Report, error) {
	if err := iperf3Can(p); err != nil {
		return nil, err
	}
	at, err := b.freePort(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	server, err := serve(serving, cl, lab.ExecRequest{Endpoint: b.Name, Env: os.Environ(), Dir: dir,
		Argv: []string{"iperf3", "-s", "-1", "--forceflush", "-B", at.Addr().String(), "-p", strconv.Itoa(int(at.Port()))}})
	defer func() {
		stop()
		if server != nil {
			<-server
		}
	}()
	if err != nil {
		return nil, err
	}
	before, err := readUsage(agents)
	if err != nil {
		return nil, err
	}
	out, err := output(ctx, cl, lab.ExecRequest{Endpoint: a.Name, Argv: iperf3Args(at, p), Env: os.Environ(), Dir: dir})
	if err != nil {
		return nil, err
	}
	after, err := readUsage(agents)
	if err != nil {
		return nil, err
	}
	r, err := parseIperf3(out, p)
	if err != nil && ctx.Err() == nil {
		return nil, unreached(a, b, at, "iperf3", err)
	}
	if r == nil {
		return nil, ctx.Err()
	}
	r.From, r.To, r.Address, r.Interrupted = a.Name, b.Name, at, ctx.Err() != nil
	cpu := after.since(before, r.Sum.Bytes)
	cpu.Sender, cpu.Receiver = r.CPU.Sender, r.CPU.Receiver
	r.CPU = cpu
	return r, nil
}

// iperf3Can says what iperf3 cannot.
func iperf3Can(p Params) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return &lab.Failure{Kind: lab.Unable, Err: errors.New("iperf3: not found in PATH"),
			Cure: "install it (Debian: apt install iperf3), or leave out --engine: labctl's own needs nothing"}
	}
	for _, d := range []time.Duration{p.Duration, p.Omit} {
		if d%time.Second != 0 {
			return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("iperf3: %v: it counts in whole seconds", d), Cure: "give whole seconds, or leave out --engine"}
		}
	}
	return nil
}

// freePort is a TCP port at e's address that nobody has.
func (e End) freePort(ctx context.Context) (netip.AddrPort, error) {
	fd, err := e.open(ctx, e.domain(), unix.SOCK_STREAM)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	return e.bind(fd)
}

// iperf3Args are the client's.
func iperf3Args(at netip.AddrPort, p Params) []string {
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	args := []string{"iperf3", "-J", "-c", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())), "--connect-timeout",
		strconv.FormatInt(connectTimeout.Milliseconds(), 10), "-t", seconds(p.Duration), "-i", seconds(p.Interval), "-P", strconv.Itoa(p.Streams)}
	if p.Omit > 0 {
		args = append(args, "-O", seconds(p.Omit))
	}
	if p.Reverse {
		args = append(args, "-R")
	}
	if p.UDP {
		args = append(args, "-u")
	}
	if p.UDP || p.Rate > 0 {
		args = append(args, "-b", strconv.FormatUint(p.Rate, 10))
	}
	if p.Length > 0 {
		args = append(args, "-l", strconv.Itoa(p.Length))
	}
	if p.Congestion != "" {
		args = append(args, "-C", p.Congestion)
	}
	return args
}

// serve starts a server and returns when it listens. It ends with ctx; the
// channel is closed then.
func serve(ctx context.Context, cl *lab.Client, e lab.ExecRequest) (<-chan struct{}, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	ended := make(chan struct{})
	listening := make(chan error, 1)
	go func() {
		defer close(ended)
		defer r.Close()
		exit := make(chan error, 1)
		go func() {
			x, err := cl.Exec(ctx, e, nil, null, w, w)
			if err == nil && x.Error != "" {
				err = errors.New(x.Error)
			}
			null.Close()
			w.Close()
			exit <- err
		}()
		var said []string
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.Contains(lines.Text(), "listening") {
				select {
				case listening <- nil:
				default: // it listens once more
				}
			}
			if len(said) < 10 {
				said = append(said, lines.Text())
			}
		}
		err := <-exit
		if err == nil {
			err = fmt.Errorf("%s: iperf3 -s ended: %s", e.Endpoint, strings.Join(said, "; "))
		}
		select {
		case listening <- err:
		default:
		}
	}()
	return ended, <-listening
}

// output runs a client and returns what it printed. When ctx ends it is
// interrupted, upon which it prints what it has.
func output(ctx context.Context, cl *lab.Client, e lab.ExecRequest) ([]byte, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(r)
		read <- result{b, err}
	}()
	signals := make(chan os.Signal, 1)
	stop := context.AfterFunc(ctx, func() { signals <- syscall.SIGINT })
	defer stop()
	exit, err := cl.Exec(context.WithoutCancel(ctx), e, signals, null, w, w)
	w.Close()
	out := <-read
	if err == nil && exit.Error != "" {
		err = errors.New(exit.Error)
	}
	return out.b, errors.Join(err, out.err)
}

// iperf3Report is what iperf3 -J prints, as far as it is looked at.
type iperf3Report struct {
	Error string `json:"error"`
	Start struct {
		TestStart struct {
			Blksize int `json:"blksize"`
		} `json:"test_start"`
	} `json:"start"`
	Intervals []struct {
		Streams []iperf3Sample `json:"streams"`
	} `json:"intervals"`
	End struct {
		Streams []struct {
			Sender   *iperf3Sample `json:"sender"`
			Receiver *iperf3Sample `json:"receiver"`
			UDP      *iperf3Sample `json:"udp"`
		} `json:"streams"`
		CPU struct {
			Host   float64 `json:"host_total"`
			Remote float64 `json:"remote_total"`
		} `json:"cpu_utilization_percent"`
		Congestion string `json:"sender_tcp_congestion"`
	} `json:"end"`
}

type iperf3Sample struct {
	Start       float64 `json:"start"`
	End         float64 `json:"end"`
	Seconds     float64 `json:"seconds"`
	Bytes       int64   `json:"bytes"`
	Retransmits int64   `json:"retransmits"`
	Cwnd        int64   `json:"snd_cwnd"`
	CwndMost    int64   `json:"max_snd_cwnd"`
	RTT         float64 `json:"rtt"`      // us
	RTTMean     float64 `json:"mean_rtt"` // us
	Packets     int64   `json:"packets"`
	Lost        int64   `json:"lost_packets"`
	OutOfOrder  int64   `json:"out_of_order"`
	Jitter      float64 `json:"jitter_ms"`
	Omitted     bool    `json:"omitted"`
}

// parseIperf3 turns iperf3's report into ours. An interrupted one has an error
// and a report.
func parseIperf3(data []byte, p Params) (*Report, error) {
	var in iperf3Report
	if err := json.Unmarshal(data, &in); err != nil {
		text := strings.Join(strings.Fields(string(data[:min(len(data), 300)])), " ")
		return nil, fmt.Errorf("iperf3 said %q", text)
	}
	var failed error
	if in.Error != "" {
		failed = errors.New(in.Error)
	}
	r := &Report{SchemaVersion: 1, Engine: "iperf3", Protocol: "tcp", Reverse: p.Reverse, Rate: p.Rate, Omit: p.Omit.Seconds(),
		Length: in.Start.TestStart.Blksize, Congestion: in.End.Congestion, Intervals: []Interval{}, Streams: []Sample{}}
	if p.UDP {
		r.Protocol = "udp"
	}
	for _, i := range in.Intervals {
		if len(i.Streams) == 0 {
			continue
		}
		first := i.Streams[0]
		out := Interval{Start: first.Start, End: first.End, Omitted: first.Omitted}
		for k, s := range i.Streams {
			out.Streams = append(out.Streams, s.sample(k+1, p, s.End-s.Start))
		}
		out.Sum = sum(out.Streams, first.End-first.Start)
		r.Intervals = append(r.Intervals, out)
	}
	for k, s := range in.End.Streams {
		switch {
		case s.UDP != nil:
			r.Seconds = s.UDP.Seconds
			t := s.UDP.sample(k+1, p, r.Seconds)
			t.SentBytes = s.UDP.Bytes
			t.Bytes = (s.UDP.Packets - s.UDP.Lost) * int64(r.Length)
			t.per(r.Seconds)
			r.Streams = append(r.Streams, t)
		case s.Sender != nil && s.Receiver != nil && !p.UDP:
			r.Seconds = s.Receiver.Seconds
			t := s.Sender.sample(k+1, p, r.Seconds)
			t.SentBytes, t.Bytes = s.Sender.Bytes, s.Receiver.Bytes
			t.TCP.CwndBytes, t.TCP.RTTMs = s.Sender.CwndMost, s.Sender.RTTMean/1000
			t.per(r.Seconds)
			r.Streams = append(r.Streams, t)
		}
	}
	r.Sum = sum(r.Streams, r.Seconds)
	// A is its host, and the percentages are of the whole test.
	all := (r.Seconds + r.Omit) / 100
	r.CPU.Sender, r.CPU.Receiver = in.End.CPU.Host*all, in.End.CPU.Remote*all
	if p.Reverse {
		r.CPU.Sender, r.CPU.Receiver = r.CPU.Receiver, r.CPU.Sender
	}
	if _, err := json.Marshal(r); err != nil { // a time of nothing makes a rate that is no number
		return nil, fmt.Errorf("iperf3's report has figures that cannot be: %w", err)
	}
	return r, failed
}

func (s iperf3Sample) sample(id int, p Params, seconds float64) Sample {
	out := Sample{ID: id, Bytes: s.Bytes, SentBytes: s.Bytes}
	if p.UDP {
		out.UDP = &UDPSample{Packets: s.Packets, Lost: s.Lost, OutOfOrder: s.OutOfOrder, JitterMs: s.Jitter}
	} else {
		out.TCP = &TCPSample{Retransmits: s.Retransmits, CwndBytes: s.Cwnd, RTTMs: s.RTT / 1000}
	}
	out.per(seconds)
	return out
}
