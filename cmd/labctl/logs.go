package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs [PROCESS]",
		Short: "What the supervisor, etcd or a node's agent wrote",
		Example: `  labctl logs              # the supervisor's
  labctl logs node1 -f`,
		Args:              arguments(0, 1, "supervisor, etcd or a node"),
		ValidArgsFunction: upTo(1, a.completeProcesses),
		RunE: func(c *cobra.Command, args []string) error {
			process := "supervisor"
			if len(args) == 1 {
				process = args[0]
			}
			return a.logs(c.Context(), process, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as it grows, until Ctrl-C or the lab's end")
	return c
}

// followInterval is how often a followed log is looked at.
const followInterval = 100 * time.Millisecond

func (a *app) logs(ctx context.Context, process string, follow bool) error {
	// A broken lab's logs are the ones most wanted: no supervisor is needed.
	name := a.lab
	if name == "" {
		names, err := lab.Names()
		if err != nil {
			return err
		}
		if len(names) != 1 {
			_, err := lab.Open("")
			return err
		}
		name = names[0]
	}
	d, err := lab.DirOf(name)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.Logs())
	if err != nil {
		_, err := lab.Open(name) // says that it does not run
		return err
	}
	var known []string
	for _, e := range entries {
		known = append(known, strings.TrimSuffix(e.Name(), ".log"))
	}
	if !slices.Contains(known, process) {
		return usage(fmt.Errorf("%s: no log in lab %s", process, name), "there are "+strings.Join(known, ", "))
	}
	f, err := os.Open(d.Log(process))
	if err != nil {
		return err
	}
	defer f.Close()
	for gone := false; ; {
		n, err := io.Copy(a.stdout, f)
		if err != nil {
			return err
		}
		if n == 0 && !follow {
			fmt.Fprintf(a.stderr, "%s: wrote nothing so far\n", process)
		}
		if !follow || gone {
			return nil
		}
		t := time.NewTimer(followInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		// What was written before the end is still to be read.
		rec, err := lab.ReadRecord(d)
		gone = err != nil || !rec.Alive()
	}
}
