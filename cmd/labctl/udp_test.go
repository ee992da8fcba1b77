package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"labctl/backends"
	"labctl/backends/calico"
	"labctl/lab"
)

// tun is what backend udp's device comes from.
const tun = "/dev/net/tun"

// mayTUN says whether the user may open it.
func (u user) mayTUN() bool {
	fi, err := os.Stat(tun)
	return err == nil && (u.uid == 0 || fi.Mode()&0o006 == 0o006)
}

// deniedTUN checks, for a user who may not open a TUN device, that up says so
// at once, with the cure. It is false for one who may.
func (u user) deniedTUN(t *testing.T, file string) bool {
	t.Helper()
	if u.mayTUN() {
		return false
	}
	name := freshName()
	_, stderr, code := u.try(t, "up", file, "--name", name)
	if code != 4 || !strings.Contains(stderr, tun) || !strings.Contains(stderr, "cure: ") {
		t.Errorf("up %s without %s: exit status %d, want 4, the device and the cure:\n%s", file, tun, code, stderr)
	}
	(&running{u, name}).gone(t)
	t.Logf("%s may not open %s: up says so with exit status 4", u.name, tun)
	return true
}

// usesTUN says whether agents of the lab carry packets themselves.
func usesTUN(t *testing.T, spec *lab.Spec) bool {
	t.Helper()
	if len(spec.Network) == 0 {
		return spec.Calico != nil && strings.HasPrefix(spec.Calico.Encapsulation, string(calico.IPIP)) && !kernelIPIP()
	}
	n, err := backends.ParseNetwork(spec.Network)
	if err != nil {
		t.Fatal(err)
	}
	return n.BackendType == "udp"
}

// kernelIPIP says whether new namespaces have the kernel's IPIP device, as this
// one then has, too.
func kernelIPIP() bool {
	_, err := os.Stat("/sys/class/net/" + calico.IPIPDevice)
	return err == nil
}

// udpFile writes a lab of two hosts with the backend's options.
func udpFile(t *testing.T, u user, options, checks string) string {
	t.Helper()
	file := filepath.Join(u.runtime, "udp.yaml")
	err := os.WriteFile(file, fmt.Appendf(nil, `name: udp
network: {Network: 100.96.0.0/16, Backend: {Type: udp%s}}
segments: {lan: {subnet: 10.168.0.0/24}}
nodes:
  node1: {address: 10.168.0.2, subnet: 100.96.1.0/24}
  node2: {address: 10.168.0.3, subnet: 100.96.2.0/24}
checks:
%s`, options, checks), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Seed C5: what sending costs is system calls, and the agent's counters say
// how many. A packet a call is what flannel does; the levels above share calls
// between packets.
func TestUDPLevels(t *testing.T) {
	t.Parallel()
	for _, level := range []struct {
		name        string
		least, most float64
	}{
		{"plain", 2, 4},
		{"batch", 1, 1.9},
		{"gso", 0, 0.5},
	} {
		t.Run(level.name, func(t *testing.T) {
			t.Parallel()
			forUsers(t, func(t *testing.T, u user) {
				file := udpFile(t, u, ", Level: "+level.name, fmt.Sprintf(`  - ping: all
  - name: at level %s
    claim: C5
    calls: {from: node1.c1, to: node2.c1, least: %v, most: %v}
`, level.name, level.least, level.most))
				if u.deniedTUN(t, file) {
					return
				}
				l := u.up(t, file)
				l.check(t, file)
				for _, n := range l.status(t).Nodes {
					if n.Traffic == nil || n.Traffic.Level != level.name {
						t.Errorf("%s: traffic %+v, want level %s", n.Name, n.Traffic, level.name)
					}
				}
				wide := l.run(t, "status", l.name, "-o", "wide")
				if !strings.Contains(wide, "CALLS/PACKET") || !strings.Contains(wide, level.name) {
					t.Errorf("status -o wide has no traffic:\n%s", wide)
				}
			})
		})
	}
}

// What is nobody's packet is dropped, and counted by reason.
func TestUDPDrops(t *testing.T) {
	t.Parallel()
	needTool(t, "ping")
	u := users(t)[0]
	file := udpFile(t, u, "", "  - ping: all\n")
	if u.deniedTUN(t, file) {
		return
	}
	l := u.up(t, file)
	for _, d := range []struct {
		reason, from, command string
		node                  int // whose agent counts
	}{
		{"unknown-sender", "etcd", `printf 'from nobody, whoever that is' >/dev/udp/10.168.0.2/8285`, 0},
		{"no-route", "node1.c1", `ping -c1 -W1 100.96.77.1 || true`, 0},
		{"ttl", "node1.c1", `ping -c1 -W1 -t2 100.96.2.2 || true`, 0},
	} {
		// bash has /dev/udp; sh need not.
		out := l.exec(t, d.from, "bash", "-c", d.command)
		eventually(t, patience, func() error {
			if got := l.status(t).Nodes[d.node].Traffic.Drops[d.reason]; got == 0 {
				return fmt.Errorf("%s: %s: not counted; %s", d.command, d.reason, out)
			}
			return nil
		})
		switch d.reason {
		case "ttl":
			if !strings.Contains(out, "Time to live exceeded") {
				t.Errorf("%s: no time exceeded came back:\n%s", d.command, out)
			}
		case "no-route":
			if !strings.Contains(out, "Unreachable") {
				t.Errorf("%s: no unreachable came back:\n%s", d.command, out)
			}
		}
	}
}

// A port that somebody else has is named, and taken as soon as it is free.
func TestUDPPortTaken(t *testing.T) {
	t.Parallel()
	u := users(t)[0]
	file := udpFile(t, u, "", "  - ping: all\n")
	if u.deniedTUN(t, file) {
		return
	}
	l := u.up(t, file)
	l.run(t, "fault", "hold", "node1", "-l", l.name)
	kill(t, l.process(t, "node1").Pid, 9)
	// A socket of the node's, held by this process.
	thief, err := (&lab.Client{Dir: lab.Dir(l.dir())}).Socket(t.Context(), "node1", unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	eventually(t, patience, func() error { // the dead agent's is not closed at once
		return unix.Bind(int(thief.Fd()), &unix.SockaddrInet4{Port: 8285, Addr: [4]byte{10, 168, 0, 2}})
	})
	l.run(t, "fault", "release", "-l", l.name)
	eventually(t, patience, func() error {
		why := strings.Join(l.status(t).Nodes[0].Reasons, "; ")
		if !strings.Contains(why, "8285") || !strings.Contains(why, "address already in use; end the process") {
			return fmt.Errorf("node1: %q, want the port, why and the cure", why)
		}
		return nil
	})
	thief.Close()
	l.isReady(t)
	l.run(t, "ping", "-l", l.name, "--all")
}

// Seed C3, by tcpdump: on the wire is a UDP datagram from port 8285 to port
// 8285, whose payload is the inner packet as it is.
func TestUDPOnTheWire(t *testing.T) {
	t.Parallel()
	needTool(t, "tcpdump", "ping")
	u := needRoot(t, "Debian's tcpdump cannot change to its own user in a user namespace")
	l := u.up(t, "flannel-udp")
	out := l.exec(t, "node1", "sh", "-c", `timeout 10 tcpdump -Z root -l -nn -x -i eth0 -c 1 'udp dst port 8285 and dst host 10.168.0.3' 2>/dev/null &
		while kill -0 $! 2>/dev/null; do ping -c 1 -W 1 100.96.2.2 >/dev/null; done`)
	// From byte 28 on: an IPv4 header, 84 bytes in all; TTL 63, ICMP; 100.96.1.0,
	// which is flannel0, and 100.96.2.2, the container.
	want := regexp.MustCompile(`(?s)10\.168\.0\.2\.8285 > 10\.168\.0\.3\.8285: UDP, length 84.*0x0010:  .{29} 4500 0054\s*0x0020:  .{9} 3f01 .{4} 6460 0100 6460 0202`)
	if !want.MatchString(out) {
		t.Errorf("tcpdump shows\n%s\nwant a match of %s", out, want)
	}
}
