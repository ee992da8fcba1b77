package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// HTML is the report as one page that needs nothing else: no script, no file,
// no network. It follows the reader's choice of light or dark, and prints.
func HTML(r *Result, a *Analysis) string {
	var b strings.Builder
	title := "labctl bench: " + r.Settings.Topology
	fmt.Fprintf(&b, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<link rel=\"icon\" href=\"data:,\"/>\n<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<h1>%s</h1>\n", html.EscapeString(title), style, html.EscapeString(title))
	for _, l := range Headline(r, a) {
		class := ""
		if strings.HasPrefix(l, "NOISY") || strings.HasPrefix(l, "INCOMPLETE") {
			class = " class=\"warn\""
		}
		fmt.Fprintf(&b, "<p%s>%s</p>\n", class, html.EscapeString(l))
	}
	b.WriteString("<p class=\"how\">A line across a bar's end is the interval that the median is in with 95 % confidence. Pairs are compared round by round; " +
		"a difference is one that is unlikely by chance (signed-rank test, p at most 0.01 after Holm's correction) and at least 3 %. Everything else is no difference.</p>\n")
	drawn := map[string]bool{}
	for _, s := range Sections(r, a) {
		fmt.Fprintf(&b, "<section>\n<h2>%s</h2>\n", html.EscapeString(s.Title))
		for _, m := range a.Metrics {
			if s.Metric != "" && m.Name == s.Metric {
				b.WriteString(bars(r, m))
			}
		}
		if s.Metric == "cpu" {
			b.WriteString(cpuChart(r, a))
		}
		if m := r.Metric(s.Metric); m != nil && !drawn[m.Of] {
			drawn[m.Of] = true
			b.WriteString(curves(r, m.Of))
		}
		for _, l := range s.Before {
			fmt.Fprintf(&b, "<p>%s</p>\n", html.EscapeString(l))
		}
		htmlTable(&b, s)
		for _, l := range s.After {
			fmt.Fprintf(&b, "<p>%s</p>\n", html.EscapeString(l))
		}
		b.WriteString("</section>\n")
	}
	b.WriteString(pathSection(r))
	b.WriteString("</body>\n</html>\n")
	return b.String()
}

func htmlTable(b *strings.Builder, s Section) {
	b.WriteString("<div class=\"scroll\"><table>\n<tr>")
	for _, h := range s.Header {
		fmt.Fprintf(b, "<th>%s</th>", html.EscapeString(lowered(h)))
	}
	b.WriteString("</tr>\n")
	for _, row := range s.Rows {
		b.WriteString("<tr>")
		for _, c := range row {
			fmt.Fprintf(b, "<td>%s</td>", html.EscapeString(c))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table></div>\n")
}

// pathSection is what the packets of each variant cross.
func pathSection(r *Result) string {
	s := Section{Title: "Devices on the way", Header: []string{"VARIANT", "DEVICE: MTU, QDISC, OFFLOADS"}}
	for _, v := range r.Variants {
		var hops []string
		for _, h := range v.Path {
			offloads := strings.Join(h.Offloads, " ")
			if offloads == "" {
				offloads = "no offload"
			}
			hops = append(hops, fmt.Sprintf("%s: %d, %s, %s", h.Device, h.MTU, h.Qdisc, offloads))
		}
		if len(hops) > 0 {
			s.Rows = append(s.Rows, []string{v.Name, strings.Join(hops, "; ")})
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<section>\n<h2>%s</h2>\n", html.EscapeString(s.Title))
	htmlTable(&b, s)
	b.WriteString("</section>\n")
	return b.String()
}

// Sizes of charts, in units of the SVG, which scales to the page.
const (
	chartWide = 720
	labelWide = 130
	valueWide = 150
	barHigh   = 22
	barGap    = 8
	plotWide  = chartWide - labelWide - valueWide
)

// class is the colour of a row.
func class(k Kind) string {
	switch k {
	case Baseline:
		return "baseline"
	case Null:
		return "null"
	}
	return "contestant"
}

// bars is a metric's chart: a bar for each variant with its interval. The scale
// begins at 0 and is the contestants'; a baseline beyond it is cut, and says so.
func bars(r *Result, m MetricAnalysis) string {
	rows := ordered(m)
	top := scale(rows)
	if top <= 0 {
		return ""
	}
	var b strings.Builder
	high := len(rows)*(barHigh+barGap) + 24
	open(&b, high, fmt.Sprintf("%s, %s", m.Title, m.Unit), "bars")
	axis(&b, top, high-24, m.Unit)
	for i, row := range rows {
		y := i*(barHigh+barGap) + barGap/2
		x := func(v float64) float64 { return labelWide + plotWide*min(v/top, 1) }
		cut := ""
		if row.Value > top {
			cut = " →"
		}
		fmt.Fprintf(&b, "<g><title>%s: %s %s, n %d</title>", html.EscapeString(row.Variant), html.EscapeString(both(row.Estimate)), html.EscapeString(m.Unit), row.N)
		text(&b, labelWide-8, y+15, "end", "", row.Variant)
		fmt.Fprintf(&b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", class(row.Kind), labelWide, y, x(row.Value)-labelWide, barHigh)
		if row.N > 1 && row.Value <= top {
			mid := float64(y) + barHigh/2
			fmt.Fprintf(&b, "<path class=\"interval\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\"/>",
				x(row.Low), mid, x(row.High), x(row.Low), mid-4, x(row.High), mid-4)
		}
		text(&b, labelWide+plotWide+10, y+15, "start", "", both(row.Estimate)+cut)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func open(b *strings.Builder, high int, label, kind string) {
	fmt.Fprintf(b, "<svg class=\"chart %s\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", kind, chartWide, high, html.EscapeString(label))
}

func text(b *strings.Builder, x, y int, anchor, class, s string) {
	if class != "" {
		class = " class=\"" + class + "\""
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\"%s>%s</text>", x, y, anchor, class, html.EscapeString(s))
}

// axis draws round values from 0 to top, with lines up from y.
func axis(b *strings.Builder, top float64, y int, unit string) {
	step := niceStep(top / 5)
	for v := 0.0; v <= top*1.001; v += step {
		x := labelWide + plotWide*v/top
		fmt.Fprintf(b, "<path class=\"grid\" d=\"M%.1f 0V%d\"/>", x, y)
		text(b, int(math.Round(x)), y+16, "middle", "tick", number(v))
	}
	text(b, labelWide+plotWide+10, y+16, "start", "tick", unit)
	b.WriteByte('\n')
}

// niceStep is 1, 2 or 5 times a power of ten, not below v.
func niceStep(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if f*p >= v {
			return f * p
		}
	}
	return 10 * p
}

// cpuChart is what a transfer costs, by where the time was spent.
func cpuChart(r *Result, a *Analysis) string {
	parts := []struct{ metric, class, title string }{
		{"cpu-user", "user", "user"}, {"cpu-system", "system", "system"}, {"cpu-softirq", "softirq", "softirq"},
	}
	find := func(metric, variant string) float64 {
		for _, m := range a.Metrics {
			for _, row := range m.Rows {
				if m.Name == metric && row.Variant == variant {
					return row.Value
				}
			}
		}
		return 0
	}
	const perGbit = 125.0 / 1000 // µs/MB to ms/Gbit
	var names []string
	top := 0.0
	for _, v := range r.Variants {
		sum := 0.0
		for _, p := range parts {
			sum += find(p.metric, v.Name) * perGbit
		}
		if sum > 0 {
			names = append(names, v.Name)
			top = max(top, sum)
		}
	}
	if top == 0 {
		return ""
	}
	var b strings.Builder
	high := len(names)*(barHigh+barGap) + 24 + 24
	open(&b, high, "CPU of a Gbit, by where it was spent", "cpu")
	x := labelWide
	for _, p := range parts {
		fmt.Fprintf(&b, "<rect class=\"%s\" x=\"%d\" y=\"2\" width=\"12\" height=\"12\"/>", p.class, x)
		text(&b, x+18, 13, "start", "tick", p.title)
		x += 90
	}
	b.WriteString("<g transform=\"translate(0 24)\">\n")
	axis(&b, top, high-48, "ms of CPU a Gbit")
	for i, name := range names {
		y := i*(barHigh+barGap) + barGap/2
		text(&b, labelWide-8, y+15, "end", "", name)
		at, sum := float64(labelWide), 0.0
		for _, p := range parts {
			v := find(p.metric, name) * perGbit
			fmt.Fprintf(&b, "<rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"><title>%s: %s ms</title></rect>", p.class, at, y, plotWide*v/top, barHigh, p.title, number(v))
			at += plotWide * v / top
			sum += v
		}
		label := number(sum)
		if agents := find("cpu-agents", name) * perGbit; agents >= sum/100 {
			label += ", agents " + number(agents)
		}
		text(&b, labelWide+plotWide+10, y+15, "start", "", label)
		b.WriteByte('\n')
	}
	b.WriteString("</g></svg>\n")
	return b.String()
}

// curves is how a measurement's latencies are distributed: the part of the
// requests that took longer halves with each step to the right.
func curves(r *Result, measurement string) string {
	var of []Curve
	low, high, steps := math.Inf(1), 0.0, 0.0
	for _, c := range r.Curves {
		if c.Measurement != measurement || len(c.Micros) < 2 {
			continue
		}
		of = append(of, c)
		for i, us := range c.Micros {
			low, high = min(low, us), max(high, us)
			steps = max(steps, halvings(c.Parts[i]))
		}
	}
	if len(of) == 0 || high <= low {
		return ""
	}
	const tall, foot = 300, 44
	var b strings.Builder
	open(&b, tall+foot, measurement+": how latencies are distributed", "curves")
	x := func(part float64) float64 { return 60 + (chartWide-60-valueWide)*halvings(part)/steps }
	y := func(us float64) float64 { return tall - (tall-10)*math.Log(us/low)/math.Log(high/low) }
	for _, p := range []struct {
		part float64
		name string
	}{{0, "least"}, {0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}, {0.9999, "99.99 %"}} {
		if halvings(p.part) <= steps {
			fmt.Fprintf(&b, "<path class=\"grid\" d=\"M%.1f 10V%d\"/>", x(p.part), tall)
			text(&b, int(x(p.part)), tall+16, "middle", "tick", p.name)
		}
	}
	for us := math.Pow(10, math.Floor(math.Log10(low))); us <= high; us *= 10 {
		for _, f := range []float64{1, 2, 5} {
			if v := us * f; v >= low && v <= high {
				fmt.Fprintf(&b, "<path class=\"grid\" d=\"M60 %.1fH%d\"/>", y(v), chartWide-valueWide)
				text(&b, 54, int(y(v))+4, "end", "tick", number(v))
			}
		}
	}
	text(&b, 60, tall+36, "start", "tick", "µs (logarithmic), by the part of the requests that took no longer")
	b.WriteByte('\n')
	for i, c := range of {
		var d strings.Builder
		for k, us := range c.Micros {
			letter := 'L'
			if k == 0 {
				letter = 'M'
			}
			fmt.Fprintf(&d, "%c%.1f %.1f", letter, x(c.Parts[k]), y(us))
		}
		fmt.Fprintf(&b, "<path class=\"curve c%d\" d=\"%s\"><title>%s</title></path>", i%8, d.String(), html.EscapeString(c.Variant))
		fmt.Fprintf(&b, "<path class=\"curve c%d\" d=\"M%d %dh18\"/>", i%8, chartWide-valueWide+14, 20+i*20)
		text(&b, chartWide-valueWide+38, 24+i*20, "start", "", c.Variant)
		b.WriteByte('\n')
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// halvings is how often the rest above a part was halved.
func halvings(part float64) float64 { return -math.Log2(1 - part) }

// style is the page's whole design. Curves differ by dashes as well as by
// colour, for paper without any.
const style = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#d5d9de;--paper:#fff;--one:#2f6fb3;--base:#a9b1bb;--null:#8fb4dc;--warn:#a34700;--user:#3f8f5b;--system:#2f6fb3;--softirq:#c77d1a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--line:#3a424c;--paper:#14181d;--one:#5b9bdf;--base:#6b7582;--null:#3d6795;--warn:#ffb070;--user:#62b580;--system:#5b9bdf;--softirq:#e0a04a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.3rem 0}.how{color:var(--soft)}.warn{color:var(--warn);font-weight:600}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.15rem .9rem .15rem 0;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600}
.chart{width:100%;height:auto;display:block;margin:.5rem 0}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .tick{fill:var(--soft)}
.grid{stroke:var(--line);fill:none}.interval{stroke:var(--ink);stroke-width:1.5;fill:none}
.contestant{fill:var(--one)}.baseline{fill:var(--base)}.null{fill:var(--null)}
.user{fill:var(--user)}.system{fill:var(--system)}.softirq{fill:var(--softirq)}
.curve{fill:none;stroke-width:2}
.c0{stroke:var(--one)}.c1{stroke:var(--softirq);stroke-dasharray:7 3}.c2{stroke:var(--user);stroke-dasharray:2 3}.c3{stroke:#b0508c;stroke-dasharray:9 3 2 3}
.c4{stroke:var(--null);stroke-dasharray:4 4}.c5{stroke:var(--base)}.c6{stroke:var(--base);stroke-dasharray:7 3}.c7{stroke:var(--base);stroke-dasharray:2 3}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--warn:#000}body{max-width:none;margin:0;font-size:10pt}section{break-inside:avoid}rect{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
`
