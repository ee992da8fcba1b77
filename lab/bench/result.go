package bench

import (
	"slices"
	"time"
)

// Result is what a run measured: raw samples, and what they were taken on.
// `labctl bench -o json` prints it; fields are only ever added.
type Result struct {
	SchemaVersion int       `json:"schemaVersion"`
	Labctl        string    `json:"labctl"` // version
	Started       time.Time `json:"started"`
	Seconds       float64   `json:"seconds"` // labs included
	// Incomplete says why the run ended before its time, if it did.
	Incomplete string    `json:"incomplete,omitempty"`
	Settings   Settings  `json:"settings"`
	Machine    Machine   `json:"machine"`
	Variants   []Variant `json:"variants"`
	Metrics    []Metric  `json:"metrics"`
	Series     []Series  `json:"series"`
	Curves     []Curve   `json:"curves,omitempty"`
	// Discarded are trials that do not count.
	Discarded []Discard `json:"discarded,omitempty"`
	// Noise is what else the machine did.
	Noise Noise `json:"noise"`
}

// Settings are how it was measured.
type Settings struct {
	Topology     string   `json:"topology"`
	Measurements []string `json:"measurements"`
	Streams      int      `json:"streams"` // of the measurement with several
	TrialSeconds float64  `json:"trialSeconds"`
	BudgetSecs   float64  `json:"budgetSeconds"`
	LeastRounds  int      `json:"leastRounds"`
	Precision    float64  `json:"precision"` // the medians' spread at which it stops
	Congestion   string   `json:"congestion"`
	RequestBytes int      `json:"requestBytes"`
	RequestRate  float64  `json:"requestRate"` // a second, where it is fixed
	Seed         uint64   `json:"seed"`        // of the order
	// FaultsSeconds is how long the longest timeline of faults lasts; 0: no lab has one.
	FaultsSeconds float64 `json:"faultsSeconds,omitempty"`
}

// Kind is why a variant is measured.
type Kind string

// The kinds of variants.
const (
	Contestant Kind = "backend"  // is compared and ranked
	Null       Kind = "null"     // a second lab of a contestant: A against A
	Baseline   Kind = "baseline" // shows what the machine can do at best
)

// Variant is one of the networks side by side.
type Variant struct {
	Name    string  `json:"name"`
	Kind    Kind    `json:"kind"`
	About   string  `json:"about,omitempty"`
	Of      string  `json:"of,omitempty"`      // of a null: the contestant
	Lab     string  `json:"lab"`               // the file, or what it was made from
	Backend string  `json:"backend,omitempty"` // flannel's type
	Offload bool    `json:"offload"`
	From    string  `json:"from"`
	To      string  `json:"to"`
	Slow    float64 `json:"slow,omitempty"` // the part by which it was held back by order
	// Missing says why it was not measured; Cure what would mend that.
	Missing string `json:"missing,omitempty"`
	Cure    string `json:"cure,omitempty"`
	Path    []Hop  `json:"path,omitempty"`
}

// Hop is a network device of the nodes that a variant's packets cross.
type Hop struct {
	Device   string   `json:"device"` // node1:eth0
	MTU      int      `json:"mtu"`
	Qdisc    string   `json:"qdisc"`
	Offloads []string `json:"offloads"` // those that are on
}

// Series is the samples of one metric of one variant, in the order of rounds.
// A measurement's rounds count from 1; one that was discarded is not there.
type Series struct {
	Metric  string    `json:"metric"`
	Variant string    `json:"variant"`
	Rounds  []int     `json:"rounds"`
	Values  []float64 `json:"values"`
}

// Curve is how one measurement's latencies are distributed over all rounds.
type Curve struct {
	Measurement string    `json:"measurement"`
	Variant     string    `json:"variant"`
	Parts       []float64 `json:"parts"`  // of the requests, 0 to 1
	Micros      []float64 `json:"micros"` // that so many were not above
}

// Discard is a trial that does not count, and why.
type Discard struct {
	Measurement string `json:"measurement"`
	Variant     string `json:"variant"`
	Round       int    `json:"round"`
	Reason      string `json:"reason"`
}

// Noise is what else the machine did while it measured, as parts of its time.
type Noise struct {
	Steal   float64 `json:"steal"`   // taken by the hypervisor
	Foreign float64 `json:"foreign"` // user time of processes that are not ours
	Load    float64 `json:"load"`    // the load average before
	// MHzChange is the range of the clock's frequency between rounds over its
	// median, 0 where the machine does not tell.
	MHzChange float64 `json:"mhzChange"`
	// Reasons make the run noisy; without one it is not.
	Reasons []string `json:"reasons,omitempty"`
}

// Variant is the one called name.
func (r *Result) Variant(name string) *Variant {
	i := slices.IndexFunc(r.Variants, func(v Variant) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Variants[i]
}

// Metric is the one called name.
func (r *Result) Metric(name string) *Metric {
	i := slices.IndexFunc(r.Metrics, func(m Metric) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Metrics[i]
}

// series are a metric's samples of a variant; without any it is empty.
func (r *Result) series(metric, variant string) Series {
	for _, s := range r.Series {
		if s.Metric == metric && s.Variant == variant {
			return s
		}
	}
	return Series{Metric: metric, Variant: variant}
}

// add appends a sample.
func (r *Result) add(metric, variant string, round int, value float64) {
	i := slices.IndexFunc(r.Series, func(s Series) bool { return s.Metric == metric && s.Variant == variant })
	if i < 0 {
		r.Series = append(r.Series, Series{Metric: metric, Variant: variant})
		i = len(r.Series) - 1
	}
	s := &r.Series[i]
	s.Rounds, s.Values = append(s.Rounds, round), append(s.Values, value)
}

// at is the sample of a round.
func (s Series) at(round int) (float64, bool) {
	i, ok := slices.BinarySearch(s.Rounds, round)
	if !ok {
		return 0, false
	}
	return s.Values[i], true
}
