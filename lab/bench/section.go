package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Section is a piece of the report: a table between lines of text. The
// terminal, Markdown and HTML show the same ones.
type Section struct {
	Title  string
	Before []string
	Header []string
	Rows   [][]string
	After  []string
	// Bars are a bar's length for each row where the section has a chart: 1 is
	// all there is room for, and more is cut.
	Bars []float64
	// Metric is the compared metric that the section is about, Measurement that
	// of a table of parts; "" otherwise. Charts are placed by them.
	Metric      string
	Measurement string
}

// Sections are the whole report, in its order.
func Sections(r *Result, a *Analysis) []Section {
	var all []Section
	done := map[string]bool{}
	for _, m := range a.Metrics {
		if !m.Plain {
			all = append(all, metricSections(r, m)...)
		}
		// The parts come after the last compared metric of their measurement.
		last := true
		for _, o := range a.Metrics {
			if o.Of == m.Of && !o.Plain {
				last = o.Name == m.Name
			}
		}
		if last && !done[m.Of] {
			done[m.Of] = true
			if s, ok := partsSection(r, a, m.Of); ok {
				all = append(all, s)
			}
		}
	}
	return append(all, troubleSections(r)...)
}

// Text is the section's table for where there are no charts: bars are made of
// letters, in a last column.
func (s Section) Text() (header []string, rows [][]string) {
	if len(s.Bars) != len(s.Rows) || len(s.Bars) == 0 {
		return s.Header, s.Rows
	}
	const wide = 24
	for i, row := range s.Rows {
		n := int(math.Round(min(s.Bars[i], 1) * wide * 2))
		bar := strings.Repeat("█", n/2)
		if n%2 == 1 {
			bar += "▌"
		}
		if s.Bars[i] > 1 {
			bar += "→"
		}
		rows = append(rows, append(slices.Clone(row), bar))
	}
	return append(slices.Clone(s.Header), "FROM 0"), rows
}

// scale is where a metric's chart ends: with the contestants, and baselines of
// less than twice as much.
func scale(rows []Row) (top float64) {
	for _, row := range rows {
		if row.Kind != Baseline {
			top = max(top, row.High)
		}
	}
	limit := 2 * top
	for _, row := range rows {
		if row.Kind == Baseline && row.High < limit {
			top = max(top, row.High)
		}
	}
	return top
}

// number writes v with three digits that count.
func number(v float64) string {
	switch abs := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case abs == 0:
		return "0"
	case abs >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func interval(e Estimate) string {
	if e.N < 2 {
		return "-"
	}
	return number(e.Low) + " - " + number(e.High)
}

func both(e Estimate) string {
	if e.N < 2 || e.Low == e.High {
		return number(e.Value)
	}
	return number(e.Value) + " (" + interval(e) + ")"
}

func ratio(e Estimate) string {
	return fmt.Sprintf("%.3f (%.3f - %.3f)", e.Value, e.Low, e.High)
}

// ordered are a metric's rows, contestants first, the best first.
func ordered(m MetricAnalysis) []Row {
	rows := slices.Clone(m.Rows)
	kinds := []Kind{Contestant, Null, Baseline}
	slices.SortStableFunc(rows, func(a, b Row) int {
		if k := cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)); k != 0 {
			return k
		}
		if m.Less {
			return cmp.Compare(a.Value, b.Value)
		}
		return cmp.Compare(b.Value, a.Value)
	})
	return rows
}

func metricSections(r *Result, m MetricAnalysis) []Section {
	if len(m.Rows) == 0 {
		return nil
	}
	better := "more is better"
	if m.Less {
		better = "less is better"
	}
	s := Section{Title: fmt.Sprintf("%s: %s, %s; %s", m.Name, m.Title, m.Unit, better), Metric: m.Name,
		Header: []string{"VARIANT", "MEDIAN", "95 %", "N", "OF THE BEST", "RANK"}}
	rows := ordered(m)
	top := scale(rows)
	for _, row := range rows {
		if top > 0 {
			s.Bars = append(s.Bars, row.Value/top)
		}
		of, rank := "-", "-"
		if row.OfBest != nil {
			of = ratio(*row.OfBest)
		}
		if row.Rank > 0 {
			rank = strconv.Itoa(row.Rank)
		}
		name := row.Variant
		switch row.Kind {
		case Baseline:
			rank = "baseline"
		case Null:
			rank = "A against A"
		}
		s.Rows = append(s.Rows, []string{name, number(row.Value), interval(row.Estimate), strconv.Itoa(row.N), of, rank})
	}
	if n := m.Null; n != nil {
		s.After = append(s.After, fmt.Sprintf("A against A: %s / %s is %s, p %s: %s.", n.A, n.B, ratio(n.Ratio), pValue(n.P), n.Verdict))
	}
	if m.Unranked != "" {
		s.After = append(s.After, "Not ranked: "+m.Unranked+".")
		return []Section{s}
	}
	pairs := Section{Title: m.Name + ", pairs by round", Header: []string{"A", "IS", "THAN B", "A / B", "P (HOLM)"}}
	for _, p := range m.Pairs {
		pairs.Rows = append(pairs.Rows, []string{p.A, p.Verdict, p.B, ratio(p.Ratio), pValue(p.PHolm)})
	}
	return []Section{s, pairs}
}

func pValue(p float64) string {
	if p < 0.0001 {
		return "<0.0001"
	}
	return strconv.FormatFloat(p, 'f', 4, 64)
}

// partsSection is a measurement's figures that are not compared, a column each.
func partsSection(r *Result, a *Analysis, measurement string) (Section, bool) {
	s := Section{Title: measurement + ", more", Header: []string{"VARIANT"}, Measurement: measurement}
	var columns []MetricAnalysis
	for _, m := range a.Metrics {
		if m.Of == measurement && m.Plain && len(m.Rows) > 0 {
			columns = append(columns, m)
			s.Header = append(s.Header, strings.ToUpper(m.Name)+", "+m.Unit)
			s.Before = append(s.Before, m.Name+": "+m.Title+".")
		}
	}
	for _, v := range r.Variants {
		row := []string{v.Name}
		some := false
		for _, m := range columns {
			i := slices.IndexFunc(m.Rows, func(r Row) bool { return r.Variant == v.Name })
			if i < 0 {
				row = append(row, "-")
				continue
			}
			some = true
			row = append(row, both(m.Rows[i].Estimate))
		}
		if some {
			s.Rows = append(s.Rows, row)
		}
	}
	return s, len(columns) > 0
}

// troubleSections tell what was not measured.
func troubleSections(r *Result) []Section {
	var all []Section
	missing := Section{Title: "Not measured", Header: []string{"VARIANT", "WHY", "CURE"}}
	for _, v := range r.Variants {
		if v.Missing != "" {
			cure := v.Cure
			if cure == "" {
				cure = "-"
			}
			missing.Rows = append(missing.Rows, []string{v.Name, v.Missing, cure})
		}
	}
	if len(missing.Rows) > 0 {
		all = append(all, missing)
	}
	discarded := Section{Title: "Trials that do not count", Header: []string{"VARIANT", "MEASUREMENT", "TRIALS", "THE LAST ONE'S REASON"}}
	counts := map[string]int{}
	var order []Discard
	for _, d := range r.Discarded {
		k := key(d.Measurement, d.Variant)
		if counts[k]++; counts[k] == 1 {
			order = append(order, d)
			continue
		}
		order[slices.IndexFunc(order, func(o Discard) bool { return key(o.Measurement, o.Variant) == k })] = d
	}
	for _, d := range order {
		discarded.Rows = append(discarded.Rows, []string{d.Variant, d.Measurement, strconv.Itoa(counts[key(d.Measurement, d.Variant)]), d.Reason})
	}
	if len(discarded.Rows) > 0 {
		all = append(all, discarded)
	}
	return all
}

// Headline says on what and how it was measured, and whether it can be trusted.
func Headline(r *Result, a *Analysis) []string {
	m := r.Machine
	machine := fmt.Sprintf("%s, %d cores, Linux %s", m.CPU, m.Cores, m.Kernel)
	if m.Virtual {
		machine += ", a virtual machine"
	}
	if m.Governor != "" {
		machine += ", governor " + m.Governor
	}
	version := "labctl"
	if r.Labctl != "" {
		version += " " + r.Labctl
	}
	lines := []string{
		machine + "; " + version + ", " + r.Started.UTC().Format("2006-01-02 15:04 UTC"),
		fmt.Sprintf("%s; trials of %g s in rounds of random order, TCP %s, %.0f s in all", r.Settings.Topology, r.Settings.TrialSeconds, r.Settings.Congestion, r.Seconds),
	}
	if r.Incomplete != "" {
		lines = append(lines, "INCOMPLETE: "+r.Incomplete)
	}
	for _, v := range r.Variants {
		if v.Slow > 0 {
			lines = append(lines, fmt.Sprintf("%s was held back by %g %% by order.", v.Name, 100*v.Slow))
		}
	}
	if a.Noisy {
		lines = append(lines, "NOISY: "+strings.Join(a.Reasons, "; "))
	}
	return lines
}

// Markdown is the report for a README or a pull request.
func Markdown(r *Result, a *Analysis) string {
	var b strings.Builder
	for _, l := range Headline(r, a) {
		fmt.Fprintf(&b, "%s\n", escapeMarkdown(l))
	}
	for _, s := range Sections(r, a) {
		fmt.Fprintf(&b, "\n**%s**\n\n", escapeMarkdown(s.Title))
		for _, l := range s.Before {
			fmt.Fprintf(&b, "%s\n", escapeMarkdown(l))
		}
		if len(s.Before) > 0 {
			b.WriteByte('\n')
		}
		cells := func(row []string) {
			for i, c := range row {
				if i == 0 {
					b.WriteByte('|')
				}
				fmt.Fprintf(&b, " %s |", escapeMarkdown(c))
			}
			b.WriteByte('\n')
		}
		names, rows := s.Text()
		header := make([]string, len(names))
		for i, h := range names {
			header[i] = lowered(h)
		}
		cells(header)
		b.WriteString("|" + strings.Repeat("---|", len(names)) + "\n")
		for _, row := range rows {
			cells(row)
		}
		if len(s.After) > 0 {
			b.WriteByte('\n')
		}
		for _, l := range s.After {
			fmt.Fprintf(&b, "%s\n", escapeMarkdown(l))
		}
	}
	return b.String()
}

// lowered is a column's header where they are not written large: but for the
// unit.
func lowered(header string) string {
	name, unit, ok := strings.Cut(header, ", ")
	if !ok {
		return strings.ToLower(header)
	}
	return strings.ToLower(name) + ", " + unit
}

// escapeMarkdown keeps text from being taken for marks, in tables too.
func escapeMarkdown(s string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`, "<", "&lt;", "`", "'", "\n", " ").Replace(s)
}
