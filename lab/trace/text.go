package trace

import (
	"fmt"
	"io"
	"strings"
)

// Headline says in one line what became of the packet.
func (t *Trace) Headline() string {
	what := "icmp echo"
	if t.Protocol != "icmp" {
		what = fmt.Sprintf("%s port %d", t.Protocol, t.Port)
	}
	s := fmt.Sprintf("%s -> %s (%s), %s, %d bytes: ", t.From, t.To, t.Addr, what, t.Size)
	switch {
	case !t.Delivered:
		return s + "NOT delivered"
	case t.Answer == "":
		return s + "delivered"
	}
	return s + fmt.Sprintf("delivered, %s after %s", t.Answer, micros(t.roundTrip()))
}

// roundTrip is microseconds from the first step to the last of the answer.
func (t *Trace) roundTrip() (us float64) {
	for _, s := range t.Steps {
		if s.Way != Request && s.Aside == "" {
			us = s.AtUs
		}
	}
	return us
}

func micros(us float64) string {
	if us < 1000 {
		return fmt.Sprintf("%.0f µs", us)
	}
	return fmt.Sprintf("%.3f ms", us/1000)
}

// Print writes the steps for a person: each is one line, above it the entries
// that decided that the packet comes there, below it what changed.
func (t *Trace) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, t.Headline())
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	width := 0
	for _, s := range t.Steps {
		width = max(width, len(s.Where()))
	}
	way := Way("")
	for _, s := range t.Steps {
		if s.Way != way && s.Aside == "" {
			way = s.Way
			fmt.Fprintf(&b, "\n%s\n", map[Way]string{Request: "There:", Answer: "And back:", Problem: "An error comes back:"}[way])
		}
		for _, d := range s.Why {
			fmt.Fprintf(&b, "       %s\n", d)
		}
		fmt.Fprintf(&b, "%3d  %10s  %-*s  %-3s  %s\n", s.Number, "+"+micros(s.AtUs), width, s.Where(), s.Direction, s.line(t))
	}
	if !t.Delivered {
		fmt.Fprintf(&b, "\nlast seen   %s\nmissing at  %s\n", t.LastSeen, t.MissingAt)
		if c := t.Cause; c != nil {
			fmt.Fprintf(&b, "cause       %s at %s\n", c.Code, c.Where)
			for _, e := range c.Evidence {
				fmt.Fprintf(&b, "            %s\n", e)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is a decision for a person: "node1 route: default via ...".
func (d Decision) String() string {
	return fmt.Sprintf("%s %s: %s", d.Where, d.Kind, d.Text)
}

// line is what is to be told of a step: all at the first of its way, then what
// changed.
func (s Step) line(t *Trace) string {
	text := strings.Join(s.Changed, ", ")
	if s.firstOf(t) {
		text = s.Packet.String()
	} else if text == "" {
		text = "unchanged"
	}
	if s.Aside != "" {
		text += " (" + s.Aside + ")"
	}
	return text
}

func (s Step) firstOf(t *Trace) bool {
	for _, o := range t.Steps {
		if o.Way == s.Way && o.Aside == "" {
			return o.Number == s.Number
		}
	}
	return false
}

// Mermaid writes a sequence diagram (https://mermaid.js.org): namespaces are
// the participants.
func (t *Trace) Mermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("sequenceDiagram\n")
	names := map[string]string{}
	id := func(endpoint string) string { return names[endpoint] }
	for _, s := range t.Steps {
		if names[s.Endpoint] == "" && s.Aside == "" {
			names[s.Endpoint] = fmt.Sprintf("n%d", len(names)+1)
			fmt.Fprintf(&b, "    participant %s as %s\n", id(s.Endpoint), s.Endpoint)
		}
	}
	var last *Step
	for i := range t.Steps {
		s := &t.Steps[i]
		if s.Aside != "" {
			continue
		}
		text := mermaidText(s.line(t))
		switch {
		case last == nil || last.Way != s.Way || last.Endpoint == s.Endpoint:
			for _, d := range s.Why {
				fmt.Fprintf(&b, "    Note over %s: %s\n", id(s.Endpoint), mermaidText(d.Kind+" "+d.Text))
			}
			fmt.Fprintf(&b, "    %s->>%s: %d %s %s, %s\n", id(s.Endpoint), id(s.Endpoint), s.Number, s.Interface, s.Direction, text)
		default:
			fmt.Fprintf(&b, "    %s->>%s: %d %s -> %s, %s\n", id(last.Endpoint), id(s.Endpoint), s.Number, last.Interface, s.Interface, text)
		}
		last = s
	}
	if !t.Delivered && t.Cause != nil && last != nil {
		fmt.Fprintf(&b, "    Note over %s: lost: %s at %s, missing at %s\n", id(last.Endpoint), t.Cause.Code, t.Cause.Where, mermaidText(t.MissingAt))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// mermaidText has no character that ends or begins something there.
func mermaidText(s string) string {
	return strings.NewReplacer(";", ",", "#", " ", "\n", " ").Replace(s)
}
