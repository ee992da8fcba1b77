package bench

import (
	"math/rand/v2"
	"time"
)

// leastRounds is how many rounds a verdict needs.
const leastRounds = 12

// precision is when a measurement has enough rounds: each contestant's median
// is known to so much, and each pair's ratio to so much. It says nothing of
// whether a difference was found: who stops when one is finds more than there
// are.
const (
	medianPrecision = 0.03
	ratioPrecision  = 0.02
)

// state is where one measurement is.
type state struct {
	name    string
	rounds  int
	least   int           // rounds that it has to have
	once    bool          // no rounds beyond them
	cost    time.Duration // of a round
	precise bool
}

// next chooses the measurement that gets the next round: one that has not had
// its least first, then the one that had the least time, of those that are not
// precise. Equals are drawn. ok is false when nothing is left to do in the time.
func next(all []state, left time.Duration, rng *rand.Rand) (i int, ok bool) {
	best, bestKey := -1, 0.0
	for _, k := range rng.Perm(len(all)) {
		p := all[k]
		if p.cost > left {
			continue
		}
		key := 0.0
		switch {
		case p.rounds < p.least:
			key = float64(p.rounds)/float64(p.least) - 2 // before all that have theirs
		case p.once, p.precise:
			continue
		default:
			key = (time.Duration(p.rounds) * p.cost).Seconds()
		}
		if best < 0 || key < bestKey {
			best, bestKey = k, key
		}
	}
	return best, best >= 0
}

// preciseOf says whether a measurement's samples so far tell enough.
func preciseOf(r *Result, measurement string) bool {
	seen := false
	for _, m := range r.Metrics {
		if m.Of != measurement || m.Plain {
			continue
		}
		ma := analyseMetric(r, m)
		seen = seen || len(ma.Rows) > 0
		for _, row := range ma.Rows {
			if row.Kind == Contestant && row.Spread() > medianPrecision {
				return false
			}
		}
		for _, p := range ma.Pairs {
			if p.Ratio.Spread() > ratioPrecision {
				return false
			}
		}
	}
	return seen
}
