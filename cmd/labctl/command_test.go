package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"labctl/lab"
)

// Agents of several kinds are one network, and what is killed of them comes
// back with its subnet.
func TestCommandAgentsRestart(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "sh")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-mixed")
		l.run(t, "ping", "-l", l.name, "--all")
		names := []string{lab.OwnAgent, "labctl", "sh"}
		before := l.status(t)
		for i, n := range before.Nodes {
			if n.Agent != names[i] || n.State != lab.Ready || n.Peers != 2 || len(n.Drift) != 0 || n.VTEPMAC == "" {
				t.Errorf("%s: agent %q, %s, %d peers, drift %v, VTEP %q; want agent %q, ready, 2, none, a MAC",
					n.Name, n.Agent, n.State, n.Peers, n.Drift, n.VTEPMAC, names[i])
			}
		}
		tr := l.traffic(t, "node2.c1", "node3.c1")
		for i, n := range before.Nodes {
			group := groupOf(t, n.AgentPid)
			if want := []int{1, 1, 2}[i]; len(group) != want {
				t.Errorf("%s: processes of the agent's group: %v, want %d", n.Name, group, want)
			}
			kill(t, n.AgentPid, syscall.SIGKILL)
			eventually(t, 20*time.Second, func() error {
				st := l.status(t)
				if now := st.Nodes[i]; st.State != lab.Ready || now.AgentPid == n.AgentPid || now.AgentPid == 0 {
					return fmt.Errorf("%s, agent %d: %v", st.State, now.AgentPid, st.Reasons)
				}
				return nil
			})
			if left := groupOf(t, n.AgentPid); len(left) > 0 {
				t.Errorf("%s: left of the agent that was killed: %v", n.Name, left)
			}
		}
		after := l.status(t)
		for i, n := range after.Nodes {
			if !slices.Equal(n.Subnets, before.Nodes[i].Subnets) {
				t.Errorf("%s: subnets %v, were %v before its agent was killed", n.Name, n.Subnets, before.Nodes[i].Subnets)
			}
		}
		for _, p := range after.Processes {
			if p.Name != "etcd" && p.Restarts != 1 {
				t.Errorf("%s: %d restarts, want 1", p.Name, p.Restarts)
			}
		}
		tr.goesOn(t)
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

// A held node's command is not restarted, and the lab says so.
func TestHeldCommandAgent(t *testing.T) {
	t.Parallel()
	needTool(t, "sh")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-mixed")
		l.run(t, "fault", "hold", "-l", l.name, "node3")
		kill(t, l.status(t).Nodes[2].AgentPid, syscall.SIGKILL)
		eventually(t, 20*time.Second, func() error {
			if n := l.status(t).Nodes[2]; n.State != lab.Held || !slices.Contains(n.Reasons, "agent sh: not running: signal: killed") {
				return fmt.Errorf("%s: %v", n.State, n.Reasons)
			}
			return nil
		})
		l.run(t, "fault", "release", "-l", l.name, "node3")
		eventually(t, 20*time.Second, func() error {
			if st := l.status(t); st.State != lab.Ready {
				return fmt.Errorf("%s: %v", st.State, st.Reasons)
			}
			return nil
		})
	})
}

// scriptLab has an agent made of etcdctl and ip: it takes one certain subnet
// and routes to the other hosts, which are on the same segment.
const scriptLab = `
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan, DirectRouting: true}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes:
  node1:
  node2:
  node3:
    agent:
      command:
        - sh
        - -euc
        - |
          etcd() { etcdctl --endpoints "$ETCD_ENDPOINTS" "$@"; }
          etcd get "$ETCD_PREFIX/config" | grep -q DirectRouting
          lease=$(etcd lease grant 30 | cut -d ' ' -f 2)
          etcd lease keep-alive "$lease" >/dev/null &
          etcd put --lease "$lease" "$ETCD_PREFIX/subnets/10.244.200.0-24" '{"PublicIP":"${PUBLIC_IP}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:c8"}}'
          printf 'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.200.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n' >/run/flannel/new
          mv /run/flannel/new /run/flannel/subnet.env
          etcd watch --prefix --rev 1 "$ETCD_PREFIX/subnets/" | while read -r event; do
            case $event in $ETCD_PREFIX/*) key=$event; continue ;; '{'*) ;; *) continue ;; esac
            host=$(echo "$event" | sed 's/.*"PublicIP":"\([0-9.]*\)".*/\1/')
            subnet=$(basename "$key" | tr - /)
            [ "$host" = "$PUBLIC_IP" ] || ip route replace "$subnet" via "$host" dev "$IFACE"
          done
      env: {ETCDCTL_API: "3"}
`

// Anyone's agent: whatever keeps flannel's contract takes part.
func TestScriptAsAgent(t *testing.T) {
	t.Parallel()
	needTool(t, "etcdctl", "ip", "sed")
	forUsers(t, func(t *testing.T, u user) {
		file := filepath.Join(u.runtime, "script.yaml")
		if err := os.WriteFile(file, []byte(scriptLab), 0o644); err != nil {
			t.Fatal(err)
		}
		l := u.up(t, file)
		l.run(t, "ping", "-l", l.name, "--all")
		st := l.status(t)
		if n := st.Nodes[2]; n.Agent != "sh" || !slices.Equal(n.Subnets, []string{"10.244.200.0/24"}) || n.Containers[0].IP != "10.244.200.2" || n.MTU != 1450 {
			t.Errorf("node3: agent %q, subnets %v, containers %v, mtu %d; want sh with 10.244.200.0/24, 10.244.200.2, 1450", n.Agent, n.Subnets, n.Containers, n.MTU)
		}
		if got := l.exec(t, "node1", "ip", "route", "show", "10.244.200.0/24"); !strings.Contains(got, "via 192.168.50.3 dev eth0") {
			t.Errorf("node1 routes to the script's subnet by %q", got)
		}
		if got := l.exec(t, "node3", "ip", "route", "show", st.Nodes[0].Subnets[0]); !strings.Contains(got, "via 192.168.50.1 dev eth0") {
			t.Errorf("the script routes to node1 by %q", got)
		}
		// Killed, it takes its keep-alive and its watch along.
		pid := st.Nodes[2].AgentPid
		if group := groupOf(t, pid); len(group) < 3 {
			t.Errorf("the script's processes: %v, want it, a keep-alive and a watch at least", group)
		}
		kill(t, pid, syscall.SIGKILL)
		eventually(t, 20*time.Second, func() error {
			st := l.status(t)
			if now := st.Nodes[2].AgentPid; st.State != lab.Ready || now == 0 || now == pid {
				return fmt.Errorf("%s, agent %d: %v", st.State, now, st.Reasons)
			}
			return nil
		})
		if left := groupOf(t, pid); len(left) > 0 {
			t.Errorf("left of the script that was killed: %v", left)
		}
		l.run(t, "ping", "-l", l.name, "--all")
	})
}

// groupOf are the processes of a process group.
func groupOf(t *testing.T, group int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		// 1234 (name) S PARENT GROUP ...
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}
