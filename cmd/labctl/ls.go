package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/labs"
)

// labList is ls -o json.
type labList struct {
	SchemaVersion int       `json:"schemaVersion"`
	Labs          []labLine `json:"labs"`
}

// labLine is one running lab in ls -o json.
type labLine struct {
	Name    string    `json:"name"`
	State   lab.State `json:"state"`
	Backend string    `json:"backend"`
	Nodes   int       `json:"nodes"`
	Dir     string    `json:"dir"`
}

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "Running labs",
		Example: "  labctl ls\n  labctl ls -o json",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			lines := []labLine{}
			var rows [][]string
			var errs []error // of labs that cannot be looked at; the others can
			for _, n := range names {
				d, err := lab.DirOf(n)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				state, st := lab.StateOf(c.Context(), d)
				l := labLine{Name: n, State: state, Dir: string(d)}
				if st != nil {
					l.Backend, l.Nodes = st.Backend, len(st.Nodes)
				}
				lines = append(lines, l)
				rows = append(rows, []string{n, string(state), dash(l.Backend), strconv.Itoa(l.Nodes), l.Dir})
			}
			unseen := errors.Join(errs...)
			if done, err := a.machineReadable(labList{1, lines}); done {
				return errors.Join(unseen, err)
			}
			if len(rows) > 0 {
				if err := table(a.stdout, []string{"LAB", "STATE", "BACKEND", "NODES", "DIRECTORY"}, rows); err != nil {
					return err
				}
			} else if unseen == nil {
				fmt.Fprintln(a.stderr, "no lab is running")
			}
			if os.Geteuid() != 0 {
				if others, err := os.ReadDir("/run/labctl"); err == nil && len(others) > 0 {
					fmt.Fprintln(a.stderr, "root has labs too: sudo labctl ls")
				} else if _, err := os.Stat("/run/labctl"); err == nil {
					fmt.Fprintln(a.stderr, "root's labs, if any, are separate: sudo labctl ls")
				}
			}
			return unseen
		},
	}
}

func (a *app) labsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "labs",
		Short:   "Built-in labs",
		Example: "  labctl labs\n  labctl labs -o json",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			type line struct {
				Name    string `json:"name"`
				About   string `json:"about"`
				Backend string `json:"backend"`
				Nodes   int    `json:"nodes"`
			}
			lines := []line{}
			var rows [][]string
			for _, n := range labs.Names() {
				spec, _, err := a.readLab(n)
				if err != nil {
					return err
				}
				p, err := lab.NewPlan(spec, lab.ThisMachine())
				if err != nil {
					return err
				}
				lines = append(lines, line{n, p.About, p.Backend, len(p.Nodes)})
				rows = append(rows, []string{n, dash(p.Backend), strconv.Itoa(len(p.Nodes)), p.About})
			}
			if done, err := a.machineReadable(struct {
				SchemaVersion int    `json:"schemaVersion"`
				Labs          []line `json:"labs"`
			}{1, lines}); done {
				return err
			}
			return table(a.stdout, []string{"LAB", "BACKEND", "NODES", "ABOUT"}, rows)
		},
	}
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show LAB",
		Short:   "Print a built-in lab's file",
		Example: "  labctl show flannel-vxlan > my-lab.yaml",
		Args:    arguments(1, 1, "a built-in lab"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return labs.Names(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := labs.Read(args[0])
			if err != nil {
				return usage(err, "labctl labs shows the built-in labs")
			}
			_, err = a.stdout.Write(data)
			return err
		},
	}
}
