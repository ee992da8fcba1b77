package nodestest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"labctl/nodes"
)

// Run runs a program inside ns and returns all that it printed. The error has
// that, too.
func Run(ns *nodes.Namespace, argv ...string) (string, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	p, err := nodes.Start(ns, nodes.Command{Path: path, Args: argv, Env: os.Environ(), Dir: "/", Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	_, readErr := r.WriteTo(&out)
	state, err := p.Wait()
	if err != nil {
		return out.String(), err
	}
	if !state.Success() {
		return out.String(), fmt.Errorf("%s: %v: %s", strings.Join(argv, " "), state, out.String())
	}
	return out.String(), readErr
}
