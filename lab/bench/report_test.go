package bench

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
)

// whole is a result that has something of everything, with names that would
// break out of text that is not escaped.
func whole() *Result {
	r := four().run(seeded(8))
	r.Settings.Topology = `<two> & "hosts"`
	r.Variants = append(r.Variants,
		Variant{Name: "veth", Kind: Baseline}, Variant{Name: "wireguard", Kind: Contestant, Missing: "no | such <device>", Cure: "load it"})
	r.Variants[0].Path = []Hop{{Device: "node1:eth0", MTU: 1500, Qdisc: "noqueue", Offloads: []string{"tso", "gso"}}, {Device: "node1:cni0", MTU: 1500, Qdisc: "noqueue"}}
	cpu := quicker("cpu", "CPU", "µs/MB", "tcp1")
	cpu.Better, cpu.Worse = "cheaper", "dearer"
	r.Metrics = append(r.Metrics, cpu, part("cpu-user", "user", "µs/MB", "tcp1"), part("cpu-system", "system", "µs/MB", "tcp1"),
		part("cpu-softirq", "softirq", "µs/MB", "tcp1"), part("cpu-agents", "agents", "µs/MB", "tcp1"), quicker("rr", "request and answer", "µs", "rr"))
	for round := 1; round <= 6; round++ {
		r.add("tcp1", "veth", round, 50)
	}
	for round := 1; round <= 15; round++ {
		for i, v := range []string{"host-gw", "vxlan", "udp", "host-gw-2", "calico"} {
			x := float64(100*(i%3+1)) + float64(round%5)
			r.add("cpu", v, round, x)
			r.add("cpu-user", v, round, x/5)
			r.add("cpu-system", v, round, x/4)
			r.add("cpu-softirq", v, round, x/3)
			r.add("cpu-agents", v, round, float64(i%2)*x/6)
			r.add("rr", v, round, x/2)
		}
	}
	h := &histogram{}
	for i := range 20000 {
		h.addAll([]time.Duration{time.Duration(20000 + i*i/100)})
	}
	parts, micros := h.curve()
	r.Curves = []Curve{{"rr", "host-gw", parts, micros}, {"rr", "vxlan", parts, micros}}
	r.Discarded = []Discard{{"rr", "udp", 3, "the lab was degraded"}, {"rr", "udp", 4, "the lab is gone"}}
	return r
}

// The page is well-formed, has its charts, and asks for nothing from elsewhere.
func TestHTML(t *testing.T) {
	t.Parallel()
	r := whole()
	page := HTML(r, Analyse(r))
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(page, "<!DOCTYPE html>")))
	d.Entity = xml.HTMLEntity
	charts := map[string]int{}
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		if e.Name.Local == "script" {
			t.Error("there is a script")
		}
		for _, a := range e.Attr {
			if e.Name.Local == "svg" && a.Name.Local == "class" {
				charts[a.Value]++
			}
			if (a.Name.Local == "src" || a.Name.Local == "href") && !strings.HasPrefix(a.Value, "data:") {
				t.Errorf("%s %s=%q: the page needs something else", e.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if charts["chart bars"] != 3 || charts["chart cpu"] != 1 || charts["chart curves"] != 1 {
		t.Errorf("charts %v, want 3 of bars, one of cpu, one of curves", charts)
	}
	for _, want := range []string{"prefers-color-scheme:dark", "@media print", "&lt;two&gt; &amp;", "wireguard", "node1:eth0: 1500, noqueue, tso gso"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if m := regexp.MustCompile(`NaN|Inf`).FindString(page); m != "" {
		t.Errorf("%s in the page", m)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	r := whole()
	got := Markdown(r, Analyse(r))
	for _, want := range []string{
		"**tcp1: 1 TCP stream, Gbit/s; more is better**\n\n| variant | median | 95 % | n | of the best | rank | from 0 |\n|---|---|---|---|---|---|---|\n", "| baseline | ████████████████████████→ |",
		"A against A: host-gw / host-gw-2 is ",
		`| wireguard | no \| such &lt;device> | load it |`,
		"| udp | rr | 2 | the lab is gone |",
		"| variant | cpu-user, µs/MB |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	w := four()
	w.drift = 0
	old := w.run(seeded(9))
	w.truth["udp"] *= 0.8
	slower := w.run(seeded(10))
	d, err := Compare(old, slower, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Err(); lab.ExitCode(err) != 1 || !strings.Contains(err.Error(), "udp.tcp1 is slower") || strings.Contains(err.Error(), "vxlan") {
		t.Errorf("Err() = %v, want udp.tcp1 slower and nothing else", err)
	}
	if d, err = Compare(slower, old, "host-gw"); err != nil || d.Err() != nil || len(d.Changes) != 3 {
		t.Errorf("Compare(new, old) = %v, %v, %d changes; want no regression in 3", err, d.Err(), len(d.Changes))
	}
	slower.Machine.Kernel = "7.0.0"
	if _, err = Compare(old, slower, ""); err == nil || !strings.Contains(err.Error(), "add --relative-to") {
		t.Errorf("Compare() of two machines = %v, want it refused", err)
	}
	if _, err = Compare(old, slower, "nobody"); err == nil {
		t.Error("Compare() relative to nobody: no error")
	}
}

// What is left when a test says how long it takes: the least first, then those
// that are not precise, and nothing that does not fit.
func TestNext(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, tt := range []struct {
		name string
		all  []state
		left time.Duration
		want int // -1: nothing
	}{
		{"the least first", []state{{rounds: 12, least: 12, cost: s}, {rounds: 11, least: 12, cost: s}}, 10 * s, 1},
		{"who has less of its least", []state{{rounds: 3, least: 12, cost: s}, {rounds: 0, least: 1, cost: s}}, 10 * s, 1},
		{"who had less time", []state{{rounds: 13, least: 12, cost: 3 * s}, {rounds: 20, least: 12, cost: s}}, 10 * s, 1},
		{"not the precise", []state{{rounds: 12, least: 12, cost: s, precise: true}, {rounds: 50, least: 12, cost: s}}, 10 * s, 1},
		{"not those that are done", []state{{rounds: 1, least: 1, once: true, cost: s}}, 10 * s, -1},
		{"what fits", []state{{rounds: 0, least: 12, cost: 20 * s}, {rounds: 12, least: 12, cost: s}}, 10 * s, 1},
		{"no time", []state{{rounds: 0, least: 12, cost: s}}, s / 2, -1},
		{"all precise", []state{{rounds: 12, least: 12, precise: true}}, 10 * s, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if i, ok := next(tt.all, tt.left, seeded(1)); ok != (tt.want >= 0) || ok && i != tt.want {
				t.Errorf("next() = %d, %v, want %d", i, ok, tt.want)
			}
		})
	}
}

// It stops for precision: what was found plays no part.
func TestPreciseOf(t *testing.T) {
	t.Parallel()
	w := four()
	w.drift, w.spread = 0, 0.005
	if r := w.run(seeded(11)); !preciseOf(r, "tcp1") {
		t.Error("a spread of 0.5 %: not precise")
	}
	w.spread = 0.1
	if r := w.run(seeded(12)); preciseOf(r, "tcp1") {
		t.Error("a spread of 10 %: precise")
	}
	if r := w.run(seeded(12)); preciseOf(r, "rr") {
		t.Error("what was not measured is precise")
	}
}

func TestNoiseOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		u    usage
		load float64
		mhz  []float64
		want string
	}{
		{"quiet", usage{user: 1, own: 1, system: 50, idle: 49}, 0.5, []float64{3000, 3010}, ""},
		{"steal", usage{system: 97, steal: 3}, 0, nil, "the hypervisor took 3.0 %"},
		{"others", usage{user: 20, own: 5, agentsUser: 5, system: 80}, 0, nil, "other programs took 10.0 %"},
		{"the clock", usage{system: 100}, 0, []float64{3000, 2000, 3000}, "the processors' clock changed by 33.3 %"},
		{"load", usage{system: 100}, 7, nil, "the load average was 7.0 before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(noiseOf(tt.u, tt.load, tt.mhz, 2).Reasons, "; ")
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("noiseOf() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	name := func(c Choice) string {
		t.Helper()
		all, err := c.Entries()
		if err != nil {
			return err.Error()
		}
		return names(all)
	}
	spec, err := lab.Parse("mine.yaml", []byte(strings.Replace(Topology, "name: bench", "name: mine", 1)))
	if err != nil {
		t.Fatal(err)
	}
	mine := File{Name: "./mine.yaml", Spec: spec, Data: []byte(Topology)}
	read := func(string) (File, error) { return mine, nil }
	for _, tt := range []struct {
		name string
		c    Choice
		want string
	}{
		{"all", Choice{}, "host-gw, udp, vxlan, calico-routed, host-gw-again"},
		{"with baselines", Choice{Backends: []string{"vxlan", "udp"}, Baselines: true, Null: "udp"}, "vxlan, udp, udp-again, veth, routed, loopback"},
		{"A against A", Choice{Backends: []string{"vxlan", "vxlan", "vxlan"}, Slow: map[string]float64{"vxlan-3": 0.05}}, "vxlan, vxlan-2, vxlan-3, vxlan-again"},
		{"offloads", Choice{Backends: []string{"vxlan"}, Offload: []bool{true, false}}, "vxlan, vxlan-no-offload, vxlan-again"},
		{"a file", Choice{Backends: []string{"vxlan", "./mine.yaml"}, Read: read}, "vxlan, mine, vxlan-again"},
		{"labs as they are", Choice{Topologies: []File{mine, mine}}, "mine, mine-2, mine-again"},
		{"a lab under backends", Choice{Topologies: []File{mine}, Backends: []string{"udp", "vxlan"}}, "udp, vxlan, udp-again"},
		{"no such null", Choice{Null: "ipip"}, "ipip: is not compared; there are host-gw, udp, vxlan, calico-routed"},
		{"no such one to hold back", Choice{Slow: map[string]float64{"ipip": 0.05}}, "ipip: is not measured; there are host-gw, udp, vxlan, calico-routed, host-gw-again"},
	} {
		if got := name(tt.c); got != tt.want {
			t.Errorf("%s: Entries() = %s, want %s", tt.name, got, tt.want)
		}
	}
}

// The default run fits: four backends in 75 s, labs included.
func TestDefaultBudget(t *testing.T) {
	t.Parallel()
	all, err := Choice{Baselines: true}.Entries()
	if err != nil {
		t.Fatal(err)
	}
	s := DefaultSettings()
	least, _, err := Cost(all, s)
	if err != nil {
		t.Fatal(err)
	}
	budget, err := DefaultBudget(all, s)
	if err != nil || budget < least || budget > 72*time.Second {
		t.Errorf("DefaultBudget() = %v, %v; want at least %v, and room for the labs in 75s", budget, err, least)
	}
}

// A lab that was not well at any moment of a trial costs it that trial, with
// the reason, and no other.
func TestTrialsOfSickLabsDoNotCount(t *testing.T) {
	t.Parallel()
	h := &health{}
	h.hear(lab.Event{State: lab.Ready})
	tg := &target{Entry: Entry{Variant: Variant{Name: "udp"}}, health: h}
	r := &run{result: &Result{}, skipped: map[string]int{}}
	m := measurement{name: "tcp1", metrics: []Metric{faster("tcp1", "", "", "tcp1")}}
	for round, events := range [][]lab.Event{
		1: {},
		2: {{State: lab.Degraded}, {State: lab.Ready}}, // and well again before its end
		3: {{Process: "node1", Message: "ended: signal: killed; starts again in 100ms"}},
		4: {{State: lab.Degraded}},
		5: {},
		6: {{State: lab.Ready}},
		7: {{Changed: true}, {Step: "converged"}},
	} {
		if events == nil {
			continue
		}
		m.take = func(context.Context, *run, *target, time.Duration) (map[string]float64, error) {
			for _, e := range events {
				h.hear(e)
			}
			return map[string]float64{"tcp1": float64(round)}, nil
		}
		if err := r.keep(t.Context(), m, tg, round, r.take(t.Context(), m, tg, time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]int{1, 6, 7}, r.result.series("tcp1", "udp").Rounds); diff != "" {
		t.Errorf("rounds that count (-want +got):\n%s", diff)
	}
	var reasons []string
	for _, d := range r.result.Discarded {
		reasons = append(reasons, fmt.Sprintf("%d: %s", d.Round, d.Reason))
	}
	want := []string{"2: the lab was degraded", "3: node1: ended: signal: killed; starts again in 100ms", "4: the lab was degraded", "5: the lab was degraded"}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("discarded (-want +got):\n%s", diff)
	}
}
