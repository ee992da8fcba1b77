// Command claims writes README.md's table of claims from what labctl test
// found:
//
//	labctl test --all -o json | go run ./scripts/claims
//
// It refuses results in which a check of a claim did not pass: a table that
// says a lab shows something is to be true. What the claims say stands here;
// which labs show them, and by how many checks, stands in the results.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// The table stands between these lines.
const (
	begin = "<!-- made by scripts/claims from labctl test --all -o json -->"
	end   = "<!-- end of claims -->"
)

// The part of labctl test -o json that the table needs.
type (
	results struct {
		Labs []labResult `json:"labs"`
	}
	labResult struct {
		Lab    string        `json:"lab"`
		Checks []checkResult `json:"checks"`
	}
	checkResult struct {
		Title   string `json:"title"`
		Claim   string `json:"claim"`
		Outcome string `json:"outcome"`
		Found   string `json:"found"`
	}
)

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintf(os.Stderr, "claims: %q: takes no arguments; reads results, labctl test --all -o json, from standard input\n", os.Args[1:])
		os.Exit(2)
	}
	if err := run(os.Stdin, "README.md"); err != nil {
		fmt.Fprintln(os.Stderr, "claims:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, readme string) error {
	var r results
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	table, err := r.table()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	text, err := insert(string(b), table)
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	return os.WriteFile(readme, []byte(text), 0o644)
}

// table is the Markdown table of all claims that the results show.
func (r results) table() (string, error) {
	shown := map[string]map[string]bool{}
	checks := map[string]int{}
	for _, l := range r.Labs {
		for _, c := range l.Checks {
			if c.Claim == "" {
				continue
			}
			if c.Outcome != "passed" {
				return "", fmt.Errorf("%s: %s %s: %s: %s", l.Lab, c.Claim, c.Title, c.Outcome, c.Found)
			}
			if shown[c.Claim] == nil {
				shown[c.Claim] = map[string]bool{}
			}
			shown[c.Claim][l.Lab] = true
			checks[c.Claim]++
		}
	}
	var b strings.Builder
	b.WriteString("| claim | what it says | shown by | checks |\n|---|---|---|---|\n")
	for _, c := range claims {
		var labs []string
		for name := range shown[c.name] {
			labs = append(labs, "`"+name+"`")
		}
		slices.Sort(labs)
		if len(labs) > 0 {
			fmt.Fprintf(&b, "| %s | %s | %s | %d |\n", c.name, c.says, strings.Join(labs, ", "), checks[c.name])
		}
		delete(shown, c.name)
	}
	for name := range shown {
		return "", fmt.Errorf("%s: shown by a lab, and not among the claims of scripts/claims", name)
	}
	return b.String(), nil
}

// insert puts the table between its lines.
func insert(text, table string) (string, error) {
	before, rest, ok := strings.Cut(text, begin+"\n")
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", fmt.Errorf("no lines %q and %q", begin, end)
	}
	return before + begin + "\n\n" + table + "\n" + end + after, nil
}

// claims are those of the texts that labctl's labs were made after, as far as
// labs show them.
var claims = []struct{ name, says string }{
	{"A1", "containers of a host talk through a bridge that learns their MACs"},
	{"A2", "a container's default route is the bridge, its other route is on-link"},
	{"A3", "hosts with the same default network have containers with the same address; only NAT and a published port lead from one to the other"},
	{"A4", "containers reach the outside with their host's address"},
	{"B1", "one network, one subnet of it for each host"},
	{"B2", "no controller: each agent reads the config in the store and registers its subnet there"},
	{"B3", "the store's key is the subnet, its value the host's address"},
	{"B4", "the agent writes subnet.env"},
	{"B5", "Docker comes after the agent, with options made from subnet.env"},
	{"B6", "the bridge is cni0, or Docker's docker0, and its range is the host's subnet"},
	{"B7", "the network's config names the backend; udp, vxlan and host-gw are built, the clouds' are not"},
	{"C1", "flannel0 is a TUN device, opened by the agent"},
	{"C2", "flannel0 has the subnet's base as its address; the whole network leads there, beside the bridge's more specific route"},
	{"C3", "the inner packet is the payload of a UDP datagram from port 8285 to port 8285"},
	{"C4", "the MTU is 28 less"},
	{"C5", "system calls are what a packet costs in user space, and not user space as such"},
	{"D1", "flannel.1 is a VXLAN device with an IP and a MAC address, VNI 1, port 8472"},
	{"D2", "a route for each other host, through its VTEP's address; the MTU is 50 less"},
	{"D3", "the other VTEP's MAC is a permanent neighbour entry"},
	{"D4", "the forwarding entry of that MAC is its host's address"},
	{"D5", "the VTEPs' frame is inside the hosts' packet"},
	{"D6", "one route, one neighbour, one forwarding entry for each other host, however many containers"},
	{"D7", "the kernel asks nobody for what it misses"},
	{"D8", "the kernel wraps and unwraps; the agent forwards nothing, and killed it stops nothing"},
	{"E1", "host-gw: a route to the other host's subnet by way of its address; no device, no overhead"},
	{"E2", "such routes do not cross a router"},
	{"E3", "one such route for each other host"},
	{"F1", "Calico: no overlay, no bridge; a container hangs off its host by a veth pair, and the host is a router"},
	{"F2", "a container has a /32 and the gateway 169.254.1.1, which no interface has; its host answers ARP for it with ee:ee:ee:ee:ee:ee"},
	{"F3", "a host has a route for each of its containers and one for each other host"},
	{"F4", "an agent on each host makes them, from what every other host has said"},
	{"F5", "in the basic form the hosts share one layer 2 network; beyond it are route reflectors, an AS for each rack, and policy by netfilter rules"},
	{"F6", "only routing on the path: nothing is wrapped, nothing is lost of the MTU"},
	{"G1", "a mesh: each host has an entry for every other"},
	{"G2", "the VXLAN network identifier"},
}
