package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// What a person waits for, as whole commands. A median above its limit fails
// the benchmark.
const (
	traceLimit  = 150.0  // ms, a delivered packet in a lab of 3 nodes
	matrixLimit = 1500.0 // ms, 60 containers, 3,540 pairs
)

// packets measures trace and ping --all, in turn.
func (b *bench) packets(ctx context.Context) (err error) {
	small, big := fmt.Sprintf("bench-t%d", os.Getpid()), fmt.Sprintf("bench-m%d", os.Getpid())
	file, err := matrixLab()
	if err != nil {
		return err
	}
	defer os.Remove(file)
	defer func() {
		for _, name := range []string{small, big} {
			exec.Command(b.labctl, "down", name).Run() // also of one that did not come up
		}
	}()
	for name, of := range map[string]string{small: "flannel-vxlan", big: file} {
		if _, err := output(ctx, b.labctl, "up", of, "--name", name, "-o", "json"); err != nil {
			return err
		}
	}
	cases := []struct {
		name  string
		limit float64
		argv  []string
	}{
		{"trace node1.c1 node2.c1", traceLimit, []string{"trace", "-l", small, "node1.c1", "node2.c1"}},
		{"ping --all, 60 containers", matrixLimit, []string{"ping", "--all", "-l", big}},
	}
	times := make([][]float64, len(cases))
	for round := range b.rounds + 1 { // the first warms ARP and the page cache
		for i, c := range cases {
			from := time.Now()
			if _, err := output(ctx, append([]string{b.labctl}, c.argv...)...); err != nil {
				return err
			}
			if round > 0 {
				times[i] = append(times[i], ms(time.Since(from)))
			}
		}
	}
	fmt.Printf("\nwhole commands; milliseconds, %d rounds, median (least - most)\n", b.rounds)
	var errs []error
	for i, c := range cases {
		fmt.Printf("  %-26s %s  limit %.0f\n", c.name, spread(times[i], func(f float64) float64 { return f }), c.limit)
		if m := median(times[i]); m > c.limit {
			errs = append(errs, fmt.Errorf("%s: median %.0f ms, limit %.0f", c.name, m, c.limit))
		}
	}
	return errors.Join(errs...)
}

// matrixLab writes a lab of 60 containers on 6 hosts.
func matrixLab() (string, error) {
	f, err := os.CreateTemp("", "bench-*.yaml")
	if err != nil {
		return "", err
	}
	defer f.Close()
	fmt.Fprint(f, "name: matrix\nnetwork: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}\nsegments: {lan: {subnet: 192.168.50.0/24}}\nnodes:\n")
	for i := range 6 {
		if _, err := fmt.Fprintf(f, "  node%d: {containers: 10}\n", i+1); err != nil {
			return "", err
		}
	}
	return f.Name(), nil
}
