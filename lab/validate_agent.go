package lab

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

var variableName = pattern(`^[A-Za-z_][A-Za-z0-9_]*$`)

// agent checks a node's own agent command. Whether the program is there is for
// the machine to say that builds the lab.
func (v *validator) agent(path string, n NodeSpec) {
	a := n.Agent
	if a == nil {
		return
	}
	if v.noNetwork() {
		v.add(path, fmt.Sprintf("%s: agent in a lab without network, which has no agents", n.Name), "add network, or leave agent out")
		return
	}
	if v.calico != nil {
		v.add(path, fmt.Sprintf("%s: agent in a Calico lab, where only labctl's own runs", n.Name), "leave agent out")
		return
	}
	const example = `[flanneld, "-etcd-endpoints=${ETCD_ENDPOINTS}", "-iface=${IFACE}", "-subnet-file=${SUBNET_FILE}"]`
	command := path + ".command"
	switch {
	case v.bad(command) || v.bad(path) && len(a.Command) == 0: // which is reported
	case len(a.Command) == 0:
		v.add(command, fmt.Sprintf("%s: agent without a command", n.Name), "add command: "+example+", or leave agent out for labctl's own")
	case a.Command[0] == "":
		v.add(command+"[0]", fmt.Sprintf("%s: agent: the program's name is empty", n.Name), "write command: "+example)
	case strings.Contains(a.Command[0], "/") && !filepath.IsAbs(a.Command[0]) && !strings.Contains(a.Command[0], "${"):
		v.add(command+"[0]", fmt.Sprintf("%s: agent: %s is a relative path, and a lab's processes start in /", n.Name, show(a.Command[0])),
			"write the whole path, or the name alone of a program in PATH")
	}
	for i, word := range a.Command {
		v.agentText(fmt.Sprintf("%s[%d]", command, i), n.Name, word)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Env)) {
		p := join(path+".env", name)
		if !variableName().MatchString(name) {
			v.add(p, fmt.Sprintf("%s: agent: %s is not a name of an environment variable", n.Name, quote(name)), "use letters, digits and underscores")
		}
		v.agentText(p, n.Name, a.Env[name])
	}
}

// agentText checks a text in which AgentVariables may stand.
func (v *validator) agentText(path, node, text string) {
	if v.bad(path) {
		return
	}
	if strings.ContainsRune(text, 0) {
		v.add(path, fmt.Sprintf("%s: agent: a word with a zero byte in it", node), "remove it: no program can be given one")
	}
	names := AgentVariables()
	for _, p := range Placeholders(text) {
		if slices.Contains(names, p.String()) {
			continue
		}
		hint := "there are " + strings.Join(names, ", ") + "; $${ is a plain ${"
		if near := Nearest(p.String(), names); near != "" {
			hint = fmt.Sprintf("did you mean ${%s}? $${ is a plain ${", near)
		}
		v.add(path, fmt.Sprintf("%s: agent: ${%s} is unknown", node, show(p.String())), hint)
	}
}
