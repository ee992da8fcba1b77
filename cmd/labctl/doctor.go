package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"labctl/lab/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "What this machine can run, and what to mend",
		Long: `Probe by doing, in namespaces of its own that end with the probe: what labs need
of the kernel, of permissions and limits, and which tools are there. Exit status
4 when no lab can run here.`,
		Example: "  labctl doctor\n  labctl doctor -o json",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
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
}
