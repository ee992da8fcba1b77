package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/bench"
)

// benchFlags are what labctl bench is told beside the labs.
type benchFlags struct {
	backends, offload, metrics, slow, failIf []string
	from, to, null, html, save               string
	baselines                                bool
	budget                                   time.Duration
	settings                                 bench.Settings
}

func (a *app) benchCommand() *cobra.Command {
	f := benchFlags{settings: bench.DefaultSettings()}
	c := &cobra.Command{
		Use:   "bench [LAB|FILE...]",
		Short: "Compare backends side by side, with a verdict that can be trusted",
		Long: `Bring the same topology up under each backend, all labs at once and under names of
their own, and measure them in turn, in rounds of random order, until the figures
are precise or the budget ends. Without LAB it is two hosts with a container each;
several LABs without --backends are compared as they are.

Variants of a round are compared with each other: a difference is one that is
unlikely by chance (signed-rank test, p at most 0.01 after Holm's correction) and
at least 3 %. A second lab of one backend runs along; where it differs from the
first, nothing is ranked. Baselines show what the machine can do without any
container network.

Ctrl-C ends it with what was measured so far. Exit status 1 when a --fail-if
holds, 4 when it cannot be told.`,
		Example: `  labctl bench
  labctl bench --backends vxlan,host-gw --html report.html
  labctl bench --metrics tcp1,rr,pps --offload on,off
  labctl bench flannel-vxlan ./my-lab.yaml -o json > result.json
  labctl bench --backends udp,vxlan --metrics tcp1 --fail-if 'udp.tcp1 < 0.5*vxlan.tcp1'`,
		Args:              arguments(0, -1, "labs or files"),
		ValidArgsFunction: a.completeLabFiles,
		Annotations:       map[string]string{outputsToo: "markdown"},
		RunE: func(c *cobra.Command, args []string) error {
			if a.lab != "" {
				return usage(fmt.Errorf("--lab %s: not for bench, whose labs have names of their own", a.lab), "name built-in labs or files as arguments")
			}
			return a.bench(c.Context(), args, f)
		},
	}
	s := c.Flags()
	s.StringSliceVar(&f.backends, "backends", nil, "what to compare: backends, built-in labs, files (default: all backends)")
	s.StringSliceVar(&f.metrics, "metrics", bench.DefaultMeasurements(), "what to measure, or all: "+strings.Join(bench.Names(f.settings), ", "))
	s.StringSliceVar(&f.offload, "offload", nil, "on, off or both: the offloads of all links (default: as in the lab file)")
	s.DurationVar(&f.budget, "budget", 0, "time to measure (default: 70s for four backends and two metrics, in proportion for others)")
	s.Float64Var(&f.settings.TrialSeconds, "trial", f.settings.TrialSeconds, "seconds of a trial")
	s.IntVarP(&f.settings.Streams, "streams", "P", f.settings.Streams, "streams of the metric with several")
	s.StringVarP(&f.settings.Congestion, "congestion", "C", f.settings.Congestion, "TCP's congestion control")
	s.Float64Var(&f.settings.RequestRate, "rate", f.settings.RequestRate, "requests a second of rr-fixed")
	s.StringVar(&f.from, "from", "", "endpoint that sends (default: the first host's first container)")
	s.StringVar(&f.to, "to", "", "endpoint that receives (default: the second host's first container)")
	s.StringVar(&f.null, "null", "", "the variant of which a second lab runs along (default: the first)")
	s.BoolVar(&f.baselines, "baselines", true, "measure what the machine can do, too")
	s.StringSliceVar(&f.slow, "slow", nil, "VARIANT=PERCENT: hold a variant back, to see whether it is found")
	s.StringArrayVar(&f.failIf, "fail-if", nil, "exit 1 when this holds: 'udp.tcp1 < 0.9*vxlan.tcp1'")
	s.StringVar(&f.html, "html", "", "write the report as a web page to this file")
	s.StringVar(&f.save, "save", "", "write the result as JSON to this file")
	s.Uint64Var(&f.settings.Seed, "seed", 0, "of the random order (default: another each time)")
	_ = c.MarkFlagFilename("html", "html") // it was just added
	_ = c.MarkFlagFilename("save", "json")
	_ = c.RegisterFlagCompletionFunc("metrics", cobra.FixedCompletions(append(bench.Names(f.settings), "all"), cobra.ShellCompDirectiveNoFileComp))
	c.AddCommand(a.benchRenderCommand(), a.benchCompareCommand())
	return c
}

func (a *app) bench(ctx context.Context, args []string, f benchFlags) error {
	s := f.settings
	s.Measurements = f.metrics
	if s.Seed == 0 {
		s.Seed = bench.DefaultSettings().Seed
	}
	entries, err := a.benchEntries(args, f)
	if err != nil {
		return err
	}
	s.FaultsSeconds = bench.FaultsSeconds(entries)
	if err := bench.CheckSettings(s, f.budget); err != nil {
		return err
	}
	s.Topology = entries[0].Lab
	for _, e := range entries {
		if e.Kind == bench.Contestant && e.Lab != s.Topology {
			s.Topology = "several labs"
		}
	}
	conditions, err := benchConditions(f.failIf, entries, s)
	if err != nil {
		return err
	}
	if f.budget == 0 {
		if f.budget, err = bench.DefaultBudget(entries, s); err != nil {
			return err
		}
	}
	s.BudgetSecs = f.budget.Seconds()
	least, most, err := bench.Cost(entries, s)
	if err != nil {
		return err
	}
	// Files that cannot be written are told before the work, not after.
	page, err := created(f.html)
	if err != nil {
		return err
	}
	defer page.Close()
	saved, err := created(f.save)
	if err != nil {
		return err
	}
	defer saved.Close()
	fmt.Fprintf(a.stderr, "%d variants, %s: %s at least, %s at most, and the labs\n", len(entries), strings.Join(s.Measurements, " and "), roughly(least), roughly(max(least, most)))
	live := &benchProgress{w: a.stderr, tty: terminal(a.stderr)}
	r, err := bench.Run(ctx, bench.Options{Labctl: version, Entries: entries, Settings: s, OnProgress: live.show})
	live.done()
	if r == nil {
		return err
	}
	report := newBenchReport(r)
	report.conditions(conditions)
	err = errors.Join(err, a.printBench(report))
	if f.html != "" {
		_, werr := io.WriteString(page, bench.HTML(r, report.Analysis))
		err = errors.Join(err, werr)
	}
	if f.save != "" {
		err = errors.Join(err, writeJSON(saved, report))
	}
	if err != nil {
		return err
	}
	return report.err()
}

// benchEntries are the variants that flags and arguments ask for.
func (a *app) benchEntries(args []string, f benchFlags) ([]bench.Entry, error) {
	choice := bench.Choice{Backends: f.backends, From: f.from, To: f.to, Null: f.null, Baselines: f.baselines, Slow: map[string]float64{}, Read: a.benchFile}
	for _, arg := range args {
		file, err := a.benchFile(arg)
		if err != nil {
			return nil, err
		}
		choice.Topologies = append(choice.Topologies, file)
	}
	for _, o := range f.offload {
		if o != "on" && o != "off" {
			return nil, usage(fmt.Errorf("--offload %s: neither on nor off", o), "write on, off or on,off")
		}
		choice.Offload = append(choice.Offload, o == "on")
	}
	for _, text := range f.slow {
		name, percent, _ := strings.Cut(text, "=")
		v, err := strconv.ParseFloat(strings.TrimSuffix(percent, "%"), 64)
		if err != nil || v <= 0 || v >= 90 {
			return nil, usage(fmt.Errorf("--slow %s: not VARIANT=PERCENT", text), "write for example --slow vxlan=5")
		}
		choice.Slow[name] = v / 100
	}
	entries, err := choice.Entries()
	if _, known := errors.AsType[*lab.Failure](err); err != nil && !known {
		if _, file := errors.AsType[*lab.FileError](err); !file {
			err = usage(err, "labctl bench --help shows what can be compared")
		}
	}
	return entries, err
}

func (a *app) benchFile(name string) (bench.File, error) {
	spec, data, err := a.readLab(name)
	return bench.File{Name: name, Spec: spec, Data: data}, err
}

func benchConditions(texts []string, entries []bench.Entry, s bench.Settings) ([]bench.Condition, error) {
	var variants []bench.Variant
	for _, e := range entries {
		variants = append(variants, e.Variant)
	}
	metrics, err := bench.Metrics(s)
	if err != nil {
		return nil, err
	}
	var all []bench.Condition
	for _, text := range texts {
		c, err := bench.ParseCondition(text)
		if err == nil && entries != nil {
			err = c.Check(variants, metrics)
		}
		if err != nil {
			return nil, usage(fmt.Errorf("--fail-if %w", err), "for example: --fail-if 'udp.tcp1 < 0.9*vxlan.tcp1'")
		}
		all = append(all, c)
	}
	return all, nil
}

// created is the file to write to, or none for "".
func created(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, usage(err, "choose another file")
	}
	return f, nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(v)
}

func roughly(d time.Duration) string { return d.Round(time.Second).String() }

// benchReport is what -o json prints: the result, what it says, and the answers
// to --fail-if. Only the result is read again.
type benchReport struct {
	*bench.Result
	Analysis *bench.Analysis `json:"analysis"`
	Answers  []bench.Answer  `json:"failIf,omitempty"`
}

func newBenchReport(r *bench.Result) *benchReport {
	return &benchReport{Result: r, Analysis: bench.Analyse(r)}
}

func (r *benchReport) conditions(all []bench.Condition) {
	for _, c := range all {
		r.Answers = append(r.Answers, c.Holds(r.Result))
	}
}

// err is what the answers come to.
func (r *benchReport) err() error {
	var held, unknown []string
	for _, a := range r.Answers {
		switch {
		case a.Missing != "":
			unknown = append(unknown, fmt.Sprintf("%s: %s", a.Condition, a.Missing))
		case a.Holds:
			held = append(held, a.Condition)
		}
	}
	switch {
	case len(held) > 0:
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("bench: --fail-if holds: %s", strings.Join(held, "; "))}
	case len(unknown) > 0:
		return &lab.Failure{Kind: lab.Unable, Err: fmt.Errorf("bench: --fail-if cannot be told: %s", strings.Join(unknown, "; "))}
	}
	return nil
}

// printBench writes the report in the form that -o asks for.
func (a *app) printBench(r *benchReport) error {
	if done, err := a.machineReadable(r); done {
		return err
	}
	if a.output == "markdown" {
		_, err := io.WriteString(a.stdout, bench.Markdown(r.Result, r.Analysis))
		return err
	}
	for _, l := range bench.Headline(r.Result, r.Analysis) {
		fmt.Fprintln(a.stdout, l)
	}
	for _, s := range bench.Sections(r.Result, r.Analysis) {
		fmt.Fprintf(a.stdout, "\n%s\n", s.Title)
		header, rows := s.Text()
		if err := table(a.stdout, header, rows); err != nil {
			return err
		}
		for _, l := range s.After {
			fmt.Fprintln(a.stdout, l)
		}
	}
	for i, c := range r.Answers {
		if i == 0 {
			fmt.Fprintln(a.stdout)
		}
		how := "does not hold"
		switch {
		case c.Missing != "":
			fmt.Fprintf(a.stdout, "fail if %s: cannot be told: %s\n", c.Condition, c.Missing)
			continue
		case c.Holds:
			how = "holds"
		}
		fmt.Fprintf(a.stdout, "fail if %s: %s, left / right is %.3f (%.3f - %.3f)\n", c.Condition, how, c.Ratio.Value, c.Ratio.Low, c.Ratio.High)
	}
	return nil
}

// benchProgress is one line that is drawn anew on a terminal, and elsewhere a
// line each 10 s.
type benchProgress struct {
	w     io.Writer
	tty   bool
	phase string
	told  time.Time
	drawn bool
}

func (p *benchProgress) show(s bench.Progress) {
	line := fmt.Sprintf("%s, round %d, %s; %s left at most", s.Phase, s.Round, s.Variant, s.Left.Round(time.Second))
	if s.Phase == "labs" {
		line = "labs come up"
	}
	switch {
	case p.tty:
		fmt.Fprintf(p.w, "\r\x1b[K  %s", line)
		p.drawn = true
	case time.Since(p.told) > 10*time.Second || p.phase == "labs":
		p.told = time.Now()
		fmt.Fprintf(p.w, "  %s\n", line)
	}
	p.phase = s.Phase
}

func (p *benchProgress) done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// readBench reads a result that was saved.
func readBench(path string) (*bench.Result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usage(err, "give a file that labctl bench --save or -o json wrote")
	}
	r, err := bench.ParseResult(data)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", path, err), "give a file that labctl bench --save or -o json wrote")
	}
	return r, nil
}

func (a *app) benchRenderCommand() *cobra.Command {
	var page string
	var failIf []string
	c := &cobra.Command{
		Use:   "render FILE.json",
		Short: "Make the report of a saved result again",
		Example: `  labctl bench render result.json
  labctl bench render result.json --html report.html
  labctl bench render result.json -o markdown`,
		Args:        arguments(1, 1, "the JSON of a run"),
		Annotations: map[string]string{outputsToo: "markdown"},
		RunE: func(c *cobra.Command, args []string) error {
			r, err := readBench(args[0])
			if err != nil {
				return err
			}
			var conditions []bench.Condition
			for _, text := range failIf {
				c, err := bench.ParseCondition(text)
				if err == nil {
					err = c.Check(r.Variants, r.Metrics)
				}
				if err != nil {
					return usage(fmt.Errorf("--fail-if %w", err), "for example: --fail-if 'udp.tcp1 < 0.9*vxlan.tcp1'")
				}
				conditions = append(conditions, c)
			}
			report := newBenchReport(r)
			report.conditions(conditions)
			if page != "" {
				if err := os.WriteFile(page, []byte(bench.HTML(r, report.Analysis)), 0o644); err != nil {
					return usage(err, "choose another file for --html")
				}
			}
			if err := a.printBench(report); err != nil {
				return err
			}
			return report.err()
		},
	}
	c.Flags().StringVar(&page, "html", "", "write the report as a web page to this file")
	c.Flags().StringArrayVar(&failIf, "fail-if", nil, "exit 1 when this holds: 'udp.tcp1 < 0.9*vxlan.tcp1'")
	return c
}

func (a *app) benchCompareCommand() *cobra.Command {
	var relative string
	c := &cobra.Command{
		Use:   "compare OLD.json NEW.json",
		Short: "Compare two runs: what became better or worse",
		Long: `Compare each figure of two saved runs (Mann-Whitney test, p at most 0.01 after
Holm's correction, and at least 3 %). Runs of different machines can only be
compared relative to a variant that both have. Exit status 1 when something
became worse.`,
		Example: `  labctl bench compare old.json new.json
  labctl bench compare old.json new.json --relative-to host-gw`,
		Args: arguments(2, 2, "the JSON of two runs"),
		RunE: func(c *cobra.Command, args []string) error {
			var runs [2]*bench.Result
			for i, path := range args {
				var err error
				if runs[i], err = readBench(path); err != nil {
					return err
				}
			}
			d, err := bench.Compare(runs[0], runs[1], relative)
			if err != nil {
				return usage(err, "labctl bench compare --help")
			}
			if done, err := a.machineReadable(d); done {
				return errors.Join(err, d.Err())
			}
			header, rows := d.Table()
			if err := table(a.stdout, header, rows); err != nil {
				return err
			}
			for _, n := range d.Notes {
				fmt.Fprintln(a.stdout, n)
			}
			return d.Err()
		},
	}
	c.Flags().StringVar(&relative, "relative-to", "", "compare figures as parts of this variant's")
	return c
}
