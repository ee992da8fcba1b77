package main

import (
	"encoding/json"
	"os"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/doctor"
	"labctl/lab/etcd"
	"labctl/lab/supervisor"
)

// insideCommands are what labctl executes itself as inside a lab. They are
// hidden: people start them by `labctl up`.
func (a *app) insideCommands() []*cobra.Command {
	shim := &cobra.Command{Use: "__init DIR STARTED", Hidden: true, Args: cobra.ExactArgs(2), RunE: func(_ *cobra.Command, args []string) error {
		code, err := supervisor.Init(lab.Dir(args[0]), args[1])
		if err != nil {
			return err
		}
		return exitStatus(code)
	}}
	supervise := &cobra.Command{Use: "__supervise DIR STARTED", Hidden: true, Args: cobra.ExactArgs(2), RunE: func(_ *cobra.Command, args []string) error {
		return supervisor.Supervise(lab.Dir(args[0]), args[1])
	}}
	store := &cobra.Command{Use: "__etcd CONFIG", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var conf etcd.ProcessConfig
		if err := json.Unmarshal([]byte(args[0]), &conf); err != nil {
			return err
		}
		return etcd.Run(c.Context(), conf, os.NewFile(3, "control"))
	}}
	probe := &cobra.Command{Use: "__probe", Hidden: true, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return doctor.Probe(c.Context(), a.stdout)
	}}
	return []*cobra.Command{shim, supervise, store, probe}
}
