package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"labctl/lab"
	"labctl/lab/trace"
)

const (
	// answerTime is how long a lab with a failure may take to tell of itself.
	answerTime = 10 * time.Second
	// maxTraces is how many failed checks' packets are followed: what is broken
	// for one pair is most often broken for all.
	maxTraces = 3
)

// evidence keeps what the lab in d can tell of its failure, in a directory of
// the lab's name. One piece that cannot be had does not keep the others away.
func (a *attempt) evidence(d lab.Dir) error {
	base, err := a.Keep()
	if err != nil {
		return err
	}
	dir := filepath.Join(base, d.Name())
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return err
	}
	a.report.Kept = dir
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	w := &witness{ctx: ctx, client: &lab.Client{Dir: d}, attempt: a, dir: dir}
	var errs []error
	for _, piece := range []func() error{w.files, w.checks, w.status, w.traces} {
		errs = append(errs, piece())
	}
	return errors.Join(errs...)
}

// witness writes pieces of evidence. What else a failed lab can be asked is a
// method more, in the list above.
type witness struct {
	ctx     context.Context
	client  *lab.Client
	attempt *attempt
	dir     string
}

func (w *witness) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(w.dir, name), data, 0o644)
}

func (w *witness) writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return w.write(name, append(b, '\n'))
}

// files copies the lab's own: its file, its plan, the logs.
func (w *witness) files() error {
	d := w.client.Dir
	logs, err := filepath.Glob(filepath.Join(d.Logs(), "*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, from := range append(logs, d.Spec(), d.Plan()) {
		to := filepath.Base(from)
		if filepath.Dir(from) == d.Logs() {
			to = filepath.Join("logs", to)
		}
		b, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the lab did not come so far
		}
		if err == nil {
			err = w.write(to, b)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (w *witness) checks() error { return w.writeJSON("checks.json", w.attempt.report) }

// status keeps what status -o json prints, and the differences between the
// plan and the kernel, node by node. A lab that died has none.
func (w *witness) status() error {
	st, err := w.client.Status(w.ctx)
	if err != nil {
		return w.write("status.txt", []byte(err.Error()+"\n"))
	}
	var lines strings.Builder
	for _, n := range st.Nodes {
		for _, p := range append(n.Reasons, n.Problems...) {
			fmt.Fprintf(&lines, "%s: %s\n", n.Name, p)
		}
		for kind, all := range map[string][]lab.Drift{"drift": n.Drift, "healed": n.Healed, "foreign": n.Foreign} {
			for _, d := range all {
				fmt.Fprintf(&lines, "%s: %s: %s\n", d.Endpoint, kind, d.Text)
			}
		}
	}
	return errors.Join(w.writeJSON("status.json", st), w.write("drift.txt", []byte(lines.String())))
}

// traces follows a packet of each of the first checks that failed for want of
// one, or that found one where none should be: trace-3.txt belongs to the third
// check of checks.json.
func (w *witness) traces() error {
	var errs []error
	made := 0
	for i, c := range w.attempt.report.Checks {
		if c.Packet == nil || made == maxTraces {
			continue
		}
		made++
		var text strings.Builder
		fmt.Fprintf(&text, "check: %s\nfound: %s\n\n", c.Line(), c.Found)
		size := c.Packet.Size
		if size == 0 {
			size = 56
		}
		t, err := trace.Run(w.ctx, w.client, trace.Probe{From: c.Packet.From, To: c.Packet.To, Protocol: "icmp", Size: size, DF: c.Packet.DF, Wait: trace.DefaultWait})
		if err == nil {
			err = t.Print(&text)
		}
		if err != nil {
			fmt.Fprintf(&text, "trace: %v\n", err) // the lab may have died
		}
		errs = append(errs, w.write(fmt.Sprintf("trace-%d.txt", i+1), []byte(text.String())))
	}
	return errors.Join(errs...)
}
