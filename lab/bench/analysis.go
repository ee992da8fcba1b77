package bench

import (
	"fmt"
	"math"
)

// What a difference must be to be called one: so unlikely by chance, after
// Holm's correction, and so large.
const (
	alpha      = 0.01
	difference = 0.03
)

// NoDifference is the verdict on a pair of which nothing can be said.
const NoDifference = "no difference"

// Analysis is what the samples say. It is made from a Result by Analyse, and
// never stored: `labctl bench render` makes it anew.
type Analysis struct {
	Metrics []MetricAnalysis `json:"metrics"`
	// Noisy is true when the machine did other things meanwhile, or two labs of
	// the same backend differed.
	Noisy   bool     `json:"noisy"`
	Reasons []string `json:"reasons,omitempty"`
}

// MetricAnalysis is one metric's.
type MetricAnalysis struct {
	Metric
	Rounds int `json:"rounds"` // most of any variant
	// Unranked says why there is no ranking: "" when there is one.
	Unranked string `json:"unranked,omitempty"`
	// Null is the pair of labs of the same backend.
	Null  *Pair  `json:"null,omitempty"`
	Rows  []Row  `json:"rows"`
	Pairs []Pair `json:"pairs"`
}

// Row is one variant.
type Row struct {
	Variant string `json:"variant"`
	Kind    Kind   `json:"kind"`
	Estimate
	// Rank counts how many were found better, from 1; 0 is none. Those of which
	// no difference is known share a rank.
	Rank int `json:"rank,omitempty"`
	// OfBest is the ratio to the best contestant's, by rounds.
	OfBest *Estimate `json:"ofBest,omitempty"`
}

// Pair is two variants compared, A against B.
type Pair struct {
	A       string   `json:"a"`
	B       string   `json:"b"`
	Ratio   Estimate `json:"ratio"`   // A's over B's
	P       float64  `json:"p"`       // signed-rank test, both sides
	PHolm   float64  `json:"pHolm"`   // corrected for all pairs of the metric
	Verdict string   `json:"verdict"` // on A
}

// Differs says whether the verdict is a difference.
func (p Pair) Differs() bool { return p.Verdict != NoDifference }

// Analyse makes the medians and verdicts. It is a pure function.
func Analyse(r *Result) *Analysis {
	a := &Analysis{Metrics: []MetricAnalysis{}, Reasons: append([]string(nil), r.Noise.Reasons...)}
	for _, m := range r.Metrics {
		ma := analyseMetric(r, m)
		if n := ma.Null; n != nil && n.Differs() {
			a.Reasons = append(a.Reasons, fmt.Sprintf("%s: %s and %s, two labs of one backend, differ: %.3f (%.3f - %.3f)", m.Name, n.A, n.B, n.Ratio.Value, n.Ratio.Low, n.Ratio.High))
		}
		a.Metrics = append(a.Metrics, ma)
	}
	a.Noisy = len(a.Reasons) > 0
	return a
}

func analyseMetric(r *Result, m Metric) MetricAnalysis {
	ma := MetricAnalysis{Metric: m, Rows: []Row{}, Pairs: []Pair{}}
	var contestants []Series
	for _, v := range r.Variants {
		s := r.series(m.Name, v.Name)
		if len(s.Values) == 0 {
			continue
		}
		ma.Rounds = max(ma.Rounds, len(s.Values))
		ma.Rows = append(ma.Rows, Row{Variant: v.Name, Kind: v.Kind, Estimate: medianOf(s.Values)})
		switch v.Kind {
		case Contestant:
			contestants = append(contestants, s)
		case Null:
			if of := r.series(m.Name, v.Of); !m.Plain {
				if p, ok := compare(m, of, s); ok {
					p.PHolm = p.P
					p.judge(m, true)
					ma.Null = &p
				}
			}
		}
	}
	if m.Plain {
		ma.Unranked = "not compared"
		return ma
	}
	ma.pairs(contestants)
	ma.Unranked = ma.unranked(r)
	for i := range ma.Pairs {
		ma.Pairs[i].judge(m, ma.Unranked == "")
	}
	ma.rank(contestants)
	return ma
}

// pairs compares each two contestants.
func (ma *MetricAnalysis) pairs(contestants []Series) {
	var ps []float64
	for i, a := range contestants {
		for _, b := range contestants[i+1:] {
			if p, ok := compare(ma.Metric, a, b); ok {
				ma.Pairs = append(ma.Pairs, p)
				ps = append(ps, p.P)
			}
		}
	}
	for i, p := range holm(ps) {
		ma.Pairs[i].PHolm = p
	}
}

// compare makes a pair of what was measured in the same rounds.
func compare(m Metric, a, b Series) (Pair, bool) {
	var logs []float64
	for i, round := range a.Rounds {
		if y, ok := b.at(round); ok {
			if x := a.Values[i] + m.Step; x > 0 && y+m.Step > 0 {
				logs = append(logs, math.Log(x/(y+m.Step)))
			}
		}
	}
	if len(logs) == 0 {
		return Pair{}, false
	}
	p := signedRankTest(logs)
	return Pair{A: a.Variant, B: b.Variant, Ratio: pairedRatio(logs), P: p, PHolm: p, Verdict: NoDifference}, true
}

// judge decides on the pair. Where nothing is ranked there are no differences.
func (p *Pair) judge(m Metric, ranked bool) {
	p.Verdict = NoDifference
	if ranked && p.PHolm <= alpha && math.Abs(math.Log(p.Ratio.Value)) >= math.Log1p(difference) {
		p.Verdict = m.verdict(p.Ratio.Value)
	}
}

// unranked says why verdicts on this metric could not be trusted.
func (ma *MetricAnalysis) unranked(r *Result) string {
	least := r.Settings.LeastRounds
	for _, p := range ma.Pairs {
		if p.Ratio.N < least {
			return fmt.Sprintf("%d rounds, and a verdict needs %d", p.Ratio.N, least)
		}
	}
	switch {
	case len(ma.Pairs) == 0:
		return "nothing to compare it with"
	case ma.Null == nil:
		return "no pair of labs of one backend ran along"
	case ma.Null.Ratio.N < least:
		return fmt.Sprintf("%d rounds of the pair of labs of one backend, and a verdict needs %d", ma.Null.Ratio.N, least)
	case ma.Null.Differs():
		return fmt.Sprintf("%s and %s, two labs of one backend, differ", ma.Null.A, ma.Null.B)
	}
	return ""
}

// rank gives ranks, and all contestants' ratios to the best.
func (ma *MetricAnalysis) rank(contestants []Series) {
	best := -1
	for i, row := range ma.Rows {
		if row.Kind != Contestant {
			continue
		}
		if best < 0 || (row.Value > ma.Rows[best].Value) != ma.Less && row.Value != ma.Rows[best].Value {
			best = i
		}
		if ma.Unranked != "" {
			continue
		}
		ma.Rows[i].Rank = 1
		for _, p := range ma.Pairs {
			if p.A == row.Variant && p.Verdict == ma.Worse || p.B == row.Variant && p.Verdict == ma.Better {
				ma.Rows[i].Rank++
			}
		}
	}
	if best < 0 {
		return
	}
	var of Series
	for _, s := range contestants {
		if s.Variant == ma.Rows[best].Variant {
			of = s
		}
	}
	for i, row := range ma.Rows {
		for _, s := range contestants {
			if s.Variant != row.Variant || i == best {
				continue
			}
			if p, ok := compare(ma.Metric, s, of); ok {
				ma.Rows[i].OfBest = &p.Ratio
			}
		}
	}
}
