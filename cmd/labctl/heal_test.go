package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
	"labctl/nodes/nodestest"
)

// healWithin is how soon what somebody breaks must be whole again.
const healWithin = time.Second

// stateScript defines state: all of a namespace that a lab cares for, in words
// that are the same again when something was made anew. Numbers of interfaces
// and MACs that the kernel draws are not among them.
const stateScript = `state() {
ip -o link show | sed -E 's/^[0-9]+: ([^:@]+)[^<]*<([^>]*)> (mtu [0-9]+)/\1 \2 \3/; s/ ([A-Z_]*,)*UP(,[A-Z_]*)* / up /; s/ qdisc.*( master [^ ]+) .*(link)/\1 \2/; s/ qdisc.*(link)/ \1/; s/ brd.*//; /^(veth|cni|br|node[0-9]|etcd)/s/ *.? *link.*//' | sort
ip -4 route show | sed 's/ *$//' | sort
ip -o -4 address show | sed -E 's/^[0-9]+: //; s/ +/ /g' | sort
ip neigh show nud permanent | sort
bridge fdb show dev flannel.1 2>/dev/null | sort
ip -d link show type vxlan | grep -o 'vxlan id.*dstport [0-9]*'
nft -s list ruleset
cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter
}
`

// breakScript breaks something and looks until state is again what it was. It
// prints how many microseconds after the breach the last look began that saw
// something missing, 0 if none did, how many passed until the end of the one that
// saw all, and what was last seen before. A look takes long on a busy machine; that
// is not the time that healing takes.
const breakScript = stateScript + `
want=$(state)
from=$(date +%s%N)
{
BREAK
} >/dev/null || exit 9
broken=$from
until begun=$(date +%s%N); got=$(state); [ "$got" = "$want" ]; do
	last=$got broken=$begun
	if [ $(( broken - from )) -gt 5000000000 ]; then break; fi
done
echo $(( (broken - from) / 1000 )) $(( ($(date +%s%N) - from) / 1000 ))
echo "$last"
`

// breach breaks something in an endpoint by hand, and checks that it is whole
// within healWithin. It tells how long that took at most.
func (l *running) breach(t *testing.T, name, endpoint, command string) time.Duration {
	t.Helper()
	want := l.state(t, endpoint)
	times, last, _ := strings.Cut(l.exec(t, endpoint, "sh", "-c", strings.ReplaceAll(breakScript, "BREAK", command)), "\n")
	var broken, whole int64
	if _, err := fmt.Sscan(times, &broken, &whole); err != nil {
		t.Fatalf("%s: %q: %v", name, times, err)
	}
	if d := time.Duration(broken) * time.Microsecond; d > nodestest.Slow(t, healWithin) {
		t.Errorf("%s: not healed after %v, want %v at most; then in %s:\n%s\nwant, of all:\n%s", name, d, healWithin, endpoint, last, want)
	}
	return time.Duration(whole) * time.Microsecond
}

// state is what stateScript sees in an endpoint.
func (l *running) state(t *testing.T, endpoint string) string {
	t.Helper()
	return l.exec(t, endpoint, "sh", "-c", stateScript+"state")
}

// allStates are the states of all endpoints that the tests break.
func (l *running) allStates(t *testing.T) string {
	t.Helper()
	s := ""
	for _, e := range []string{"lan", "etcd", "node1", "node1.c1", "node1.c2", "node2"} {
		s += "## " + e + "\n" + l.state(t, e)
	}
	return s
}

// breakage is one thing that somebody does by hand, and what labctl then tells
// to have mended; "" for endpoints that are not part of a node.
type breakage struct {
	name, endpoint, command string
	healed                  string
}

// Every kind of entry and device of ours, deleted or changed by hand, is back
// within a second.
func TestHealing(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "nft")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		st := l.status(t)
		n1, n2 := st.Nodes[0], st.Nodes[1]
		stored := l.storedMAC(t, n1)
		r := strings.NewReplacer("SUBNET2", n2.Subnets[0], "BASE2", base(n2), "MAC2", n2.VTEPMAC, "IP2", n2.PublicIP,
			"BASE1", base(n1), "GW1", strings.TrimSuffix(base(n1), "0")+"1", "C1", n1.Containers[0].IP)
		whole := l.allStates(t)
		var table []string
		for _, b := range []breakage{
			{"route: delete", "node1", "ip route del SUBNET2", "missing route SUBNET2"},
			{"route: another device", "node1", "ip route replace SUBNET2 dev cni0 proto 97", "route SUBNET2"},
			{"neighbour: delete", "node1", "ip neigh del BASE2 dev flannel.1", "missing neighbour BASE2"},
			{"neighbour: another MAC", "node1", "ip neigh replace BASE2 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent", "neighbour BASE2"},
			{"fdb: delete", "node1", "bridge fdb del MAC2 dev flannel.1 dst IP2", "missing fdb MAC2"},
			{"fdb: another host", "node1", "bridge fdb replace MAC2 dev flannel.1 dst 192.168.50.77 self permanent", "fdb MAC2"},
			{"address: flannel.1", "node1", "ip address del BASE1/32 dev flannel.1", "missing address BASE1/32"},
			{"address: cni0", "node1", "ip address del GW1/24 dev cni0", "missing address GW1/24"},
			{"address: eth0", "node1", "ip address flush dev eth0", "missing address 192.168.50.1/24"},
			{"container: default route", "node1.c1", "ip route del default", "node1.c1: missing route 0.0.0.0/0"},
			{"container: address", "node1.c1", "ip address del C1/24 dev eth0", "node1.c1: missing address C1/24"},
			{"container: eth0 down", "node1.c1", "ip link set eth0 down", "node1.c1: link eth0"},
			{"nftables: a rule", "node1", "nft delete rule inet labctl-flannel postrouting handle $(nft -a list ruleset | sed -n '/to outside/s/.*# handle //p')", "labctl-flannel"},
			{"nftables: a chain", "node1", "nft flush chain inet labctl-flannel forward", "labctl-flannel"},
			{"nftables: flush the table", "node1", "nft flush table inet labctl-flannel", "labctl-flannel"},
			{"nftables: delete the table", "node1", "nft delete table inet labctl-flannel", "labctl-flannel"},
			{"nftables: flush ruleset", "node1", "nft flush ruleset", "labctl-flannel"},
			{"bridge: port", "node1", "ip link set veth1 nomaster", "link veth1"},
			{"link: flannel.1 down", "node1", "ip link set flannel.1 down", "link flannel.1"},
			{"link: eth0 down", "node1", "ip link set eth0 down", "link eth0"},
			{"link: cni0 down", "node1", "ip link set cni0 down", "link cni0"},
			{"link: flannel.1 MAC", "node1", "ip link set flannel.1 address 02:00:00:00:00:02", "link flannel.1"},
			{"link: flannel.1 MTU", "node1", "ip link set flannel.1 mtu 1400", "link flannel.1"},
			{"link: eth0 MTU", "node1", "ip link set eth0 mtu 1400", "link eth0"},
			{"link: flannel.1 deleted", "node1", "ip link del flannel.1", "missing link flannel.1"},
			{"link: flannel.1 another VNI", "node1", "printf 'link del flannel.1\\nlink add flannel.1 type vxlan id 99 dstport 4789 dev eth0\\n' | ip -batch - || true", "link flannel.1"},
			{"link: eth0 deleted", "node1", "ip link del eth0", "missing link eth0"},
			{"link: cni0 deleted", "node1", "ip link del cni0", "missing link cni0"},
			{"link: container's veth", "node1", "ip link del veth1", "missing link veth1"},
			{"link: container's eth0", "node1.c2", "ip link del eth0", "node1: missing link veth2"},
			{"sysctl: ip_forward", "node1", "echo 0 >/proc/sys/net/ipv4/ip_forward", "ip_forward"},
			{"sysctl: rp_filter", "node1", "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter", "rp_filter"},
			{"segment: port", "lan", "ip link set node1 nomaster", ""},
			{"segment: port down", "lan", "ip link set node1 down", ""},
			{"segment: bridge", "lan", "ip link del br0", ""},
			{"store: eth0 deleted", "etcd", "ip link del eth0", ""},
		} {
			took := l.breach(t, b.name, b.endpoint, r.Replace(b.command))
			table = append(table, fmt.Sprintf("%-30s %6.0f ms", b.name, float64(took.Microseconds())/1000))
			// Told for 10 s, so first.
			if want := r.Replace(b.healed); want != "" {
				eventually(t, patience, func() error {
					n := l.status(t).Nodes[0]
					if !slices.ContainsFunc(n.Healed, func(d lab.Drift) bool { return strings.Contains(d.Endpoint+": "+d.Text, want) }) {
						return fmt.Errorf("%s: status says healed %s, want %q", b.name, texts(n.Healed), want)
					}
					return nil
				})
			}
			// Elsewhere, too: the other end of a veth pair, the peers.
			eventually(t, patience, func() error {
				if diff := cmp.Diff(whole, l.allStates(t)); diff != "" {
					return fmt.Errorf("%s: not as before (-want +got):\n%s", b.name, diff)
				}
				return nil
			})
		}
		t.Logf("healing times, with 5 to 20 ms to look:\n%s", strings.Join(table, "\n"))

		l.isReady(t)
		l.run(t, "ping", "-l", l.name, "--all")
		l.run(t, "ping", "-l", l.name, "node1", "192.168.50.254") // the store
		if got := l.storedMAC(t, n1); got != stored {
			t.Errorf("VTEP's MAC in the store: %s, was %s", got, stored)
		}
		if got := l.deviceMAC(t, "node1"); got != stored {
			t.Errorf("flannel.1 has %s, the store says %s", got, stored)
		}
	})
}

// isReady waits until the lab is ready, with empty drift.
func (l *running) isReady(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		st := l.status(t)
		if st.State != lab.Ready || len(st.Reasons) > 0 {
			return fmt.Errorf("state %s %q, want ready", st.State, st.Reasons)
		}
		for _, n := range st.Nodes {
			if n.State != lab.Ready || len(n.Drift) > 0 || n.Peers != len(st.Nodes)-1 {
				return fmt.Errorf("%s: %s, %d peers, drift %s, want ready, %d and none", n.Name, n.State, n.Peers, texts(n.Drift), len(st.Nodes)-1)
			}
		}
		return nil
	})
}

func texts(ds []lab.Drift) string {
	var s []string
	for _, d := range ds {
		s = append(s, d.Endpoint+": "+d.Text)
	}
	return fmt.Sprintf("%q", s)
}

// base is the address that stands for a node's subnet.
func base(n lab.NodeStatus) string { return strings.TrimSuffix(n.Subnets[0], "/24") }

// storedMAC is the MAC of a node's VTEP as its lease in the store has it.
func (l *running) storedMAC(t *testing.T, n lab.NodeStatus) string {
	t.Helper()
	if _, err := exec.LookPath("etcdctl"); err != nil {
		t.Log("etcdctl is not installed: the agent's word for it")
		return n.VTEPMAC
	}
	var data struct {
		BackendData struct{ VtepMAC string }
	}
	unmarshal(t, l.etcdctl(t, "get", "--print-value-only", "/coreos.com/network/subnets/"+strings.ReplaceAll(n.Subnets[0], "/", "-")), &data)
	if data.BackendData.VtepMAC == "" {
		t.Fatalf("%s: no VtepMAC in the store", n.Name)
	}
	return data.BackendData.VtepMAC
}

// etcdctl asks the lab's store, as its owner.
func (l *running) etcdctl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("etcdctl", append([]string{"--endpoints", "unix://" + l.dir() + "/etcd.sock"}, args...)...)
	cmd.Env = append(cmd.Environ(), "ETCDCTL_API=3")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("etcdctl %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// deviceMAC is the MAC that a node's flannel.1 has.
func (l *running) deviceMAC(t *testing.T, node string) string {
	t.Helper()
	for _, e := range l.entries(t, node, "ip", "-j", "link", "show", "flannel.1") {
		return text(e["address"])
	}
	return ""
}

// What somebody else put there is told, and left alone by every pass.
func TestHealingLeavesForeignAlone(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "nft")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		n2 := l.status(t).Nodes[1]
		add := []string{
			"ip route add 10.244.254.0/24 via 192.168.50.2 proto static",
			"ip route add " + n2.Subnets[0] + " via 192.168.50.2 proto static metric 7",
			"ip route add 10.99.0.0/24 dev lo proto static",
			"ip neigh add 10.244.254.0 lladdr 02:00:00:00:00:03 dev flannel.1 nud permanent",
			"bridge fdb append 02:00:00:00:00:03 dev flannel.1 dst 192.168.50.9",
			"ip address add 10.98.0.1/32 dev cni0",
			"ip link add other type bridge",
			"nft add table inet other",
			"nft add chain inet other mine { type filter hook forward priority 10 \\; }",
			"nft add rule inet other mine ip daddr 10.97.0.0/16 accept",
		}
		l.exec(t, "node1", "sh", "-c", strings.Join(add, " && "))
		whole := l.allStates(t)
		for _, b := range []string{
			"ip route del " + n2.Subnets[0],
			"ip neigh del " + base(n2) + " dev flannel.1",
			"bridge fdb del " + n2.VTEPMAC + " dev flannel.1 dst " + n2.PublicIP,
			"nft delete table inet labctl-flannel",
			"ip link set veth1 nomaster",
		} {
			l.exec(t, "node1", "sh", "-c", b)
			eventually(t, patience, func() error {
				if diff := cmp.Diff(sortedLines(whole), sortedLines(l.allStates(t))); diff != "" {
					return fmt.Errorf("%s: not as before (-want +got):\n%s", b, diff)
				}
				return nil
			})
		}
		eventually(t, patience, func() error {
			n := l.status(t).Nodes[0]
			for _, want := range []string{"route " + n2.Subnets[0] + " via 192.168.50.2", "neighbour 10.244.254.0", "fdb 02:00:00:00:00:03", "address 10.98.0.1/32"} {
				if !slices.ContainsFunc(n.Foreign, func(d lab.Drift) bool { return strings.Contains(d.Text, want) }) {
					return fmt.Errorf("foreign: %s, want %s", texts(n.Foreign), want)
				}
			}
			return nil
		})
		got := l.state(t, "node1")
		for _, want := range []string{"10.244.254.0/24 via 192.168.50.2", n2.Subnets[0] + " via 192.168.50.2", "10.99.0.0/24 dev lo", "10.244.254.0 dev flannel.1", "02:00:00:00:00:03 dst 192.168.50.9", "10.98.0.1/32", "other ", "daddr 10.97.0.0/16 accept"} {
			if !strings.Contains(got, want) {
				t.Errorf("node1: %q is gone", want)
			}
		}
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

func sortedLines(s string) []string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return lines
}

// Under `fault hold` a node stays as it was broken, and says so; the others
// heal. `fault release` mends it.
func TestHold(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "nft")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		st := l.status(t)
		n1, n2, n3 := st.Nodes[0], st.Nodes[1], st.Nodes[2]
		stored := l.storedMAC(t, n1)
		whole := l.allStates(t)
		l.run(t, "fault", "hold", "node1", "-l", l.name)

		broken := []struct {
			endpoint, command string
			drift             []string // what status then says
		}{
			{"node1", "ip route del " + n2.Subnets[0], []string{"missing route " + n2.Subnets[0]}},
			{"node1", "ip neigh del " + base(n3) + " dev flannel.1", []string{"missing neighbour " + base(n3)}},
			{"node1.c1", "ip route del default", []string{"missing route 0.0.0.0/0"}},
			{"node1", "nft delete table inet labctl-flannel", []string{"labctl-flannel"}},
			{"node1", "echo 0 >/proc/sys/net/ipv4/ip_forward", []string{"ip_forward"}},
			{"node1", "ip link set veth2 nomaster", []string{"link veth2"}},
			{"node1", "ip link del flannel.1", []string{"missing link flannel.1", "missing fdb " + n2.VTEPMAC, "missing fdb " + n3.VTEPMAC}},
		}
		var all []string
		for _, b := range broken {
			l.exec(t, b.endpoint, "sh", "-c", b.command)
			all = append(all, b.drift...)
			// Drift in the status means that a pass has seen it. The next one
			// shows that this one left it alone.
			eventually(t, 5*time.Second, func() error {
				st := l.status(t)
				if st.State != lab.Held || st.Nodes[0].State != lab.Held {
					return fmt.Errorf("%s: lab %s, node1 %s, want both held", b.command, st.State, st.Nodes[0].State)
				}
				for _, want := range all {
					if !slices.ContainsFunc(st.Nodes[0].Drift, func(d lab.Drift) bool { return strings.Contains(d.Text, want) }) {
						return fmt.Errorf("%s: drift %s, want %q", b.command, texts(st.Nodes[0].Drift), want)
					}
				}
				return nil
			})
		}
		if h := l.status(t).Nodes[0].Healed; len(h) > 0 {
			t.Errorf("node1: healed %s, want none while it is held", texts(h))
		}
		held := l.state(t, "node1")
		for _, gone := range []string{"flannel.1", "labctl-flannel", n2.Subnets[0]} {
			if strings.Contains(held, gone) {
				t.Errorf("node1 while held: %s is there:\n%s", gone, held)
			}
		}
		// The others go on healing.
		l.exec(t, "node2", "sh", "-c", "ip route del "+n3.Subnets[0])
		eventually(t, healWithin, func() error {
			if !strings.Contains(l.state(t, "node2"), n3.Subnets[0]) {
				return fmt.Errorf("node2: no route to %s", n3.Subnets[0])
			}
			return nil
		})
		if diff := cmp.Diff(held, l.state(t, "node1")); diff != "" {
			t.Errorf("node1 changed while it was held (-before +after):\n%s", diff)
		}

		l.run(t, "fault", "release", "node1", "-l", l.name)
		from := time.Now()
		var late time.Duration // when the last look began that saw something missing
		whenWhole := eventually(t, 5*time.Second, func() error {
			began := time.Since(from)
			if diff := cmp.Diff(whole, l.allStates(t)); diff != "" {
				late = began
				return fmt.Errorf("after release (-want +got):\n%s", diff)
			}
			return nil
		})
		t.Logf("after release: seen to be whole after %v", whenWhole.Round(time.Millisecond))
		if late > nodestest.Slow(t, healWithin) {
			t.Errorf("after release: not healed after %v, want %v at most", late, healWithin)
		}
		l.isReady(t)

		// Dead is dead while held. That another process of the lab comes back
		// shows that time enough has passed.
		l.run(t, "fault", "hold", "node1", "-l", l.name)
		kill(t, l.process(t, "node1").Pid, syscall.SIGKILL)
		l.exec(t, "node1", "ip", "route", "del", n2.Subnets[0])
		held = l.state(t, "node1")
		for i := range 3 {
			kill(t, l.process(t, "node2").Pid, syscall.SIGKILL)
			eventually(t, 10*time.Second, func() error {
				if p := l.process(t, "node2"); p.Restarts != i+1 || p.State != "running" {
					return fmt.Errorf("node2's agent: %+v, want it restarted", p)
				}
				return nil
			})
		}
		st = l.status(t)
		if p := l.process(t, "node1"); p.State == "running" || p.Pid != 0 || p.Restarts != 0 || p.LastExit != "signal: killed" {
			t.Errorf("node1's agent while held: %+v, want it dead, killed, and not restarted", p)
		}
		if st.State != lab.Held || st.Nodes[0].State != lab.Held {
			t.Errorf("lab %s, node1 %s, want both held", st.State, st.Nodes[0].State)
		}
		if diff := cmp.Diff(held, l.state(t, "node1")); diff != "" {
			t.Errorf("node1 changed while it was held (-before +after):\n%s", diff)
		}
		l.run(t, "fault", "release", "-l", l.name)
		l.isReady(t)
		if diff := cmp.Diff(whole, l.allStates(t)); diff != "" {
			t.Errorf("after the agent's restart (-want +got):\n%s", diff)
		}
		if p := l.process(t, "node1"); p.Restarts != 1 || p.State != "running" {
			t.Errorf("node1's agent after release: %+v, want it restarted", p)
		}
		if got := l.deviceMAC(t, "node1"); got != stored {
			t.Errorf("flannel.1 has %s, the store says %s", got, stored)
		}
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

// process is one of the lab's processes as status shows it.
func (l *running) process(t *testing.T, name string) lab.ProcessStatus {
	t.Helper()
	for _, p := range l.status(t).Processes {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("status: no process %s", name)
	return lab.ProcessStatus{}
}

// kill sends a signal to a process of a test's lab.
func kill(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("kill %d: not a process", pid)
	}
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}
