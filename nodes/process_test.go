package nodes_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestStart(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	want, _ := ns.Inode()
	if got := strings.TrimSpace(must(t, ns, "readlink /proc/self/ns/net")); got != fmt.Sprintf("net:[%d]", want) {
		t.Errorf("the child is in %s, want %d", got, want)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := nodes.Start(ns, nodes.Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", `echo $X; pwd; echo extra >&3; wc -c; exit 7`},
		Env: []string{"X=y", "PATH=" + os.Getenv("PATH")}, Dir: "/", Stdout: w, ExtraFiles: []*os.File{w},
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	st, err := p.Wait()
	if err != nil || st.ExitCode() != 7 || strings.Join(strings.Fields(string(out)), " ") != "y / extra 0" {
		t.Errorf("got %q, %v, %v", out, st, err)
	}
	if err := p.SignalGroup(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("SignalGroup() after the end = %v", err)
	}
	p.Kill()
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	_, err := nodes.Start(ns, nodes.Command{Path: "/nowhere", Args: []string{"nowhere"}})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "a: ") {
		t.Errorf("Start() = %v, want a: ... no such file", err)
	}
}

func TestKillGroup(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := nodes.Start(ns, nodes.Command{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 100 & echo; wait"}, Env: os.Environ(), Stdout: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	r.Read(make([]byte, 1)) // the background process is there
	p.Kill()
	// The pipe ends when the last of the group has.
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(r); err != nil {
		t.Error(err)
	}
	if st, err := p.Wait(); err != nil || st.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("Wait() = %v, %v, want killed", st, err)
	}
}

func TestTTY(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "a")[0]
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer ptm.Close()
	c, err := ptm.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var nerr error
	c.Control(func(fd uintptr) {
		if nerr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); nerr == nil {
			n, nerr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if nerr != nil {
		t.Skip(nerr)
	}
	pts, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	p, err := nodes.Start(ns, nodes.Command{Path: "/bin/sh", Args: []string{"sh", "-c", "test -t 0 && test -t 2 && echo terminal >/dev/tty"}, Env: os.Environ(), TTY: pts})
	pts.Close()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	k, _ := ptm.Read(buf)
	if got := strings.TrimSpace(string(buf[:k])); got != "terminal" {
		t.Errorf("the terminal shows %q", got)
	}
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Errorf("Wait() = %v, %v", st, err)
	}
}

// TestConnect builds two hosts' worth of bridge, veth and container and sends
// packets through.
func TestConnect(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Bridge, nodestest.Tool("ping"))
	all := newNamespaces(t, "lan", "a", "b")
	lan, a, b := all[0], all[1], all[2]
	rl := newReconciler(t, lan)
	links := []nodes.Link{nodes.Bridge{LinkAttrs: attrs("br0")}}
	for _, n := range []*nodes.Namespace{a, b} {
		links = append(links, nodes.Veth{
			LinkAttrs:     nodes.LinkAttrs{Name: n.Name(), Master: "br0", MTU: 1400, NoOffload: true},
			PeerNamespace: n, PeerName: "eth0", PeerMAC: mac(int(n.Name()[0])),
		})
	}
	apply(t, rl, nodes.State{Links: links, Sysctls: []nodes.Sysctl{{Key: "net/ipv6/conf/default/disable_ipv6", Value: "0"}}})
	for i, n := range []*nodes.Namespace{a, b} {
		r := newReconciler(t, n)
		apply(t, r, nodes.State{
			Sysctls: []nodes.Sysctl{{Key: "net/ipv6/conf/eth0/disable_ipv6", Value: "0"}},
			Links:   []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", MTU: 1400, MAC: mac(int(n.Name()[0])), NoOffload: true}}},
			Addrs: []nodes.Addr{
				{Dev: "eth0", Prefix: prefix([]string{"192.0.2.1/24", "192.0.2.2/24"}[i])},
				{Dev: "eth0", Prefix: prefix([]string{"fd00::1/64", "fd00::2/64"}[i])},
			},
		})
		clean(t, r)
		if out := must(t, n, "ethtool -k eth0"); !strings.Contains(out, "tx-checksumming: off") || !strings.Contains(out, "tcp-segmentation-offload: off") ||
			!strings.Contains(out, "generic-segmentation-offload: off") || !strings.Contains(out, "generic-receive-offload: off") {
			t.Errorf("offloads are on:\n%s", out)
		}
	}
	clean(t, rl)
	nodestest.Eventually(t, 3*time.Second, func() error { _, err := try(t, a, "ping -c1 -W1 192.0.2.2"); return err })
	nodestest.Eventually(t, 3*time.Second, func() error { _, err := try(t, a, "ping -c1 -W1 fd00::2"); return err })
	nodestest.Eventually(t, 3*time.Second, func() error { _, err := try(t, b, "ping -c1 -W1 192.0.2.1"); return err })
}
