// Command bench measures how fast labs come and go:
//
//	go run ./scripts/bench -labctl bin/labctl
//
// with -backends how fast packets go by each backend, and with -iperf how
// labctl's iperf compares with iperf3. It prints the times of a 3-node lab beside mininet's of a 3-host network
// without overlay or store, rounds interleaved, then those of nodes that come
// and go (with -nodes only these), of trace and the ping matrix (with -packets
// only these), and then how labs grow from 3 to 100 nodes. Everything it starts it takes down again.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := bench{}
	flag.StringVar(&b.labctl, "labctl", "bin/labctl", "the binary to measure")
	flag.IntVar(&b.rounds, "rounds", 10, "rounds of the 3-node lab and of mininet")
	flag.IntVar(&b.growth, "growth", 5, "rounds of each size")
	sizes := flag.String("sizes", "3,20,50,100", "nodes of the growing lab")
	onlyNodes := flag.Bool("nodes", false, "only nodes that come and go")
	onlyPackets := flag.Bool("packets", false, "only trace and the ping matrix")
	onlyScale := flag.Bool("scale", false, "only how labs grow: -sizes, one lab of each")
	onlyBGP := flag.Bool("bgp", false, "only routes by BGP")
	onlyRouted := flag.Bool("routed", false, "only calico-routed")
	routedRounds := flag.Int("routed-rounds", 20, "rounds of a stream over calico-routed and over each path made by hand")
	var bb backends
	compare := flag.Bool("backends", false, "compare backends instead")
	flag.IntVar(&bb.rounds, "backend-rounds", 8, "rounds of each backend")
	flag.DurationVar(&bb.each, "each", 2*time.Second, "how long each stream lasts")
	var en engines
	iperf := flag.Bool("iperf", false, "compare labctl's iperf with iperf3 instead")
	flag.IntVar(&en.rounds, "iperf-rounds", 11, "rounds of each engine")
	flag.Float64Var(&en.gate, "iperf-gate", 0, "fail when labctl's median of one TCP stream differs from iperf3's by more than this part, or UDP has loss or another rate")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: %q: what is this? There are only flags; -h lists them\n", flag.Args())
		os.Exit(2)
	}
	if *iperf {
		var err error
		en.each = bb.each
		if en.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = en.run(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *compare {
		var err error
		if bb.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = bb.run(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *onlyPackets {
		var err error
		if b.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = b.packets(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *onlyNodes {
		var err error
		if b.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = b.nodes(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *onlyBGP {
		var err error
		if b.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = b.bgp(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b.routedRounds, b.each = *routedRounds, bb.each
	if *onlyRouted {
		var err error
		if b.labctl, err = filepath.Abs(b.labctl); err == nil {
			err = b.routed(ctx)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	run := b.run
	if *onlyScale {
		run = func(ctx context.Context) (err error) {
			if b.labctl, err = filepath.Abs(b.labctl); err == nil {
				err = b.scale(ctx)
			}
			return err
		}
	}
	for _, s := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 2 {
			fmt.Fprintf(os.Stderr, "bench: sizes: %q: want numbers of nodes from 2 on, with commas between them\n", s)
			os.Exit(2)
		}
		b.sizes = append(b.sizes, n)
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	labctl         string
	rounds, growth int
	sizes          []int
	namespaces     int           // in the kernel before the first lab
	routedRounds   int           // pairs of streams
	each           time.Duration // how long one stream lasts
}

// sample is one lab's life.
type sample struct {
	Up, Converged, FirstPing float64 // ms from the command's start, as labctl status has them
	UpWall, DownWall         float64 // ms of the whole commands, seen from outside
	Memory                   float64 // MB private to the lab's processes
	Processes                int
}

func (b *bench) run(ctx context.Context) error {
	abs, err := filepath.Abs(b.labctl)
	if err != nil {
		return err
	}
	b.labctl = abs
	fmt.Printf("machine: %s, %d cores, %s, %s\n\n", kernel(), runtime.NumCPU(), runtime.Version(), time.Now().Format("2006-01-02"))

	b.namespaces, _ = namespaces() // unknown: settle only pauses
	mininet := b.mininetReady()
	var ours []sample
	var theirs []float64
	// A warm-up each, so that neither pays for a cold page cache.
	if _, err := b.lab(ctx, "flannel-vxlan"); err != nil {
		return err
	}
	if mininet == "" {
		if _, err := b.mininet(ctx); err != nil {
			mininet = err.Error()
		}
	}
	for range b.rounds {
		s, err := b.lab(ctx, "flannel-vxlan")
		if err != nil {
			return err
		}
		ours = append(ours, s)
		if mininet == "" {
			ms, err := b.mininet(ctx)
			if err != nil {
				return err
			}
			theirs = append(theirs, ms)
		}
	}
	fmt.Printf("flannel-vxlan: 3 nodes, 6 containers, etcd; milliseconds, %d rounds, median (least - most)\n", b.rounds)
	for _, r := range []struct {
		name string
		of   func(sample) float64
		goal string
	}{
		{"t_up", func(s sample) float64 { return s.Up }, ""},
		{"t_converged", func(s sample) float64 { return s.Converged }, ""},
		{"t_first_ping", func(s sample) float64 { return s.FirstPing }, "goal 250"},
		{"up, whole command", func(s sample) float64 { return s.UpWall }, ""},
		{"t_down, whole command", func(s sample) float64 { return s.DownWall }, "goal 120"},
		{"private memory, MB", func(s sample) float64 { return s.Memory }, ""},
	} {
		fmt.Printf("  %-24s %s  %s\n", r.name, spread(ours, r.of), r.goal)
	}
	if mininet != "" {
		fmt.Printf("mininet: not measured: %s\n", mininet)
	} else {
		both := func(s sample) float64 { return s.UpWall + s.DownWall }
		fmt.Printf("  %-24s %s\n", "up + down", spread(ours, both))
		fmt.Printf("  %-24s %s\n", "mininet, up + down", spread(theirs, func(f float64) float64 { return f }))
		var ratios []float64
		for i, s := range ours {
			ratios = append(ratios, both(s)/theirs[i])
		}
		fmt.Printf("  %-24s %.2f  goal below 1\n", "ratio, median of pairs", median(ratios))
	}

	if err := b.nodes(ctx); err != nil {
		return err
	}
	if err := b.packets(ctx); err != nil {
		return err
	}

	fmt.Printf("\ngrowth: one container a node, one segment; median of %d rounds, sizes in turn\n", b.growth)
	results := map[int][]sample{}
	for range b.growth {
		for _, n := range b.sizes {
			if err := b.settle(ctx); err != nil {
				return err
			}
			file, err := b.labFile(n)
			if err != nil {
				return err
			}
			s, err := b.lab(ctx, file)
			os.Remove(file)
			if err != nil {
				return err
			}
			results[n] = append(results[n], s)
		}
	}
	fmt.Printf("%6s %9s %13s %14s %9s %11s %15s %10s\n", "NODES", "T_UP", "T_CONVERGED", "T_FIRST_PING", "T_DOWN", "MS A NODE", "MEMORY MB", "MB A NODE")
	for _, n := range b.sizes {
		r := results[n]
		first := median(collect(r, func(s sample) float64 { return s.FirstPing }))
		mem := median(collect(r, func(s sample) float64 { return s.Memory }))
		fmt.Printf("%6d %9.0f %13.0f %14.0f %9.0f %11.1f %15.0f %10.1f\n", n,
			median(collect(r, func(s sample) float64 { return s.Up })),
			median(collect(r, func(s sample) float64 { return s.Converged })),
			first, median(collect(r, func(s sample) float64 { return s.DownWall })), first/float64(n), mem, mem/float64(n))
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	if err := b.routed(ctx); err != nil {
		return err
	}
	return b.bgp(ctx)
}

// settle waits until the kernel has taken the last lab's namespaces apart,
// which it does in the background for seconds after a big lab: until then new
// ones wait for its locks, and a small lab would pay for the big one before it.
func (b *bench) settle(ctx context.Context) error {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		// The allocator's count keeps some that are free, but not hundreds.
		if n, err := namespaces(); err != nil || n <= b.namespaces+50 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second): // for the rest of them
		return nil
	}
}

// namespaces is how many network namespaces the kernel has in memory, those
// included that are on their way out. Only root may look (slabinfo(5)).
func namespaces() (int, error) {
	data, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "net_namespace" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, errors.New("slabinfo: no net_namespace")
}

// labFile writes a lab of n nodes.
func (b *bench) labFile(n int) (string, error) {
	f, err := os.CreateTemp("", "bench-*.yaml")
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, `name: bench
network: {Network: 10.0.0.0/8, SubnetLen: 24, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.0.0/20}}
nodes: %d
`, n)
	return f.Name(), err
}

// lab brings a lab up and down.
func (b *bench) lab(ctx context.Context, file string) (s sample, err error) {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	defer func() {
		if err != nil {
			exec.Command(b.labctl, "down", name).Run()
		}
	}()
	from := time.Now()
	out, err := output(ctx, b.labctl, "up", file, "--name", name, "-o", "json")
	if err != nil {
		return s, err
	}
	s.UpWall = ms(time.Since(from))
	var st struct {
		Timings struct{ UpMs, ConvergedMs, FirstPingMs float64 }
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return s, err
	}
	s.Up, s.Converged, s.FirstPing = st.Timings.UpMs, st.Timings.ConvergedMs, st.Timings.FirstPingMs
	if s.Memory, s.Processes, err = b.memory(ctx, name); err != nil {
		return s, err
	}
	from = time.Now()
	_, err = output(ctx, b.labctl, "down", name)
	s.DownWall = ms(time.Since(from))
	return s, err
}

// memory adds up what is private to the processes in the lab's PID namespace.
func (b *bench) memory(ctx context.Context, name string) (mb float64, count int, err error) {
	pidns, err := b.pidNamespace(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	return privateMemory(pidns)
}

// pidNamespace is the number of a lab's.
func (b *bench) pidNamespace(ctx context.Context, name string) (uint64, error) {
	out, err := output(ctx, b.labctl, "ls", "-o", "json")
	if err != nil {
		return 0, err
	}
	var list struct {
		Labs []struct{ Name, Dir string }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return 0, err
	}
	for _, l := range list.Labs {
		if l.Name != name {
			continue
		}
		data, err := os.ReadFile(filepath.Join(l.Dir, "record.json"))
		if err != nil {
			return 0, err
		}
		var rec struct{ PIDNamespace uint64 }
		err = json.Unmarshal(data, &rec)
		return rec.PIDNamespace, err
	}
	return 0, fmt.Errorf("%s: not in labctl ls", name)
}

func privateMemory(pidns uint64) (mb float64, count int, err error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, 0, err
	}
	want := fmt.Sprintf("pid:[%d]", pidns)
	for _, p := range procs {
		if ns, err := os.Readlink(p + "/ns/pid"); err != nil || ns != want {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return 0, 0, err
		}
		one, err := private(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended in between
		}
		if err != nil {
			return 0, 0, err
		}
		count++
		mb += one
	}
	return mb, count, nil
}

// private is what memory a process shares with no other, in MB.
func private(pid int) (mb float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 3 && (f[0] == "Private_Dirty:" || f[0] == "Private_Clean:") {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return 0, fmt.Errorf("process %d: %w", pid, err)
			}
			mb += kb / 1024
		}
	}
	return mb, nil
}

// mininetReady says what is missing for the comparison, "" for nothing.
func (b *bench) mininetReady() string {
	if os.Geteuid() != 0 {
		return "it needs root"
	}
	for _, p := range []string{"mn", "brctl", "unshare"} {
		if _, err := exec.LookPath(p); err != nil {
			return p + " is not installed (Debian: mininet, bridge-utils)"
		}
	}
	return ""
}

// mininet brings a network of three hosts up and down. It makes its switch in
// the namespace that it runs in: that is a private one here.
func (b *bench) mininet(ctx context.Context) (float64, error) {
	from := time.Now()
	_, err := output(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc",
		"mn", "--topo", "single,3", "--switch", "lxbr", "--controller", "none", "--test", "none")
	return ms(time.Since(from)), err
}

func output(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, errs.String())
	}
	return out, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func collect[T any](all []T, of func(T) float64) []float64 {
	var v []float64
	for _, x := range all {
		v = append(v, of(x))
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func spread[T any](all []T, of func(T) float64) string {
	v := collect(all, of)
	return fmt.Sprintf("%6.0f (%.0f - %.0f)", median(v), slices.MinFunc(v, cmp.Compare[float64]), slices.Max(v))
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
