package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/trace"
)

// upCalico brings two hosts up that have all of a pool of 16 addresses, 8 each.
func (u user) upCalico(t *testing.T, options string) *running {
	t.Helper()
	return u.upText(t, `name: calico
calico: {pool: 10.9.0.0/28, blockSize: 29`+options+`}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes:
  node1: {subnet: 10.9.0.0/29, containers: 1}
  node2: {subnet: 10.9.0.8/29, containers: 2}
`)
}

// calicoHosts is how long another host and its container may take on a busy machine.
const calicoHosts = 30 * time.Second

// A host that finds no block borrows an address, to which all others then have
// a route of its own; a key that makes two hosts owners of one block is told
// with its cure, and leads no packet astray.
func TestCalicoBorrowedAndTwoOwners(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "etcdctl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.upCalico(t, "")
		l.run(t, "node", "add", "node3", "-l", l.name, "--timeout", calicoHosts.String())
		n3 := l.status(t).Nodes[2]
		addr := n3.Containers[0].IP
		if a, err := netip.ParseAddr(addr); err != nil || !netip.MustParsePrefix("10.9.0.0/28").Contains(a) || len(n3.Subnets) > 0 {
			t.Fatalf("node3: blocks %v and container %q (%v), want none and an address of the pool", n3.Subnets, addr, err)
		}
		for _, host := range []string{"node1", "node2"} {
			eventually(t, calicoHosts, func() error {
				routes := l.exec(t, host, "ip", "route", "show", addr+"/32")
				if !strings.HasPrefix(routes, addr+" via "+n3.PublicIP+" dev eth0 proto 80") {
					return fmt.Errorf("%s: route to %s: %q, want one via %s", host, addr, routes, n3.PublicIP)
				}
				return nil
			})
		}
		l.run(t, "ping", "-l", l.name, "--all")

		const key = "/calico/ipam/v2/host/node2/ipv4/block/10.9.0.0-29" // node1's block
		before := l.exec(t, "node2", "ip", "route")
		l.etcdctl(t, "put", key, `{"state":"confirmed"}`)
		told := func(n lab.NodeStatus) bool {
			return slices.ContainsFunc(n.Problems, func(p string) bool {
				return strings.Contains(p, "two owners of block 10.9.0.0/29: node2 claims it, and it is node1's") && strings.Contains(p, "etcdctl del "+key)
			})
		}
		eventually(t, calicoHosts, func() error {
			if n := l.status(t).Nodes[0]; !told(n) {
				return fmt.Errorf("status: node1's problems %q, want two owners and the key to delete", n.Problems)
			}
			return nil
		})
		l.notReady(t, "store: "+key+": two owners of block 10.9.0.0/29")
		if after := l.exec(t, "node2", "ip", "route"); after != before {
			t.Errorf("node2's routes changed by the second owner:\n%swere:\n%s", after, before)
		}
		l.run(t, "ping", "-l", l.name, "--all")
		l.etcdctl(t, "del", key)
		eventually(t, calicoHosts, func() error {
			if n := l.status(t).Nodes[0]; len(n.Problems) > 0 {
				return fmt.Errorf("status: node1's problems %q after the cure, want none", n.Problems)
			}
			return nil
		})
		l.isReady(t)
	})
}

// notReady says that status and up of a running lab tell a reason, and exit
// with 1.
func (l *running) notReady(t *testing.T, reason string) {
	t.Helper()
	if st := l.status(t); st.State != lab.Degraded || !slices.ContainsFunc(st.Reasons, func(r string) bool { return strings.HasPrefix(r, reason) }) {
		t.Errorf("status: %s %q, want %s with a reason that begins %q", st.State, st.Reasons, lab.Degraded, reason)
	}
	for _, args := range [][]string{{"status", l.name}, {"up", filepath.Join(l.dir(), "lab.yaml"), "--name", l.name}} {
		stdout, stderr, code := l.try(t, args...)
		if code != 1 || !strings.Contains(stdout, ": degraded") || strings.Count(stdout, reason) != 1 {
			t.Errorf("labctl %s: exit status %d, want 1, degraded, and once %q\n%s%s", strings.Join(args, " "), code, reason, stdout, stderr)
		}
	}
}

// A lab that its pool has no addresses for is given up as soon as nobody can
// have what is missing, with the reason and a cure on one line each.
func TestCalicoUpExhausted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, calico, nodes, why, cure string }{
		{"fewer blocks than hosts", "{pool: 10.9.0.0/28, blockSize: 29, strictAffinity: on}", "3",
			`node[123]\.c1: no address: all blocks of pool 10\.9\.0\.0/28 are taken, and strictAffinity forbids to borrow`, "use a bigger pool, a longer blockSize, or fewer containers"},
		{"more containers than a host may have blocks for", "{pool: 10.9.0.0/24, blockSize: 30, maxBlocksPerHost: 1, strictAffinity: on}", "{node1: {containers: 5}, node2: {}}",
			`node1\.c5: no address: node1 has claimed 1 of at most 1 blocks, and strictAffinity forbids to borrow`, "raise maxBlocksPerHost, use a shorter blockSize, or fewer containers"},
		{"an address of another's block", "{pool: 10.9.0.0/24, blockSize: 29, strictAffinity: on}", "{node1: {subnet: 10.9.0.0/29}, node2: {containers: [{name: c1, address: 10.9.0.5}]}}",
			`node2\.c1: no address: 10\.9\.0\.5 is in block 10\.9\.0\.0/29 of node1, and strictAffinity forbids to borrow`, "take an address of another block, or set strictAffinity off"},
		{"by BGP", "{pool: 10.9.0.0/28, blockSize: 29, strictAffinity: on, routes: bgp}", "3",
			`node[123]\.c1: no address: all blocks of pool 10\.9\.0\.0/28 are taken, and strictAffinity forbids to borrow`, "use a bigger pool, a longer blockSize, or fewer containers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := users(t)[0]
			file := u.file(t, "name: exhausted\ncalico: "+c.calico+"\nsegments: {lan: {subnet: 192.168.50.0/24}}\nnodes: "+c.nodes+"\n")
			name := freshName()
			stdout, stderr, code := u.try(t, "up", file, "--name", name, "--timeout", "55s")
			if code != 2 || stdout != "" {
				t.Errorf("up: exit status %d, want 2\n%s%s", code, stdout, stderr)
			}
			want := regexp.MustCompile(`(?m)\A(?:.*\n)*labctl: ` + c.why + `$\n^ *cure: ` + regexp.QuoteMeta(c.cure) + `$\s*\z`)
			if !want.MatchString(stderr) {
				t.Errorf("up says\n%s\nwant %s", stderr, want)
			}
			if _, stderr, code := u.try(t, "status", name); code != 2 {
				t.Errorf("status after it: exit status %d, want 2, as there is no such lab\n%s", code, stderr)
			}
		})
	}
}

// Where no address is left status says why and what to do, and a block that
// somebody gives back is taken. A container that lies about its address is not
// let in: its host counts it, and a trace names the cause.
func TestCalicoExhaustedAndSpoofed(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "nstat")
	forUsers(t, func(t *testing.T, u user) {
		l := u.upCalico(t, ", strictAffinity: on")

		to := l.status(t).Nodes[0].Containers[0].IP
		// It knows the gateway: its host would not tell a liar.
		l.exec(t, "node2.c2", "sh", "-c", "ip neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent &&"+
			"ip addr add 10.9.0.3/32 dev lo && ip route replace "+to+" via 169.254.1.1 dev eth0 src 10.9.0.3")
		dropped := func() string {
			return l.exec(t, "node2", "nstat", "-asz", "TcpExtIPReversePathFilter")
		}
		before := dropped()
		tr := l.traced(t, 1, "node2.c2", "node1.c1")
		if tr.Cause == nil || tr.Cause.Code != trace.RPFilter || tr.Cause.Where != "node2" {
			t.Errorf("trace of a spoofed source: cause %+v, want %s at node2", tr.Cause, trace.RPFilter)
		}
		if after := dropped(); after == before {
			t.Errorf("node2 counts as many dropped as before the spoofed packet:\n%s", after)
		}
		l.exec(t, "node2.c2", "sh", "-c", "ip route del "+to+" && ip addr del 10.9.0.3/32 dev lo")
		l.run(t, "ping", "-l", l.name, "node2.c2", "node1.c1")

		_, stderr, code := l.try(t, "node", "add", "node3", "-l", l.name, "--timeout", "55s")
		if want := `labctl: node3: node add is done, but node3.c1: no address: all blocks of pool 10.9.0.0/28 are taken, and strictAffinity forbids to borrow
  cure: use a bigger pool, a longer blockSize, or fewer containers; node3 takes what another node gives back
`; code != 2 || stderr != want {
			t.Fatalf("node add with no block left: exit status %d, want 2\n%swant\n%s", code, stderr, want)
		}
		eventually(t, calicoHosts, func() error {
			st := l.status(t)
			for _, r := range st.Reasons {
				if strings.Contains(r, "node3.c1: no address: all blocks of pool 10.9.0.0/28 are taken, and strictAffinity forbids to borrow; use a bigger pool") {
					return nil
				}
			}
			return fmt.Errorf("status: %s %q, want node3 without an address, why, and the cure", st.State, st.Reasons)
		})
		l.run(t, "node", "rm", "node2", "-l", l.name)
		eventually(t, calicoHosts, func() error {
			st := l.status(t)
			if n := st.Nodes[len(st.Nodes)-1]; st.State != lab.Ready || n.Name != "node3" || !slices.Equal(n.Subnets, []string{"10.9.0.8/29"}) {
				return fmt.Errorf("lab %s, %s has blocks %v, want ready, and node3 with node2's", st.State, n.Name, n.Subnets)
			}
			return nil
		})
		l.run(t, "ping", "-l", l.name, "node3.c1", "node1.c1")
	})
}

// With every link of every ToR cut, agents go on with their store: one that is
// killed comes back with its block and knows those of the others, and a host
// that joins gets one.
func TestCalicoRacksManagement(t *testing.T) {
	t.Parallel()
	needTool(t, "ss")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "calico-racks")
		for _, tor := range []string{"tor1", "tor2"} {
			for _, dev := range []string{"eth0", "eth1", "eth2"} {
				l.run(t, "fault", "link", "down", "-l", l.name, tor+":"+dev)
			}
		}
		n3 := l.nodeStatus(t, "node3")
		if _, _, code := l.try(t, "exec", "-l", l.name, "node3", "--", "ping", "-c1", "-W1", "192.168.51.1"); code == 0 {
			t.Fatal("node3 reaches rack1 with every link of the ToRs cut")
		}
		if err := syscall.Kill(n3.AgentPid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, calicoHosts, func() error {
			now := l.nodeStatus(t, "node3")
			if now.AgentPid == n3.AgentPid || now.AgentPid == 0 || !slices.Equal(now.Subnets, n3.Subnets) {
				return fmt.Errorf("node3 with a new agent: %+v, want another pid, and the block as before", now)
			}
			return knowsBlocks(now, "10.244.1.0/26 of node1", "10.244.2.0/26 of node2", "10.244.4.0/26 of node4")
		})
		if _, stderr, code := l.try(t, "node", "add", "node5", "-l", l.name, "--segment", "rack2", "--timeout", "1s"); code != 124 {
			t.Fatalf("node add while no ToR speaks: exit status %d, want 124\n%s", code, stderr)
		}
		eventually(t, calicoHosts, func() error {
			n5 := l.nodeStatus(t, "node5")
			if len(n5.Subnets) != 1 || n5.Containers[0].IP == "" || n5.Management != "192.168.59.5" {
				return fmt.Errorf("node5: %+v, want a block, a container with an address, and 192.168.59.5 for management", n5)
			}
			return knowsBlocks(n5, "10.244.1.0/26 of node1", n3.Subnets[0]+" of node3")
		})
		to := "192.168.59.254:2379"
		if out := l.exec(t, "node5", "ss", "-Htn", "state", "established"); !regexp.MustCompile(`(?m) 192\.168\.59\.5:\d+ +` + to).MatchString(out) {
			t.Errorf("node5's connections:\n%swant one from 192.168.59.5 to %s", out, to)
		}
		l.run(t, "fault", "-l", l.name, "heal")
		l.isReady(t)
		l.run(t, "node", "rm", "node3", "-l", l.name)
		if n4 := l.nodeStatus(t, "node4"); n4.Management != "192.168.59.4" {
			t.Errorf("node4 after node3 has left: %+v, want 192.168.59.4 for management", n4)
		}
		l.isReady(t)
		eventually(t, calicoHosts, func() error {
			if _, stderr, code := l.try(t, "ping", "-l", l.name, "node5.c1", "node1.c1"); code != 0 {
				return fmt.Errorf("ping across the racks after heal: %s", stderr)
			}
			return nil
		})
	})
}

// knowsBlocks says whether a host whose speaker has no session knows these
// blocks all the same, which it can have from the store only.
func knowsBlocks(n lab.NodeStatus, blocks ...string) error {
	reasons := strings.Join(n.Reasons, "; ")
	for _, b := range blocks {
		if !strings.Contains(reasons, "no route by BGP yet: ") || !strings.Contains(reasons, b) {
			return fmt.Errorf("%s: reasons %q, want no route by BGP yet to %s", n.Name, n.Reasons, b)
		}
	}
	return nil
}

// A host forwards what a container sends from its own address and drops, and
// counts, what it sends from another: nft counts at both ends of the host's way.
func TestCalicoSourceValidation(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "nft", "nstat", "ping")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "calico-routed")
		const packets = 3
		// A liar's ARP is not answered either.
		l.exec(t, "node1.c2", "ip", "neigh", "replace", "169.254.1.1", "lladdr", "ee:ee:ee:ee:ee:ee", "dev", "eth0", "nud", "permanent")
		l.exec(t, "node1", "nft", `add table ip oracle
add chain ip oracle came { type filter hook prerouting priority -400; }
add chain ip oracle went { type filter hook forward priority -400; }
add rule ip oracle came iifname "veth2" ip protocol icmp counter
add rule ip oracle went iifname "veth2" ip protocol icmp counter`)
		counted := func() (came, went, dropped int) {
			out := l.exec(t, "node1", "sh", "-c", "nft list chain ip oracle came; nft list chain ip oracle went; nstat -asz TcpExtIPReversePathFilter")
			if n := regexp.MustCompile(`(?s)counter packets (\d+).*counter packets (\d+).*TcpExtIPReversePathFilter +(\d+)`).FindStringSubmatch(out); n != nil {
				came, _ = strconv.Atoi(n[1])
				went, _ = strconv.Atoi(n[2])
				dropped, _ = strconv.Atoi(n[3])
				return came, went, dropped
			}
			t.Fatalf("node1's counters:\n%s", out)
			return
		}
		send := func(source string, wantWent, wantDropped int) {
			t.Helper()
			if source != "172.17.8.3" {
				l.exec(t, "node1.c2", "ip", "addr", "add", source+"/32", "dev", "lo")
				defer l.exec(t, "node1.c2", "ip", "addr", "del", source+"/32", "dev", "lo")
			}
			came, went, dropped := counted()
			_, _, code := l.try(t, "exec", "-l", l.name, "node1.c2", "--", "ping", "-n", "-c", strconv.Itoa(packets), "-i", "0.05", "-W", "0.3", "-I", source, "172.17.9.2")
			if answered := code == 0; answered != (source == "172.17.8.3") {
				t.Errorf("ping from %s: exit status %d", source, code)
			}
			now := [3]int{}
			now[0], now[1], now[2] = counted()
			got := [3]int{now[0] - came, now[1] - went, now[2] - dropped}
			if want := [3]int{packets, wantWent, wantDropped}; got != want {
				t.Errorf("packets from %s: %d came, %d were forwarded, %d counted as dropped; want %d", source, got[0], got[1], got[2], want)
			}
		}
		send("172.17.8.3", packets, 0)      // its own
		send("172.17.66.6", 0, packets)     // nobody's
		send("172.17.8.77", 0, packets)     // nobody's, of the host's own block
		send("172.17.8.2", 0, packets)      // the container's beside it
		send("172.17.9.3", 0, packets)      // one of another host
		send("203.0.113.1", 0, packets)     // the outside's
		send("192.168.100.100", 0, 0)       // its host's: a martian, for which there is no such counter
		send("192.168.100.101", 0, packets) // another host's

		// Without the setting they pass: it is what drops them.
		l.run(t, "fault", "hold", "-l", l.name, "node1")
		l.exec(t, "node1", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/veth2/rp_filter")
		send("172.17.66.6", packets, 0)
		l.run(t, "fault", "release", "-l", l.name, "node1")
		l.isReady(t)
		send("172.17.66.6", 0, packets)
	})
}

// Where natOutgoing alone asks for connection tracking, containers' packets to
// each other pass it over: nft counts how it sees them. Policies and published
// ports, which must know connections, have them tracked.
func TestCalicoUntracked(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "ping", "curl")
	forUsers(t, func(t *testing.T, u user) {
		l := u.upText(t, `name: untracked
calico: {pool: 10.9.0.0/16, natOutgoing: on}
segments: {lan: {subnet: 192.168.50.0/24}}
internet: {subnet: 203.0.113.0/24}
nodes:
  node1: {containers: [a, b]}
  node2: {containers: [{name: web, serve: [80]}]}
  node3: {containers: [a, {name: web, serve: [80], publish: ["8080:80"]}]}
`)
		ip := map[string]string{}
		for _, n := range l.status(t).Nodes {
			ip[n.Name] = n.PublicIP
			for _, c := range n.Containers {
				ip[n.Name+"."+c.Name] = c.IP
			}
		}
		for _, host := range []string{"node1", "node3"} {
			l.exec(t, host, "nft", `add table ip oracle
add chain ip oracle went { type filter hook forward priority 10; }
add rule ip oracle went ct state untracked counter comment "untracked"
add rule ip oracle went ct state new,established counter comment "tracked"`)
		}
		counters := regexp.MustCompile(`(?s)untracked counter packets (\d+).*counter packets (\d+)`)
		counted := func(host string) (n [2]int) {
			t.Helper()
			out := l.exec(t, host, "nft", "list", "chain", "ip", "oracle", "went")
			found := counters.FindStringSubmatch(out)
			if found == nil {
				t.Fatalf("%s's counters:\n%s", host, out)
			}
			for i := range n {
				n[i], _ = strconv.Atoi(found[i+1])
			}
			return n
		}
		// forwarded counts the packets that cross a host while f runs.
		forwarded := func(host string, f func()) (untracked, tracked int) {
			t.Helper()
			before := counted(host)
			f()
			after := counted(host)
			return after[0] - before[0], after[1] - before[1]
		}
		const packets = 3
		pinged := func(host, from, to string) (untracked, tracked int) {
			t.Helper()
			return forwarded(host, func() { l.exec(t, from, "ping", "-n", "-c", strconv.Itoa(packets), "-i", "0.05", ip[to]) })
		}
		if u, tr := pinged("node1", "node1.a", "node2.web"); u != 2*packets || tr != 0 {
			t.Errorf("to another host's container: %d packets untracked and %d tracked, want %d and 0", u, tr, 2*packets)
		}
		if u, tr := pinged("node1", "node1.a", "node1.b"); u != 2*packets || tr != 0 {
			t.Errorf("to a container beside it: %d packets untracked and %d tracked, want %d and 0", u, tr, 2*packets)
		}
		var saw string
		outside := func() { saw = strings.TrimSpace(l.exec(t, "node1.a", "curl", "-s", "http://203.0.113.1/")) }
		if u, tr := forwarded("node1", outside); u != 0 || tr == 0 || !strings.Contains(saw, ip["node1"]) {
			t.Errorf("to the outside: %d packets untracked and %d tracked, and it saw %q; want 0, some, and %s", u, tr, saw, ip["node1"])
		}

		// A published port, from beside it and from another host: its answers come
		// back as from the host.
		if u, tr := pinged("node3", "node3.a", "node2.web"); u != 0 || tr != 2*packets {
			t.Errorf("from a host with a published port: %d packets untracked and %d tracked, want 0 and %d", u, tr, 2*packets)
		}
		for _, from := range []string{"node1.a", "node3.a"} {
			l.exec(t, from, "curl", "-sf", "--max-time", "5", "http://"+ip["node3"]+":8080/")
		}

		// Policies know connections.
		policies := u.file(t, "policies: {open: {podSelector: {}, ingress: [{}]}}\n")
		l.run(t, "policy", "apply", "-l", l.name, policies)
		if u, tr := pinged("node1", "node1.a", "node2.web"); u != 0 || tr != 2*packets {
			t.Errorf("with a policy: %d packets untracked and %d tracked, want 0 and %d", u, tr, 2*packets)
		}
		l.run(t, "policy", "-l", l.name, "-p", "tcp/80")
		l.run(t, "policy", "apply", "-l", l.name, u.file(t, "policies: {}\n"))
		if u, tr := pinged("node1", "node1.a", "node2.web"); u != 2*packets || tr != 0 {
			t.Errorf("without policies again: %d packets untracked and %d tracked, want %d and 0", u, tr, 2*packets)
		}
	})
}
