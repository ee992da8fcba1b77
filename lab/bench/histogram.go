package bench

import (
	"math"
	"time"
)

// histogram counts times in steps of 1 %, from 0.1 us to 100 s.
type histogram struct {
	counts [2100]int
	n      int
}

const (
	histogramBase  = 1.01
	histogramLeast = 0.1 // us
)

func (h *histogram) addAll(times []time.Duration) {
	for _, t := range times {
		us := float64(t) / float64(time.Microsecond)
		i := int(math.Log(max(us, histogramLeast)/histogramLeast) / math.Log(histogramBase))
		h.counts[min(i, len(h.counts)-1)]++
		h.n++
	}
}

// curveParts are where a curve is told: even steps on a scale where each half
// of what is left is as long as the one before.
func curveParts() []float64 {
	parts := []float64{0}
	for x := 0.25; x <= 13.3; x += 0.25 {
		parts = append(parts, 1-math.Pow(2, -x))
	}
	return parts
}

// curve is the times that so many were not above.
func (h *histogram) curve() (parts, micros []float64) {
	seen, i := 0, -1
	for _, p := range curveParts() {
		// Of too few nothing is told about the last ones.
		if p > 0 && (1-p)*float64(h.n) < 5 {
			break
		}
		for want := max(1, int(math.Ceil(p*float64(h.n)))); seen < want && i < len(h.counts)-1; {
			i++
			seen += h.counts[i]
		}
		parts = append(parts, p)
		micros = append(micros, histogramLeast*math.Pow(histogramBase, float64(i)+0.5))
	}
	return parts, micros
}
