package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/labs"
)

func (a *app) upCommand() *cobra.Command {
	var name, backend string
	var dryRun bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "up [LAB|FILE|-]",
		Short: "Build a lab, wait until it carries packets",
		Long: `Build a lab from a built-in one, a lab file or standard input; wait until every
node knows every other and a packet has crossed; print the nodes. A lab that
runs already is left as it is. Ctrl-C removes what was made so far.`,
		Example: `  labctl up flannel-vxlan
  labctl up ./my-lab.yaml --name second
  labctl up flannel-docker0 --backend vxlan
  labctl up flannel-vxlan --dry-run          # only the plan`,
		Args:              arguments(1, 1, "a built-in lab, a file, or - for standard input"),
		ValidArgsFunction: upTo(1, a.completeLabFiles),
		RunE: func(c *cobra.Command, args []string) error {
			if a.lab != "" {
				return usage(fmt.Errorf("--lab %s: not for up", a.lab), "name the new lab with --name "+a.lab)
			}
			if timeout <= 0 {
				return usage(fmt.Errorf("--timeout %v: no time to build anything", timeout), "give a duration such as 30s")
			}
			return a.up(c.Context(), args[0], name, backend, dryRun, timeout)
		},
	}
	c.Flags().StringVar(&name, "name", "", "the lab's name (default: the one in the file)")
	c.Flags().StringVar(&backend, "backend", "", "another backend than the file's, with its defaults")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the plan and make nothing")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "give up and remove everything after this long")
	return c
}

func (a *app) up(ctx context.Context, arg, name, backend string, dryRun bool, timeout time.Duration) error {
	spec, data, err := a.readLab(arg)
	if err != nil {
		return err
	}
	if name != "" {
		if err := spec.Rename(name); err != nil {
			return usage(err, "choose another --name")
		}
	}
	if backend != "" {
		if err := spec.UseBackend(backend); err != nil {
			return usage(err, "use --backend with one that fits the lab")
		}
	}
	plan, err := lab.NewPlan(spec, lab.ThisMachine())
	if err != nil {
		return usage(err, "mend the lab file")
	}
	if dryRun {
		return a.printPlan(plan)
	}
	if err := lab.CheckLimits(plan); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	progress := a.newProgress()
	st, unchanged, err := lab.Up(ctx, lab.UpOptions{Plan: plan, Spec: data, From: a.started, OnEvent: progress.event})
	progress.done()
	if err != nil {
		return err
	}
	if unchanged {
		fmt.Fprintf(a.stderr, "%s: unchanged\n", plan.Name)
		if st, err = a.recovered(ctx, st); err != nil {
			return err
		}
	}
	if err := a.printStatus(st); err != nil {
		return err
	}
	if unchanged && st.State == lab.Degraded {
		return exitStatus(1) // the reasons are in the status
	}
	return nil
}

// recovery is how long a lab that runs may take to be well again: a process
// that has ended is started again.
const recovery = 3 * time.Second

// recovered waits until a lab is not degraded any more, for a while.
func (a *app) recovered(ctx context.Context, st *lab.Status) (*lab.Status, error) {
	until := time.Now().Add(recovery)
	for st.State == lab.Degraded && time.Now().Before(until) {
		d, err := lab.DirOf(st.Name)
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return st, nil
		case <-time.After(50 * time.Millisecond):
		}
		if st, err = (&lab.Client{Dir: d}).Status(ctx); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// readLab reads a lab file from wherever the argument says: a file wins over a
// built-in lab of the same name only if it looks like a path.
func (a *app) readLab(arg string) (*lab.Spec, []byte, error) {
	file := arg
	var data []byte
	var err error
	switch {
	case arg == "-":
		file = "stdin.yaml"
		data, err = io.ReadAll(io.LimitReader(a.stdin, 1<<20+1))
	case strings.ContainsRune(arg, '/') || filepath.Ext(arg) != "":
		data, err = os.ReadFile(arg)
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = usage(fmt.Errorf("%s: %w", arg, pe.Err), "give a lab file; labctl labs shows the built-in labs")
		}
	default:
		file = arg + ".yaml"
		data, err = labs.Read(arg)
		if err != nil {
			err = usage(err, "name one of these, or a file with its path: ./"+arg)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	spec, err := lab.Parse(file, data)
	return spec, data, err
}

func (a *app) printPlan(p *lab.Plan) error {
	if done, err := a.machineReadable(p); done {
		return err
	}
	var rows [][]string
	add := func(name, kind, on, addr, mtu, more string) {
		rows = append(rows, []string{name, kind, on, addr, mtu, more})
	}
	for _, s := range p.Segments {
		more := ""
		if s.Management {
			more = "management: etcd, and every node's mgmt0"
		}
		add(s.Name, "segment", "-", s.Subnet.String(), strconv.Itoa(s.MTU), more)
	}
	for _, r := range p.Routers {
		for _, n := range r.NICs {
			add(r.Name+":"+n.Name, "router", n.Segment, n.Addr.String(), strconv.Itoa(n.MTU), "")
		}
	}
	if i := p.Internet; i != nil {
		add("internet", "internet", i.Router, i.Addr.String(), "-", "HTTP on port 80")
	}
	if e := p.Etcd; e != nil {
		add("etcd", "etcd", e.NIC.Segment, e.NIC.Addr.String(), strconv.Itoa(e.NIC.MTU), strings.Join(e.Endpoints, " "))
	}
	for _, n := range p.Nodes {
		subnet := "subnet from the store"
		if n.Subnet.IsValid() {
			subnet = "subnet " + n.Subnet.String()
		}
		add(n.Name, "node", n.NIC.Segment, n.NIC.Addr.String(), strconv.Itoa(n.NIC.MTU), subnet)
		if m := n.Management; m != nil {
			add(n.Name+":"+m.Name, "node", m.Segment, m.Addr.String(), strconv.Itoa(m.MTU), "")
		}
		for _, c := range n.Containers {
			addr := "-"
			if c.Addr.IsValid() {
				addr = c.Addr.String()
			}
			add(n.Name+"."+c.Name, "container", n.Bridge, addr, strconv.Itoa(n.MTU), "")
		}
	}
	if err := table(a.stdout, []string{"NAME", "KIND", "ON", "ADDRESS", "MTU", "MORE"}, rows); err != nil {
		return err
	}
	if p.Backend != "" {
		fmt.Fprintf(a.stdout, "\nbackend %s, network %s", p.Backend, p.Pool)
		if p.LeaseTTL > 0 { // Calico's blocks are no leases
			fmt.Fprintf(a.stdout, ", lease TTL %v", p.LeaseTTL)
		}
		fmt.Fprintln(a.stdout)
	}
	if p.Neighbours.Static {
		fmt.Fprintf(a.stdout, "underlay neighbours are set beforehand: %d expected, and the machine's table holds %d\n", p.Neighbours.Expected, p.Neighbours.Limit)
	}
	return nil
}

func (a *app) downCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "down [LAB]",
		Short: "Remove a lab, whatever state it is in",
		Example: `  labctl down
  labctl down flannel-vxlan
  labctl down --all`,
		Args:              arguments(0, 1, "one lab at most"),
		ValidArgsFunction: upTo(1, a.completeLabs),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := a.labName(args)
			if err != nil {
				return err
			}
			if all && name != "" {
				return usage(fmt.Errorf("--all: with the name of one lab, %s", name), "leave out one of them")
			}
			names := []string{name}
			running, err := lab.Names()
			if err != nil {
				return err
			}
			switch {
			case all:
				names = running
			case name == "" && len(running) == 0:
				fmt.Fprintln(a.stderr, "no lab is running")
				return nil
			case name == "" && len(running) == 1:
				names = running
			case name == "":
				return usage(fmt.Errorf("lab: %d are running: %s", len(running), strings.Join(running, ", ")), "name one, or take --all")
			}
			var errs []error
			for _, n := range names {
				errs = append(errs, a.down(c.Context(), n))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all labs of yours")
	return c
}

func (a *app) down(ctx context.Context, name string) error {
	r, err := lab.Down(ctx, name)
	if r != nil {
		for _, e := range r.Ended {
			fmt.Fprintf(a.stderr, "%s: ended process %s, which was not the lab's\n", name, e)
		}
	}
	if err != nil {
		return err
	}
	if !r.Found {
		fmt.Fprintf(a.stderr, "%s: not running%s\n", name, lab.OtherUsersHint())
		return nil
	}
	fmt.Fprintf(a.stderr, "%s: removed in %s\n", name, short(time.Since(a.started)))
	return nil
}

// short is a duration with three digits at most.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
