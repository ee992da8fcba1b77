package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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
		ValidArgsFunction: upTo(1, a.completeLabs),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := a.labName(args)
			if err != nil {
				return err
			}
			cl, err := a.open(name)
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

// watchInterval is how often a watched lab is asked for what it has no events
// of: drift, peers, problems.
const watchInterval = time.Second

// watchStatus prints the status whenever it changes, until Ctrl-C or the lab's
// end.
func (a *app) watchStatus(ctx context.Context, cl *lab.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	poke := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- cl.Watch(ctx, func(lab.Event) bool {
			select {
			case poke <- struct{}{}:
			default: // the last one has not been looked at yet
			}
			return true
		})
	}()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last []byte
	for {
		st, err := cl.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, lab.ErrSupervisorGone) {
			fmt.Fprintf(a.stderr, "%s: ended\n", cl.Dir.Name())
			return nil
		}
		if err != nil {
			return err
		}
		now, err := json.Marshal(st)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, last) {
			last = now
			if terminal(a.stdout) && a.output == "table" {
				fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
			}
			if err := a.printStatus(st); err != nil {
				return err
			}
		}
		select {
		case <-poke:
		case <-tick.C:
		case <-ended: // the next answer tells why
			ended = nil
		}
	}
}

// otherAgent says whether a node's agent is not labctl's own.
func otherAgent(n lab.NodeStatus) bool { return n.Agent != "" && n.Agent != lab.OwnAgent }

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
	managed := slices.ContainsFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Management != "" })
	if managed {
		header = slices.Insert(header, 3, "MANAGEMENT")
	}
	tunnels := slices.ContainsFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Tunnel != "" })
	if tunnels {
		header = append(header, "TUNNEL")
	}
	agents := wide || slices.ContainsFunc(st.Nodes, otherAgent)
	if agents {
		header = append(header, "AGENT")
	}
	if wide {
		header = append(header, "VTEP MAC", "AGENT PID", "NETNS")
	}
	var rows [][]string
	for _, n := range st.Nodes {
		var cs []string
		for _, c := range n.Containers {
			cs = append(cs, c.Name+"="+dash(c.IP))
		}
		drift := strconv.Itoa(len(n.Drift))
		if otherAgent(n) && len(n.Drift) == 0 {
			drift = "-" // what its agent wants nobody else knows
		}
		row := []string{n.Name, string(n.State), n.PublicIP, dash(strings.Join(n.Subnets, " ")), strconv.Itoa(n.MTU),
			strconv.Itoa(n.Peers), drift, dash(strings.Join(cs, " "))}
		if managed {
			row = slices.Insert(row, 3, dash(n.Management))
		}
		if tunnels {
			row = append(row, dash(n.Tunnel))
		}
		if agents {
			row = append(row, dash(n.Agent))
		}
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
	speakers := st.Speakers()
	for _, s := range speakers {
		for _, p := range s.Sessions {
			if p.State != lab.Established {
				fmt.Fprintf(a.stdout, "%s: BGP session with %s: %s\n", s.Name, p.Peer, lab.WhyDown(s, p, speakers))
			}
		}
	}
	if wide {
		if err := a.printTraffic(st); err != nil {
			return err
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
