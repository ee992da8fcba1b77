package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Completion of commands, labs and endpoints for a shell",
		Long: `Print a script that teaches a shell to complete labctl's commands and flags, the
names of labs, and the endpoints of the running one.`,
		Example: `  source <(labctl completion bash)      # bash, this shell only
  labctl completion bash > ~/.local/share/bash-completion/completions/labctl
  labctl completion zsh > "${fpath[1]}/_labctl"
  labctl completion fish > ~/.config/fish/completions/labctl.fish`,
		Args:      arguments(1, 1, "a shell: bash, zsh or fish"),
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return usage(fmt.Errorf("%s: no such shell", args[0]), "choose bash, zsh or fish")
		},
	}
}
