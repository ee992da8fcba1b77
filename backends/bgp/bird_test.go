package bgp

import (
	"net/netip"
	"strings"
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

// bird says nothing of a SYN that is not answered; a session that is in Connect
// for longer than a try takes is one of which that is true.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 21, 9, 41, 22, 0, time.Local)
	for _, tt := range []struct {
		name, state, lastError string
		after                  time.Duration
		want                   Cause // "" for none
	}{
		{"for longer than a try", "Connect", "", 2 * time.Second, Filtered},
		{"within a try", "Connect", "", time.Second, ""},
		{"after the session before fell silent", "Connect", "Hold timer expired", 3 * time.Second, Filtered},
		{"refused, as the socket says", "Connect", "Socket: Connection refused", 3 * time.Second, ""},
		{"waits to be connected to", "Active", "", time.Minute, ""},
		{"established", "Established", "", time.Minute, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lines := []string{
				"to_h2      BGP        ---        start  " + began.Format(birdTime) + "  " + tt.state,
				"  BGP state:          " + tt.state, "    Neighbor address: 192.0.2.2",
			}
			if tt.lastError != "" {
				lines = append(lines, "    Last error:       "+tt.lastError)
			}
			s := parseProtocols(lines)[netip.MustParseAddr("192.0.2.2")]
			f := unanswered(s, LabTimers, began.Add(tt.after))
			if got := f != nil; got != (tt.want != "") || got && f.Cause != tt.want {
				t.Errorf("unanswered() = %+v of %+v after %v, want %q\n%s", f, s, tt.after, tt.want, strings.Join(lines, "\n"))
			}
		})
	}
}
