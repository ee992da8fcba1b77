package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/check"
	"labctl/lab/trial"
	"labctl/labs"
)

// testFlags are what labctl test is told beside the labs.
type testFlags struct {
	all                      bool
	backend, junit, keepLogs string
	parallel, slow           int
	timeout                  time.Duration
}

func (a *app) testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use:   "test [LAB|FILE|DIR...]",
		Short: "Bring labs up, run their checks, take them down",
		Long: `Bring each lab up under a name of its own, run the checks of its file, take it
down; a lab that runs already is left alone. That a lab converges is a check,
too. A directory stands for its *.yaml. On failure the lab's logs, status and
drift are kept in a directory. Ctrl-C takes down what is up.

With --backend only those checks run that are marked anyBackend: the others are
about the file's own backend, and are counted as left out.

Exit status 0 when all checks passed, 1 when one failed, 4 when none failed but
this machine, or this user, cannot run them all, 2 for a bad file.`,
		Example: `  labctl test flannel-vxlan
  labctl test ./my-lab.yaml ./more-labs --junit out.xml
  labctl test flannel-docker0 --backend vxlan
  labctl test --all --slow 4                 # under an emulator
  labctl test --all -o json`,
		Args: func(c *cobra.Command, args []string) error {
			if f.all {
				return arguments(0, 0, "no arguments with --all")(c, args)
			}
			return arguments(1, -1, "built-in labs, files or directories, or --all")(c, args)
		},
		ValidArgsFunction: a.completeLabFiles,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case a.lab != "":
				return usage(fmt.Errorf("--lab %s: not for test, whose labs have names of their own", a.lab), "name built-in labs or files as arguments")
			case f.all && f.backend != "":
				return usage(errors.New("--backend: not with --all, as most labs are about one backend"), "name the labs")
			case f.parallel < 1:
				return usage(fmt.Errorf("--parallel %d: no lab", f.parallel), "give 1 or more")
			case f.slow < 1:
				return usage(fmt.Errorf("--slow %d: no time for any check", f.slow), "give 1 or more")
			case f.timeout <= 0:
				return usage(fmt.Errorf("--timeout %v: no time to test anything", f.timeout), "give a duration such as 1m")
			}
			if f.all {
				args = labs.Names()
			}
			return a.test(c.Context(), args, f)
		},
	}
	s := c.Flags()
	s.BoolVar(&f.all, "all", false, "all built-in labs")
	s.StringVar(&f.backend, "backend", "", "another backend than the files', with its defaults")
	s.StringVar(&f.junit, "junit", "", "write the results to this file as JUnit XML")
	s.StringVar(&f.keepLogs, "keep-logs", "", "where failed labs' logs go (default: a new directory in $TMPDIR)")
	s.IntVarP(&f.parallel, "parallel", "j", 2, "labs at once")
	s.DurationVar(&f.timeout, "timeout", 2*time.Minute, "for each lab, up and checks")
	s.IntVar(&f.slow, "slow", 1, "the machine is so many times slower than most: deadlines of checks are as much later")
	_ = c.MarkFlagFilename("junit", "xml") // it was just added
	_ = c.MarkFlagDirname("keep-logs")     // so was this
	return c
}

func (a *app) test(ctx context.Context, args []string, f testFlags) error {
	trials, err := a.trials(args, f.backend)
	if err != nil {
		return err
	}
	// A report that cannot be written is told before the work, not after.
	report := io.Discard
	if f.junit != "" {
		file, err := os.Create(f.junit)
		if err != nil {
			return usage(err, "choose another file for --junit")
		}
		defer file.Close()
		report = file
	}
	out := a.stdout
	if a.output == "json" || a.output == "yaml" {
		out = a.stderr
	}
	width := 0
	for _, t := range trials {
		width = max(width, len(t.Spec.Name))
	}
	sum := trial.All(ctx, trials, trial.Options{Machine: lab.ThisMachine(), Timeout: f.timeout, Parallel: f.parallel, Slow: f.slow,
		Keep:    keepIn(f.keepLogs),
		OnCheck: func(name string, r check.Result) { printCheck(out, width, name, r) }})
	printSummary(out, sum)
	if err := sum.WriteJUnit(report); err != nil {
		return fmt.Errorf("%s: %w", f.junit, err)
	}
	if _, err := a.machineReadable(sum); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return &lab.Failure{Kind: lab.Interrupted, Err: errors.New("interrupted; all labs of this test are down")}
	}
	return sum.Err()
}

// trials reads all files before any lab is made, and tells of all that are bad.
func (a *app) trials(args []string, backend string) ([]trial.Trial, error) {
	var files []string
	for _, arg := range args {
		if fi, err := os.Stat(arg); err != nil || !fi.IsDir() {
			files = append(files, arg)
			continue
		}
		found, err := filepath.Glob(filepath.Join(arg, "*.yaml"))
		if err != nil {
			return nil, usage(fmt.Errorf("%s: %w", arg, err), "name the files")
		}
		if len(found) == 0 {
			return nil, usage(fmt.Errorf("%s: no *.yaml in it", arg), "give lab files, or a directory that has some")
		}
		files = append(files, found...)
	}
	var trials []trial.Trial
	code := 0
	for _, file := range files {
		t, err := a.trial(file, backend)
		code = max(code, a.report(err))
		trials = append(trials, t)
	}
	if code != 0 {
		return nil, exitStatus(code)
	}
	return trials, nil
}

func (a *app) trial(file, backend string) (trial.Trial, error) {
	t := trial.Trial{File: file}
	var err error
	if t.Spec, t.Data, err = a.readLab(file); err != nil {
		return t, err
	}
	plan, err := lab.NewPlan(t.Spec, lab.ThisMachine())
	if err == nil && backend != "" && backend != plan.Backend {
		t.Backend = backend
		if err = t.Spec.UseBackend(backend); err == nil {
			_, err = lab.NewPlan(t.Spec, lab.ThisMachine())
		}
	}
	if err != nil {
		return t, usage(fmt.Errorf("%s: %w", file, err), "mend the lab file, or choose another --backend")
	}
	return t, nil
}

// keepIn makes the directory for evidence when it is first needed.
func keepIn(dir string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if dir == "" {
			return os.MkdirTemp("", "labctl-test-")
		}
		return filepath.Abs(dir)
	})
}

// marks begin the lines of results.
var marks = map[check.Outcome]string{check.Passed: "ok", check.Failed: "FAILED", check.Cannot: "cannot", check.Left: "left out"}

func printCheck(w io.Writer, width int, name string, r check.Result) {
	claim := r.Claim
	if claim == "" {
		claim = "-"
	}
	fmt.Fprintf(w, "%-8s  %-*s  %-3s %s", marks[r.Outcome], width, name, claim, r.Title)
	switch r.Outcome {
	case check.Passed:
		if r.Found != "as expected" {
			fmt.Fprintf(w, ": %s", r.Found)
		}
		fmt.Fprintf(w, "  (%s)\n", millis(r.TookMs))
	case check.Failed:
		fmt.Fprintf(w, "  (%s)\n          expected: %s\n          found:    %s\n", millis(r.TookMs), r.Expected, r.Found)
	default:
		fmt.Fprintf(w, ": %s\n", r.Found)
	}
}

func printSummary(w io.Writer, s *trial.Summary) {
	for _, r := range s.Labs {
		told := slices.ContainsFunc(r.Checks, func(c check.Result) bool { return c.Found == r.Reason })
		if r.Reason != "" && !told {
			fmt.Fprintf(w, "%-8s  %s: %s\n", marks[r.Outcome], r.Lab, r.Reason)
			if r.Cure != "" {
				fmt.Fprintf(w, "          cure: %s\n", r.Cure)
			}
		}
		if r.Kept != "" {
			fmt.Fprintf(w, "%s: what it left is in %s\n", r.Lab, r.Kept)
		}
	}
	fmt.Fprintf(w, "%s, %s: %d passed, %d failed, %d cannot run here, %d left out; %s\n",
		count(len(s.Labs), "lab"), count(s.Passed+s.Failed+s.Cannot+s.LeftOut, "check"), s.Passed, s.Failed, s.Cannot, s.LeftOut, millis(s.TookMs))
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func millis(ms float64) string { return short(time.Duration(ms * float64(time.Millisecond))) }
