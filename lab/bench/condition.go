package bench

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Condition is what --fail-if takes: two expressions and <, <=, > or >= between
// them, such as
//
//	udp.tcp1 < 0.9*vxlan.tcp1
//	(udp.rr - vxlan.rr) > 80
//
// VARIANT.METRIC is a figure; there are numbers, + - * / and parentheses. A
// minus needs a blank before it, as names may have one in them.
type Condition struct {
	Text        string
	Left, Right expression
	Op          string
}

// expression is a tree: a number, a figure, or two operands.
type expression struct {
	op              byte // 0: a leaf
	number          float64
	variant, metric string // a figure, when variant is not ""
	operands        []expression
}

// Answer is what a Condition comes to.
type Answer struct {
	Condition string `json:"condition"`
	// Holds is true when the two sides relate so in the typical round, and 95 %
	// sure: the whole interval of their ratio does.
	Holds bool `json:"holds"`
	// Ratio is the left side's over the right side's.
	Ratio Estimate `json:"ratio"`
	// Missing says why it cannot be told, "" when it can.
	Missing string `json:"missing,omitempty"`
}

var tokens = regexp.MustCompile(`^(?:[a-z][a-z0-9-]*\.[a-z][a-z0-9.-]*|[0-9]+(?:\.[0-9]+)?|<=|>=|[<>*/+()-])`)

// ParseCondition reads one.
func ParseCondition(text string) (Condition, error) {
	p := parser{text: text}
	for rest := text; ; {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			break
		}
		t := tokens.FindString(rest)
		if t == "" {
			return Condition{}, p.wrong(len(text)-len(rest), "not a figure, a number or a sign")
		}
		p.tokens = append(p.tokens, token{t, len(text) - len(rest)})
		rest = rest[len(t):]
	}
	c := Condition{Text: text}
	var err error
	if c.Left, err = p.sum(); err != nil {
		return c, err
	}
	c.Op = p.next()
	if !slices.Contains([]string{"<", "<=", ">", ">="}, c.Op) {
		return c, p.wrong(p.place(-1), "want <, <=, > or >= here")
	}
	if c.Right, err = p.sum(); err != nil {
		return c, err
	}
	if p.at < len(p.tokens) {
		return c, p.wrong(p.place(0), "nothing more is wanted here")
	}
	if len(c.figures()) == 0 {
		return c, p.wrong(0, "no figure in it")
	}
	return c, nil
}

type token struct {
	text string
	at   int
}

// parser goes through the tokens once.
type parser struct {
	text   string
	tokens []token
	at     int
	depth  int
}

// deepest is how many parentheses there may be inside each other.
const deepest = 100

func (p *parser) wrong(at int, what string) error {
	return fmt.Errorf("%q: column %d: %s", p.text, at+1, what)
}

// place is where the next token but n begins.
func (p *parser) place(n int) int {
	if i := p.at + n; i >= 0 && i < len(p.tokens) {
		return p.tokens[i].at
	}
	return len(p.text)
}

func (p *parser) next() string {
	p.at++
	if p.at > len(p.tokens) {
		return ""
	}
	return p.tokens[p.at-1].text
}

func (p *parser) peek() string {
	if p.at >= len(p.tokens) {
		return ""
	}
	return p.tokens[p.at].text
}

func (p *parser) sum() (expression, error)     { return p.chain("+-", p.product) }
func (p *parser) product() (expression, error) { return p.chain("*/", p.leaf) }

// chain reads operands joined by the given signs, from the left.
func (p *parser) chain(signs string, operand func() (expression, error)) (expression, error) {
	e, err := operand()
	for err == nil {
		s := p.peek()
		if s == "" || !strings.Contains(signs, s) {
			break
		}
		p.next()
		var right expression
		right, err = operand()
		e = expression{op: s[0], operands: []expression{e, right}}
	}
	return e, err
}

func (p *parser) leaf() (expression, error) {
	t := p.next()
	switch {
	case t == "(":
		if p.depth++; p.depth > deepest {
			return expression{}, p.wrong(p.place(-1), "too many parentheses")
		}
		e, err := p.sum()
		if err != nil {
			return e, err
		}
		if p.next() != ")" {
			return e, p.wrong(p.place(-1), "want ) here")
		}
		p.depth--
		return e, nil
	case t != "" && t[0] >= 'a' && t[0] <= 'z':
		variant, metric, _ := strings.Cut(t, ".")
		return expression{variant: variant, metric: metric}, nil
	}
	n, err := strconv.ParseFloat(t, 64)
	if err != nil || math.IsInf(n, 0) {
		return expression{}, p.wrong(p.place(-1), "want VARIANT.METRIC or a number here")
	}
	return expression{number: n}, nil
}

// figures are all that the condition is about.
func (c Condition) figures() []expression { return append(c.Left.figures(), c.Right.figures()...) }

func (e expression) figures() []expression {
	if e.variant != "" {
		return []expression{e}
	}
	var all []expression
	for _, o := range e.operands {
		all = append(all, o.figures()...)
	}
	return all
}

// Check refuses a condition on what will not be measured.
func (c Condition) Check(variants []Variant, metrics []Metric) error {
	r := Result{Variants: variants, Metrics: metrics}
	for _, f := range c.figures() {
		if r.Variant(f.variant) == nil {
			var names []string
			for _, v := range variants {
				names = append(names, v.Name)
			}
			return fmt.Errorf("%q: %s: is not measured; there are %s", c.Text, f.variant, strings.Join(names, ", "))
		}
		if r.Metric(f.metric) == nil {
			var names []string
			for _, m := range metrics {
				names = append(names, m.Name)
			}
			return fmt.Errorf("%q: %s: is not measured; there are %s", c.Text, f.metric, strings.Join(names, ", "))
		}
	}
	return nil
}

// Holds answers the condition from a run's samples. Where all figures are of
// one measurement the sides are compared round by round, else their medians
// are, without an interval.
func (c Condition) Holds(r *Result) Answer {
	a := Answer{Condition: c.Text}
	var all []Series
	together := true
	var of string
	for _, f := range c.figures() {
		s := r.series(f.metric, f.variant)
		if len(s.Values) == 0 {
			a.Missing = fmt.Sprintf("%s.%s was not measured", f.variant, f.metric)
			if v := r.Variant(f.variant); v != nil && v.Missing != "" {
				a.Missing += ": " + v.Missing
			}
			return a
		}
		all = append(all, s)
		if m := r.Metric(f.metric); m != nil {
			together = together && (of == "" || of == m.Of)
			of = m.Of
		}
	}
	var logs []float64
	for _, round := range all[0].Rounds {
		if !together {
			break
		}
		at := func(s Series) (float64, bool) { return s.at(round) }
		left, okLeft := c.Left.value(r, at)
		right, okRight := c.Right.value(r, at)
		if okLeft && okRight && left > 0 && right > 0 {
			logs = append(logs, math.Log(left/right))
		}
	}
	if len(logs) == 0 {
		median := func(s Series) (float64, bool) { return medianOf(s.Values).Value, true }
		left, _ := c.Left.value(r, median)
		right, _ := c.Right.value(r, median)
		if !(left > 0 && right > 0) {
			a.Missing = fmt.Sprintf("its sides are %g and %g, which have no ratio", left, right)
			return a
		}
		v := left / right
		a.Ratio = Estimate{Value: v, Low: v, High: v, N: 1}
	} else {
		a.Ratio = pairedRatio(logs)
	}
	switch c.Op {
	case "<":
		a.Holds = a.Ratio.High < 1
	case "<=":
		a.Holds = a.Ratio.High <= 1
	case ">":
		a.Holds = a.Ratio.Low > 1
	case ">=":
		a.Holds = a.Ratio.Low >= 1
	}
	return a
}

// value evaluates the tree with the figures that of gives.
func (e expression) value(r *Result, of func(Series) (float64, bool)) (float64, bool) {
	switch {
	case e.variant != "":
		return of(r.series(e.metric, e.variant))
	case e.op == 0:
		return e.number, true
	}
	x, okX := e.operands[0].value(r, of)
	y, okY := e.operands[1].value(r, of)
	switch e.op {
	case '+':
		x += y
	case '-':
		x -= y
	case '*':
		x *= y
	case '/':
		x /= y
	}
	return x, okX && okY && !math.IsNaN(x) && !math.IsInf(x, 0)
}
