package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"labctl/lab"
)

// Options are for a run.
type Options struct {
	Labctl   string // version
	Entries  []Entry
	Settings Settings
	// OnProgress is called after each trial. It may be nil.
	OnProgress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Phase   string // what it does: "labs", "warm-up", or the measurement
	Round   int
	Variant string
	Spent   time.Duration // of measuring
	Left    time.Duration // at most
}

// DefaultSettings are those of a run of which nothing else is said.
func DefaultSettings() Settings {
	return Settings{Measurements: DefaultMeasurements(), Streams: 4, TrialSeconds: 0.3, LeastRounds: leastRounds,
		Precision: medianPrecision, Congestion: "cubic", RequestBytes: 64, RequestRate: 2000, Seed: rand.Uint64()}
}

// run is one under way.
type run struct {
	result     *Result
	trial      time.Duration
	rng        *rand.Rand
	targets    []*target
	begun      time.Time
	budget     time.Duration
	allowed    []int // processors that we may use
	processors []int // of this round's threads, the same for all variants; none on a machine with one
	used       usage // in trials
	mhz        []float64
	rates      map[string]float64 // pps: of the round before
	skipped    map[string]int     // by measurement and variant: failures in a row
	progress   func(Progress)

	mu         sync.Mutex            // guards all below: trials of a round may be under way at once
	histograms map[string]*histogram // by measurement and variant
}

// overhead is what a trial takes beside its time: to connect, to ask.
const overhead = 15 * time.Millisecond

// Cost is what a run takes at least and at most, without its labs.
func Cost(entries []Entry, s Settings) (least, most time.Duration, err error) {
	chosen, err := choose(s)
	if err != nil {
		return 0, 0, err
	}
	trial := inSeconds(s.TrialSeconds)
	more := false
	for _, m := range chosen {
		for _, e := range entries {
			rounds := m.rounds(e.Kind, s)
			if rounds > 0 && !m.once {
				least += m.length(min(trial, warmUp))
				more = true
			}
			least += time.Duration(rounds) * m.length(trial)
		}
	}
	most = least
	if more {
		most = max(least, inSeconds(s.BudgetSecs))
	}
	return least, most, nil
}

// DefaultBudget is what a run may take that has no other: 70 s for four
// contestants and two measurements, of which the baselines take 10, and in
// proportion for others; but at least what the least rounds take.
func DefaultBudget(entries []Entry, s Settings) (time.Duration, error) {
	contestants := 0
	for _, e := range entries {
		if e.Kind == Contestant {
			contestants++
		}
	}
	least, _, err := Cost(entries, s)
	chosen, cerr := choose(s)
	const each = 8750 * time.Millisecond
	return max(time.Duration(contestants*len(chosen))*each, least), errors.Join(err, cerr)
}

// length is about how long a trial takes.
func (m measurement) length(trial time.Duration) time.Duration {
	if m.cost > 0 {
		return m.cost
	}
	return trial + ramp + overhead
}

// rounds are those that a kind of variant has at least.
func (m measurement) rounds(k Kind, s Settings) int {
	least := m.least
	if least > 1 {
		least = s.LeastRounds
	}
	if k == Baseline {
		if !m.baselines {
			return 0
		}
		return min(least, baselineRounds)
	}
	return least
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Run brings the labs up, measures and takes them down. What was measured is
// returned with an error, too, unless nothing was.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	chosen, err := choose(o.Settings)
	if err != nil {
		return nil, err
	}
	from := time.Now()
	r := &run{result: &Result{SchemaVersion: 1, Labctl: o.Labctl, Started: from, Settings: o.Settings, Machine: thisMachine()},
		trial: inSeconds(o.Settings.TrialSeconds), budget: inSeconds(o.Settings.BudgetSecs),
		rng:   rand.New(rand.NewPCG(o.Settings.Seed, 0)),
		rates: map[string]float64{}, histograms: map[string]*histogram{}, skipped: map[string]int{}, progress: o.OnProgress}
	if r.progress == nil {
		r.progress = func(Progress) {}
	}
	for _, m := range chosen {
		r.result.Metrics = append(r.result.Metrics, m.metrics...)
	}
	var labs running
	defer func() { err = errors.Join(err, labs.close(context.WithoutCancel(ctx))) }()
	r.progress(Progress{Phase: "labs", Left: r.budget})
	if r.targets, err = labs.up(ctx, o.Entries); err != nil {
		return nil, err
	}
	for _, t := range r.targets {
		r.result.Variants = append(r.result.Variants, t.Variant)
	}
	labs.watch(ctx, r.targets)
	err = r.measure(ctx, chosen)
	if ctx.Err() != nil {
		r.result.Incomplete = "interrupted"
		err = &lab.Failure{Kind: lab.Interrupted, Err: errors.New("interrupted; the labs of this run are down")}
	}
	r.finish(from)
	return r.result, err
}

// finish adds what is known at the end.
func (r *run) finish(from time.Time) {
	r.result.Noise = noiseOf(r.used, r.result.Machine.Load, r.mhz, r.result.Machine.Cores)
	for key, h := range r.histograms {
		parts, micros := h.curve()
		m, v, _ := cut(key)
		r.result.Curves = append(r.result.Curves, Curve{Measurement: m, Variant: v, Parts: parts, Micros: micros})
	}
	slices.SortFunc(r.result.Curves, func(a, b Curve) int {
		return r.place(a) - r.place(b)
	})
	r.result.Seconds = time.Since(from).Seconds()
}

// place orders curves as metrics and variants are.
func (r *run) place(c Curve) int {
	m := slices.IndexFunc(r.result.Metrics, func(m Metric) bool { return m.Of == c.Measurement })
	v := slices.IndexFunc(r.result.Variants, func(v Variant) bool { return v.Name == c.Variant })
	return m*len(r.result.Variants) + v
}

// key and cut name a measurement of a variant.
func key(measurement, variant string) string { return measurement + "\x00" + variant }

func cut(key string) (measurement, variant string, ok bool) {
	for i := range len(key) {
		if key[i] == 0 {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}

// measure is the warm-up and the rounds.
func (r *run) measure(ctx context.Context, chosen []measurement) error {
	r.begun = time.Now()
	var err error
	if r.allowed, err = allowedProcessors(); err != nil {
		return err
	}
	all := make([]state, len(chosen))
	for i, m := range chosen {
		all[i] = state{name: m.name, least: m.rounds(Contestant, r.result.Settings), once: m.once}
		for _, t := range r.targets {
			if m.rounds(t.Kind, r.result.Settings) > 0 && t.Missing == "" {
				all[i].cost += m.length(r.trial)
			}
		}
	}
	for _, m := range chosen {
		if m.once {
			continue
		}
		if err := r.round(ctx, m, 0); err != nil {
			return err
		}
	}
	// What the warm-up did counts nowhere.
	r.used, r.histograms = usage{}, map[string]*histogram{}
	for {
		i, ok := next(all, r.budget-time.Since(r.begun), r.rng)
		if !ok {
			break
		}
		p := &all[i]
		p.rounds++
		from := time.Now()
		if err := r.round(ctx, chosen[i], p.rounds); err != nil {
			return err
		}
		p.cost = time.Since(from) // baselines end sooner
		p.precise = p.rounds >= p.least && preciseOf(r.result, p.name)
		if mhz := megahertz(); mhz > 0 {
			r.mhz = append(r.mhz, mhz)
		}
	}
	for _, p := range all {
		if p.rounds < p.least {
			r.result.Incomplete = fmt.Sprintf("the budget of %v ended with %d rounds of %s, and it should have %d", r.budget, p.rounds, p.name, p.least)
		}
	}
	return nil
}

// warmUp is how long the trials of the round that is dropped are.
const warmUp = 100 * time.Millisecond

// round measures every variant once, in random order. Round 0 is the warm-up.
func (r *run) round(ctx context.Context, m measurement, round int) error {
	if n := len(r.allowed); n > 1 {
		// Each has its turn, as they are not alike: interrupts go to some.
		r.processors = append(slices.Clone(r.allowed[round%n:]), r.allowed[:round%n]...)
	}
	var takers []*target
	for _, t := range r.targets {
		switch rounds := m.rounds(t.Kind, r.result.Settings); {
		case t.Missing != "" || rounds == 0:
		case t.Kind == Baseline && round > rounds:
		case r.skipped[key(m.name, t.Name)] >= failuresMost:
		default:
			takers = append(takers, t)
		}
	}
	r.rng.Shuffle(len(takers), func(i, j int) { takers[i], takers[j] = takers[j], takers[i] })
	length := r.trial
	phase := m.name
	if round == 0 {
		length, phase = min(length, warmUp), "warm-up"
	}
	progress := func(variant string) {
		spent := time.Since(r.begun)
		r.progress(Progress{Phase: phase, Round: round, Variant: variant, Spent: spent, Left: max(r.budget-spent, 0)})
	}
	if m.turn > 0 && len(takers) > 1 {
		progress("all in turn")
		return r.together(ctx, m, takers, round, length)
	}
	for _, t := range takers {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		progress(t.Name)
		o := r.take(ctx, m, t, length)
		if err := r.keep(ctx, m, t, round, o); err != nil {
			return err
		}
	}
	return nil
}

// together makes the trials of a round at once, one going on at a time.
func (r *run) together(ctx context.Context, m measurement, takers []*target, round int, length time.Duration) error {
	var agents []int
	for _, t := range takers {
		if pids, _, err := t.agents(ctx); err == nil { // its trial will tell
			agents = append(agents, pids...)
		}
	}
	before, err := readUsage(agents)
	if err != nil {
		return err
	}
	outcomes := make([]outcome, len(takers))
	seats := newTurns(len(takers), m.turn)
	var wg sync.WaitGroup
	for i, t := range takers {
		t.seat = seats[i]
		wg.Go(func() {
			defer t.seat.leave()
			outcomes[i] = r.take(ctx, m, t, length)
		})
	}
	wg.Wait()
	for _, t := range takers {
		t.seat = nil
	}
	after, err := readUsage(agents)
	if err != nil {
		return err
	}
	r.used = r.used.plus(after.since(before))
	for i, t := range takers {
		if err := r.keep(ctx, m, t, round, outcomes[i]); err != nil {
			return err
		}
	}
	return nil
}

// failuresMost is how many trials in a row may fail until a measurement of a
// variant is given up.
const failuresMost = 3

// outcome is what a trial gave.
type outcome struct {
	values map[string]float64
	err    error
	unwell string // what the lab suffered meanwhile
}

// take makes a trial. Those of a round may be under way at once.
func (r *run) take(ctx context.Context, m measurement, t *target, length time.Duration) (o outcome) {
	events := t.health.look()
	o.values, o.err = m.take(ctx, r, t, length)
	o.unwell = t.health.since(events)
	return o
}

// keep takes a trial's outcome into the result. One that failed, or during which
// the lab was not well, is discarded with its reason.
func (r *run) keep(ctx context.Context, m measurement, t *target, round int, o outcome) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	reason := ""
	if o.err != nil {
		reason = o.err.Error()
	}
	if o.unwell != "" && !m.disturbs {
		reason = o.unwell
	}
	k := key(m.name, t.Name)
	if reason != "" {
		r.result.Discarded = append(r.result.Discarded, Discard{Measurement: m.name, Variant: t.Name, Round: round, Reason: reason})
		r.skipped[k]++
		if errors.Is(o.err, errAbsent) {
			r.skipped[k] = failuresMost
		}
		return nil
	}
	r.skipped[k] = 0
	if round == 0 {
		return nil
	}
	for _, metric := range m.metrics {
		if v, ok := o.values[metric.Name]; ok {
			r.result.add(metric.Name, t.Name, round, v)
		}
	}
	return nil
}

// addLatencies adds to the histogram of a variant's.
func (r *run) addLatencies(measurement, variant string, times []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key(measurement, variant)
	if r.histograms[k] == nil {
		r.histograms[k] = &histogram{}
	}
	r.histograms[k].addAll(times)
}
