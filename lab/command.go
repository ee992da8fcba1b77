package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"labctl/backends/bgp"
)

// AgentVariables are what a node's own agent command is told, each as ${NAME}
// in its words and as an environment variable.
//
//	ETCD_ENDPOINTS   http://192.168.50.254:2379, several with commas between
//	ETCD_PREFIX      /coreos.com/network
//	IFACE            the underlay device, eth0
//	PUBLIC_IP        the node's address on it
//	SUBNET_FILE      where the agent writes its subnet
//	NODE             the node's name
//	LABCTL           the running labctl program
func AgentVariables() []string {
	return []string{"ETCD_ENDPOINTS", "ETCD_PREFIX", "IFACE", "PUBLIC_IP", "SUBNET_FILE", "NODE", "LABCTL"}
}

// Self is how an agent command names labctl's own program.
const Self = "${LABCTL}"

// CommandPlan is a program that is a node's agent, with its ${...} still in
// it: they are known only once the lab is built.
type CommandPlan struct {
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env,omitempty"`
}

// Name is what people know the program by: flanneld.
func (c CommandPlan) Name() string {
	if c.Argv[0] == Self {
		return "labctl"
	}
	return filepath.Base(c.Argv[0])
}

// CheckSpeakers makes sure that the lab's BGP speakers can be started here.
func CheckSpeakers(p *Plan) error {
	names := p.NeedsBird()
	if len(names) == 0 {
		return nil
	}
	if _, err := bgp.FindBird(); err != nil {
		return &Failure{Kind: Unable, Err: fmt.Errorf("%s: speaker: bird: not found on this machine", strings.Join(names, ", ")),
			Cure: "install it (Debian: bird2), or write speaker: gobgp in the lab file"}
	}
	return nil
}

// CheckCommand makes sure that a node's agent can be started here, as far as
// its lab file names it.
func CheckCommand(n NodePlan) error {
	if n.Command == nil || strings.Contains(n.Command.Argv[0], "${") {
		return nil
	}
	program := n.Command.Argv[0]
	_, err := exec.LookPath(program)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound) && !strings.Contains(program, "/"):
		return &Failure{Kind: Unable, Err: fmt.Errorf("%s: agent: %s: not found in PATH", n.Name, program),
			Cure: "install it, add its directory to PATH, or write its whole path in the lab file"}
	case errors.Is(err, fs.ErrNotExist):
		return &Failure{Kind: Unable, Err: fmt.Errorf("%s: agent: %s: not found", n.Name, program),
			Cure: "install it there, or correct the path in the lab file"}
	}
	return &Failure{Kind: Unable, Err: fmt.Errorf("%s: agent: %s: not executable", n.Name, program),
		Cure: "chmod +x makes a program of it; is it one?"}
}

// Expand puts values, by the names of AgentVariables, into the program's words
// and environment. The environment has the variables themselves as well;
// what the lab file sets stands last and wins.
func (c CommandPlan) Expand(values map[string]string) (argv, env []string, err error) {
	value := func(p Placeholder) (string, error) {
		v, ok := values[p.String()]
		if !ok {
			return "", fmt.Errorf("${%s}: unknown", p)
		}
		return v, nil
	}
	for _, word := range c.Argv {
		w, err := Expand(word, value)
		if err != nil {
			return nil, nil, err
		}
		argv = append(argv, w)
	}
	for _, name := range AgentVariables() {
		env = append(env, name+"="+values[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		v, err := Expand(c.Env[name], value)
		if err != nil {
			return nil, nil, err
		}
		env = append(env, name+"="+v)
	}
	return argv, env, nil
}

// describe is the command for a comparison of plans.
func (c *CommandPlan) describe() string {
	if c == nil {
		return "labctl's own"
	}
	words := make([]string, 0, len(c.Env)+len(c.Argv))
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		words = append(words, name+"="+c.Env[name])
	}
	return strings.Join(append(words, c.Argv...), " ")
}
