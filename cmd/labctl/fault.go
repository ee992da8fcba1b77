package main

import (
	"github.com/spf13/cobra"
	"labctl/lab"
)

func (a *app) faultCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "fault",
		Short: "Break things, and keep them broken",
		Long: `Keep labctl from putting right what somebody breaks by hand, so that a fault can
be looked at.`,
		Example: `  labctl fault hold node1
  labctl exec node1 -- ip route del 10.244.7.0/24
  labctl status                     # shows the drift
  labctl fault release`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	hold := &cobra.Command{
		Use:               "hold [NODE...]",
		Short:             "Stop healing and restarting, on some nodes or all",
		Example:           "  labctl fault hold node1 node2",
		ValidArgsFunction: a.completeNodes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.fault(c, lab.FaultRequest{Hold: true, Nodes: args})
		},
	}
	release := &cobra.Command{
		Use:               "release [NODE...]",
		Short:             "Heal and restart again",
		Example:           "  labctl fault release",
		ValidArgsFunction: a.completeNodes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.fault(c, lab.FaultRequest{Release: true, Nodes: args})
		},
	}
	c.AddCommand(hold, release)
	return c
}

func (a *app) fault(c *cobra.Command, r lab.FaultRequest) error {
	cl, err := a.open("")
	if err != nil {
		return err
	}
	return cl.Fault(c.Context(), r)
}
