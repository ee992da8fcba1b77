package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the Makefile (-ldflags -X main.version).
var version = ""

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "This labctl's version",
		Example: "  labctl version -o json",
		Args:    arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				SchemaVersion int    `json:"schemaVersion"`
				Version       string `json:"version"`
				Go            string `json:"go"`
				Arch          string `json:"arch"`
			}{1, version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if v.Version == "" {
				v.Version = "unknown"
				if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
					v.Version = bi.Main.Version
				}
			}
			if done, err := a.machineReadable(v); done {
				return err
			}
			fmt.Fprintf(a.stdout, "labctl %s %s %s\n", v.Version, v.Go, v.Arch)
			return nil
		},
	}
}
