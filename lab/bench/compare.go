package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
	"labctl/lab"
)

// ParseResult reads a Result from its JSON.
func ParseResult(data []byte) (*Result, error) {
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	switch {
	case r.SchemaVersion != 1:
		return nil, fmt.Errorf("schemaVersion is %d, and this labctl knows 1", r.SchemaVersion)
	case len(r.Metrics) == 0 || len(r.Variants) == 0:
		return nil, errors.New("has no metrics or variants")
	}
	for _, s := range r.Series {
		if len(s.Rounds) != len(s.Values) || !slices.IsSorted(s.Rounds) {
			return nil, fmt.Errorf("series %s of %s: its rounds do not fit its values", s.Metric, s.Variant)
		}
		if slices.ContainsFunc(s.Values, func(v float64) bool { return v < 0 }) {
			return nil, fmt.Errorf("series %s of %s: a value below 0", s.Metric, s.Variant)
		}
	}
	for _, c := range r.Curves {
		if len(c.Parts) != len(c.Micros) {
			return nil, fmt.Errorf("curve of %s: %d parts, %d times", c.Variant, len(c.Parts), len(c.Micros))
		}
	}
	return &r, nil
}

// Diff is what changed between two runs. Fields are only ever added.
type Diff struct {
	SchemaVersion int      `json:"schemaVersion"`
	RelativeTo    string   `json:"relativeTo,omitempty"`
	Changes       []Change `json:"changes"`
	Notes         []string `json:"notes,omitempty"`
}

// Change is one figure of both runs.
type Change struct {
	Metric  string   `json:"metric"`
	Variant string   `json:"variant"`
	Unit    string   `json:"unit"`
	Old     Estimate `json:"old"`
	New     Estimate `json:"new"`
	Ratio   float64  `json:"ratio"` // of the medians
	P       float64  `json:"p"`
	PHolm   float64  `json:"pHolm"`
	Verdict string   `json:"verdict"`
	Worse   bool     `json:"worse"`
}

// Compare looks for what became better or worse. With relativeTo each figure is
// first divided by that variant's of the same round.
func Compare(old, new *Result, relativeTo string) (*Diff, error) {
	d := &Diff{SchemaVersion: 1, RelativeTo: relativeTo, Changes: []Change{}}
	same := old.Machine.CPU == new.Machine.CPU && old.Machine.Cores == new.Machine.Cores && old.Machine.Kernel == new.Machine.Kernel
	if !same && relativeTo == "" {
		return nil, fmt.Errorf("the runs are of different machines (%s, %d cores, Linux %s; %s, %d cores, Linux %s): add --relative-to VARIANT",
			old.Machine.CPU, old.Machine.Cores, old.Machine.Kernel, new.Machine.CPU, new.Machine.Cores, new.Machine.Kernel)
	}
	for _, run := range []struct {
		name string
		r    *Result
	}{{"the old run", old}, {"the new run", new}} {
		if relativeTo != "" && run.r.Variant(relativeTo) == nil {
			return nil, fmt.Errorf("--relative-to %s: %s has no such variant", relativeTo, run.name)
		}
		if a := Analyse(run.r); a.Noisy {
			d.Notes = append(d.Notes, fmt.Sprintf("NOISY: %s: %s", run.name, strings.Join(a.Reasons, "; ")))
		}
		if run.r.Incomplete != "" {
			d.Notes = append(d.Notes, fmt.Sprintf("INCOMPLETE: %s: %s", run.name, run.r.Incomplete))
		}
	}
	if old.Settings.TrialSeconds != new.Settings.TrialSeconds || old.Settings.Congestion != new.Settings.Congestion {
		d.Notes = append(d.Notes, "The runs were measured in different ways: their settings differ.")
	}
	var ps []float64
	for _, m := range new.Metrics {
		if m.Plain || old.Metric(m.Name) == nil {
			continue
		}
		for _, v := range new.Variants {
			if v.Kind != Contestant || v.Name == relativeTo {
				continue
			}
			x, y := figures(old, m, v.Name, relativeTo), figures(new, m, v.Name, relativeTo)
			if len(x) == 0 || len(y) == 0 {
				continue
			}
			c := benchmath.AssumeNothing.Compare(sampleOf(x), sampleOf(y))
			unit := m.Unit
			if relativeTo != "" {
				unit = "of " + relativeTo
			}
			ch := Change{Metric: m.Name, Variant: v.Name, Unit: unit, Old: medianOf(x), New: medianOf(y), P: c.P, Verdict: NoDifference}
			if ch.Old.Value > 0 {
				ch.Ratio = ch.New.Value / ch.Old.Value
			}
			d.Changes = append(d.Changes, ch)
			ps = append(ps, c.P)
		}
	}
	if len(d.Changes) == 0 {
		return nil, errors.New("the runs have no figure in common")
	}
	for i, p := range holm(ps) {
		ch := &d.Changes[i]
		ch.PHolm = p
		if p <= alpha && ch.Ratio > 0 && math.Abs(math.Log(ch.Ratio)) >= math.Log1p(difference) {
			m := new.Metric(ch.Metric)
			ch.Verdict = m.verdict(ch.Ratio)
			ch.Worse = ch.Verdict == m.Worse
		}
	}
	return d, nil
}

// figures are a variant's samples, or their ratios to another's.
func figures(r *Result, m Metric, variant, relativeTo string) []float64 {
	s := r.series(m.Name, variant)
	if relativeTo == "" {
		return s.Values
	}
	of := r.series(m.Name, relativeTo)
	var out []float64
	for i, round := range s.Rounds {
		if y, ok := of.at(round); ok && y+m.Step > 0 {
			out = append(out, (s.Values[i]+m.Step)/(y+m.Step))
		}
	}
	return out
}

func sampleOf(v []float64) *benchmath.Sample {
	return benchmath.NewSample(slices.Clone(v), &benchmath.DefaultThresholds)
}

// Table is the changes as rows.
func (d *Diff) Table() (header []string, rows [][]string) {
	for _, c := range d.Changes {
		rows = append(rows, []string{c.Metric, c.Variant, both(c.Old), both(c.New), c.Unit, fmt.Sprintf("%.3f", c.Ratio), pValue(c.PHolm), c.Verdict})
	}
	return []string{"METRIC", "VARIANT", "OLD", "NEW", "UNIT", "NEW / OLD", "P (HOLM)", "NEW IS"}, rows
}

// Err is a failure when something became worse.
func (d *Diff) Err() error {
	var worse []string
	for _, c := range d.Changes {
		if c.Worse {
			worse = append(worse, fmt.Sprintf("%s.%s is %s: %.3f of what it was", c.Variant, c.Metric, c.Verdict, c.Ratio))
		}
	}
	if len(worse) == 0 {
		return nil
	}
	return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("bench: %s", strings.Join(worse, "; "))}
}
