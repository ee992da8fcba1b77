package bgp

import (
	"testing"
	"time"

	"labctl/nodes/nodestest"
)

// withBird makes some of the hosts bird's.
func withBird(t *testing.T, hosts ...*host) {
	t.Helper()
	if _, err := FindBird(); err != nil {
		t.Skipf("this machine has no program bird: %v", err)
	}
	for _, h := range hosts {
		h.dir = t.TempDir()
	}
}

func TestBirdMesh(t *testing.T) {
	t.Parallel()
	hosts := network(t, 3)
	withBird(t, hosts[0], hosts[2])
	mesh(hosts)
	began := time.Now()
	for _, h := range hosts {
		h.start()
	}
	nodestest.Eventually(t, long, converged(hosts))
	t.Logf("converged after %v", time.Since(began))
}
