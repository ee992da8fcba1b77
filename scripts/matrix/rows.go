package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// feature is a command and what it does for a user, run by sh with $LAB being a
// lab of flannel-vxlan that is up.
type feature struct{ name, command string }

var features = []feature{
	{"`up`, `status`", `labctl up flannel-vxlan --name $LAB && labctl status -l $LAB`},
	{"`exec`", `labctl exec -l $LAB node1 -- ip route show dev flannel.1 | grep via`},
	{"`ip netns exec`", `ip netns exec $LAB.node1 true 2>&1 || { echo "labctl: ip netns: no name; use labctl exec" >&2; exit 4; }`},
	{"`ping --all`", `labctl ping -l $LAB --all`},
	{"`iperf`", `labctl iperf -l $LAB node1.c1 node2.c1 -t 1`},
	{"`trace`", `labctl trace -l $LAB node1.c1 node2.c1`},
	{"`capture`, `tcpdump`", `labctl capture -l $LAB node1:flannel.1 --duration 2s -w cap.pcapng & labctl ping -l $LAB node1.c1 node2.c1 -c 2 && wait $! && test -s cap.pcapng`},
	{"`logs`", `labctl logs -l $LAB node1`},
	{"`node add`, `node rm`", `labctl node add -l $LAB more && labctl node rm -l $LAB more`},
	{"`fault drop`, `link`, `partition`, `rate`", `labctl fault drop -l $LAB node1 5% && labctl fault link down -l $LAB node2.c1:eth0 && labctl fault partition -l $LAB node3 && labctl fault rate -l $LAB node2 10Mbit && labctl fault heal -l $LAB`},
	{"`fault delay`, `loss`, `reorder` (netem)", `labctl fault delay -l $LAB node1 20ms && labctl fault loss -l $LAB node1 5% && labctl fault reorder -l $LAB node1 5% && labctl fault heal -l $LAB`},
	{"`fault kill`, `pause`", `labctl fault kill -l $LAB node1 && labctl fault pause -l $LAB node2 && labctl fault resume -l $LAB node2`},
	{"`down`", `labctl down $LAB`},
	{"`doctor`", `labctl doctor || test $? = 4`}, // 4 is an answer, too
}

// here runs everything as whoever it is, and prints the result.
func here(ctx context.Context, labctl string, labs []string) error {
	dir, err := os.MkdirTemp("", "matrix-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab := fmt.Sprintf("matrix-%d", os.Getpid())
	env := append(os.Environ(), "LAB="+lab, "PATH="+filepath.Dir(labctl)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	defer func() {
		down := exec.Command(labctl, "down", lab)
		down.Env = env
		if out, err := down.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "matrix: down %s: %v: %s\n", lab, err, out)
		}
	}()
	var r result
	for i, f := range features {
		// Without a lab there is nothing to do these things to.
		if i > 0 && r.Rows[0].Cell == "no" && strings.Contains(f.command, "$LAB") {
			r.Rows = append(r.Rows, row{Name: f.name, Cell: "no", Why: "no lab"})
			continue
		}
		cmd := exec.CommandContext(ctx, "sh", "-c", f.command)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		r.Rows = append(r.Rows, f.row(err, out))
	}
	found, err := testLabs(ctx, labctl, env, labs)
	if err != nil {
		return err
	}
	r.Rows = append(r.Rows, found...)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Println(mark + string(text))
	return nil
}

// row tells what became of the feature's command.
func (f feature) row(err error, out []byte) row {
	r := row{Name: f.name, Cell: "yes"}
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
	case ended && exit.ExitCode() == 4:
		r.Cell, r.Why = "no", reason(out)
	default:
		r.Cell, r.Why, r.Failed = "FAILED", err.Error()+": "+string(out), true
	}
	return r
}

// reason is labctl's last message, with its cure.
func reason(out []byte) string {
	var words []string
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "labctl: "); ok {
			words = []string{strings.TrimSpace(text)}
		} else if text, ok := strings.CutPrefix(line, "  cure: "); ok {
			words = append(words, "cure: "+strings.TrimSpace(text))
		}
	}
	return strings.Join(words, "; ")
}

// summary is the part of labctl test -o json that is needed.
type summary struct {
	Labs []struct {
		Lab, Outcome, Reason, Cure string
		Checks                     []struct{ Title, Outcome, Found string }
	}
}

func testLabs(ctx context.Context, labctl string, env, labs []string) ([]row, error) {
	if len(labs) == 0 {
		labs = []string{"--all"}
	}
	// One after the other, and with time: a kernel in a process is slow.
	cmd := exec.CommandContext(ctx, labctl, append([]string{"test", "-o", "json", "--parallel", "1", "--timeout", "10m", "--slow", "4"}, labs...)...)
	cmd.Env = env
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var s summary
	if bad := json.Unmarshal(out, &s); bad != nil {
		return nil, fmt.Errorf("labctl test: %w: %w", err, bad)
	}
	var rows []row
	for _, l := range s.Labs {
		r := row{Name: "lab `" + l.Lab + "`"}
		passed := 0
		for _, c := range l.Checks {
			switch c.Outcome {
			case "passed":
				passed++
			case "failed":
				r.Failed = true
				fallthrough
			default:
				r.Why += prefixed("; ", c.Title+": "+c.Found)
			}
		}
		r.Cell = fmt.Sprintf("%d of %d", passed, len(l.Checks))
		r.Why = strings.TrimPrefix(r.Why, "; ")
		if l.Reason != "" {
			r.Cell, r.Why = "no", l.Reason+prefixed("; cure: ", l.Cure)
			r.Failed = l.Outcome == "failed"
		}
		if r.Failed {
			r.Cell = "FAILED"
		}
		rows = append(rows, r)
	}
	return rows, nil
}
