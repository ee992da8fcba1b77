// Command soak keeps a lab busy for a while and looks, after each thing that
// happens to it, whether all comes right again:
//
//	go build -o bin/ ./cmd/labctl ./scripts/soak && bin/soak -time 10m
//
// Under TCP and UDP traffic nodes join and leave, lose their power, their links
// and their entries; agents and etcd are killed and paused; hosts are cut off;
// the store forgets its past. Each kind of step happens once, then they come
// at random, from -seed. After each the lab has to settle within a deadline:
// every host's kernel has one route, one neighbour and one forwarding entry for
// each other host and none besides, as ip and bridge tell inside the hosts, the
// lab says that it is ready, and every container reaches every other.
//
// Memory, open files and threads of the supervisor, etcd and the agents are
// read from /proc now and then; those of the last third must not be above those
// of the first by more than -grow's margins. At the end nothing of the lab is
// left. Exit status 1 when any of it is not so; the lab's logs are kept then.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.labctl, "labctl", "bin/labctl", "the binary")
	flag.DurationVar(&o.time, "time", 30*time.Second, "for how long")
	flag.IntVar(&o.nodes, "nodes", 5, "hosts, give or take two")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the random choices")
	flag.BoolVar(&o.verbose, "v", false, "a line for each step")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "soak: %q: what is this? There are only flags; -h lists them\n", flag.Args())
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

type options struct {
	labctl  string
	time    time.Duration
	nodes   int
	seed    uint64
	verbose bool
}

// patience is how long a lab may take to settle. It takes less than a second
// on an idle machine; a lease that nobody renews ends after half of it.
const patience = 60 * time.Second

// soak is one run.
type soak struct {
	options
	name string
	dir  string // its run directory
	rng  *rand.Rand

	mu    sync.Mutex // guards hosts, which traffic reads
	hosts []string   // in the order in which they came

	joined  int // the number of the last host that came
	counts  map[string]int
	took    []time.Duration // to settle
	samples []sample
	traffic traffic
}

func (o options) run(ctx context.Context) (err error) {
	if o.nodes < 3 || o.nodes > 200 {
		return fmt.Errorf("-nodes %d: give 3 to 200", o.nodes)
	}
	if o.labctl, err = filepath.Abs(o.labctl); err != nil {
		return err
	}
	s := &soak{options: o, name: fmt.Sprintf("soak-%d", os.Getpid()), rng: rand.New(rand.NewPCG(o.seed, 0)), joined: o.nodes, counts: map[string]int{}}
	for i := range o.nodes {
		s.hosts = append(s.hosts, fmt.Sprintf("node%d", i+1))
	}
	before, err := links()
	if err != nil {
		return err
	}
	if err := s.up(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.keepLogs()
		}
		err = errors.Join(err, s.down(before))
	}()
	fmt.Printf("seed %d: %d hosts, %v\n", o.seed, o.nodes, o.time)
	from := time.Now()
	if err := s.play(ctx, from); err != nil {
		return err
	}
	s.tell(time.Since(from))
	if s.traffic.bytes == 0 || s.traffic.datagrams == 0 {
		return fmt.Errorf("traffic: %d bytes by TCP, %d datagrams: there was none", s.traffic.bytes, s.traffic.datagrams)
	}
	if grown := growth(s.samples); len(grown) > 0 {
		return errors.New(strings.Join(grown, "; "))
	}
	return nil
}

// labFile is the lab: %d hosts.
const labFile = `name: soak
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: %d
`

func (s *soak) up(ctx context.Context) error {
	f, err := os.CreateTemp("", "soak-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := fmt.Fprintf(f, labFile, s.nodes); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if _, err := s.command(ctx, "up", f.Name(), "--name", s.name); err != nil {
		return err
	}
	s.dir, err = s.runDir(ctx)
	return err
}

// play does all steps.
func (s *soak) play(ctx context.Context, from time.Time) error {
	ctx, stop := context.WithCancel(ctx)
	flows := s.flow(ctx)
	defer func() {
		stop()
		flows.Wait()
	}()
	if err := s.settle(ctx); err != nil {
		return err
	}
	steps := s.steps()
	var sampled time.Time
	for i := 0; time.Since(from) < s.time; i++ {
		st := steps[i%len(steps)]
		if i >= len(steps) { // each has happened
			st = steps[s.rng.IntN(len(steps))]
		}
		if st.may != nil && !st.may() {
			continue
		}
		begin := time.Now()
		what, err := st.do(ctx)
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, st.name, err)
		}
		if err := s.settle(ctx); err != nil {
			return fmt.Errorf("step %d, %s %s: %w", i+1, st.name, what, err)
		}
		s.counts[st.name]++
		if s.verbose {
			fmt.Printf("%8.1fs  %-14s %-28s settled after %v, %v in all\n", time.Since(from).Seconds(), st.name, what,
				s.took[len(s.took)-1].Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		}
		// What is there once only, and what depends on the number of hosts,
		// is no growth.
		if i >= len(steps) && len(s.hosts) == s.nodes && time.Since(sampled) > s.time/30 {
			if err := s.sample(ctx); err != nil {
				return err
			}
			sampled = time.Now()
		}
	}
	return s.restore(ctx)
}

// restore makes the lab as big as it was, and takes the last samples.
func (s *soak) restore(ctx context.Context) error {
	for len(s.hosts) != s.nodes {
		do := s.join
		if len(s.hosts) > s.nodes {
			do = s.leave
		}
		if _, err := do(ctx); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	for range 3 {
		if err := s.sample(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tell prints what happened.
func (s *soak) tell(took time.Duration) {
	total := 0
	var words []string
	for _, st := range s.steps() {
		total += s.counts[st.name]
		words = append(words, fmt.Sprintf("%s %d", st.name, s.counts[st.name]))
	}
	fmt.Printf("%d steps in %v: %s\n", total, took.Round(time.Second), strings.Join(words, ", "))
	slices.Sort(s.took)
	fmt.Printf("settled, with %d tables compared: median %v, at most %v\n", s.traffic.tables, s.took[len(s.took)/2].Round(time.Millisecond), s.took[len(s.took)-1].Round(time.Millisecond))
	fmt.Printf("traffic meanwhile: %d MB by TCP, %d datagrams by UDP, of which %d came; %d of %d flows were cut\n",
		s.traffic.bytes>>20, s.traffic.datagrams, s.traffic.received, s.traffic.cut, s.traffic.flows)
	printSamples(s.samples)
}

// keepLogs copies what the lab's processes wrote out of its run directory.
func (s *soak) keepLogs() {
	to, err := os.MkdirTemp("", "soak-logs-")
	if err == nil {
		err = os.CopyFS(to, os.DirFS(filepath.Join(s.dir, "logs")))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak: logs:", err)
		return
	}
	fmt.Fprintln(os.Stderr, "soak: the lab's logs are in", to)
}
