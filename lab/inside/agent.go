package inside

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"labctl/backends"
	"labctl/lab"
	"labctl/lab/agent"
)

// Agent is a node's agent with the flags that labs give it. labctl agent has
// all of flanneld's besides; both call agent.Run.
func Agent(args []string, stderr io.Writer) int {
	conf, err := agentConfig(args, stderr)
	if err != nil {
		return Report(&lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("agent: %w", err)}, stderr)
	}
	conf.Log = slog.New(slog.NewTextHandler(stderr, nil))
	ctx, stop := untilSignal()
	defer stop()
	return Report(AgentFailure(agent.Run(ctx, conf)), stderr)
}

func agentConfig(args []string, stderr io.Writer) (agent.Config, error) {
	var conf agent.Config
	var endpoints, iface, publicIP string
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&conf.Node, "node", "host", "")
	f.StringVar((*string)(&conf.System), "system", string(agent.Flannel), "")
	f.StringVar(&endpoints, "etcd-endpoints", "", "")
	f.StringVar(&conf.Prefix, "etcd-prefix", backends.DefaultPrefix, "")
	f.StringVar(&iface, "iface", "", "")
	f.StringVar(&publicIP, "public-ip", "", "")
	f.StringVar(&conf.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "")
	f.BoolVar(&conf.IPMasq, "ip-masq", false, "")
	f.DurationVar(&conf.LeaseTTL, "lease-ttl", backends.DefaultTTL, "")
	if err := f.Parse(args); err != nil {
		return conf, err
	}
	if f.NArg() > 0 {
		return conf, fmt.Errorf("%s: not a flag", f.Arg(0))
	}
	conf.Access.Endpoints = strings.Split(endpoints, ",")
	if iface != "" {
		conf.Choice.Ifaces = []string{iface}
	}
	if publicIP != "" {
		var err error
		if conf.Choice.PublicIP, err = netip.ParseAddr(publicIP); err != nil {
			return conf, err
		}
	}
	if control := os.Getenv(agent.ControlFD); control != "" {
		n, err := strconv.Atoi(control)
		if err != nil {
			return conf, fmt.Errorf("%s: %w", agent.ControlFD, err)
		}
		conf.Control = os.NewFile(uintptr(n), "control")
	}
	return conf, nil
}

// AgentFailure gives what can be mended of an agent's error its cure.
func AgentFailure(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if errors.Is(err, agent.ErrUnsupported) {
		return &lab.Failure{Kind: lab.Unable, Err: err, Cure: "labctl doctor says what this machine can run, and what to mend"}
	}
	if errors.Is(err, syscall.EPERM) {
		return &lab.Failure{Kind: lab.Unable, Err: err, Cure: "run it as root, or with CAP_NET_ADMIN; labctl up runs a whole network without either"}
	}
	if e, ok := errors.AsType[*agent.ChoiceError](err); ok {
		return &lab.Failure{Kind: lab.Failed, Err: err, Cure: e.Cure}
	}
	if e, ok := errors.AsType[*backends.AccessError](err); ok {
		return &lab.Failure{Kind: lab.Usage, Err: err, Cure: e.Cure}
	}
	return err
}
