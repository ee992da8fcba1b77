package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/lab/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var leaks bool
	var file string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What this machine can run, and what to mend",
		Long: `Probe by doing, in namespaces of its own that end with the probe: what labs need
of the kernel, of permissions and limits, and which tools are there. Exit status
4 when no lab can run here.

With --for LAB say it of one lab, built-in or a file: whether the limits are
enough for its size, and what its backend needs. up looks at the same limits.

With --leaks list instead what is left of labs that run no more: run
directories, names under /run/netns, processes that keep a namespace, and labs
whose run directory somebody removed. A lab's own record says what is its; names
are not guessed at. Nothing is changed; each line says what removes it. Exit
status 1 when there is something.`,
		Example: "  labctl doctor\n  labctl doctor --for flannel-udp\n  labctl doctor --for ./big.yaml -o json\n  labctl doctor --leaks",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if leaks && file != "" {
				return usage(fmt.Errorf("--for %s --leaks: two questions", file), "ask one at a time")
			}
			if leaks {
				return a.leaks()
			}
			var plan *lab.Plan
			if file != "" {
				spec, _, err := a.readLab(file)
				if err != nil {
					return err
				}
				if plan, err = lab.NewPlan(spec, lab.ThisMachine()); err != nil {
					return usage(err, "mend the lab file")
				}
			}
			report, err := doctor.Examine(c.Context(), plan)
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
	c.Flags().StringVar(&file, "for", "", "a lab, built-in or a file: is there enough for it?")
	c.Flags().BoolVar(&leaks, "leaks", false, "list what is left of labs that run no more")
	_ = c.RegisterFlagCompletionFunc("for", a.completeLabFiles) // it was just added
	return c
}

// leakList is what doctor --leaks -o json prints.
type leakList struct {
	SchemaVersion int        `json:"schemaVersion"`
	Leaks         []lab.Leak `json:"leaks"`
}

func (a *app) leaks() error {
	found, missed := lab.Leaks()
	if done, err := a.machineReadable(leakList{1, append([]lab.Leak{}, found...)}); err != nil {
		return errors.Join(missed, err)
	} else if !done && len(found) == 0 && missed == nil {
		fmt.Fprintln(a.stdout, "nothing is left of any lab that does not run")
	} else if !done && len(found) > 0 {
		var rows [][]string
		for _, l := range found {
			rows = append(rows, []string{l.Kind, l.What, l.Lab, l.Why, l.Cure})
		}
		if err := table(a.stdout, []string{"LEAK", "WHAT", "LAB", "WHY", "CURE"}, rows); err != nil {
			return errors.Join(missed, err)
		}
	}
	if missed != nil {
		return missed
	}
	if len(found) > 0 {
		return exitStatus(1)
	}
	return nil
}
