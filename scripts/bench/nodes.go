package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// nodeSample is one round of a node that comes, fails, is back and goes.
type nodeSample struct {
	AddLease, Add       float64 // ms from the command's start, as labctl tells
	Kill, Start, Repair float64 // Repair is both, whole commands
	Restart             float64 // start after stop
	Remove              float64
}

// nodes measures how soon a running lab of three nodes knows that a fourth is
// there, and that it is not.
func (b *bench) nodes(ctx context.Context) (err error) {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	if _, err := output(ctx, b.labctl, "up", "flannel-vxlan", "--name", name); err != nil {
		return err
	}
	defer func() {
		if e := exec.Command(b.labctl, "down", name).Run(); err == nil {
			err = e
		}
	}()
	var all []nodeSample
	for i := range b.rounds + 1 {
		s, err := b.nodeRound(ctx, name)
		if err != nil {
			return err
		}
		if i > 0 { // the first warms up
			all = append(all, s)
		}
	}
	fmt.Printf("\nnodes that come and go: flannel-vxlan of 3 nodes; milliseconds from each command's start, %d rounds, median (least - most)\n", b.rounds)
	for _, r := range []struct {
		name string
		of   func(nodeSample) float64
	}{
		{"node add: lease", func(s nodeSample) float64 { return s.AddLease }},
		{"node add: all route to it", func(s nodeSample) float64 { return s.Add }},
		{"node rm: all dropped it", func(s nodeSample) float64 { return s.Remove }},
		{"node stop, start: all know", func(s nodeSample) float64 { return s.Restart }},
		{"node kill: dead", func(s nodeSample) float64 { return s.Kill }},
		{"node start: all know", func(s nodeSample) float64 { return s.Start }},
		{"kill + start, commands", func(s nodeSample) float64 { return s.Repair }},
	} {
		fmt.Printf("  %-26s %s\n", r.name, spread(all, r.of))
	}
	return nil
}

func (b *bench) nodeRound(ctx context.Context, name string) (s nodeSample, err error) {
	var r struct{ LeaseMs, ConvergedMs, DoneMs float64 }
	run := func(action, node string) {
		if err != nil {
			return
		}
		var out []byte
		if out, err = output(ctx, b.labctl, "node", action, node, "-l", name, "-o", "json"); err == nil {
			r.LeaseMs, r.ConvergedMs, r.DoneMs = 0, 0, 0
			err = json.Unmarshal(out, &r)
		}
	}
	run("add", "more")
	s.AddLease, s.Add = r.LeaseMs, r.ConvergedMs
	run("stop", "more")
	run("start", "more")
	s.Restart = r.ConvergedMs
	from := time.Now()
	run("kill", "more")
	s.Kill = r.DoneMs
	run("start", "more")
	s.Start, s.Repair = r.ConvergedMs, ms(time.Since(from))
	run("rm", "more")
	s.Remove = r.ConvergedMs
	return s, err
}
