package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"labctl/lab"
)

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status [LAB]",
		Short: "Nodes, leases, health, drift",
		Example: `  labctl status
  labctl status -w
  labctl status flannel-vxlan -o json`,
		Args:              arguments(0, 1, "one lab at most"),
		ValidArgsFunction: a.completeLabs,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := a.open(strings.Join(args, ""))
			if err != nil {
				return err
			}
			if watch {
				return a.watchStatus(c.Context(), cl)
			}
			st, err := cl.Status(c.Context())
			if err != nil {
				return err
			}
			if err := a.printStatus(st); err != nil {
				return err
			}
			if st.State == lab.Degraded || st.State == lab.Broken {
				return exitStatus(1)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "print it anew whenever something changes")
	return c
}

// watchStatus prints the status at each event until Ctrl-C or the lab's end.
func (a *app) watchStatus(ctx context.Context, cl *lab.Client) error {
	var failed error
	err := cl.Watch(ctx, func(e lab.Event) bool {
		if e.State == "" && e.Process == "" && e.Step == "" {
			return true
		}
		st, err := cl.Status(ctx)
		if err != nil {
			failed = err
			return false
		}
		if terminal(a.stdout) && a.output == "table" {
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
		}
		failed = a.printStatus(st)
		return failed == nil
	})
	if ctx.Err() != nil {
		return nil
	}
	if failed != nil {
		return failed
	}
	return err
}

func (a *app) printStatus(st *lab.Status) error {
	if done, err := a.machineReadable(st); done {
		return err
	}
	t := st.Timings
	head := fmt.Sprintf("%s: %s", st.Name, st.State)
	if st.Backend != "" {
		head += fmt.Sprintf(", %s, %s", st.Backend, st.Network)
	}
	if t.FirstPingMs > 0 {
		head += fmt.Sprintf("; up %d ms, converged %d ms, first packet %d ms", t.UpMs, t.ConvergedMs, t.FirstPingMs)
	}
	fmt.Fprintln(a.stdout, head)
	for _, r := range st.Reasons {
		fmt.Fprintf(a.stdout, "  %s\n", r)
	}
	fmt.Fprintln(a.stdout)
	wide := a.output == "wide"
	header := []string{"NODE", "STATE", "ADDRESS", "SUBNET", "MTU", "PEERS", "DRIFT", "CONTAINERS"}
	if wide {
		header = append(header, "VTEP MAC", "AGENT PID", "NETNS")
	}
	var rows [][]string
	for _, n := range st.Nodes {
		var cs []string
		for _, c := range n.Containers {
			cs = append(cs, c.Name+"="+dash(c.IP))
		}
		row := []string{n.Name, string(n.State), n.PublicIP, dash(strings.Join(n.Subnets, " ")), strconv.Itoa(n.MTU),
			strconv.Itoa(n.Peers), strconv.Itoa(len(n.Drift)), dash(strings.Join(cs, " "))}
		if wide {
			row = append(row, dash(n.VTEPMAC), strconv.Itoa(n.AgentPid), n.Netns)
		}
		rows = append(rows, row)
	}
	if err := table(a.stdout, header, rows); err != nil {
		return err
	}
	for _, n := range st.Nodes {
		for _, d := range n.Drift {
			fmt.Fprintf(a.stdout, "%s: drift: %s\n", d.Endpoint, d.Text)
		}
		for _, d := range n.Healed {
			fmt.Fprintf(a.stdout, "%s: healed: %s\n", d.Endpoint, d.Text)
		}
		for _, d := range n.Foreign {
			fmt.Fprintf(a.stdout, "%s: foreign, left alone: %s\n", d.Endpoint, d.Text)
		}
		for _, p := range n.Problems {
			fmt.Fprintf(a.stdout, "%s: %s\n", n.Name, p)
		}
	}
	if wide || st.State == lab.Degraded {
		rows = nil
		for _, p := range st.Processes {
			rows = append(rows, []string{p.Name, p.State, strconv.Itoa(p.Pid), strconv.Itoa(p.Restarts), dash(p.LastExit)})
		}
		if len(rows) > 0 {
			fmt.Fprintln(a.stdout)
			return table(a.stdout, []string{"PROCESS", "STATE", "PID", "RESTARTS", "LAST EXIT"}, rows)
		}
	}
	return nil
}
