package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/labs"
)

// completion is cobra's ValidArgsFunction.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// upTo offers f's names for the first n arguments, and nothing for more.
func upTo(n int, f completion) completion {
	return func(c *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, part)
	}
}

// completeExec offers namespaces, then what the shell knows of files.
func (a *app) completeExec(c *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeNamespaces(c, args, part)
}

// completeNamespaces offers everything that a command can run in: endpoints
// and segments.
func (a *app) completeNamespaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p := a.completionPlan()
	if p == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := p.Endpoints()
	for _, s := range p.Segments {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeLabs offers the running labs.
func (a *app) completeLabs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, err := lab.Names()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeLabFiles offers built-in labs and YAML files.
func (a *app) completeLabFiles(_ *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(part) > 0 && (part[0] == '.' || part[0] == '/') {
		return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return labs.Names(), cobra.ShellCompDirectiveDefault
}

// plan of the lab that a completion is about, or nil.
func (a *app) completionPlan() *lab.Plan {
	cl, err := a.open("")
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p, err := cl.Plan(ctx)
	if err != nil {
		return nil
	}
	return p
}

// completeEndpoints offers the endpoints of the running lab.
func (a *app) completeEndpoints(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p := a.completionPlan()
	if p == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.Endpoints(), cobra.ShellCompDirectiveNoFileComp
}

// completeNodes offers the nodes of the running lab.
func (a *app) completeNodes(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if p := a.completionPlan(); p != nil {
		for _, n := range p.Nodes {
			if !slices.Contains(args, n.Name) {
				names = append(names, n.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeProcesses offers the processes that have logs.
func (a *app) completeProcesses(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p := a.completionPlan()
	if p == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{"supervisor"}
	if p.Etcd != nil {
		names = append(names, "etcd")
	}
	for _, n := range p.Nodes {
		if n.Agent {
			names = append(names, n.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
