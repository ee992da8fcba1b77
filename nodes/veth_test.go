package nodes_test

import (
	"fmt"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// A pair whose ends would have the same number must not wait up to a second
// for its carrier: it is a port of a bridge that has to forward at once.
func TestVethEndsHaveDifferentNumbers(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Netns, nodestest.Bridge, nodestest.Tool("bridge"))
	// The first event after a quiet second is told at once in any case.
	for i := range 3 {
		all := newNamespaces(t, "host", "switch")
		host, lan := all[0], all[1]
		// Both namespaces have only lo: both ends would be number 2.
		apply(t, newReconciler(t, host), nodes.State{
			Links: []nodes.Link{nodes.Veth{LinkAttrs: attrs("eth0"), PeerNamespace: lan, PeerName: "host"}},
			Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.0.2.1/24")}},
		})
		// As in a lab, the switch is made a little later: after the kernel's
		// first round, which found the far end down.
		nodestest.Eventually(t, 5*time.Second, func() error {
			links := query[[]struct{ Operstate string }](t, lan, "ip -j link show host")
			if links[0].Operstate != "DOWN" {
				return fmt.Errorf("far end: %v", links)
			}
			return nil
		})
		apply(t, newReconciler(t, lan), nodes.State{Links: []nodes.Link{
			nodes.Bridge{LinkAttrs: attrs("br0")},
			nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "host", Master: "br0"}},
		}})
		from := time.Now()
		var late time.Duration // when the last look began that did not see it
		nodestest.Eventually(t, 5*time.Second, func() error {
			began := time.Since(from)
			links := query[[]struct{ Ifname, State string }](t, lan, "bridge -j link")
			if len(links) != 1 || links[0].State != "forwarding" {
				late = began
				return fmt.Errorf("not forwarding: %v", links)
			}
			return nil
		})
		if late > nodestest.Slow(t, 300*time.Millisecond) {
			t.Errorf("pair %d: not forwarding after %v, want it at once", i, late)
		}
		ends := query[[]struct {
			Number int `json:"ifindex"`
			Far    int `json:"link_index"`
		}](t, lan, "ip -j link show host")
		if len(ends) != 1 || ends[0].Number == ends[0].Far {
			t.Errorf("pair %d: ends are %+v, want different numbers", i, ends)
		}
	}
}
