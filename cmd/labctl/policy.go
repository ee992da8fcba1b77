package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/policy"
)

func (a *app) policyCommand() *cobra.Command {
	times := policy.DefaultTimes
	var ports []string
	c := &cobra.Command{
		Use:   "policy [LAB]",
		Short: "What network policies let through: expected, and found by sending",
		Long: `Send packets from every container to every other, of each kind that the lab's
network policies tell apart, and print what passes beside what should: + passes,
X is dropped, ! after either: the policies say otherwise. Exit status 1 then.

By default the kinds are ICMP, the ports that rules name, and a port that none
does.`,
		Example: `  labctl policy
  labctl policy calico-policy --port tcp/80 --port udp/53
  labctl policy -o json
  labctl policy apply my-policies.yaml`,
		Args:              arguments(0, 1, "one lab at most"),
		ValidArgsFunction: upTo(1, a.completeLabs),
		RunE: func(c *cobra.Command, args []string) error {
			var kinds []policy.Port
			for _, text := range ports {
				p, err := policy.ParsePort(text)
				if err != nil {
					return usage(fmt.Errorf("--port %w", err), "for example --port tcp/80")
				}
				kinds = append(kinds, p)
			}
			if times.Quiet <= 0 || times.Quiet > time.Minute {
				return usage(fmt.Errorf("--wait %v: not a time to wait", times.Quiet), "give a duration such as 250ms")
			}
			name, err := a.labName(args)
			if err != nil {
				return err
			}
			cl, err := a.open(name)
			if err != nil {
				return err
			}
			return a.policy(c.Context(), cl, kinds, times)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&ports, "port", "p", nil, "a kind of traffic: tcp/PORT, udp/PORT or icmp; may be given several times")
	f.DurationVarP(&times.Quiet, "wait", "W", times.Quiet, "how long what should be dropped is given to pass all the same")
	c.AddCommand(&cobra.Command{
		Use:   "apply FILE",
		Short: "Put other network policies in the place of the running lab's",
		Long: `Read the policies of a file, which may be a whole lab file (- is standard input),
and put them in the place of the running lab's. The command returns when all
nodes have them. Flows that were let through before go on.`,
		Example: `  labctl policy apply my-policies.yaml
  echo 'policies: {}' | labctl policy apply -      # everything passes`,
		Args: arguments(1, 1, "a file"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(c *cobra.Command, args []string) error { return a.policyApply(c.Context(), args[0]) },
	})
	return c
}

func (a *app) policyApply(ctx context.Context, file string) error {
	var data []byte
	var err error
	if file == "-" {
		file = "stdin.yaml"
		data, err = io.ReadAll(io.LimitReader(a.stdin, 1<<20+1))
	} else if data, err = os.ReadFile(file); err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = usage(fmt.Errorf("%s: %w", file, pe.Err), "give a file with policies")
		}
	}
	if err != nil {
		return err
	}
	ps, err := lab.ParsePolicies(file, data)
	if err != nil {
		return err
	}
	cl, err := a.open("")
	if err != nil {
		return err
	}
	if err := cl.SetPolicies(ctx, ps); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "%s: %s\n", cl.Dir.Name(), numberOf(len(ps), "policy", "policies"))
	return nil
}

func (a *app) policy(ctx context.Context, cl *lab.Client, ports []policy.Port, t policy.Times) error {
	m, err := policy.NewProber(cl, t).Run(ctx, ports)
	if err != nil {
		return err
	}
	if done, err := a.machineReadable(m); !done {
		err = a.printPolicy(m)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if m.Differences > 0 {
		return exitStatus(1)
	}
	return nil
}

// printPolicy prints a matrix for each kind of traffic.
func (a *app) printPolicy(m *policy.Matrix) error {
	for _, p := range m.Ports {
		header := append([]string{p.String()}, m.Containers...)
		var rows [][]string
		for _, from := range m.Containers {
			row := []string{from + " ->"}
			for _, to := range m.Containers {
				row = append(row, cellOf(m.Flow(from, to, p)))
			}
			rows = append(rows, row)
		}
		if err := table(a.stdout, header, rows); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	for _, f := range m.Different() {
		fmt.Fprintln(a.stdout, f)
	}
	drops := 0
	for _, f := range m.Flows {
		if !f.Actual {
			drops++
		}
	}
	_, err := fmt.Fprintf(a.stdout, "%s: %s, %s: %d pass, %d are dropped, %d not as they should be\n", m.Lab,
		numberOf(len(m.Policies), "policy", "policies"), numberOf(len(m.Flows), "flow", "flows"), len(m.Flows)-drops, drops, m.Differences)
	return err
}

func cellOf(f *policy.Flow) string {
	s := "X"
	switch {
	case f == nil:
		return "."
	case f.Actual:
		s = "+"
	}
	if f.Differs() {
		s += "!"
	}
	return s
}

func numberOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
