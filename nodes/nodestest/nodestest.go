// Package nodestest lets tests make network namespaces: as root, and as an
// ordinary user too by running the test binary again inside a user namespace.
//
// Packages whose tests touch the kernel call it from TestMain:
//
//	func TestMain(m *testing.M) { nodestest.Main(m) }
//
// The trap: not every machine lets its users do so, and not every tool is
// everywhere. A test that needs something says so with Require.
package nodestest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"labctl/nodes"
)

// inside marks the process that runs in the user namespace.
const inside = "LABCTL_NODESTEST_INSIDE"

// Main runs the tests, as an ordinary user in a user, network and mount
// namespace of their own, and fails if they leave goroutines behind.
func Main(m *testing.M) {
	if os.Geteuid() != 0 && os.Getenv(inside) == "" {
		if code, err := again(); err == nil {
			os.Exit(code)
		} else {
			fmt.Fprintf(os.Stderr, "nodestest: no user namespace, tests that need network namespaces are skipped: %v\n", err)
		}
	}
	goleak.VerifyTestMain(m)
}

// again runs the test binary in namespaces of its own.
func again() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range sig {
			cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 2, nil
}

// Feature is something that a test needs and not every machine has.
type Feature string

// Features beside programs (Tool).
const (
	Netns  Feature = "network namespaces"
	VXLAN  Feature = "vxlan devices"
	Bridge Feature = "bridge devices"
	NFT    Feature = "nftables"
	TUN    Feature = "TUN devices"
	// IPIP is that each new namespace has a tunl0, as soon as the kernel's ipip
	// is built in, or somebody has loaded it.
	IPIP Feature = "ipip in its kernel, built in or loaded (modprobe ipip, which gives every namespace a tunl0)"
)

// Tool is the feature that a program is installed.
func Tool(name string) Feature { return Feature("program " + name) }

// Require skips the test, naming the first feature that is missing. Each is
// probed by doing, in a namespace that is gone afterwards.
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		if err := probe(f); err != nil {
			t.Skipf("this machine has no %s: %v", f, err)
		}
	}
}

func probe(f Feature) error {
	var tool string
	if n, _ := fmt.Sscanf(string(f), "program %s", &tool); n == 1 {
		_, err := exec.LookPath(tool)
		return err
	}
	ns, err := nodes.NewNamespace("probe")
	if err != nil {
		return err
	}
	defer ns.Close()
	var s nodes.State
	switch f {
	case Netns:
		return nil
	case Bridge:
		s.Links = []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}}}
	case VXLAN:
		return probeVXLAN(ns)
	case TUN:
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	case IPIP:
		devices, err := ns.Devices()
		if err == nil && !slices.ContainsFunc(devices, func(d nodes.Device) bool { return d.Kind == "ipip" }) {
			err = errors.New("a new namespace has no such device")
		}
		return err
	case NFT:
		s.Tables = []nodes.Table{{Name: "probe", Chains: []nodes.Chain{{Name: "c", Hook: nodes.PostroutingNAT,
			Rules: []nodes.Rule{{OutDev: "lo", Verdict: nodes.Masquerade}}}}}}
	default:
		return fmt.Errorf("unknown feature %q", f)
	}
	return apply(ns, s)
}

// Slow is d times LABCTL_SLOW, which is 1 where it is not set: kernels in which
// system calls take long need longer deadlines, and intervals.
func Slow(t testing.TB, d time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("LABCTL_SLOW")
	if text == "" {
		return d
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LABCTL_SLOW=%s: want a number, 1 or more", text)
	}
	return d * time.Duration(n)
}

// Eventually calls cond until it returns nil, and fails the test with its last
// error when it does not in time, which is Slow. A call may take long on a busy
// machine: the last one begins when the time is over.
func Eventually(t testing.TB, within time.Duration, cond func() error) {
	t.Helper()
	within = Slow(t, within)
	deadline := time.Now().Add(within)
	for {
		last := time.Now().After(deadline)
		err := cond()
		if err == nil {
			return
		}
		if last {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
