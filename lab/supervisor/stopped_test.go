package supervisor_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// An agent that somebody stops, not by `labctl fault`, reads no orders. The lab
// answers all the same, however many there are, and when the agent goes on it
// does as the last one says.
func TestAgentStoppedFromOutside(t *testing.T) {
	t.Parallel()
	l := labtest.Up(t, "flannel-vxlan")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fault := func(words ...string) {
		t.Helper()
		if _, err := l.Client().Fault(ctx, words...); err != nil {
			t.Fatalf("fault %v: %v", words, err)
		}
	}
	route := func(verb string) (string, int) {
		t.Helper()
		out, _, exit, err := l.Client().Output(ctx, "node1", "sh", "-c", "ip route "+verb+" $(ip -o route show dev flannel.1 proto 97 | head -1) dev flannel.1; ip route show dev flannel.1 proto 97 | wc -l")
		if err != nil {
			t.Fatal(err)
		}
		return string(out), exit.Code
	}
	pid := agentPid(t, l, "node1")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it may be gone
	const orders = 1000                                          // a socket holds some hundred
	for i := range orders {
		fault([]string{"hold", "release"}[i%2], "node1")
	}
	within(t, 10*time.Second, func() error {
		if got := l.Status().State; got != lab.Ready {
			return fmt.Errorf("state with an agent that does not read: %s, want %s", got, lab.Ready)
		}
		return nil
	})
	fault("hold", "node1")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Held at last: what is deleted is told, and not made again.
	within(t, 10*time.Second, func() error {
		route("del")
		for _, n := range l.Status().Nodes {
			if n.Name == "node1" && len(n.Drift) == 2 {
				return nil
			}
		}
		return fmt.Errorf("node1: no drift of the two routes that were deleted")
	})
	fault("release", "node1")
	within(t, 10*time.Second, func() error {
		if out, _ := route("show"); out != "2\n" {
			return fmt.Errorf("node1: %s of 2 routes are there", out)
		}
		return nil
	})
	if got := agentPid(t, l, "node1"); got != pid {
		t.Errorf("node1's agent is process %d, want %d as before", got, pid)
	}
}

func agentPid(t *testing.T, l *labtest.Lab, node string) int {
	t.Helper()
	for _, n := range l.Status().Nodes {
		if n.Name == node {
			return n.AgentPid
		}
	}
	t.Fatalf("%s: not in the status", node)
	return 0
}

// within asks until there is no error, or the time is over.
func within(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	for until := time.Now().Add(limit); ; {
		last := time.Now().After(until) // begins when the time is over: asking may take long
		err := ask()
		if err == nil {
			return
		}
		if last {
			t.Fatalf("after %v: %v", limit, err)
		}
	}
}
