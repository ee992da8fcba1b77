package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command runs labctl and returns what it printed. An error has what it said.
func (s *soak) command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.labctl, args...)
	// Asked to end, it leaves nothing half done; a flow tells what it counted.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("labctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, nil
}

// fault is labctl fault.
func (s *soak) fault(ctx context.Context, words ...string) error {
	_, err := s.command(ctx, append([]string{"fault", "-l", s.name}, words...)...)
	return err
}

// node is labctl node.
func (s *soak) node(ctx context.Context, action, node string) error {
	_, err := s.command(ctx, "node", action, node, "-l", s.name, "--timeout", patience.String())
	return err
}

// inside runs a shell's command in an endpoint.
func (s *soak) inside(ctx context.Context, endpoint, script string) ([]byte, error) {
	return s.command(ctx, "exec", "-l", s.name, endpoint, "--", "sh", "-ec", script)
}

// runDir is the lab's run directory.
func (s *soak) runDir(ctx context.Context) (string, error) {
	out, err := s.command(ctx, "ls", "-o", "json")
	if err != nil {
		return "", err
	}
	var list struct{ Labs []struct{ Name, Dir string } }
	if err := json.Unmarshal(out, &list); err != nil {
		return "", fmt.Errorf("labctl ls: %w", err)
	}
	for _, l := range list.Labs {
		if l.Name == s.name {
			return l.Dir, nil
		}
	}
	return "", fmt.Errorf("%s: not in labctl ls", s.name)
}

// status is what the soak needs of labctl status. A lab that is not ready has
// one, too.
type status struct {
	State     string
	Reasons   []string
	Processes []struct {
		Name string
		Pid  int
	}
}

func (s *soak) status(ctx context.Context) (*status, error) {
	out, err := s.command(ctx, "status", s.name, "-o", "json")
	var st status
	if jerr := json.Unmarshal(out, &st); jerr != nil {
		return nil, errors.Join(err, fmt.Errorf("labctl status: %w", jerr))
	}
	return &st, nil
}

// down takes the lab away, also after an interrupt, and looks for what is left
// of it. before are the machine's devices from before it came.
func (s *soak) down(before string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.command(ctx, "down", s.name); err != nil {
		return err
	}
	var left []string
	if _, err := os.Lstat(s.dir); err == nil {
		left = append(left, s.dir)
	}
	names, err := filepath.Glob("/run/netns/" + s.name + ".*")
	if err != nil {
		return err
	}
	left = append(left, names...)
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(s.dir)) {
			left = append(left, filepath.Dir(p)+" "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	// Its exit status is about other labs as well.
	out, err := s.command(ctx, "doctor", "--leaks", "-o", "json")
	var leaks struct{ Leaks []struct{ What, Lab string } }
	if jerr := json.Unmarshal(out, &leaks); jerr != nil {
		return errors.Join(err, fmt.Errorf("labctl doctor --leaks: %w", jerr))
	}
	for _, l := range leaks.Leaks {
		if l.Lab == s.name {
			left = append(left, l.What)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left of the lab: %s", strings.Join(left, ", "))
	}
	after, err := links()
	if err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("the machine's own devices are others than before:\n%s\n%s", before, after)
	}
	return nil
}

// links are the devices of the machine's own namespace.
func links() (string, error) {
	out, err := exec.Command("ip", "-o", "link").Output()
	if err != nil {
		return "", fmt.Errorf("ip link: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 {
			names = append(names, f[1])
		}
	}
	return strings.Join(names, " "), nil
}

// rest waits, or returns ctx's error.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
