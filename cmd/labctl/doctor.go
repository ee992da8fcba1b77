package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var leaks bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What this machine can run, and what to mend",
		Long: `Probe by doing, in namespaces of its own that end with the probe: what labs need
of the kernel, of permissions and limits, and which tools are there. Exit status
4 when no lab can run here.

With --leaks list instead what is left of labs that run no more: run
directories, names under /run/netns, processes that keep a namespace, and labs
whose run directory somebody removed. A lab's own record says what is its; names
are not guessed at. Nothing is changed; each line says what removes it. Exit
status 1 when there is something.`,
		Example: "  labctl doctor\n  labctl doctor -o json\n  labctl doctor --leaks",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if leaks {
				return a.leaks()
			}
			report, err := doctor.Examine(c.Context())
			if err != nil {
				return err
			}
			if done, err := a.machineReadable(report); done {
				if err != nil {
					return err
				}
			} else {
				var rows [][]string
				for _, f := range report.Findings {
					mark := "ok"
					if !f.OK {
						mark = "missing"
						if f.Required {
							mark = "MISSING"
						}
					}
					rows = append(rows, []string{f.Name, mark, f.Detail})
				}
				if err := table(a.stdout, []string{"WHAT", "STATE", "DETAIL"}, rows); err != nil {
					return err
				}
				for _, f := range report.Findings {
					if !f.OK {
						fmt.Fprintf(a.stdout, "\n%s: for %s\n  cure: %s\n", f.Name, f.For, f.Cure)
					}
				}
			}
			if !report.Able {
				return exitStatus(4)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&leaks, "leaks", false, "list what is left of labs that run no more")
	return c
}

// leakList is what doctor --leaks -o json prints.
type leakList struct {
	SchemaVersion int        `json:"schemaVersion"`
	Leaks         []lab.Leak `json:"leaks"`
}

func (a *app) leaks() error {
	found, err := lab.Leaks()
	if err != nil {
		return err
	}
	if done, err := a.machineReadable(leakList{1, append([]lab.Leak{}, found...)}); err != nil {
		return err
	} else if !done && len(found) == 0 {
		fmt.Fprintln(a.stdout, "nothing is left of any lab that does not run")
	} else if !done {
		var rows [][]string
		for _, l := range found {
			rows = append(rows, []string{l.Kind, l.What, l.Lab, l.Why, l.Cure})
		}
		if err := table(a.stdout, []string{"LEAK", "WHAT", "LAB", "WHY", "CURE"}, rows); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return exitStatus(1)
	}
	return nil
}
