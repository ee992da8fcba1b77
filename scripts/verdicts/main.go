// Command verdicts measures how far labctl bench can be trusted:
//
//	go run ./scripts/verdicts -labctl bin/labctl -runs 40
//
// Each run is one of four backends at the default budget: vxlan three times,
// the third held back by 5 %, and host-gw. A difference between the first two
// is a wrong one; the third's has to be found. A run takes a good minute.
//
// With -from FILE, a result that labctl bench --save wrote of the same variants
// (or without host-gw), runs are drawn from its rounds instead, with
// replacement, -rounds each: many runs for the price of a long one.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// The variants of a run.
const (
	first  = "vxlan"
	second = "vxlan-2"
	slow   = "vxlan-3"
)

// What is asked of the verdicts.
const (
	wrongMost  = 1.0 / 40
	foundLeast = 0.9
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	labctl := flag.String("labctl", "bin/labctl", "the binary")
	runs := flag.Int("runs", 40, "runs")
	from := flag.String("from", "", "draw runs from this result's rounds")
	rounds := flag.Int("rounds", 0, "rounds of a run that is drawn (default: as many as the result has)")
	seed := flag.Uint64("seed", 1, "of what is drawn")
	flag.Parse()
	if *from != "" && flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "verdicts: %q: flags of labctl bench, and -from runs none\n", flag.Args())
		os.Exit(2)
	}
	if err := run(ctx, *labctl, *runs, *from, *rounds, *seed, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// whole is the row of runs by what any of their metrics says.
const whole = "any"

// tally counts what the runs said about a metric.
type tally struct {
	runs, ranked, wrong, found, pairs int
	rounds                            []int
}

func run(ctx context.Context, labctl string, runs int, from string, rounds int, seed uint64, more []string) error {
	dir, err := os.MkdirTemp("", "verdicts")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "run.json")
	next := func() error {
		args := append([]string{"bench", "--backends", "vxlan,vxlan,vxlan,host-gw", "--slow", slow + "=5", "--save", file}, more...)
		return command(ctx, labctl, args...)
	}
	if from != "" {
		d, err := read(from)
		if err != nil {
			return err
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		next = func() error { return d.draw(rng, rounds, file) }
	}
	all := map[string]*tally{}
	for i := range runs {
		if err := next(); err != nil {
			return err
		}
		if err := count(ctx, labctl, file, all); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "\rrun %d of %d", i+1, runs)
	}
	fmt.Fprintln(os.Stderr)
	return judge(all)
}

func command(ctx context.Context, argv0 string, args ...string) error {
	cmd := exec.CommandContext(ctx, argv0, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", argv0, args, err, errs.String())
	}
	return nil
}

// count has labctl judge the file, and looks at the pairs that matter.
func count(ctx context.Context, labctl, file string, all map[string]*tally) error {
	cmd := exec.CommandContext(ctx, labctl, "bench", "render", file, "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("labctl bench render: %w", err)
	}
	var r struct {
		Analysis struct {
			Metrics []struct {
				Name, Unranked, Better string
				Plain                  bool
				Pairs                  []struct {
					A, B, Verdict string
					Ratio         struct{ N int }
				}
			}
		}
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	wrong, found := false, false // by any metric
	for _, m := range r.Analysis.Metrics {
		if m.Plain || m.Name == "cpu" { // to hold back costs other CPU than to work
			continue
		}
		t := all[m.Name]
		if t == nil {
			t = &tally{}
			all[m.Name] = t
		}
		t.runs++
		if m.Unranked == "" {
			t.ranked++
		}
		for _, p := range m.Pairs {
			switch {
			case p.A == first && p.B == second:
				t.rounds = append(t.rounds, p.Ratio.N)
				if p.Verdict != "no difference" {
					t.wrong++
					wrong = true
				}
			case (p.A == first || p.A == second) && p.B == slow:
				t.pairs++
				if p.Verdict == m.Better {
					t.found++
					found = found || p.A == first
				}
			}
		}
	}
	if all[whole] == nil {
		all[whole] = &tally{}
	}
	t := all[whole]
	t.runs, t.pairs = t.runs+1, t.pairs+1
	if wrong {
		t.wrong++
	}
	if found {
		t.found++
	}
	return nil
}

// judge prints the counts, and fails when those of whole runs are not good
// enough: what slows a backend down by 5 % need not show in every metric.
func judge(all map[string]*tally) error {
	fmt.Printf("%-8s %6s %8s %8s %24s %24s\n", "METRIC", "RUNS", "ROUNDS", "RANKED", "A AGAINST A: DIFFERENT", "5 % SLOWER: FOUND")
	for _, name := range sorted(all) {
		t := all[name]
		if t.pairs == 0 {
			return fmt.Errorf("%s: the runs have not the variants %s, %s and %s", name, first, second, slow)
		}
		rounds := "-"
		if len(t.rounds) > 0 {
			slices.Sort(t.rounds)
			rounds = strconv.Itoa(t.rounds[len(t.rounds)/2])
		}
		ranked := "-"
		if name != whole {
			ranked = strconv.Itoa(t.ranked)
		}
		fmt.Printf("%-8s %6d %8s %8s %21d/%d %16d/%d = %.0f %%\n", name, t.runs, rounds, ranked, t.wrong, t.runs, t.found, t.pairs, 100*t.share())
	}
	var errs []error
	t := all[whole]
	if float64(t.wrong) > wrongMost*float64(t.runs) {
		errs = append(errs, fmt.Errorf("%d of %d runs told A and A apart, want 1 of 40 at most", t.wrong, t.runs))
	}
	if t.share() < foundLeast {
		errs = append(errs, fmt.Errorf("5 %% were found in %.0f %% of the runs, want 90 %%", 100*t.share()))
	}
	return errors.Join(errs...)
}

// share is the part of the pairs in which the slower one was found.
func (t *tally) share() float64 { return float64(t.found) / float64(t.pairs) }

func sorted(all map[string]*tally) []string {
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// data is a result as it stands in its file, but for the series.
type data struct {
	rest   map[string]json.RawMessage
	series []series
}

type series struct {
	Metric  string    `json:"metric"`
	Variant string    `json:"variant"`
	Rounds  []int     `json:"rounds"`
	Values  []float64 `json:"values"`
}

func read(file string) (*data, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &data{}
	if err := json.Unmarshal(b, &d.rest); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := json.Unmarshal(d.rest["series"], &d.series); err != nil {
		return nil, fmt.Errorf("%s: series: %w", file, err)
	}
	return d, nil
}

// draw writes a run whose rounds are drawn from those there are: whole rounds,
// so that what belongs together stays so.
func (d *data) draw(rng *rand.Rand, rounds int, file string) error {
	drawn := map[string][]int{} // rounds by metric
	var out []series
	for _, s := range d.series {
		if drawn[s.Metric] == nil {
			n := rounds
			if n == 0 {
				n = len(s.Rounds)
			}
			for range n {
				drawn[s.Metric] = append(drawn[s.Metric], s.Rounds[rng.IntN(len(s.Rounds))])
			}
		}
		one := series{Metric: s.Metric, Variant: s.Variant}
		for i, round := range drawn[s.Metric] {
			if k, ok := slices.BinarySearch(s.Rounds, round); ok {
				one.Rounds, one.Values = append(one.Rounds, i+1), append(one.Values, s.Values[k])
			}
		}
		out = append(out, one)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	d.rest["series"] = b
	if b, err = json.Marshal(d.rest); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
