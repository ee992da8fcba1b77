package trial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"labctl/lab"
	"labctl/lab/check"
	"labctl/lab/fault"
)

// play plays the file's timeline of faults, if it has one, and runs the checks
// that are about it. Without any, packets go from the first container to the
// last.
func (a *attempt) play(ctx context.Context, c *lab.Client) error {
	if len(a.Spec.Faults) == 0 {
		return nil
	}
	var checks []lab.CheckSpec
	var paths []fault.Path
	for _, spec := range a.Spec.Checks {
		if spec.Blackout == nil || a.Backend != "" && !spec.AnyBackend {
			continue
		}
		checks = append(checks, spec)
		if p := (fault.Path{From: spec.Blackout.From, To: spec.Blackout.To}); !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	if len(paths) == 0 {
		plan, err := c.Plan(ctx)
		if err != nil {
			return err
		}
		paths = longestPath(plan)
	}
	from := time.Now()
	faults := slices.Clone(a.Spec.Faults)
	for i := range faults {
		faults[i].At *= a.slow()
		faults[i].For *= a.slow()
	}
	r, err := fault.Play(ctx, c, faults, paths)
	res := check.Result{Title: fmt.Sprintf("%d faults, then all is as before", len(a.Spec.Faults)), Outcome: check.Passed,
		Expected: fmt.Sprintf("ready and whole within %v after the last", fault.Recovery), TookMs: check.Millis(time.Since(from))}
	if err != nil {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return &lab.Failure{Kind: lab.Interrupted, Err: fmt.Errorf("%s: interrupted", a.Spec.Name)}
		}
		res.Outcome, res.Found = check.Failed, err.Error()
		if f, ok := errors.AsType[*lab.Failure](err); ok && f.Kind == lab.Unable {
			res.Outcome = check.Cannot // this kernel lacks netem, say
		}
		a.note(res)
		for _, spec := range checks {
			a.note(check.Result{Title: spec.Title(), Claim: spec.Claim, Outcome: res.Outcome, Expected: "the faults are played", Found: "they were not, to the end"})
		}
		return nil
	}
	res.Found = fmt.Sprintf("%.0f ms after the last", r.ReadyMs)
	for _, p := range r.Paths {
		res.Found += "; " + words(p)
	}
	a.note(res)
	for _, spec := range checks {
		i := slices.IndexFunc(r.Paths, func(p fault.PathReport) bool { return p.From == spec.Blackout.From && p.To == spec.Blackout.To })
		a.note(judge(spec, r.Paths[i], a.slow()))
	}
	return nil
}

// judge compares a path's longest outage with what a check allows.
func judge(spec lab.CheckSpec, p fault.PathReport, slow time.Duration) check.Result {
	b := *spec.Blackout
	b.Most *= slow
	longest := p.Longest()
	res := check.Result{Title: spec.Title(), Claim: spec.Claim, Outcome: check.Passed,
		Expected: fmt.Sprintf("%v to %v without an answer", b.Least, b.Most), Found: words(p), TookMs: longest.Ms}
	if took := time.Duration(longest.Ms * float64(time.Millisecond)); took < b.Least || took > b.Most {
		res.Outcome = check.Failed
	}
	return res
}

// words tell what became of a path's probes.
func words(p fault.PathReport) string {
	s := fmt.Sprintf("%s -> %s: %d of %d lost", p.From, p.To, p.Lost, p.Sent)
	if l := p.Longest(); l.Lost > 0 {
		s += fmt.Sprintf(", longest blackout %.0f ms, from %.0f ms on", l.Ms, l.AtMs)
	}
	return s
}

// longestPath is from the first container of the plan to the last of another
// node, or between nodes where there are no containers.
func longestPath(p *lab.Plan) []fault.Path {
	if len(p.Nodes) < 2 {
		return nil
	}
	first, last := p.Nodes[0], p.Nodes[len(p.Nodes)-1]
	path := fault.Path{From: first.Name, To: last.Name}
	if len(first.Containers) > 0 && len(last.Containers) > 0 {
		path = fault.Path{From: first.Name + "." + first.Containers[0].Name, To: last.Name + "." + last.Containers[len(last.Containers)-1].Name}
	}
	return []fault.Path{path}
}
