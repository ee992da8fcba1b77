package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"labctl/lab"
	"labctl/labs"
)

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
func (a *app) completeNodes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if p := a.completionPlan(); p != nil {
		for _, n := range p.Nodes {
			names = append(names, n.Name)
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
