package bench

import (
	"cmp"
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

// confidence is that of all intervals.
const confidence = 0.95

// Estimate is a value with the interval that it is in with 95 % confidence.
type Estimate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	N     int     `json:"n"`
}

// intervalLeast is how many values an interval needs. Those of fewer are from
// the least to the greatest value, and Sure says no.
const intervalLeast = 6

// Sure says whether there were enough values for the interval to be one.
func (e Estimate) Sure() bool { return e.N >= intervalLeast }

// Spread is half the interval's width, as a part of the value. It is infinite
// where there are too few values for an interval.
func (e Estimate) Spread() float64 {
	switch {
	case !e.Sure():
		return math.Inf(1)
	case e.High == e.Low:
		return 0
	}
	return (e.High - e.Low) / 2 / math.Abs(e.Value)
}

// medianOf is the median of one value or more, with the interval that order
// statistics give, which assumes nothing about how values are distributed.
func medianOf(values []float64) Estimate {
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(values), &benchmath.DefaultThresholds), confidence)
	e := Estimate{Value: s.Center, Low: s.Lo, High: s.Hi, N: len(values)}
	e.Low, e.High = max(e.Low, slices.Min(values)), min(e.High, slices.Max(values))
	return e
}

// pairedRatio is the typical ratio of one pair or more, given the logarithms of
// their ratios: the Hodges-Lehmann estimate (the median of the means of any two),
// with the interval of the signed-rank test.
func pairedRatio(logs []float64) Estimate {
	n := len(logs)
	means := make([]float64, 0, n*(n+1)/2)
	for i, a := range logs {
		for _, b := range logs[i:] {
			means = append(means, (a+b)/2)
		}
	}
	slices.Sort(means)
	m := len(means)
	// As many of the smallest are left out as W may be at most with probability
	// (1-confidence)/2.
	cut := 0
	below := newSignedRank(evenRanks(n)).lower
	for cut < m/2 && below(float64(cut)) <= (1-confidence)/2 {
		cut++
	}
	cut = max(cut-1, 0) // the last that was not too likely
	mid := (means[(m-1)/2] + means[m/2]) / 2
	return Estimate{Value: math.Exp(mid), Low: math.Exp(means[cut]), High: math.Exp(means[m-1-cut]), N: n}
}

// signedRankTest is the p-value of Wilcoxon's signed-rank test, both sides: how
// likely values as far from 0 are if they lie evenly round it. Zeros are left
// out; it is exact also with ties.
func signedRankTest(values []float64) float64 {
	var v []float64
	for _, x := range values {
		if x != 0 {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return 1
	}
	slices.SortFunc(v, func(a, b float64) int { return cmp.Compare(math.Abs(a), math.Abs(b)) })
	ranks := make([]int, len(v)) // twice the ranks, so that those of ties are whole
	for i := 0; i < len(v); {
		j := i
		for j < len(v) && math.Abs(v[j]) == math.Abs(v[i]) {
			j++
		}
		for k := i; k < j; k++ {
			ranks[k] = i + 1 + j
		}
		i = j
	}
	plus, all := 0, 0
	for i, x := range v {
		all += ranks[i]
		if x > 0 {
			plus += ranks[i]
		}
	}
	d := newSignedRank(ranks)
	return min(1, 2*d.lower(float64(min(plus, all-plus))/2))
}

// signedRank is how the sum of the ranks of positive values is distributed when
// each sign is as likely as the other.
type signedRank struct {
	cumulative []float64 // by twice the sum; nil for many ranks
	mean, sd   float64
}

// exactMost is how many ranks are counted out; the normal approximation is good
// to four digits beyond.
const exactMost = 150

func evenRanks(n int) []int {
	ranks := make([]int, n)
	for i := range ranks {
		ranks[i] = 2 * (i + 1)
	}
	return ranks
}

// newSignedRank takes twice the ranks.
func newSignedRank(ranks []int) signedRank {
	var sum int
	var squares float64
	for _, r := range ranks {
		sum += r
		squares += float64(r) * float64(r)
	}
	d := signedRank{mean: float64(sum) / 4, sd: math.Sqrt(squares / 16)}
	if len(ranks) > exactMost {
		return d
	}
	ways := make([]float64, sum+1) // probabilities, as counts would overflow
	ways[0] = 1
	reach := 0
	for _, r := range ranks {
		reach += r
		for s := reach; s >= 0; s-- {
			ways[s] /= 2
			if s >= r {
				ways[s] += ways[s-r] / 2
			}
		}
	}
	for s := 1; s < len(ways); s++ {
		ways[s] += ways[s-1]
	}
	d.cumulative = ways
	return d
}

// lower is the probability that the sum is at most w.
func (d signedRank) lower(w float64) float64 {
	if d.cumulative != nil {
		if w < 0 {
			return 0
		}
		return min(d.cumulative[min(int(2*w), len(d.cumulative)-1)], 1)
	}
	return 0.5 * math.Erfc(-(w+0.5-d.mean)/d.sd/math.Sqrt2)
}

// holm corrects p-values for their number, by Holm's step-down method. The
// results are in the order of the arguments.
func holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	out := make([]float64, len(p))
	worst := 0.0
	for i, k := range order {
		worst = max(worst, min(1, p[k]*float64(len(p)-i)))
		out[k] = worst
	}
	return out
}
