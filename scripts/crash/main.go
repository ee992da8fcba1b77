// Command crash kills labctl at every moment that it can think of, and looks
// whether `labctl down`, or another `up`, leaves anything behind or touches
// what is somebody else's:
//
//	go build -o bin/ ./cmd/labctl ./scripts/crash && bin/crash -kills 300
//
// It works in mount, network and PID namespaces of its own, in which it plants
// other people's things: named namespaces, bridges, tunnels, routes, rules,
// firewall tables, files and processes, some with names such as a lab has. So
// what is there before and after can be compared whole. Run by root it kills
// labs of root's and of an ordinary user's in turn; by anybody else, labs of
// the root of a user namespace.
//
// One kill is one round: a lab is brought up, an operation is started (up, down,
// node add and others), a victim (the command, the supervisor, PID 1, etcd, an
// agent, or all) gets SIGKILL at a random time or as soon as a file, a name or
// a process is there, and the lab is taken down. Exit status 1 when a round
// left or changed something, or a command did not do what it should.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.labctl, "labctl", "bin/labctl", "the binary to kill")
	flag.IntVar(&o.kills, "kills", 300, "rounds")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the random choices")
	flag.BoolVar(&o.verbose, "v", false, "a line for each round")
	flag.BoolVar(&o.inside, "inside", false, "is in namespaces of its own already")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "crash: %q: what is this? There are only flags; -h lists them\n", flag.Args())
		os.Exit(2)
	}
	var err error
	if o.inside {
		err = o.run()
	} else {
		err = o.enter()
	}
	var ended *exec.ExitError
	switch {
	case !o.inside && errors.As(err, &ended): // the program inside has said why
		os.Exit(ended.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

type options struct {
	labctl          string
	kills           int
	seed            uint64
	verbose, inside bool
}

// tell prints what went wrong, if something did.
func tell(faults, left, changed []string) {
	for what, list := range map[string][]string{"fault": faults, "leak": left, "foreign": changed} {
		for _, l := range list {
			fmt.Printf("     %s: %s\n", what, l)
		}
	}
}

// enter starts the program again in namespaces of its own. The shell is their
// PID 1: it waits, and so reaps what is left to it.
func (o options) enter() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	labctl, err := filepath.Abs(o.labctl)
	if err != nil {
		return err
	}
	args := []string{"--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private"}
	if os.Geteuid() != 0 {
		args = append(args, "--map-root-user")
	}
	args = append(args, "sh", "-c", `"$@"; exit $?`, "sh", self, "-inside", "-labctl", labctl,
		"-kills", fmt.Sprint(o.kills), "-seed", fmt.Sprint(o.seed), fmt.Sprintf("-v=%v", o.verbose))
	cmd := exec.Command("unshare", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// run does all rounds and sums up.
func (o options) run() error {
	w, err := newWorld(o.labctl)
	if err != nil {
		return err
	}
	defer w.close()
	before, err := w.look()
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(o.seed, 0))
	fmt.Printf("seed %d: %d kills, with %d things of others there\n", o.seed, o.kills, len(before))
	sum := tally{}
	from := time.Now()
	for i := range o.kills {
		r := choose(rng, w.users)
		faults := r.play(w)
		left, changed, err := w.compare(before)
		if err != nil {
			return err
		}
		sum.add(r, faults, left, changed)
		if o.verbose || len(faults)+len(left)+len(changed) > 0 {
			fmt.Printf("%4d %v\n", i+1, r)
		}
		tell(faults, left, changed)
		if len(left)+len(changed) > 0 {
			break // what follows would be compared with what is spoilt
		}
	}
	if sum.leaks+sum.foreign == 0 {
		faults := w.downAll()
		left, changed, err := w.compare(before)
		if err != nil {
			return err
		}
		fmt.Println("labctl down --all, of a lab that runs, one that was killed and one that was not finished")
		tell(faults, left, changed)
		sum.faults, sum.leaks, sum.foreign = sum.faults+len(faults), len(left), len(changed)
	}
	sum.print(time.Since(from))
	if sum.faults+sum.leaks+sum.foreign > 0 {
		return errors.New("failed")
	}
	return nil
}
