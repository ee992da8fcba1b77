package bench

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is there is found, with the drift of the whole machine five times the
// smallest difference between two.
func TestAnalyse(t *testing.T) {
	t.Parallel()
	a := Analyse(four().run(seeded(1)))
	m := a.Metrics[0]
	if m.Unranked != "" || a.Noisy {
		t.Fatalf("unranked %q, noisy %v %v", m.Unranked, a.Noisy, a.Reasons)
	}
	got := map[string]string{}
	for _, p := range m.Pairs {
		got[p.A+" "+p.B] = p.Verdict
	}
	want := map[string]string{"host-gw vxlan": "faster", "host-gw udp": "faster", "host-gw calico": NoDifference,
		"vxlan udp": "faster", "vxlan calico": "slower", "udp calico": "slower"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	ranks := map[string]int{}
	for _, r := range m.Rows {
		ranks[r.Variant] = r.Rank
	}
	if diff := cmp.Diff(map[string]int{"host-gw": 1, "calico": 1, "vxlan": 3, "udp": 4, "host-gw-2": 0}, ranks); diff != "" {
		t.Errorf("ranks (-want +got):\n%s", diff)
	}
}

// Without a passing null test, or enough rounds, there are no verdicts.
func TestAnalyseRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*world, *Result)
		want   string
	}{
		{"the null differs", func(w *world, _ *Result) { w.truth["host-gw-2"] = 17 }, "host-gw and host-gw-2, two labs of one backend, differ"},
		{"no null", func(w *world, _ *Result) { w.order = []string{"vxlan", "udp"} }, "no pair of labs of one backend ran along"},
		{"too few rounds", func(w *world, _ *Result) { w.rounds = 11 }, "11 rounds, and a verdict needs 12"},
		{"alone", func(w *world, _ *Result) { w.order = []string{"vxlan", "vxlan-2"}; w.truth["vxlan-2"] = 12 }, "nothing to compare it with"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := four()
			tt.change(&w, nil)
			m := Analyse(w.run(seeded(2))).Metrics[0]
			if !strings.Contains(m.Unranked, tt.want) {
				t.Errorf("Unranked = %q, want %q", m.Unranked, tt.want)
			}
			for _, p := range m.Pairs {
				if p.Differs() {
					t.Errorf("%s, %s: %s, and nothing may be said", p.A, p.B, p.Verdict)
				}
			}
			for _, r := range m.Rows {
				if r.Rank != 0 {
					t.Errorf("%s has rank %d", r.Variant, r.Rank)
				}
			}
		})
	}
}

// Less is better for times: the words turn round.
func TestAnalyseLessIsBetter(t *testing.T) {
	t.Parallel()
	r := four().run(seeded(3))
	r.Metrics[0] = quicker("tcp1", "round trip", "us", "tcp1")
	m := Analyse(r).Metrics[0]
	i := slices.IndexFunc(m.Rows, func(r Row) bool { return r.Variant == "udp" })
	if m.Rows[i].Rank != 1 || m.Pairs[0].Verdict != "slower" {
		t.Errorf("udp has rank %d, host-gw against vxlan is %s; want 1 and slower", m.Rows[i].Rank, m.Pairs[0].Verdict)
	}
}

// The verdicts are as good as they say: equals are told apart in at most 1 of
// 40 runs, and 5 % of slowness is found in 9 of 10 where rounds are even enough.
func TestVerdictsKeepTheirPromise(t *testing.T) {
	t.Parallel()
	const runs = 400
	rng := seeded(4)
	wrong, found, nulls := 0, 0, 0
	for range runs {
		w := world{order: []string{"a", "b", "c", "d", "a-2"}, spread: 0.03, drift: 0.1, rounds: 25,
			truth: map[string]float64{"a": 10, "b": 10, "c": 9.5, "d": 6, "a-2": 10}}
		m := Analyse(w.run(rng)).Metrics[0]
		if m.Unranked != "" {
			nulls++
			continue
		}
		for _, p := range m.Pairs {
			switch {
			case p.A == "a" && p.B == "b" && p.Differs():
				wrong++
			case p.A == "a" && p.B == "c" && p.Verdict == "faster":
				found++
			}
		}
	}
	if wrong > runs/40 || nulls > runs/40 {
		t.Errorf("of %d runs %d told equals apart and %d had a failed null, want at most %d each", runs, wrong, nulls, runs/40)
	}
	if found < runs*9/10 {
		t.Errorf("5 %% found in %d of %d runs, want 9 of 10", found, runs)
	}
}
