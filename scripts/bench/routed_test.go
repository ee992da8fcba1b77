package main

import "testing"

// The ranks are those of a table of the sign test (Conover, Practical
// Nonparametric Statistics): the interval has at least 95 %.
func TestInterval(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][2]float64{6: {1, 6}, 8: {1, 8}, 9: {2, 8}, 12: {3, 10}, 20: {6, 15}, 25: {8, 18}} {
		var v []float64
		for i := range n {
			v = append(v, float64(n-i))
		}
		if low, high := interval(v); low != want[0] || high != want[1] {
			t.Errorf("interval of 1 to %d = %v, %v; want %v", n, low, high, want)
		}
	}
}
