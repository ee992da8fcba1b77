package main

import (
	"fmt"
	"io"
	"time"

	"labctl/lab"
)

// progress shows a build: one line a step with its duration, or for what came
// by itself the time since the command was started. On a terminal a
// last line says what is waited for; elsewhere lines are plain.
type progress struct {
	w     io.Writer
	from  time.Time // when the command started
	tty   bool
	drawn bool
}

func (a *app) newProgress() *progress {
	return &progress{w: a.stderr, from: a.started, tty: terminal(a.stderr)}
}

func (p *progress) event(e lab.Event) {
	p.clear()
	switch {
	case e.Step != "" && e.Took > 0:
		fmt.Fprintf(p.w, "  %-50s %8s\n", e.Step, short(e.Took))
	case e.Step != "":
		fmt.Fprintf(p.w, "  %-50s %8s\n", e.Step, "at "+short(e.Time.Sub(p.from)))
	case e.Process != "":
		fmt.Fprintf(p.w, "  %s: %s\n", e.Process, e.Message)
	}
	if p.tty && e.State == "" && e.Error == "" {
		fmt.Fprint(p.w, "  ... (Ctrl-C removes all)")
		p.drawn = true
	}
}

// clear takes the waiting line away.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) done() { p.clear() }
