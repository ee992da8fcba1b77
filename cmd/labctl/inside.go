package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"labctl/backends"
	"labctl/lab"
	"labctl/lab/agent"
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
	return []*cobra.Command{shim, supervise, store, probe, a.agentCommand()}
}

// agentCommand has flanneld's flag names.
func (a *app) agentCommand() *cobra.Command {
	var conf agent.Config
	var endpoints, publicIP string
	c := &cobra.Command{
		Use:    "agent",
		Short:  "The agent of one host, as labs start it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf.Endpoints = strings.Split(endpoints, ",")
			conf.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			if publicIP != "" {
				ip, err := netip.ParseAddr(publicIP)
				if err != nil {
					return usage(fmt.Errorf("public-ip: %w", err), "give an address of the interface")
				}
				conf.PublicIP = ip
			}
			if fd := os.Getenv(agent.ControlFD); fd != "" {
				n, err := strconv.Atoi(fd)
				if err != nil {
					return fmt.Errorf("%s: %w", agent.ControlFD, err)
				}
				conf.Control = os.NewFile(uintptr(n), "control")
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			err := agent.Run(ctx, conf)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&conf.Node, "node", "host", "the host's name in messages")
	f.StringVar(&endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd's client addresses, comma separated")
	f.StringVar(&conf.Prefix, "etcd-prefix", backends.DefaultPrefix, "where the network's keys are")
	f.StringVar(&conf.Iface, "iface", "eth0", "the underlay interface")
	f.StringVar(&publicIP, "public-ip", "", "the address that peers are told (default: the interface's)")
	f.StringVar(&conf.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "where the subnet is written")
	f.BoolVar(&conf.IPMasq, "ip-masq", false, "masquerade what leaves the network")
	f.DurationVar(&conf.LeaseTTL, "lease-ttl", backends.DefaultTTL, "the life of the lease when nobody renews it")
	return c
}
