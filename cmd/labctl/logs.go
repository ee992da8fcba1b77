package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
		ValidArgsFunction: a.completeProcesses,
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
	f, err := os.Open(d.Log(process))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(d.Logs())
		if err != nil {
			return fmt.Errorf("%s: %w", name, lab.ErrNotRunning)
		}
		var known []string
		for _, e := range entries {
			known = append(known, strings.TrimSuffix(e.Name(), ".log"))
		}
		return usage(fmt.Errorf("%s: no log in lab %s", process, name), "there are "+strings.Join(known, ", "))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.Copy(a.stdout, f); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		t := time.NewTimer(followInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if _, err := os.Stat(d.Log(process)); errors.Is(err, fs.ErrNotExist) {
			return nil // the lab was taken down
		}
	}
}
