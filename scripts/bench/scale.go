package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// scaleSample is a lab of one size.
type scaleSample struct {
	sample
	CPU  float64 // s of the lab's processes until up has returned
	Join float64 // ms from node add until all others have it
}

// scale prints how labs grow, and with which exponent.
func (b *bench) scale(ctx context.Context) error {
	fmt.Printf("machine: %s, %s, %d cores, %s\n", kernel(), cpu(), runtime.NumCPU(), time.Now().Format("2006-01-02"))
	fmt.Printf("full VXLAN mesh, one container a node, one segment; a lab of each size\n")
	fmt.Printf("%6s %9s %9s %9s %9s %11s %9s\n", "NODES", "UP S", "CPU S", "DOWN S", "MEMORY MB", "MB A NODE", "JOIN MS")
	b.namespaces, _ = namespaces() // unknown: settle only pauses
	var sizes, up, cpu []float64
	for _, n := range b.sizes {
		if err := b.settle(ctx); err != nil {
			return err
		}
		s, err := b.scaleLab(ctx, n)
		if err != nil {
			return err
		}
		fmt.Printf("%6d %9.2f %9.2f %9.2f %9.0f %11.1f %9.0f\n", n, s.UpWall/1000, s.CPU, s.DownWall/1000, s.Memory, s.Memory/float64(n), s.Join)
		sizes, up, cpu = append(sizes, float64(n)), append(up, s.UpWall), append(cpu, s.CPU)
	}
	fmt.Printf("grows with the power of nodes: up %.2f, CPU %.2f\n", exponent(sizes, up), exponent(sizes, cpu))
	return nil
}

// exponent is the slope of the line through the logarithms, by least squares.
func exponent(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		lx, ly := math.Log(x[i]), math.Log(y[i])
		sx, sy, sxx, sxy = sx+lx, sy+ly, sxx+lx*lx, sxy+lx*ly
	}
	n := float64(len(x))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func (b *bench) scaleLab(ctx context.Context, n int) (s scaleSample, err error) {
	file, err := b.labFile(n)
	if err != nil {
		return s, err
	}
	defer os.Remove(file)
	name := fmt.Sprintf("bench-%d", os.Getpid())
	defer func() {
		if err != nil {
			exec.Command(b.labctl, "down", name).Run()
		}
	}()
	from := time.Now()
	if _, err = output(ctx, b.labctl, "up", file, "--name", name, "-o", "json"); err != nil {
		return s, err
	}
	s.UpWall = ms(time.Since(from))
	pidns, err := b.pidNamespace(ctx, name)
	if err != nil {
		return s, err
	}
	if s.CPU, err = labCPU(pidns); err != nil {
		return s, err
	}
	if s.Memory, s.Processes, err = privateMemory(pidns); err != nil {
		return s, err
	}
	out, err := output(ctx, b.labctl, "node", "add", "more", "-l", name, "-o", "json")
	if err != nil {
		return s, err
	}
	var r struct{ ConvergedMs float64 }
	if err = json.Unmarshal(out, &r); err != nil {
		return s, err
	}
	s.Join = r.ConvergedMs
	from = time.Now()
	_, err = output(ctx, b.labctl, "down", name)
	s.DownWall = ms(time.Since(from))
	return s, err
}

// labCPU adds up what the processes in a PID namespace have used, in seconds;
// what those have used that ended is not in it.
func labCPU(pidns uint64) (seconds float64, err error) {
	const ticks = 100 // of USER_HZ, on all of Linux's machines that labctl runs on
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	want := fmt.Sprintf("pid:[%d]", pidns)
	for _, path := range stats {
		if ns, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid")); err != nil || ns != want {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended in between
		}
		_, rest, _ := strings.Cut(string(data), ") ") // the name may have spaces
		f := strings.Fields(rest)
		if len(f) < 13 {
			return 0, fmt.Errorf("%s: %d fields", path, len(f))
		}
		for _, field := range f[11:13] { // utime, stime
			n, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			seconds += n / ticks
		}
	}
	return seconds, nil
}
