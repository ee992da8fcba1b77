package trial

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"labctl/lab"
	"labctl/lab/check"
)

// Trial is one lab file with its checks.
type Trial struct {
	File string // what the user calls it: a path, or a built-in lab's name
	Spec *lab.Spec
	Data []byte // the file, kept in the run directory
	// Backend is another than the file's, of which the checks say nothing but
	// those marked for any; "" for the file's own.
	Backend string
}

// Options are for all labs of a run.
type Options struct {
	Machine  lab.Machine
	Timeout  time.Duration // of one lab: up and checks
	Parallel int           // labs at once
	Slow     int           // how many times slower this machine is than most; 0 is 1
	// Keep is the directory where failed labs leave evidence; it is made when
	// the first does.
	Keep func() (string, error)
	// OnCheck is called with each result as it comes, one at a time.
	OnCheck func(labName string, r check.Result)
}

// Report is what became of a lab. Fields are only ever added.
type Report struct {
	Lab     string         `json:"lab"`
	File    string         `json:"file"`
	Backend string         `json:"backend,omitempty"`
	Outcome check.Outcome  `json:"outcome"`
	Reason  string         `json:"reason,omitempty"` // why it could not run, or was cut short
	Cure    string         `json:"cure,omitempty"`
	Started time.Time      `json:"started"`
	TookMs  float64        `json:"tookMs"`
	Checks  []check.Result `json:"checks"`
	Kept    string         `json:"kept,omitempty"` // where the evidence is
}

// Summary is a run of all labs. Fields are only ever added.
type Summary struct {
	SchemaVersion int      `json:"schemaVersion"`
	Passed        int      `json:"passed"` // checks
	Failed        int      `json:"failed"`
	Cannot        int      `json:"cannot"`
	LeftOut       int      `json:"leftOut"`
	TookMs        float64  `json:"tookMs"`
	Labs          []Report `json:"labs"`
}

// All runs every trial, some at once, and reports in their order. When ctx
// ends, the labs that run are taken down and the others are not begun.
func All(ctx context.Context, trials []Trial, o Options) *Summary {
	from := time.Now()
	var mu sync.Mutex // one line after the other
	if on := o.OnCheck; on != nil {
		o.OnCheck = func(name string, r check.Result) {
			mu.Lock()
			defer mu.Unlock()
			on(name, r)
		}
	}
	s := &Summary{SchemaVersion: 1, Labs: make([]Report, len(trials))}
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(max(o.Parallel, 1), len(trials)) {
		wg.Go(func() {
			for i := range next {
				s.Labs[i] = trials[i].run(ctx, o)
			}
		})
	}
	for i := range trials {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, r := range s.Labs {
		for _, c := range r.Checks {
			switch c.Outcome {
			case check.Passed:
				s.Passed++
			case check.Failed:
				s.Failed++
			case check.Cannot:
				s.Cannot++
			case check.Left:
				s.LeftOut++
			}
		}
	}
	s.TookMs = check.Millis(time.Since(from))
	return s
}

// attempt is a trial under way.
type attempt struct {
	Trial
	Options
	report *Report
	lost   error // why there is no evidence of an up that failed
}

// run never returns with the lab still there, unless it cannot be removed: the
// report then says so.
func (t Trial) run(ctx context.Context, o Options) Report {
	r := Report{Lab: t.Spec.Name, File: t.File, Backend: t.Backend, Outcome: check.Passed, Started: time.Now(), Checks: []check.Result{}}
	a := &attempt{Trial: t, Options: o, report: &r}
	if err := ctx.Err(); err != nil {
		a.stop(check.Cannot, &lab.Failure{Kind: lab.Interrupted, Err: errors.New("interrupted")})
		return r
	}
	lctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := a.lab(lctx); err != nil {
		a.stop(check.Failed, err)
	}
	r.TookMs = check.Millis(time.Since(r.Started))
	return r
}

// slow is how many times longer everything may take here.
func (a *attempt) slow() time.Duration { return time.Duration(max(a.Slow, 1)) }

// stop notes why the lab's checks did not come to their end.
func (a *attempt) stop(o check.Outcome, err error) {
	a.report.Reason = err.Error()
	if f, ok := errors.AsType[*lab.Failure](err); ok {
		a.report.Cure = f.Cure
		if f.Kind == lab.Unable || f.Kind == lab.Interrupted {
			o = check.Cannot
		}
	}
	if a.report.Outcome != check.Failed {
		a.report.Outcome = o
	}
}

// lab brings the lab up under a name that no other has, and down again.
func (a *attempt) lab(ctx context.Context) (err error) {
	spec := *a.Spec
	if err := spec.Rename(FreshName(a.Spec.Name)); err != nil {
		return err
	}
	plan, err := lab.NewPlan(&spec, a.Machine)
	if err != nil {
		return err
	}
	if err := lab.CheckLimits(plan); err != nil {
		return err
	}
	// Were we killed, nobody would take it down.
	release, err := lab.Keep(plan.Name)
	if err != nil {
		return err
	}
	defer func() {
		_, derr := lab.Down(context.WithoutCancel(ctx), plan.Name)
		err = errors.Join(err, derr, release())
	}()
	from := time.Now()
	_, _, err = lab.Up(ctx, lab.UpOptions{Plan: plan, Spec: a.Data, From: from, BeforeRemoval: func(d lab.Dir, why error) {
		if a.up(from, why); a.report.Outcome == check.Failed {
			a.lost = a.evidence(d)
		}
	}})
	if err != nil {
		if len(a.report.Checks) == 0 {
			a.up(from, err)
		}
		return errors.Join(err, a.lost)
	}
	a.up(from, nil)
	d, err := lab.DirOf(plan.Name)
	if err != nil {
		return err
	}
	c := &lab.Client{Dir: d}
	if err := a.checks(ctx, c); err != nil {
		return err
	}
	if a.report.Outcome == check.Failed {
		return a.evidence(d)
	}
	return nil
}

// up notes the first check: that the lab became one. That this machine cannot
// have it, or that somebody stopped it, is none.
func (a *attempt) up(from time.Time, err error) {
	r := check.Result{Title: "converged, and a packet crossed", Outcome: check.Passed,
		Expected: fmt.Sprintf("within %v", a.Timeout), Found: "as expected", TookMs: check.Millis(time.Since(from))}
	if err != nil {
		if f, ok := errors.AsType[*lab.Failure](err); ok && (f.Kind == lab.Unable || f.Kind == lab.Interrupted) {
			return
		}
		r.Outcome, r.Found = check.Failed, err.Error()
	}
	a.note(r)
}

// checks runs those of the file.
func (a *attempt) checks(ctx context.Context, c *lab.Client) error {
	runner, err := check.NewRunner(ctx, c, int(a.slow()))
	if err != nil {
		return err
	}
	for _, spec := range a.Spec.Checks {
		switch {
		case spec.Blackout != nil && (a.Backend == "" || spec.AnyBackend):
			continue // play's
		case a.Backend != "" && !spec.AnyBackend:
			a.note(check.Result{Title: spec.Title(), Claim: spec.Claim, Outcome: check.Left,
				Found: "it is about the file's own backend, not " + a.Backend})
			continue
		case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
			a.note(check.Result{Title: spec.Title(), Claim: spec.Claim, Outcome: check.Failed,
				Expected: fmt.Sprintf("all checks within %v", a.Timeout), Found: "not run: no time left"})
			continue
		}
		r := runner.Run(ctx, spec)
		// What fails because it was stopped tells nothing.
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return &lab.Failure{Kind: lab.Interrupted, Err: fmt.Errorf("%s: interrupted", a.Spec.Name)}
		}
		a.note(r)
	}
	return a.play(ctx, c)
}

// note adds a result to the report; the worst decides on the lab.
func (a *attempt) note(r check.Result) {
	a.report.Checks = append(a.report.Checks, r)
	switch {
	case r.Outcome == check.Failed:
		a.report.Outcome = check.Failed
	case r.Outcome == check.Cannot && a.report.Outcome == check.Passed:
		a.report.Outcome = check.Cannot
	}
	if a.OnCheck != nil {
		a.OnCheck(a.Spec.Name, r)
	}
}

// FreshName is a name for a lab that no other has: the file's, as far as there
// is room, and six hexadecimal digits.
func FreshName(of string) string {
	const room = 31 - 1 - 6
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // it never fails: see crypto/rand
	}
	return strings.TrimRight(of[:min(len(of), room)], "-") + "-" + hex.EncodeToString(b[:])
}

// Err is what the run comes to as an error, by which its exit status is
// chosen: a failure before what could not run.
func (s *Summary) Err() error {
	count := map[check.Outcome]int{}
	for _, r := range s.Labs {
		count[r.Outcome]++
	}
	switch {
	case count[check.Failed] > 0:
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%d of %d labs failed", count[check.Failed], len(s.Labs))}
	case count[check.Cannot] > 0:
		return &lab.Failure{Kind: lab.Unable, Err: fmt.Errorf("%d of %d labs could not be tested in full here", count[check.Cannot], len(s.Labs))}
	}
	return nil
}
