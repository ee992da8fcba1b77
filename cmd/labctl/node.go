package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
)

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "Hosts that come, go, stop and fail while the lab runs",
		Long: `Add a host to the running lab, remove one, or stop, kill and start one, and
tell how long it takes until all others know. Times count from the command's
start. Commands for several nodes at once take their turns.`,
		Example: `  labctl node add node4 --containers 2
  labctl node stop node2            # its agent ends, the kernel goes on
  labctl node kill node3            # its power fails
  labctl node start node3
  labctl node rm node4`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.nodeAddCommand())
	for _, sub := range []*cobra.Command{
		{
			Use:   string(lab.NodeRm) + " NODE",
			Short: "Take a node away for good",
			Long: `End the node's agent, give its lease back, remove its links, namespaces and
files, and wait until all others have dropped their routes to it. The other
nodes keep their addresses. A lab keeps at least one node.`,
			Example: "  labctl node rm node3",
		},
		{
			Use:   string(lab.NodeStop) + " NODE",
			Short: "End a node's agent; the kernel goes on",
			Long: `End the node's agent (SIGTERM) and do not start it again. What the kernel
forwards goes on with the tables it has; what the agent itself carries (udp)
does not. The others keep their routes until the
node's lease ends, leaseTTL after its last renewal (30s unless the lab file says
otherwise; never for a node whose subnet is pinned). The node's state is
stopped, the lab's is ready all the same.`,
			Example: "  labctl node stop node3\n  labctl exec node3 -- ip route     # labctl's routes are still there",
		},
		{
			Use:   string(lab.NodeStart) + " NODE",
			Short: "Start a node after stop or kill",
			Long: `Start the agent of a stopped node, or power up a killed one: with the same
addresses and MACs, new namespaces and empty kernel tables. It takes its old
subnet again if that is still free. The command waits until all others have
routes to the node.`,
			Example: "  labctl node start node3 --timeout 10s",
		},
		{
			Use:   string(lab.NodeKill) + " NODE",
			Short: "Take a node's power",
			Long: `A power failure: the node's underlay link is gone at once, every process in the
node and its containers is killed without a word to the others, and all that its
kernel knew is lost. Its lease stays until it ends by itself, and so do the
others' routes. Files outlive it, as on a disk: logs and subnet.env. The node's
state is dead, the lab's is ready all the same; labctl node start is the cure.`,
			Example: "  labctl node kill node3",
		},
	} {
		action := lab.NodeAction(strings.TrimSuffix(sub.Use, " NODE"))
		r := lab.NodeRequest{Action: action}
		sub.Args = arguments(1, 1, "one node")
		sub.ValidArgsFunction = upTo(1, a.completeNodes)
		sub.RunE = func(c *cobra.Command, args []string) error { return a.node(c.Context(), args[0], r) }
		nodeTimeout(sub, &r)
		c.AddCommand(sub)
	}
	return c
}

func (a *app) nodeAddCommand() *cobra.Command {
	r := lab.NodeRequest{Action: lab.NodeAdd}
	var containers int
	var address, subnet string
	c := &cobra.Command{
		Use:   "add NODE",
		Short: "Add a host to the running lab",
		Long: `Add a host as a lab file's last node would be: with the next free address of its
segment, and one container. Wait until it has its subnet, and all others have
routes to it. Nobody else's address changes.`,
		Example: `  labctl node add node4
  labctl node add edge --segment rack2 --containers 3 --subnet 10.244.9.0/24 --address 192.168.52.77`,
		Args:              arguments(1, 1, "the new node's name"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if address != "" {
				if r.Address, err = netip.ParseAddr(address); err != nil {
					return usage(fmt.Errorf("--address %s: not an address", address), "give one of the segment, such as 192.168.50.20")
				}
			}
			if subnet != "" {
				if r.Subnet, err = netip.ParsePrefix(subnet); err != nil {
					return usage(fmt.Errorf("--subnet %s: not a subnet", subnet), "give one of the network, such as 10.244.9.0/24")
				}
			}
			if c.Flags().Changed("containers") {
				if containers < 0 || containers > 1000 {
					return usage(fmt.Errorf("--containers %d: not a possible number of containers", containers), "give 0 to 1000")
				}
				r.Containers = &containers
			}
			return a.node(c.Context(), args[0], r)
		},
	}
	f := c.Flags()
	f.StringVar(&r.Segment, "segment", "", "where it is connected (default: the only one there is)")
	f.StringVar(&address, "address", "", "its address on the segment (default: the next free one)")
	f.StringVar(&subnet, "subnet", "", "pin its containers' subnet (default: the agent picks one)")
	f.IntVar(&containers, "containers", 1, "how many containers, called c1, c2 and so on")
	nodeTimeout(c, &r)
	return c
}

func nodeTimeout(c *cobra.Command, r *lab.NodeRequest) {
	c.Flags().DurationVar(&r.Timeout, "timeout", 30*time.Second, "how long to wait for the others; what was done stays done")
}

func (a *app) node(ctx context.Context, name string, r lab.NodeRequest) error {
	if r.Timeout <= 0 {
		return usage(fmt.Errorf("--timeout %v: no time to wait", r.Timeout), "give a duration such as 10s")
	}
	if name == "" {
		return usage(fmt.Errorf("node: its name is empty"), "labctl status shows the nodes")
	}
	cl, err := a.open("")
	if err != nil {
		return err
	}
	r.Node, r.From = name, a.started
	res, err := cl.Node(ctx, r)
	if err != nil {
		return err
	}
	for _, e := range res.Ended {
		fmt.Fprintf(a.stderr, "%s: ended %s\n", name, e)
	}
	if done, err := a.machineReadable(res); done {
		return err
	}
	if res.Unchanged {
		fmt.Fprintf(a.stderr, "%s: is %s already: unchanged\n", name, inWords(res.State))
		return nil
	}
	fmt.Fprintf(a.stdout, "%s: %s\n", name, nodeLine(res))
	return nil
}

// inWords is a node's state for a sentence: one that is in service may be
// anything that the status tells.
func inWords(s lab.State) string {
	if s == lab.Stopped || s == lab.Dead {
		return string(s)
	}
	return "running"
}

// nodeLine tells what became of a node.
func nodeLine(r *lab.NodeResult) string {
	others := "the other"
	if r.Others != 1 {
		others = fmt.Sprintf("all %d others", r.Others)
	}
	keep := "; the others keep their routes to it"
	switch r.Lease {
	case lab.NoLease:
		keep = ""
	case lab.PinnedLease:
		keep += ", its subnet being pinned"
	default:
		keep += fmt.Sprintf(" until its lease ends, in %v at most", time.Duration(r.LeaseTTLMs)*time.Millisecond)
	}
	switch r.Action {
	case lab.NodeStop:
		return "stopped, the kernel goes on" + keep
	case lab.NodeKill:
		return "dead" + keep
	case lab.NodeRm:
		switch {
		case r.ConvergedMs == 0:
			return fmt.Sprintf("removed in %d ms", r.DoneMs)
		case r.Others == 0:
			return fmt.Sprintf("left: %d ms until it was gone", r.ConvergedMs)
		}
		return fmt.Sprintf("left: %d ms until %s had dropped it", r.ConvergedMs, others)
	}
	switch {
	case r.State == lab.Held:
		return fmt.Sprintf("joined in %d ms, and held", r.ConvergedMs)
	case r.LeaseMs == 0:
		return fmt.Sprintf("joined in %d ms", r.ConvergedMs)
	case r.Others == 0:
		return fmt.Sprintf("joined: %d ms to lease; there is no other that runs", r.LeaseMs)
	case r.Others == 1:
		return fmt.Sprintf("joined: %d ms to lease, %d ms until the other routes to it", r.LeaseMs, r.ConvergedMs)
	}
	return fmt.Sprintf("joined: %d ms to lease, %d ms until %s route to it", r.LeaseMs, r.ConvergedMs, others)
}
