package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"labctl/lab"
	"labctl/lab/labtest"
	"labctl/lab/policy"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// kinds are networks that carry packets between hosts in different ways; hosts
// are the same in each. The addresses are those of RandomPolicies.
var kinds = map[string]string{
	"vxlan":         "network: {Network: 10.1.0.0/16, Backend: {Type: vxlan}}",
	"udp":           "network: {Network: 10.1.0.0/16, Backend: {Type: udp}}",
	"host-gw":       "network: {Network: 10.1.0.0/16, Backend: {Type: host-gw}}",
	"calico-routed": "calico: {pool: 10.1.0.0/16, blockSize: 24}",
	"calico-ipip":   "calico: {pool: 10.1.0.0/16, blockSize: 24, encapsulation: IPIP}",
}

const hosts = `
segments: {lan: {subnet: 192.168.50.0/24}}
nodes:
  node1:
    subnet: 10.1.1.0/24
    containers:
      - {name: web, address: 10.1.1.2, labels: {app: web}}
      - {name: db, address: 10.1.1.3, labels: {app: db, tier: back}}
      - {name: bare, address: 10.1.1.4}
  node2:
    subnet: 10.1.2.0/24
    containers:
      - {name: web, address: 10.1.2.2, labels: {app: web}}
      - {name: db, address: 10.1.2.3, labels: {app: db, tier: front}}
`

// set is some policies, and what brings them back.
type set struct {
	name     string
	policies lab.Policies
}

// randomSets are n sets, each of which lets something pass and something not.
// LABCTL_POLICY_SEED begins at a set that a failure has named, and
// LABCTL_POLICY_SETS says how many there are.
func randomSets(t *testing.T, n int) []set {
	t.Helper()
	number := func(name string, n int) int {
		text := os.Getenv(name)
		if text == "" {
			return n
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	n = number("LABCTL_POLICY_SETS", n)
	var sets []set
	for seed := number("LABCTL_POLICY_SEED", int(rand.Uint32())); len(sets) < n; seed++ {
		s := set{fmt.Sprintf("LABCTL_POLICY_SEED=%d", seed), policy.RandomPolicies(seed)}
		if tells(s.policies) {
			sets = append(sets, s)
		}
	}
	return sets
}

// tells says of policies that they let something pass between the containers
// of hosts, and something not.
func tells(ps lab.Policies) bool {
	spec, err := lab.Parse("lab.yaml", []byte(kinds["vxlan"]+hosts))
	if err != nil {
		panic(err) // constants
	}
	var all []policy.Endpoint
	for _, n := range spec.Nodes {
		for _, c := range n.Containers {
			all = append(all, policy.Endpoint{Name: n.Name + "." + c.Name, Node: n.Name, Labels: c.Labels, Addr: c.Address, Container: true})
		}
	}
	engine := policy.NewEngine(ps)
	some := map[bool]bool{}
	for _, p := range policy.Ports(ps) {
		for _, from := range all {
			for _, to := range all {
				if from.Name != to.Name {
					some[engine.Decide(from, to, p).Allowed] = true
				}
			}
		}
	}
	return some[true] && some[false]
}

// taught is what a person would write: selectors, both directions, a range with
// exceptions, a range of ports, ordered rules that deny.
const taught = `policies:
  no-telnet: {order: 1, ingress: [{action: Deny, ports: [{port: 23}]}]}
  db:
    podSelector: {matchLabels: {app: db}}
    ingress:
      - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}, {protocol: ICMP}]}
      - {from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.1.4/32]}}], ports: [{protocol: UDP, port: 50, endPort: 60}]}
  front:
    podSelector: {matchExpressions: [{key: tier, operator: In, values: [front]}]}
    policyTypes: [Egress]
    egress: [{to: [{podSelector: {}}], ports: [{protocol: ICMP}]}]
  rest: {podSelector: {matchLabels: {app: web}}, ingress: [{}]}
`

// The kernel lets pass what the engine lets pass, whatever the policies; each
// packet that it drops is counted by the rule that the engine decided by; and
// all of it is the same whatever carries the packets. A flow that was let
// through goes on when a policy denies it.
func TestKernelDoesWhatTheEngineSays(t *testing.T) {
	t.Parallel()
	ps, err := lab.ParsePolicies("taught.yaml", []byte(taught))
	if err != nil {
		t.Fatal(err)
	}
	sets := append([]set{{"taught", ps}}, randomSets(t, 4)...)
	var mu sync.Mutex
	passed := map[string]map[string][]string{} // the flows, by set and backend
	t.Run("under", func(t *testing.T) {
		for kind, network := range kinds {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				l := labtest.UpSpec(t, network+hosts)
				p := policy.NewProber(l.Client(), policy.DefaultTimes)
				for _, s := range sets {
					m := put(t, l, p, s)
					mu.Lock()
					if passed[s.name] == nil {
						passed[s.name] = map[string][]string{}
					}
					passed[s.name][kind] = flows(m)
					mu.Unlock()
				}
				goesOn(t, l)
			})
		}
	})
	for _, s := range sets {
		by := passed[s.name]
		all := slices.Sorted(maps.Keys(by)) // a machine may not be able to have them all
		if len(all) < 2 {
			t.Errorf("%s: only under %v: nothing to compare", s.name, all)
			continue
		}
		for _, kind := range all[1:] {
			if diff := cmp.Diff(by[all[0]], by[kind]); diff != "" {
				t.Errorf("%s: what passes under %s (-) and under %s (+):\n%s", s.name, all[0], kind, diff)
			}
		}
	}
}

// put gives a lab policies, and holds what passes then against the engine.
func put(t *testing.T, l *labtest.Lab, p *policy.Prober, s set) *policy.Matrix {
	t.Helper()
	if err := l.Client().SetPolicies(t.Context(), s.policies); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	before := dropped(t, l)
	m, err := p.Run(t.Context(), nil)
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	counted := map[string]bool{} // what rules that dropped something say
	for rule, n := range dropped(t, l) {
		if n > before[rule] {
			counted[rule.comment] = true
		}
	}
	said := map[string]bool{} // what the engine says of what should be dropped
	for _, f := range m.Flows {
		if !f.Expected {
			said[f.Why] = true
		}
	}
	diff := cmp.Diff(said, counted)
	if m.Differences == 0 && diff == "" {
		return m
	}
	t.Errorf("%s: what the engine says of packets (-) and the rules that dropped some (+) differ: %s", s.name, diff)
	for _, f := range m.Different() {
		t.Errorf("%s: %s", s.name, f)
	}
	if text, err := json.MarshalIndent(s.policies, "", "  "); err == nil {
		t.Logf("%s: policies: %s", s.name, text)
	}
	return m
}

// rule is one that drops, of a node.
type rule struct{ node, text, comment string }

// dropped is how many packets each rule of the policies has dropped. Packets
// that belong to no flow are not the policies' doing.
func dropped(t *testing.T, l *labtest.Lab) map[rule]uint64 {
	t.Helper()
	tables, err := l.Client().Tables(t.Context(), "node1", "node2")
	if err != nil {
		t.Fatal(err)
	}
	found := map[rule]uint64{}
	for node, tt := range tables {
		for _, r := range tt.Rules {
			if r.Table == policy.TableName && r.Verdict == "drop" && r.Chain != "forward" && r.Packets != nil {
				found[rule{node, r.String(), r.Comment}] += *r.Packets
			}
		}
	}
	return found
}

// flows are those that pass.
func flows(m *policy.Matrix) []string {
	var out []string
	for _, f := range m.Flows {
		if f.Actual {
			out = append(out, fmt.Sprintf("%s, %s -> %s", f.Port, f.From, f.To))
		}
	}
	return out
}

// goesOn holds connections open, on one host and across hosts, while a policy
// that let them through gives way to one that denies everything.
func goesOn(t *testing.T, l *labtest.Lab) {
	t.Helper()
	apply := func(text string) {
		t.Helper()
		ps, err := lab.ParsePolicies("policies.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Client().SetPolicies(t.Context(), ps); err != nil {
			t.Fatal(err)
		}
	}
	apply("policies: {open: {policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}}")
	ln, err := l.Endpoint("node2.web").Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // closed
			}
			served.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // until its client is gone
			})
		}
	})
	defer served.Wait()
	defer ln.Close()
	clients := map[string]net.Conn{}
	for _, from := range []string{"node1.db", "node2.db"} {
		c, err := l.Endpoint(from).Dial(t.Context(), "tcp", "node2.web:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := echo(c); err != nil {
			t.Fatalf("%s -> node2.web, which policy open lets through: %v", from, err)
		}
		clients[from] = c
	}
	apply("policies: {closed: {policyTypes: [Ingress, Egress]}}")
	for from, c := range clients {
		if err := echo(c); err != nil {
			t.Errorf("%s -> node2.web, a connection from before everything was denied: %v, want it to go on", from, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), policy.DefaultTimes.Quiet)
		if c, err := l.Endpoint(from).Dial(ctx, "tcp", "node2.web:80"); err == nil {
			c.Close()
			t.Errorf("%s -> node2.web: a new connection is let through, though everything is denied", from)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s -> node2.web: %v, want no answer", from, err)
		}
		cancel()
	}
}

// echo sends a line and reads it back.
func echo(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(policy.DefaultTimes.Patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("labctl\n")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len("labctl\n")))
	return err
}
