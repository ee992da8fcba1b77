package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/docker"
)

// dockerOpts are the flags of labctl docker-opts, mk-docker-opts.sh's.
type dockerOpts struct {
	from, to, key, node            string
	individual, combined, noIPMasq bool
}

// shellName is what a variable may be called.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (a *app) dockerOptsCommand() *cobra.Command {
	var o dockerOpts
	c := &cobra.Command{
		Use:   "docker-opts",
		Short: "subnet.env as options for dockerd, like flannel's mk-docker-opts.sh",
		Long: `Write what subnet.env says as an environment file for dockerd: --bip, --mtu, and
--ip-masq, which is the inverse of FLANNEL_IPMASQ: one of agent and daemon
masquerades. Without -i and -c both forms are written.

It ends with 1 when the main routing table sends the subnet to a gateway: then
the bridge would get no packets. With --node it prints a lab's node's instead.`,
		Example: `  labctl docker-opts -c -k DOCKER_NETWORK_OPTIONS
  labctl docker-opts -f /run/flannel/subnet.env -d -
  labctl docker-opts --node node1`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("docker-env") && o.node != "" {
				o.to = "-"
			}
			if o.node != "" && c.Flags().Changed("flannel-env") {
				return usage(errors.New("docker-opts: both a file and a node"), "leave out -f or --node")
			}
			return a.dockerOpts(c.Context(), &o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.from, "flannel-env", "f", "/run/flannel/subnet.env", "the file to read")
	f.StringVarP(&o.to, "docker-env", "d", "/run/docker_opts.env", "the file to write, - for standard output (with --node the default)")
	f.BoolVarP(&o.individual, "individual", "i", false, "a variable for each option, DOCKER_OPT_MTU and so on")
	f.BoolVarP(&o.combined, "combined", "c", false, "one variable with all options")
	f.StringVarP(&o.key, "key", "k", "DOCKER_OPTS", "the name of that; what the environment has under it stays in front")
	f.BoolVarP(&o.noIPMasq, "no-ip-masq", "m", false, "leave out --ip-masq")
	f.StringVar(&o.node, "node", "", "a node of a lab")
	_ = c.RegisterFlagCompletionFunc("node", a.completeNodes) // it was just added
	return c
}

func (a *app) dockerOpts(ctx context.Context, o *dockerOpts) error {
	if !shellName.MatchString(o.key) {
		return usage(fmt.Errorf("docker-opts: key %q is no variable's name", o.key), "use letters, digits and _")
	}
	pid := os.Getpid()
	if o.node != "" {
		var err error
		if o.from, pid, err = a.subnetFileOf(ctx, o.node); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(o.from)
	if errors.Is(err, fs.ErrNotExist) {
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: not there", o.from), Cure: "start the agent before Docker: it writes the file"}
	}
	if err != nil {
		return err
	}
	options, err := docker.Parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", o.from, err)
	}
	via, dev, err := docker.Gateway(pid, options.Subnet)
	if err != nil {
		return err
	}
	if via.IsValid() {
		return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: the routing table sends it to %s by %s", options.Subnet, via, dev),
			Cure: "remove that route: the subnet is this host's bridge's"}
	}
	if o.noIPMasq {
		options.IPMasq = ""
	}
	both := !o.individual && !o.combined
	out := options.Text(docker.Format{Individual: o.individual || both, Combined: o.combined || both, Key: o.key, Before: os.Getenv(o.key)})
	if o.to == "-" {
		_, err := fmt.Fprint(a.stdout, out)
		return err
	}
	return os.WriteFile(o.to, []byte(out), 0o644)
}

// subnetFileOf is a node's subnet.env, and a process in its namespace.
func (a *app) subnetFileOf(ctx context.Context, node string) (string, int, error) {
	cl, err := a.open("")
	if err != nil {
		return "", 0, err
	}
	st, err := cl.Status(ctx)
	if err != nil {
		return "", 0, err
	}
	i := slices.IndexFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Name == node })
	if i < 0 {
		return "", 0, usage(fmt.Errorf("%s: no such node in %s", node, st.Name), "labctl status shows the nodes")
	}
	n := st.Nodes[i]
	switch {
	case n.SubnetFile == "":
		return "", 0, usage(fmt.Errorf("%s: has no subnet.env: %s is a lab without network", node, st.Name), "flannel's labs have one: labctl labs")
	case n.AgentPid == 0:
		return "", 0, &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: its agent does not run", node), Cure: "labctl logs " + node + " says why"}
	}
	return n.SubnetFile, n.AgentPid, nil
}
