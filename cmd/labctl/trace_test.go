package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"labctl/lab"
	"labctl/lab/trace"
)

// traced runs labctl trace and reads its JSON.
func (l *running) traced(t *testing.T, want int, args ...string) *trace.Trace {
	t.Helper()
	stdout, stderr, code := l.try(t, append([]string{"trace", "-l", l.name, "-o", "json"}, args...)...)
	if code != want {
		text, _, _ := l.try(t, append([]string{"trace", "-l", l.name}, args...)...)
		t.Fatalf("trace %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), code, want, stderr, text)
	}
	var tr trace.Trace
	if err := json.Unmarshal([]byte(stdout), &tr); err != nil {
		t.Fatalf("trace: %v\n%s", err, stdout)
	}
	return &tr
}

// place is an interface and a direction.
func place(iface string, d trace.Direction) string { return fmt.Sprintf("%s %s", iface, d) }

// A trace saw what tcpdump saw, on every interface of the lab, there and back,
// plain and wrapped, and in that order in each namespace.
func TestTraceSeesWhatTcpdumpSees(t *testing.T) {
	t.Parallel()
	needTool(t, "tcpdump")
	u := needRoot(t, "in a user namespace tcpdump cannot change to its own user and gives up")
	for _, file := range []string{"flannel-vxlan", "flannel-host-gw", "flannel-udp", "flannel-vxlan-racks", "flannel-docker0", "calico-routed", "calico-vxlan-crosssubnet", "calico-ipip"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			if usesTUN(t, builtIn(t, file)) && u.deniedTUN(t, file) {
				return
			}
			l := u.up(t, file)
			plan := builtInPlan(t, l)
			endpoints := plan.Endpoints()
			for _, s := range plan.Segments {
				endpoints = append(endpoints, s.Name)
			}
			last := plan.Nodes[len(plan.Nodes)-1]
			pairs := [][2]string{{"node1." + plan.Nodes[0].Containers[0].Name, "node2." + plan.Nodes[1].Containers[0].Name},
				{last.Name + "." + last.Containers[0].Name, "node1." + plan.Nodes[0].Containers[0].Name}, {"node1", "node2"}, {"node2", "node1." + plan.Nodes[0].Containers[0].Name}}
			for _, p := range pairs {
				// Warm: what is learned on the way is no part of the trace.
				l.run(t, "ping", "-l", l.name, p[0], p[1], "-c", "1")
				stop := l.dumps(t, endpoints)
				tr := l.traced(t, 0, p[0], p[1], "--size", "777")
				want := stop(t, len(tr.Steps))
				got := map[string][]string{}
				for _, s := range tr.Steps {
					got[s.Endpoint] = append(got[s.Endpoint], place(s.Where(), s.Direction))
				}
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("%s -> %s: tcpdump (-) and trace (+) differ:\n%s", p[0], p[1], diff)
				}
				for _, s := range tr.Steps {
					if s.Aside == "" && len(s.Why) == 0 {
						t.Errorf("%s -> %s: step %d, %s: nothing decided it", p[0], p[1], s.Number, place(s.Where(), s.Direction))
					}
				}
			}
		})
	}
}

// builtInPlan is a running lab's plan.
func builtInPlan(t *testing.T, l *running) *lab.Plan {
	t.Helper()
	c := lab.Client{Dir: lab.Dir(l.dir())}
	p, err := c.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dumpLine is what tcpdump -i any prints: the time, the interface, the
// direction ("P" is a frame for another host, as bridge ports get it).
var dumpLine = regexp.MustCompile(`^[0-9:.]+ (\S+) +(In|Out|P|B|M) `)

// dumps starts a tcpdump on all interfaces of each endpoint, for packets as
// long as the trace's. stop ends them when they have printed want lines, and
// returns the places by endpoint.
func (l *running) dumps(t *testing.T, endpoints []string) (stop func(t *testing.T, want int) map[string][]string) {
	t.Helper()
	type dump struct {
		endpoint string
		end      func()
	}
	var dumps []dump
	lines := make(chan [2]string, 1024) // endpoint, line
	for _, e := range endpoints {
		cmd := l.command("exec", "-l", l.name, e, "--", "tcpdump", "-i", "any", "-n", "-l", "--immediate-mode", "-s", "256", "greater 800 and less 1000 and not tcp")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(stderr)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: tcpdump: %v %s", e, err, line)
			}
			if strings.Contains(line, "listening on") {
				break
			}
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		read := make(chan struct{})
		go func() {
			defer close(read)
			for s := bufio.NewScanner(stdout); s.Scan(); {
				lines <- [2]string{e, s.Text()}
			}
		}()
		dumps = append(dumps, dump{e, func() {
			_ = cmd.Process.Signal(os.Interrupt)
			<-read
			_ = cmd.Wait() // its exit status is the signal's
		}})
	}
	return func(t *testing.T, want int) map[string][]string {
		t.Helper()
		found := map[string][]string{}
		n := 0
		take := func(x [2]string) {
			m := dumpLine.FindStringSubmatch(x[1])
			if m == nil {
				return // the second line of a wrapped packet
			}
			d := trace.In
			if m[2] == "Out" {
				d = trace.Out
			}
			found[x[0]] = append(found[x[0]], place(x[0]+":"+m[1], d))
			n++
		}
		for deadline := time.After(5 * time.Second); n < want; {
			select {
			case x := <-lines:
				take(x)
				continue
			case <-deadline:
				t.Errorf("tcpdump saw the packet %d times, trace %d times", n, want)
			}
			break
		}
		for _, d := range dumps {
			d.end()
		}
		close(lines)
		for x := range lines {
			take(x)
		}
		return found
	}
}

// A packet that is lost once is found at the second try, and trace says so.
func TestTraceTriesTwice(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-host-gw")
		l.run(t, "ping", "-l", l.name, "node1.c1", "node2.c1", "-c", "1")
		// The first echo request alone is within the quota.
		l.exec(t, "node2", "nft", "add table inet broken; add chain inet broken c { type filter hook forward priority 0; }; add rule inet broken c icmp type echo-request quota until 90 bytes drop")
		tr := l.traced(t, 0, "node1.c1", "node2.c1", "-W", "200ms")
		if !tr.Delivered || tr.Tries != 2 || !slices.Contains(tr.Notes, "lost once, found at the second try") {
			t.Errorf("delivered %v after %d tries, notes %q; want true after 2, with a note", tr.Delivered, tr.Tries, tr.Notes)
		}
	})
}

// tracedFault is a fault put in by hand, and what trace is to say of it.
type tracedFault struct {
	name          string
	do, undo      [][]string // endpoint, command...
	args          []string   // of trace; node1.c1 node2.c1 without
	code          trace.Code
	where         string
	last, missing string
	evidence      string // in one of its lines
	killAgent     string
	can           []string // endpoint and a command: when it fails the machine cannot have the fault
}

// Faults are each named by code, and at the right hop.
func TestTraceNamesFaults(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "nft", "tc")
	filter := func(endpoint, family, hook, rule string) [][]string {
		return [][]string{{endpoint, "nft", "add table " + family + " broken; add chain " + family + " broken c { type filter hook " + hook + " priority 0; }; add rule " + family + " broken c " + rule}}
	}
	unfilter := func(endpoint, family string) [][]string {
		return [][]string{{endpoint, "nft", "delete table " + family + " broken"}}
	}
	t.Run("vxlan", func(t *testing.T) {
		t.Parallel()
		testTracedFaults(t, builtInText(t, "flannel-vxlan"), []tracedFault{
			{name: "missing route", do: [][]string{{"node1", "ip", "route", "del", "{subnet2}"}},
				code: trace.MissingRoute, where: "node1", last: "node1:cni0", missing: "node1:flannel.1", evidence: "drift: missing route"},
			{name: "blackhole route", do: [][]string{{"node1", "ip", "route", "replace", "blackhole", "{subnet2}"}},
				code: trace.BlackholeRoute, where: "node1", last: "node1:cni0", missing: "node1:flannel.1", evidence: "blackhole"},
			{name: "wrong neighbour", do: [][]string{{"node1", "ip", "neigh", "replace", "{base2}", "lladdr", "02:00:00:00:00:99", "dev", "flannel.1", "nud", "permanent"}},
				code: trace.WrongNeighbour, where: "node1", last: "node1:flannel.1", missing: "node1:eth0", evidence: "02:00:00:00:00:99"},
			{name: "wrong FDB entry", do: [][]string{{"node1", "bridge", "fdb", "replace", "{vtep2}", "dev", "flannel.1", "dst", "192.168.50.3", "self", "permanent"}},
				code: trace.WrongFDB, where: "node1", last: "lan:node1", missing: "lan:node2", evidence: "192.168.50.3"},
			{name: "VNI mismatch", do: [][]string{{"node2", "ip", "link", "del", "flannel.1"},
				{"node2", "ip", "link", "add", "flannel.1", "address", "{vtep2}", "type", "vxlan", "id", "2", "dev", "eth0", "dstport", "8472", "local", "192.168.50.2", "nolearning"},
				{"node2", "ip", "link", "set", "flannel.1", "up"}},
				code: trace.VNIMismatch, where: "node2", last: "node2:eth0", missing: "node2:flannel.1", evidence: "vni 2, the packet vni 1"},
			{name: "ip_forward off", do: [][]string{{"node2", "sysctl", "-w", "net.ipv4.ip_forward=0"}}, undo: [][]string{{"node2", "sysctl", "-w", "net.ipv4.ip_forward=1"}},
				code: trace.ForwardOff, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "ip_forward = 0"},
			{name: "rp_filter strict on an asymmetric way", do: [][]string{{"node2", "sysctl", "-w", "net.ipv4.conf.flannel/1.rp_filter=1"},
				{"node2", "ip", "route", "replace", "{subnet1}", "via", "192.168.50.1", "dev", "eth0"}}, undo: [][]string{{"node2", "sysctl", "-w", "net.ipv4.conf.flannel/1.rp_filter=0"}},
				code: trace.RPFilter, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "the route back is"},
			{name: "netfilter drop in forward", do: filter("node2", "inet", "forward", "ip daddr {subnet2} counter drop"), undo: unfilter("node2", "inet"),
				code: trace.NFTDrop, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "hook forward"},
			{name: "link down", do: [][]string{{"node2", "ip", "link", "set", "flannel.1", "down"}},
				code: trace.LinkDown, where: "node2", last: "node2:eth0", missing: "node2:flannel.1", evidence: "node2:flannel.1: is down"},
			{name: "underlay down", do: [][]string{{"node2", "ip", "link", "set", "eth0", "down"}},
				code: trace.LinkDown, where: "node2", last: "lan:node1", missing: "lan:node2", evidence: "node2:eth0: is down"},
			{name: "MTU too small with DF", do: [][]string{{"node2", "ip", "link", "set", "cni0", "mtu", "1000"}}, args: []string{"node1.c1", "node2.c1", "--df", "--size", "1200"},
				code: trace.MTUTooSmall, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "fragmentation needed, mtu 1000"},
			{name: "port 8472 filtered at the host", do: filter("node2", "inet", "input", "udp dport 8472 counter drop"), undo: unfilter("node2", "inet"),
				code: trace.PortFiltered, where: "node2", last: "node2:eth0", missing: "node2:flannel.1", evidence: "dport 8472"},
			{name: "port 8472 filtered on the underlay", do: filter("lan", "bridge", "forward", "udp dport 8472 counter drop"), undo: unfilter("lan", "bridge"),
				code: trace.PortFiltered, where: "lan", last: "lan:node1", missing: "lan:node2", evidence: "dport 8472"},
			{name: "tc drops on the underlay", do: [][]string{{"node1", "tc", "qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "0"}},
				undo: [][]string{{"node1", "tc", "qdisc", "del", "dev", "eth0", "root"}},
				code: trace.TCDrop, where: "node1", last: "node1:flannel.1", missing: "node1:eth0", evidence: "tc dropped: pfifo of eth0 +"},
			{name: "iptables-legacy", can: []string{"node2", "iptables-legacy", "-S"}, do: [][]string{{"node2", "iptables-legacy", "-A", "FORWARD", "-p", "icmp", "-j", "DROP"}}, undo: [][]string{{"node2", "iptables-legacy", "-F", "FORWARD"}},
				code: trace.LegacyIPTables, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "iptables-legacy has filter loaded"},
			{name: "no such container", args: []string{"node1.c1", "{net2}99"},
				code: trace.ContainerGone, where: "node2", last: "node2:flannel.1", missing: "node2:cni0", evidence: "no interface of the lab has the address"},
		})
	})
	t.Run("udp", func(t *testing.T) {
		t.Parallel()
		// flannel's port is 8285; here it is another.
		testTracedFaults(t, strings.ReplaceAll(builtInText(t, "flannel-udp"), "Port: 8285", "Port: 9999"), []tracedFault{
			{name: "port filtered on its way out", do: filter("node1", "inet", "output", "udp dport 9999 drop"), undo: unfilter("node1", "inet"),
				code: trace.PortFiltered, where: "node1", last: "node1:flannel0", missing: "node1:eth0", evidence: "dport 9999"},
			{name: "agent dead", killAgent: "node1", code: trace.AgentDead, where: "node1", last: "node1:cni0", missing: "node1:flannel0", evidence: "its agent does not run"},
			{name: "peer's agent dead", killAgent: "node2", code: trace.AgentDead, where: "node2", last: "node2:eth0", missing: "node2:flannel0", evidence: "its agent does not run"},
		})
	})
	t.Run("ipip", func(t *testing.T) {
		t.Parallel()
		all := []tracedFault{
			{name: "protocol 4 filtered", do: filter("node2", "inet", "input", "ip protocol 4 counter drop"), undo: unfilter("node2", "inet"),
				code: trace.NFTDrop, where: "node2", last: "node2:eth0", missing: "node2:tunl0", evidence: "hook input"},
			{name: "missing route", do: [][]string{{"node1", "ip", "route", "del", "{subnet2}"}},
				code: trace.MissingRoute, where: "node1", last: "node1:veth1", missing: "node1:tunl0", evidence: "drift: missing route"},
		}
		if !kernelIPIP() {
			all = append(all,
				tracedFault{name: "agent dead", killAgent: "node1", code: trace.AgentDead, where: "node1", last: "node1:veth1", missing: "node1:tunl0", evidence: "its agent does not run"},
				tracedFault{name: "peer's agent dead", killAgent: "node2", code: trace.AgentDead, where: "node2", last: "node2:eth0", missing: "node2:tunl0", evidence: "nobody listens on protocol 4"})
		}
		testTracedFaults(t, builtInText(t, "calico-ipip"), all)
	})
}

func testTracedFaults(t *testing.T, text string, all []tracedFault) {
	spec, err := lab.Parse("lab.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	forUsers(t, func(t *testing.T, u user) {
		if usesTUN(t, spec) && u.deniedTUN(t, spec.Name) {
			return
		}
		l := u.upText(t, text)
		l.run(t, "ping", "-l", l.name, "node1.c1", "node2.c1", "-c", "1")
		for _, b := range all {
			t.Run(b.name, func(t *testing.T) { l.breakAndTrace(t, b) })
		}
	})
}

func (l *running) breakAndTrace(t *testing.T, b tracedFault) {
	if b.can != nil {
		if _, stderr, code := l.try(t, append([]string{"exec", "-l", l.name, b.can[0], "--"}, b.can[1:]...)...); code != 0 {
			t.Skipf("%s: %s", strings.Join(b.can[1:], " "), stderr)
		}
	}
	st := l.status(t)
	var words []string
	for i, n := range st.Nodes {
		subnet, _, _ := strings.Cut(n.Subnets[0], "/")
		words = append(words, fmt.Sprintf("{subnet%d}", i+1), n.Subnets[0], fmt.Sprintf("{net%d}", i+1), strings.TrimSuffix(subnet, "0"), fmt.Sprintf("{base%d}", i+1), subnet, fmt.Sprintf("{vtep%d}", i+1), n.VTEPMAC)
	}
	fill := strings.NewReplacer(words...)
	l.run(t, "fault", "hold", "-l", l.name)
	do := func(list [][]string) {
		for _, c := range list {
			var argv []string
			for _, a := range c[1:] {
				argv = append(argv, fill.Replace(a))
			}
			l.exec(t, c[0], argv...)
		}
	}
	do(b.do)
	if b.killAgent != "" {
		i := slices.IndexFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Name == b.killAgent })
		p, err := os.FindProcess(st.Nodes[i].AgentPid)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, func() error {
			if pid := l.status(t).Nodes[i].AgentPid; pid != 0 {
				return fmt.Errorf("agent of %s is still there: %d", b.killAgent, pid)
			}
			return nil
		})
	}
	args := b.args
	if args == nil {
		args = []string{"node1.c1", "node2.c1"}
	}
	args = slices.Clone(args)
	for i := range args {
		args[i] = fill.Replace(args[i])
	}
	tr := l.traced(t, 1, append(args, "-W", "250ms")...)
	got := fmt.Sprintf("last seen %s, missing at %s", tr.LastSeen, tr.MissingAt)
	want := fmt.Sprintf("last seen %s, missing at %s", b.last, b.missing)
	if c := cmp.Or(tr.Cause, &trace.Cause{}); got != want || c.Code != b.code || c.Where != b.where ||
		!slices.ContainsFunc(c.Evidence, func(e string) bool { return strings.Contains(e, b.evidence) }) {
		text, _, _ := l.try(t, append([]string{"trace", "-l", l.name, "-W", "250ms"}, args...)...)
		t.Errorf("got %s at %s, %s\nwant %s at %s, %s, with evidence %q\n%s", c.Code, c.Where, got, b.code, b.where, want, b.evidence, text)
	}
	do(b.undo)
	l.run(t, "fault", "release", "-l", l.name)
	eventually(t, 10*time.Second, func() error {
		if _, stderr, code := l.try(t, "ping", "-l", l.name, "node1.c1", "node2.c1", "-c", "1", "-W", "100ms"); code != 0 {
			return fmt.Errorf("not mended: %s", stderr)
		}
		st := l.status(t)
		if st.State != lab.Ready {
			return fmt.Errorf("%s: %v", st.State, st.Reasons)
		}
		return nil
	})
}

// A packet that a network policy drops: the policy, the direction, the host and
// the rule are named, and that rule's counter tells that it was the one. Frames
// that a bridge switches are no exception.
func TestTraceNamesThePolicy(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	type drop struct {
		name, from, to, port string
		where, last, missing string
		policy               trace.PolicyDrop
	}
	for file, drops := range map[string][]drop{
		"flannel-policy": {
			{"two ports of one bridge", "node1.web", "node1.db", "--tcp=81", "node1", "node1:veth1", "node1:veth2", trace.PolicyDrop{Name: "no-telnet", Direction: lab.Ingress}},
			{"at the sender's host", "node2.job", "node1.db", "--tcp=80", "node2", "node2:cni0", "node2:flannel.1", trace.PolicyDrop{Name: "job", Direction: lab.Egress}},
			{"at the receiver's host, by a rule that denies", "node1.web", "node2.web", "--tcp=23", "node2", "node2:flannel.1", "node2:cni0", trace.PolicyDrop{Name: "no-telnet", Direction: lab.Ingress, Rule: 1}},
		},
		"calico-policy": {
			{"a range's exception, on one host", "node1.api", "node1.front", "--tcp=80", "node1", "node1:veth2", "node1:veth1", trace.PolicyDrop{Name: "api", Direction: lab.Egress}},
			{"by a rule that denies, before others", "node3.front", "node1.api", "--tcp=8080", "node3", "node3:veth1", "node3:eth0", trace.PolicyDrop{Name: "quarantine", Direction: lab.Egress, Rule: 1}},
			{"at the receiver's host", "node2.monitor", "node3.front", "--tcp=9100", "node3", "node3:eth0", "node3:veth1", trace.PolicyDrop{Name: "quarantine", Direction: lab.Ingress, Rule: 1}},
		},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			forUsers(t, func(t *testing.T, u user) {
				l := u.up(t, file)
				for _, d := range drops {
					tr := l.traced(t, 1, d.from, d.to, d.port, "-W", "250ms")
					c := cmp.Or(tr.Cause, &trace.Cause{})
					want := trace.Cause{Code: trace.PolicyDropped, Where: d.where, Policy: &d.policy}
					counted := regexp.MustCompile(fmt.Sprintf(`^%s: nftables: table inet labctl-policy, .* drop comment "policy %s: .*" \+[1-9]`, d.where, d.policy.Name))
					if diff := gocmp.Diff(want, trace.Cause{Code: c.Code, Where: c.Where, Policy: c.Policy}); diff != "" ||
						tr.LastSeen != d.last || tr.MissingAt != d.missing || !slices.ContainsFunc(c.Evidence, counted.MatchString) {
						t.Errorf("%s: %s -> %s %s: last seen %s, missing at %s, want %s and %s; evidence, want a match of %s:\n%s\ncause (-want +got):\n%s", d.name, d.from, d.to, d.port,
							tr.LastSeen, tr.MissingAt, d.last, d.missing, counted, strings.Join(c.Evidence, "\n"), diff)
					}
				}
			})
		})
	}
}

// A packet that nobody but the network's hosts may send, because they would
// unwrap it: the rule that keeps it out is named, at its own host a container's,
// at the receiver's anybody else's.
func TestTraceNamesTheGuard(t *testing.T) {
	t.Parallel()
	l := users(t)[0].up(t, "calico-vxlan-crosssubnet")
	for _, tt := range []struct{ from, to, where, chain, comment string }{
		{"node1.c1", "node3", "node1", "forward", "vxlan of a container"},
		{"etcd", "node3", "node3", "input", "vxlan of anybody else"},
	} {
		tr := l.traced(t, 1, tt.from, tt.to, "--udp=4789", "-W", "250ms")
		c := cmp.Or(tr.Cause, &trace.Cause{})
		counted := regexp.MustCompile(fmt.Sprintf(`^%s: nftables: table inet labctl-vxlan, chain %s .* drop comment "%s" \+[1-9]`, tt.where, tt.chain, tt.comment))
		if c.Where != tt.where || !slices.ContainsFunc(c.Evidence, counted.MatchString) {
			t.Errorf("%s -> %s: cause %+v, want at %s a match of %s", tt.from, tt.to, c, tt.where, counted)
		}
	}
}
