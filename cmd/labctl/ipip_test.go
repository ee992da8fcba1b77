package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"labctl/backends/calico"
	"labctl/lab"
)

// tunnelKind is who wraps by IPIP on this machine.
func tunnelKind() string {
	if kernelIPIP() {
		return calico.KernelIPIP
	}
	return calico.UserspaceIPIP
}

// deniedIPIP is deniedTUN where IPIP needs a TUN device.
func (u user) deniedIPIP(t *testing.T) bool {
	t.Helper()
	return usesTUN(t, builtIn(t, "calico-ipip")) && u.deniedTUN(t, "calico-ipip")
}

// Only hosts of other subnets are reached through tunl0, and status says who
// wraps.
func TestIPIPCrossSubnet(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "ping")
	forUsers(t, func(t *testing.T, u user) {
		text := builtInText(t, "calico-ipip")
		cross := strings.Replace(text, "encapsulation: IPIP", "encapsulation: IPIPCrossSubnet", 1)
		if cross == text {
			t.Fatal("calico-ipip has no encapsulation to change")
		}
		if u.deniedIPIP(t) {
			return
		}
		l := u.upText(t, cross)
		for _, n := range l.status(t).Nodes {
			if n.Tunnel != tunnelKind() || (n.Traffic == nil) == (n.Tunnel == calico.UserspaceIPIP) {
				t.Errorf("%s: tunnel %q with traffic %v, want %q", n.Name, n.Tunnel, n.Traffic, tunnelKind())
			}
		}
		if out := l.run(t, "status", l.name); !strings.Contains(out, "TUNNEL") || strings.Count(out, tunnelKind()) != 4 {
			t.Errorf("status does not tell %s of each node:\n%s", tunnelKind(), out)
		}
		routes := l.exec(t, "node1", "ip", "route")
		for _, want := range []string{
			`(?m)^10\.244\.2\.0/26 via 192\.168\.51\.2 dev eth0 proto 80 onlink *$`,
			`(?m)^10\.244\.3\.0/26 via 192\.168\.52\.1 dev tunl0 proto 80 onlink *$`,
			`(?m)^10\.244\.4\.0/26 via 192\.168\.52\.2 dev tunl0 proto 80 onlink *$`,
		} {
			if !regexp.MustCompile(want).MatchString(routes) {
				t.Errorf("node1 has the routes\n%s\nwant a match of %s", routes, want)
			}
		}
		l.run(t, "ping", "-l", l.name, "--all")
		if out := l.exec(t, "node1.c1", "ping", "-c1", "-W2", "-Mdo", "-s1452", "10.244.3.1"); !strings.Contains(out, "1 received") {
			t.Errorf("1480 bytes in one piece: %s", out)
		}
	})
}

// Packets of protocol 4 from anybody but the network's hosts go no further, and
// are counted: at the host that they are for, and a container's at its own.
func TestIPIPStrangers(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	u := users(t)[0]
	if u.deniedIPIP(t) {
		return
	}
	l := u.up(t, "calico-ipip")
	counted := func(comment string) error {
		if rules := l.exec(t, "node1", "nft", "list", "table", "inet", "labctl-ipip"); !regexp.MustCompile(`packets [1-9][0-9]* .* drop comment "` + comment + `"`).MatchString(rules) {
			return fmt.Errorf("%s: not counted:\n%s", comment, rules)
		}
		return nil
	}
	for _, tt := range []struct {
		from    string
		to      [4]byte
		counted func() error
	}{
		{"etcd", [4]byte{192, 168, 51, 1}, func() error {
			if kernelIPIP() {
				return counted("ipip of anybody else")
			}
			if tr := l.status(t).Nodes[0].Traffic; tr == nil || tr.Drops["unknown-sender"] == 0 {
				return fmt.Errorf("not counted: %+v", tr)
			}
			return nil
		}},
		{"node1.c1", [4]byte{192, 168, 51, 2}, func() error { return counted("ipip of a container") }},
	} {
		s, err := (&lab.Client{Dir: lab.Dir(l.dir())}).Socket(t.Context(), tt.from, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_IPIP)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		eventually(t, patience, func() error {
			if err := unix.Sendto(int(s.Fd()), []byte("whoever that is"), 0, &unix.SockaddrInet4{Addr: tt.to}); err != nil {
				return err
			}
			return tt.counted()
		})
	}
	if tr := l.status(t).Nodes[1].Traffic; tr != nil && len(tr.Drops) > 0 {
		t.Errorf("node2 dropped %v, want nothing of the container's to have come so far", tr.Drops)
	}
	l.isReady(t)
}

// A dissector that is not ours reads what is on the wire: an IP header with
// protocol 4, and the containers' packet behind it, whose TTL and "don't
// fragment" the outer header has, too.
func TestIPIPOnTheWire(t *testing.T) {
	t.Parallel()
	needTool(t, "tshark", "ping")
	u := users(t)[0]
	if u.deniedIPIP(t) {
		return
	}
	l := u.up(t, "calico-ipip")
	file := filepath.Join(u.runtime, "ipip.pcapng")
	l.run(t, "trace", "-l", l.name, "node1.c1", "node3.c1", "--df", "-w", file)
	fields := []string{"ip.src", "ip.dst", "ip.proto", "ip.ttl", "ip.flags.df", "ip.len", "ip.checksum.status"}
	args := []string{"-r", file, "-Y", "icmp.type == 8 && ip.proto == 4", "-T", "fields", "-o", "ip.check_checksum:TRUE"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	// On its way out of node1, over the switch, and into the router.
	want := strings.Join([]string{"192.168.51.1,10.244.1.1", "192.168.52.1,10.244.3.1", "4,1", "63,63", "1,1", "104,84", "1,1"}, "\t") + "\n"
	if got := string(out); strings.Count(got, want) != 4 {
		t.Errorf("tshark's %v are\n%swant four times\n%s", fields, got, want)
	}
}

// Calico's own default: routes come by BGP, and lead into the tunnel. With
// CrossSubnet those to hosts beside do not. An agent that is killed hears all
// again.
func TestIPIPByBGP(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "tshark", "ping")
	u := users(t)[0]
	if u.deniedIPIP(t) {
		return
	}
	text := strings.Replace(builtInText(t, "calico-ipip"), "encapsulation: IPIP", "encapsulation: IPIPCrossSubnet\n  routes: bgp", 1)
	l := u.upText(t, text)
	routes := func() error {
		have := l.exec(t, "node1", "ip", "route", "show", "proto", "bgp")
		for _, want := range []string{
			`(?m)^10\.244\.2\.0/26 via 192\.168\.51\.2 dev eth0 onlink *$`,
			`(?m)^10\.244\.3\.0/26 via 192\.168\.52\.1 dev tunl0 onlink *$`,
			`(?m)^10\.244\.4\.0/26 via 192\.168\.52\.2 dev tunl0 onlink *$`,
		} {
			if !regexp.MustCompile(want).MatchString(have) {
				return fmt.Errorf("node1 has by BGP the routes\n%s\nwant a match of %s", have, want)
			}
		}
		return nil
	}
	if err := routes(); err != nil {
		t.Error(err)
	}
	if out := l.run(t, "bgp", "node1", "-l", l.name); !regexp.MustCompile(`10\.244\.3\.0/26 +192\.168\.52\.1`).MatchString(out) {
		t.Errorf("labctl bgp node1 has no route to node3's block:\n%s", out)
	}
	file := filepath.Join(u.runtime, "bgp.pcapng")
	l.run(t, "trace", "-l", l.name, "node1.c1", "node3.c1", "-w", file)
	out, err := exec.Command("tshark", "-r", file, "-Y", "icmp.type == 8 && ip.proto == 4", "-T", "fields", "-e", "ip.src", "-e", "ip.dst", "-e", "ip.proto").Output()
	if want := "192.168.51.1,10.244.1.1\t192.168.52.1,10.244.3.1\t4,1\n"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("tshark: %v:\n%swant %s", err, out, want)
	}
	l.run(t, "ping", "-l", l.name, "--all")
	before := l.status(t).Nodes[0].AgentPid
	kill(t, before, syscall.SIGKILL)
	eventually(t, patience, func() error {
		if st := l.status(t); st.State != lab.Ready || st.Nodes[0].AgentPid == before {
			return fmt.Errorf("%s %q, node1's agent is process %d, and was %d", st.State, st.Reasons, st.Nodes[0].AgentPid, before)
		}
		return routes()
	})
	l.run(t, "ping", "-l", l.name, "--all")
}
