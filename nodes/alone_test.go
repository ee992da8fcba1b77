package nodes

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestAlone holds what Alone promises: what somebody else has changed before Run
// listens is put right all the same, and of many namespaces that are filled at
// once none has a listening socket before all are.
func TestAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		many bool
	}{{"one", false}, {"many", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			var filled chan struct{}
			if c.many {
				filled = make(chan struct{})
			}
			r.Alone(filled)
			if _, err := r.Put(t.Context(), State{
				Links:      []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}},
				Neighbours: []Neighbour{{Dev: "br0", Addr: netip.MustParseAddr("10.0.0.1"), MAC: []byte{2, 0, 0, 0, 0, 1}}},
			}); err != nil {
				t.Fatal(err)
			}
			ip := func(args ...string) string {
				t.Helper()
				var out []byte
				if err := r.ns.Do(func() (err error) {
					out, err = exec.Command("ip", args...).CombinedOutput()
					return err
				}); err != nil {
					t.Fatalf("ip %v: %v: %s", args, err, out)
				}
				return string(out)
			}
			until := func(what string, ok func() bool) {
				t.Helper()
				for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal(what)
					}
				}
			}
			there := func() bool { return strings.Contains(ip("neigh", "show", "dev", "br0"), "10.0.0.1") }
			if !there() {
				t.Fatal("no neighbour")
			}
			if !c.many {
				ip("neigh", "del", "10.0.0.1", "dev", "br0")
			}
			if listens(t, r.ns) {
				t.Error("listens before Run")
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			if c.many {
				// One more pass of Run's shows that it runs.
				r.Set(State{Links: []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}, Bridge{LinkAttrs: LinkAttrs{Name: "br1"}}}, Neighbours: r.want.Neighbours})
				until("Run does not", func() bool { return strings.Contains(ip("link"), "br1") })
				if listens(t, r.ns) {
					t.Error("listens before it is told to")
				}
				close(filled)
			}
			until("does not listen", func() bool { return listens(t, r.ns) })
			if c.many {
				ip("neigh", "del", "10.0.0.1", "dev", "br0")
			}
			until("the neighbour is not put back", there)
		})
	}
}

// listens says whether a socket in ns receives groups of rtnetlink, by
// /proc/net/netlink.
func listens(t *testing.T, ns *Namespace) bool {
	t.Helper()
	var b []byte
	if err := ns.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		// sk Eth Pid Groups ...
		if f := strings.Fields(line); len(f) > 3 && f[1] == "0" && f[3] != "00000000" {
			return true
		}
	}
	return false
}
