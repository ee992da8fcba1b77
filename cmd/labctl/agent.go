package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"labctl/backends"
	"labctl/lab/agent"
	"labctl/lab/inside"
)

// flannelTTL is the life of flannel's own leases.
const flannelTTL = 24 * time.Hour

// agentFlags are the flags of labctl agent as they were given.
type agentFlags struct {
	node, endpoints, prefix                       string
	caFile, certFile, keyFile, username, password string
	ifaces, regexes                               []string
	canReach, publicIP, subnetFile, healthzIP     string
	ipMasq, forward                               bool
	leaseTTL                                      time.Duration
	margin, healthzPort                           int
}

// agentCommand is flanneld with labctl's libraries: its flags, its variables.
func (a *app) agentCommand() *cobra.Command {
	var f agentFlags
	c := &cobra.Command{
		Use:   "agent",
		Short: "This machine joins a flannel network: the agent that labs run on each host",
		Long: `Take a subnet out of a flannel network in etcd, write subnet.env, and keep this
machine's devices, routes and nftables rules in step with the other hosts', of
which any may run flanneld instead. This is the one command that changes the
network namespace that it is started in, on purpose; it needs CAP_NET_ADMIN.

Flags have flanneld's names, and may be written with one dash, as flanneld's.
Each can be given by a variable, FLANNELD_ETCD_ENDPOINTS for --etcd-endpoints;
the flag counts if there are both. Without --iface, --iface-regex,
--iface-can-reach and --public-ip the underlay is the default route's device.

SIGTERM ends it with status 0. What it made in the kernel stays, and so does
the lease: traffic goes on, and the next start goes on from there. GET /healthz
and /readyz answer 200 or 503 with the reasons, in JSON, at --healthz-port.`,
		Example: `  labctl agent --etcd-endpoints http://10.0.0.1:2379 --ip-masq
  labctl agent --etcd-endpoints https://10.0.0.1:2379 --etcd-cafile ca.pem --iface-regex '^10\.'
  FLANNELD_IFACE=eth1 labctl agent -etcd-prefix=/my/network -healthz-port=8471`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return a.agent(c, &f) },
	}
	f.register(c.Flags())
	return c
}

func (f *agentFlags) register(s *pflag.FlagSet) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "host"
	}
	s.StringVar(&f.node, "node", "", "the host's name in messages (default: the machine's)")
	s.Lookup("node").DefValue = hostname
	s.StringVar(&f.endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd's client addresses, comma separated")
	s.StringVar(&f.prefix, "etcd-prefix", backends.DefaultPrefix, "where the network's keys are")
	s.StringVar(&f.caFile, "etcd-cafile", "", "the CA that signed etcd's certificates (default: those that the machine trusts)")
	s.StringVar(&f.certFile, "etcd-certfile", "", "our certificate, where etcd wants one")
	s.StringVar(&f.keyFile, "etcd-keyfile", "", "its key")
	s.StringVar(&f.username, "etcd-username", "", "a user of etcd's")
	s.StringVar(&f.password, "etcd-password", "", "the user's password; better by FLANNELD_ETCD_PASSWORD")
	s.StringArrayVar(&f.ifaces, "iface", nil, "the underlay device, by name or address; several are tried in order")
	s.StringArrayVar(&f.regexes, "iface-regex", nil, "the first device with an address, else a name, that matches; tried after --iface")
	s.StringVar(&f.canReach, "iface-can-reach", "", "the device that packets to this address leave by; tried last")
	s.StringVar(&f.publicIP, "public-ip", "", "the device's address that the others send to (default: its first)")
	s.StringVar(&f.subnetFile, "subnet-file", "/run/flannel/subnet.env", "where the subnet is written")
	s.BoolVar(&f.ipMasq, "ip-masq", false, "masquerade what leaves the network")
	s.BoolVar(&f.forward, "iptables-forward-rules", true, "let containers' packets be forwarded (by nftables here)")
	s.DurationVar(&f.leaseTTL, "lease-ttl", flannelTTL, "the life of the lease when nobody renews it")
	s.IntVar(&f.margin, "subnet-lease-renew-margin", 60, "minutes, 1 to 1439; leases are renewed after a third of their life in any case")
	s.StringVar(&f.healthzIP, "healthz-ip", "0.0.0.0", "where /healthz and /readyz are answered")
	s.IntVar(&f.healthzPort, "healthz-port", 0, "their port; 0 for none")
	for _, o := range flanneldOnly {
		switch o.value {
		case "":
			s.String(o.name, "", o.why)
		case "true", "false":
			s.Bool(o.name, o.value == "true", o.why)
		default:
			s.StringP(o.name, o.short, o.value, o.why)
		}
		_ = s.MarkHidden(o.name) // it was just added
	}
}

// flanneldOnly are flags of flanneld that are accepted but do nothing here, or
// cannot be.
var flanneldOnly = []struct {
	name, short, value string // value is flanneld's default
	why                string
	cure               string // of what cannot be; "" for what does no harm
}{
	{"kube-subnet-mgr", "", "false", "subnets come from etcd only", "leave it out and give --etcd-endpoints; a Kubernetes cluster needs flanneld"},
	{"ip-blackhole-route", "", "false", "not supported", "leave it out"},
	{"public-ipv6", "", "", "IPv4 only", "leave it out"},
	{"kube-api-url", "", "", "subnets come from etcd", ""},
	{"kubeconfig-file", "", "", "subnets come from etcd", ""},
	{"kube-annotation-prefix", "", "flannel.alpha.coreos.com", "subnets come from etcd", ""},
	{"net-config-path", "", "/etc/kube-flannel/net-conf.json", "the network config is in etcd", ""},
	{"set-node-network-unavailable", "", "true", "there is no Kubernetes node", ""},
	{"iptables-resync", "", "5", "rules are mended as soon as they change", ""},
	{"ip-masq-fully-random-disable", "", "false", "source ports are always random", ""},
	{"v", "v", "0", "there is one level of messages", ""},
	{"vmodule", "", "", "there is one level of messages", ""},
	{"log_backtrace_at", "", "", "there are no backtraces", ""},
}

// longFlags writes flags of labctl agent with two dashes: flanneld's are
// usually written with one, which stands for letters elsewhere.
func longFlags(args []string) []string {
	at := slices.Index(args, "agent")
	if at < 0 || slices.ContainsFunc(args[:at], func(s string) bool { return !strings.HasPrefix(s, "-") }) {
		return args
	}
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(agentFlags).register(known)
	out := slices.Clone(args)
	for i, s := range out[at+1:] {
		if s == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(s, "-"), "=")
		if strings.HasPrefix(s, "-") && len(name) > 1 && known.Lookup(name) != nil {
			out[at+1+i] = "-" + s
		}
	}
	return out
}

// variable is the one that stands for a flag.
func variable(flag string) string {
	return "FLANNELD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets the flags that were not given.
func fromEnvironment(s *pflag.FlagSet) error {
	var bad error
	s.VisitAll(func(f *pflag.Flag) {
		value := os.Getenv(variable(f.Name))
		if value == "" || f.Changed || bad != nil {
			return
		}
		if err := s.Set(f.Name, value); err != nil {
			bad = usage(fmt.Errorf("%s=%s: %w", variable(f.Name), value, errors.Unwrap(err)), "mend the variable, or unset it")
		}
	})
	return bad
}

func (a *app) agent(c *cobra.Command, f *agentFlags) error {
	if err := fromEnvironment(c.Flags()); err != nil {
		return err
	}
	conf, err := f.config()
	if err != nil {
		return err
	}
	conf.Log = slog.New(slog.NewTextHandler(a.stderr, nil))
	if err := f.ignored(c.Flags(), conf.Log); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return inside.AgentFailure(agent.Run(ctx, conf))
}

// config checks the flags.
func (f *agentFlags) config() (agent.Config, error) {
	conf := agent.Config{
		Node:   f.node,
		Access: backends.Access{CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile, Username: f.username, Password: f.password},
		Prefix: strings.TrimRight(f.prefix, "/"), SubnetFile: f.subnetFile,
		IPMasq: f.ipMasq, NoForward: !f.forward, LeaseTTL: f.leaseTTL,
		Choice: agent.Choice{Ifaces: f.ifaces},
		Notify: os.Getenv("NOTIFY_SOCKET"),
	}
	if conf.Node == "" {
		var err error
		if conf.Node, err = os.Hostname(); err != nil {
			conf.Node = "host"
		}
	}
	for e := range strings.SplitSeq(f.endpoints, ",") {
		if e = strings.TrimSpace(e); e != "" {
			conf.Access.Endpoints = append(conf.Access.Endpoints, e)
		}
	}
	for _, s := range f.regexes {
		re, err := regexp.Compile(s)
		if err != nil {
			return conf, usage(fmt.Errorf("iface-regex: %w", err), "write it as Go's regular expressions are: https://pkg.go.dev/regexp/syntax")
		}
		conf.Choice.Regexes = append(conf.Choice.Regexes, re)
	}
	var err error
	if conf.Choice.CanReach, err = address("iface-can-reach", f.canReach); err != nil {
		return conf, err
	}
	if conf.Choice.PublicIP, err = address("public-ip", f.publicIP); err != nil {
		return conf, err
	}
	const day = 24 * 60
	switch {
	case f.margin < 1 || f.margin >= day:
		return conf, usage(fmt.Errorf("subnet-lease-renew-margin: %d minutes", f.margin), "give 1 to 1439")
	case f.leaseTTL < time.Second:
		return conf, usage(fmt.Errorf("lease-ttl: %v", f.leaseTTL), "give a second at least")
	case f.healthzPort < 0 || f.healthzPort > 65535:
		return conf, usage(fmt.Errorf("healthz-port: %d", f.healthzPort), "give 1 to 65535, or 0 for none")
	}
	if f.healthzPort > 0 {
		if _, err := address("healthz-ip", f.healthzIP); err != nil {
			return conf, err
		}
		conf.Healthz = net.JoinHostPort(f.healthzIP, strconv.Itoa(f.healthzPort))
	}
	return conf, nil
}

// address reads an IPv4 address; "" is the zero Addr.
func address(flag, value string) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(value)
	if err != nil || !a.Is4() {
		return netip.Addr{}, usage(fmt.Errorf("%s: %q is no IPv4 address", flag, value), "write it like 192.168.50.1")
	}
	return a, nil
}

// ignored tells of flags that are given in vain.
func (f *agentFlags) ignored(s *pflag.FlagSet, log *slog.Logger) error {
	for _, o := range flanneldOnly {
		given := s.Lookup(o.name)
		switch {
		case !given.Changed || given.Value.String() == o.value:
		case o.cure != "":
			return usage(fmt.Errorf("%s: %s", o.name, o.why), o.cure)
		default:
			log.Warn("flag without effect", "flag", o.name, "why", o.why)
		}
	}
	if s.Changed("subnet-lease-renew-margin") && time.Duration(f.margin)*time.Minute > f.leaseTTL*2/3 {
		log.Warn("flag without effect", "flag", "subnet-lease-renew-margin",
			"why", fmt.Sprintf("the lease is renewed after a third of its life, with %v left", f.leaseTTL*2/3))
	}
	return nil
}
