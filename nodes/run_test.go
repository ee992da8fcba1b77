package nodes_test

import (
	"fmt"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// TestRuns keeps many namespaces at once, none of which needs a thread while
// nothing happens in it.
func TestRuns(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Bridge, nodestest.Tool("ip"))
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	all := newNamespaces(t, names...)
	var rs []*nodes.Reconciler
	for _, ns := range all {
		r := newReconciler(t, ns)
		r.Set(nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: attrs("br0")}}, Addrs: []nodes.Addr{{Dev: "br0", Prefix: prefix("192.0.2.1/24")}}})
		run(t, r)
		rs = append(rs, r)
	}
	for _, r := range rs {
		nodestest.Eventually(t, 20*time.Second, func() error {
			if rep := r.Report(); rep.Generation != 1 {
				return fmt.Errorf("Report() = %+v", rep)
			}
			return nil
		})
	}
	for _, i := range []int{0, 15, 29} {
		must(t, all[i], "ip addr del 192.0.2.1/24 dev br0")
		prints(t, all[i], "ip -o addr show dev br0", "192.0.2.1/24")
	}
}
