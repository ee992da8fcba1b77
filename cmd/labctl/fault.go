package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
)

func (a *app) faultCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "fault",
		Short: "Break things, keep them broken, heal them",
		Long: `Break what a lab is made of, on purpose. Faults add up: one that comes or goes
never changes another. Those that last are listed, and healed one by one or all
at once; the lab is degraded meanwhile. A fault of the same kind on the same
thing takes the place of the one before.

An interface is ENDPOINT:INTERFACE, such as node1:eth0, node2.c1:eth0 or
node1:flannel.1; node1 alone is node1:eth0. The switch's end of node1's cable is
lan:node1, lan being the segment. drop is about what arrives, rate, delay, loss
and reorder about what leaves. The last three need the kernel's netem; without
it the exit status is 4.`,
		Example: `  labctl fault link down node1:eth0
  labctl fault drop node1:eth0 10%
  labctl fault rate node2 10Mbit
  labctl fault delay node2 20ms 5ms
  labctl fault partition node1 node2,node3
  labctl fault kill etcd
  labctl fault list
  labctl fault heal`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	interfaces := upTo(1, a.completeEndpoints)
	c.AddCommand(
		a.faultKind("drop ENDPOINT:INTERFACE PERCENT", "Drop some of what arrives (nftables)", "drop node1:eth0 10%", 2, 2, interfaces),
		a.faultKind("rate ENDPOINT:INTERFACE RATE", "Send no faster (tc tbf)", "rate node1:eth0 10Mbit", 2, 2, interfaces),
		a.faultKind("delay ENDPOINT:INTERFACE TIME [JITTER]", "Send later (tc netem)", "delay node1:eth0 20ms 5ms", 2, 3, interfaces),
		a.faultKind("loss ENDPOINT:INTERFACE PERCENT", "Lose some of what is sent (tc netem)", "loss node1:eth0 0.5%", 2, 2, interfaces),
		a.faultKind("reorder ENDPOINT:INTERFACE PERCENT", "Let some overtake; needs a delay too (tc netem)", "reorder node1:eth0 25%", 2, 2, interfaces),
		a.faultKind("partition NODE[,NODE...] [NODE...]", "Groups that do not reach each other; one alone reaches nobody", "partition node1 node2,node3", 1, -1, a.completeNodes),
		a.faultKind("pause etcd|NODE", "Stop etcd or a node's agent (SIGSTOP)", "pause etcd", 1, 1, upTo(1, a.completeNodes)),
		a.faultKind("resume etcd|NODE", "Let it go on", "resume etcd", 1, 1, upTo(1, a.completeNodes)),
		a.faultKind("kill etcd|NODE", "Kill etcd or a node's agent (SIGKILL); it is started again", "kill node1", 1, 1, upTo(1, a.completeNodes)),
		a.faultKind("compact", "Let etcd forget its past", "compact", 0, 0, cobra.NoFileCompletions),
		a.faultKind("hold [NODE...]", "Stop healing and restarting, on some nodes or all", "hold node1 node2", 0, -1, a.completeNodes),
		a.faultKind("release [NODE...]", "Heal and restart again", "release", 0, -1, a.completeNodes),
		a.faultKind("heal [NUMBER...]", "End faults, by their numbers or all", "heal 1 2", 0, -1, cobra.NoFileCompletions),
		a.faultKind("restart NODE", "Take a node's power and give it back", "restart node2", 1, 1, upTo(1, a.completeNodes)),
		a.faultLinkCommand(), a.faultListCommand())
	return c
}

// faultKind is a command whose name and arguments are the fault's words.
func (a *app) faultKind(use, short, example string, least, most int, complete cobra.CompletionFunc) *cobra.Command {
	name, form, _ := strings.Cut(use, " ")
	what := form
	if most == 0 {
		what = "no arguments"
	}
	return &cobra.Command{
		Use: use, Short: short, Example: "  labctl fault " + example,
		Args:              arguments(least, most, what),
		ValidArgsFunction: complete,
		RunE: func(c *cobra.Command, args []string) error {
			return a.fault(c.Context(), append([]string{name}, args...))
		},
	}
}

func (a *app) faultLinkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "link", Short: "Switch an interface off and on", Example: "  labctl fault link down node1:eth0\n  labctl fault link up node1:eth0",
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, way := range []string{"down", "up"} {
		c.AddCommand(&cobra.Command{
			Use: way + " ENDPOINT:INTERFACE", Short: "Switch it " + map[string]string{"down": "off", "up": "on again"}[way],
			Example:           "  labctl fault link " + way + " node1:eth0",
			Args:              arguments(1, 1, "one interface"),
			ValidArgsFunction: upTo(1, a.completeEndpoints),
			RunE: func(c *cobra.Command, args []string) error {
				return a.fault(c.Context(), []string{"link", way, args[0]})
			},
		})
	}
	return c
}

// faultList is what fault list -o json prints.
type faultList struct {
	SchemaVersion int               `json:"schemaVersion"`
	Lab           string            `json:"lab"`
	Faults        []lab.ActiveFault `json:"faults"`
}

func (a *app) faultListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "The faults that last", Example: "  labctl fault list\n  labctl fault list -o json",
		Args: arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.open("")
			if err != nil {
				return err
			}
			faults, err := cl.Fault(c.Context())
			if err != nil {
				return err
			}
			if done, err := a.machineReadable(faultList{1, cl.Dir.Name(), append([]lab.ActiveFault{}, faults...)}); done {
				return err
			}
			if len(faults) == 0 {
				fmt.Fprintln(a.stderr, cl.Dir.Name()+": no faults")
				return nil
			}
			var rows [][]string
			for _, f := range faults {
				dropped := "-"
				if f.Dropped != nil {
					dropped = fmt.Sprint(*f.Dropped)
				}
				rows = append(rows, []string{fmt.Sprint(f.ID), f.Fault, short(time.Since(f.Since)), dropped})
			}
			return table(a.stdout, []string{"NUMBER", "FAULT", "FOR", "DROPPED"}, rows)
		},
	}
}

// fault does one. What is wrong with its words is told before a lab is looked
// for.
func (a *app) fault(ctx context.Context, words []string) error {
	f, err := lab.ParseFault(words)
	if err != nil {
		return err
	}
	cl, err := a.open("")
	if err != nil {
		return err
	}
	return f.Inject(ctx, cl)
}
