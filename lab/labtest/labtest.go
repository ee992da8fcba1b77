package labtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/inside"
	"labctl/lab/trial"
	"labctl/labs"
)

// Main runs the tests and ends the process with their status. In a process
// that a lab started it does that lab's work instead.
func Main(m *testing.M) {
	if started() {
		os.Exit(work(os.Args[1:]))
	}
	if err := os.Setenv(ready, strconv.Itoa(os.Getpid())); err != nil {
		fmt.Fprintln(os.Stderr, "labtest:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// started says whether a lab started this process, or something in a lab that
// takes $LABCTL for labctl: it must not run the tests again.
func started() bool {
	if os.Args[0] == program {
		return true
	}
	named, err := os.Stat(os.Getenv("LABCTL"))
	if err != nil {
		return false
	}
	running, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(named, running)
}

// work is what the test binary does of labctl's.
func work(args []string) int {
	if code, ran := inside.Run(args, os.Stdout, os.Stderr); ran {
		return code
	}
	// The agent of a lab file that names labctl.
	if len(args) > 0 && args[0] == "agent" {
		return inside.Agent(args[1:], os.Stderr)
	}
	fmt.Fprintf(os.Stderr, "labtest: %s: a test binary, of labctl's commands it has only agent; install labctl and call it by its name\n", strings.Join(args, " "))
	return 2
}

// program is what every process of a lab is called.
const program = "labctl"

// ready has the number of the process whose TestMain has called Main. A lab
// that was started from any other would run the tests again, and again.
const ready = "LABCTL_LABTEST"

// upTimeout is how long a lab may take to carry packets.
const upTimeout = 2 * time.Minute

// Lab is a running lab. It may be used from several goroutines at once.
type Lab struct {
	t      testing.TB
	client *lab.Client
	plan   *lab.Plan
}

// Up brings up a built-in lab: labctl labs lists them.
func Up(t testing.TB, name string) *Lab {
	t.Helper()
	data, err := labs.Read(name)
	if err != nil {
		t.Fatalf("labtest: %v", err)
	}
	return up(t, name+".yaml", data)
}

// UpFile brings up the lab of a file.
func UpFile(t testing.TB, path string) *Lab {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("labtest: %v", err)
	}
	return up(t, filepath.Base(path), data)
}

// UpSpec brings up a lab from the text of a lab file.
func UpSpec(t testing.TB, yaml string) *Lab {
	t.Helper()
	return up(t, "lab.yaml", []byte(yaml))
}

// up makes the lab and sees to its end.
func up(t testing.TB, file string, data []byte) *Lab {
	t.Helper()
	if os.Getenv(ready) != strconv.Itoa(os.Getpid()) {
		t.Fatal("labtest: TestMain has not called labtest.Main; add func TestMain(m *testing.M) { labtest.Main(m) }")
	}
	spec, err := lab.Parse(file, data)
	if e, ok := errors.AsType[*lab.FileError](err); ok {
		t.Fatalf("labtest: lab file:\n%s", e.Excerpt())
	}
	if err == nil {
		err = spec.Rename(trial.FreshName(spec.Name))
	}
	if err != nil {
		t.Fatalf("labtest: %v", err)
	}
	plan, err := lab.NewPlan(spec, lab.ThisMachine())
	if err != nil {
		t.Fatalf("labtest: %v", err)
	}
	d, err := lab.DirOf(plan.Name)
	if err == nil {
		err = lab.CheckLimits(plan)
	}
	if err != nil {
		fail(t, err)
	}
	// It goes with us, whatever becomes of us.
	release, err := lab.Keep(plan.Name)
	if err != nil {
		t.Fatalf("labtest: %v", err)
	}
	l := &Lab{t: t, client: &lab.Client{Dir: d}, plan: plan}
	t.Cleanup(func() {
		if t.Failed() {
			l.describe(d)
		}
		_, err := lab.Down(context.Background(), plan.Name)
		if err := errors.Join(err, release()); err != nil {
			t.Errorf("labtest: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	if _, _, err := lab.Up(ctx, lab.UpOptions{Plan: plan, Spec: data, From: time.Now(), BeforeRemoval: func(d lab.Dir, why error) {
		if f, ok := errors.AsType[*lab.Failure](why); !ok || f.Kind != lab.Unable {
			l.describe(d)
		}
	}}); err != nil {
		fail(t, err)
	}
	return l
}

// fail ends the test: skipped where the machine cannot have the lab.
func fail(t testing.TB, err error) {
	t.Helper()
	f, ok := errors.AsType[*lab.Failure](err)
	switch {
	case ok && f.Kind == lab.Unable:
		t.Skipf("labtest: %v; cure: %s", f, f.Cure)
	case ok && f.Cure != "":
		t.Fatalf("labtest: %v; cure: %s", f, f.Cure)
	}
	t.Fatalf("labtest: %v", err)
}

// describe logs what a lab can tell, in a test that failed.
func (l *Lab) describe(d lab.Dir) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if st, err := l.client.Status(ctx); err == nil {
		l.t.Logf("lab %s: %s %s", st.Name, st.State, strings.Join(st.Reasons, "; "))
		for _, n := range st.Nodes {
			for _, c := range n.Drift {
				l.t.Logf("%s: drift: %s", c.Endpoint, c.Text)
			}
		}
	}
	logs, err := filepath.Glob(filepath.Join(d.Logs(), "*.log"))
	if err != nil {
		l.t.Log(err)
	}
	const most = 4 << 10
	for _, f := range logs {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			l.t.Logf("%s:\n%s", filepath.Base(f), b[max(0, len(b)-most):])
		}
	}
}

// Name is the lab's name, under which labctl shows it while the test runs.
func (l *Lab) Name() string { return l.plan.Name }

// Status is what labctl status -o json prints.
func (l *Lab) Status() *lab.Status {
	l.t.Helper()
	st, err := l.client.Status(l.t.Context())
	if err != nil {
		l.t.Fatalf("labtest: %v", err)
	}
	return st
}

// Client is for what is not here: faults, nodes that come and go.
func (l *Lab) Client() *lab.Client { return l.client }
