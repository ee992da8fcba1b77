package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// The values are those of R 4.2: wilcox.test(x, exact = TRUE)$p.value, and for
// ties those of every combination of signs, counted out.
func TestSignedRankTest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"none", nil, 1},
		{"only zeros", []float64{0, 0}, 1},
		{"five, all on one side", []float64{1, 2, 3, 4, 5}, 2.0 / 32},
		{"twelve, all on one side", []float64{-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12}, 2.0 / 4096},
		{"one against", []float64{-1, 2, 3, 4, 5}, 4.0 / 32},
		{"even", []float64{-1, 1, -2, 2}, 1},
		// Hollander and Wolfe's depression scale, as in R's manual: V = 40.
		{"depression", []float64{0.952, -0.147, 1.022, 0.430, 0.620, 0.590, 0.490, -0.080, 0.010}, 0.0390625},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := signedRankTest(tt.values); math.Abs(got-tt.want) > 1e-12 {
				t.Errorf("signedRankTest(%v) = %v, want %v", tt.values, got, tt.want)
			}
		})
	}
}

// Counted out against all combinations of signs, ties included.
func TestSignedRankTestIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Map(rapid.IntRange(1, 6), func(i int) float64 { return float64(i) }), 1, 9).Draw(t, "sizes")
		signs := rapid.IntRange(0, 1<<len(v)-1).Draw(t, "signs")
		with := func(signs int) []float64 {
			out := slices.Clone(v)
			for i := range out {
				if signs>>i&1 == 1 {
					out[i] = -out[i]
				}
			}
			return out
		}
		// The sum of positive ranks, ranks of ties being means.
		sum := func(v []float64) float64 {
			var s float64
			for _, x := range v {
				if x <= 0 {
					continue
				}
				below, same := 0, 0
				for _, y := range v {
					switch {
					case math.Abs(y) < x:
						below++
					case math.Abs(y) == x:
						same++
					}
				}
				s += float64(below) + float64(same+1)/2
			}
			return s
		}
		half := float64(len(v)*(len(v)+1)) / 4
		as := 0
		for k := range 1 << len(v) {
			if math.Abs(sum(with(k))-half) >= math.Abs(sum(with(signs))-half)-1e-9 {
				as++
			}
		}
		want := float64(as) / float64(int(1)<<len(v))
		if got := signedRankTest(with(signs)); math.Abs(got-want) > 1e-9 {
			t.Fatalf("signedRankTest(%v) = %v, want %v", with(signs), got, want)
		}
	})
}

// Beyond exactMost the approximation takes over without a jump.
func TestSignedRankApproximation(t *testing.T) {
	t.Parallel()
	exact := newSignedRank(evenRanks(exactMost))
	near := exact
	near.cumulative = nil
	for w := exact.mean - 4*exact.sd; w < exact.mean+4*exact.sd; w += exact.sd / 3 {
		w := math.Floor(w)
		if a, b := exact.lower(w), near.lower(w); math.Abs(a-b) > 1e-3 {
			t.Errorf("lower(%v) = %v exactly, %v by approximation", w, a, b)
		}
	}
}

func TestHolm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ p, want []float64 }{
		{nil, []float64{}},
		{[]float64{0.02}, []float64{0.02}},
		// R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
		{[]float64{0.01, 0.04, 0.03, 0.005}, []float64{0.03, 0.06, 0.06, 0.02}},
		{[]float64{0.5, 0.6}, []float64{1, 1}},
	} {
		if diff := cmp.Diff(tt.want, holm(tt.p), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Errorf("holm(%v) (-want +got):\n%s", tt.p, diff)
		}
	}
}

func TestMedianOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values []float64
		want   Estimate
	}{
		{[]float64{3}, Estimate{3, 3, 3, 1}},
		{[]float64{4, 2}, Estimate{3, 2, 4, 2}},
		{[]float64{5, 1, 4, 2, 3, 6}, Estimate{3.5, 1, 6, 6}},
		// The 3rd and the 10th of 12: 96.1 %.
		{[]float64{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, Estimate{6.5, 3, 10, 12}},
	} {
		if diff := cmp.Diff(tt.want, medianOf(tt.values), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Errorf("medianOf(%v) (-want +got):\n%s", tt.values, diff)
		}
	}
}

// Both intervals hold the true value in about 95 % of samples, whatever these
// look like.
func TestIntervalsHoldTheTruth(t *testing.T) {
	t.Parallel()
	const runs = 2000
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{6, 12, 25} {
		for name, draw := range map[string]func() float64{
			"normal":  rng.NormFloat64,
			"uniform": func() float64 { return rng.Float64() - 0.5 },
			"cauchy":  func() float64 { return math.Tan(math.Pi * (rng.Float64() - 0.5)) },
		} {
			median, ratio := 0, 0
			for range runs {
				v := make([]float64, n)
				for i := range v {
					v[i] = draw() / 10
				}
				if e := medianOf(v); e.Low <= 0 && 0 <= e.High {
					median++
				}
				if e := pairedRatio(v); e.Low <= 1 && 1 <= e.High {
					ratio++
				}
			}
			for what, hits := range map[string]int{"median": median, "ratio": ratio} {
				if part := float64(hits) / runs; part < 0.935 {
					t.Errorf("%s of %d %s values: in the interval in %.3f of runs, want 0.95", what, n, name, part)
				}
			}
		}
	}
}

func ExampleEstimate_Spread() {
	fmt.Printf("%.2f %v\n", Estimate{Value: 10, Low: 9.5, High: 10.5, N: 12}.Spread(), Estimate{Value: 10, Low: 10, High: 10, N: 3}.Spread())
	// Output: 0.05 +Inf
}
