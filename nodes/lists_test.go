package nodes_test

import (
	"strings"
	"testing"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// TestKeptLists changes States while nobody else changes anything, so that passes
// rely on what earlier ones have listed and done.
func TestKeptLists(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Bridge, nodestest.Tool("ip"), nodestest.Tool("bridge"))
	host := newHost(t)
	r := newReconciler(t, host)
	r.Alone(make(chan struct{}))
	look := newReconciler(t, host) // lists everything, and keeps nothing

	other := vxlanState(5)
	vx := other.Links[0].(nodes.VXLAN)
	vx.VNI = 7
	other.Links[0] = vx
	moved := vxlanState(5)
	moved.FDB[2].Dst, moved.Routes[3].Via = addr("192.168.0.77"), addr("10.1.2.0")
	flood := vxlanState(5)
	for _, dst := range []string{"192.168.0.2", "192.168.0.3"} {
		flood.FDB = append(flood.FDB, nodes.FDBEntry{Dev: "flannel.1", MAC: make([]byte, 6), Dst: addr(dst)})
	}
	flooded := flood
	flooded.FDB = flood.FDB[:len(flood.FDB)-1]
	source := vxlanState(5)
	source.Addrs = append(source.Addrs, nodes.Addr{Dev: "flannel.1", Prefix: prefix("10.99.0.1/24")})
	for i := range source.Routes {
		source.Routes[i].Src = addr("10.99.0.1")
	}
	defaults := vxlanState(5)
	defaults.Routes = append(defaults.Routes,
		nodes.Route{Dst: prefix("0.0.0.0/0"), Via: addr("192.168.0.2"), Dev: "eth0"},
		nodes.Route{Dst: prefix("::/0"), Kind: nodes.Unreachable},
		nodes.Route{Dst: prefix("10.98.0.0/16"), Kind: nodes.Blackhole},
		nodes.Route{Dst: prefix("10.97.0.0/16"), Hops: []nodes.Hop{{Via: addr("192.168.0.2"), Dev: "eth0"}, {Via: addr("192.168.0.3"), Dev: "eth0"}}})

	for _, step := range []struct {
		name  string
		state nodes.State
	}{
		{"from nothing", vxlanState(5)},
		{"a peer less", vxlanState(4)},
		{"a peer more", vxlanState(5)},
		{"others in their places", moved},
		{"back", vxlanState(5)},
		{"a device made anew", other},
		{"several hosts for one MAC", flood},
		{"one of them less", flooded},
		{"an address that routes prefer", source},
		{"without it", vxlanState(5)},
		{"with it", source},
		{"other kinds of routes", defaults},
		{"without them", vxlanState(5)},
		{"with them", defaults},
		{"nothing", nodes.State{}},
		{"all again", vxlanState(5)},
	} {
		apply(t, r, step.state)
		look.Set(step.state)
		if d, err := look.Diff(t.Context()); err != nil || len(d.Changes)+len(d.Foreign) > 0 {
			t.Errorf("%s: Diff() = %v, %v, %v, want none", step.name, d.Changes, d.Foreign, err)
		}
		routes := must(t, host, "ip -o route show proto 91") + must(t, host, "ip -o -6 route show proto 91")
		if got := strings.Count(routes, "\n"); got != len(step.state.Routes) {
			t.Errorf("%s: %d of %d routes:\n%s", step.name, got, len(step.state.Routes), routes)
		}
		if len(step.state.Links) > 0 {
			if got := strings.Count(must(t, host, "bridge fdb show dev flannel.1"), "permanent"); got != len(step.state.FDB) {
				t.Errorf("%s: %d FDB entries, want %d", step.name, got, len(step.state.FDB))
			}
		}
		if d := apply(t, r, step.state); len(d.Changes) > 0 {
			t.Errorf("%s: once more: %v", step.name, d.Changes)
		}
	}

	// That lists are kept is seen by what is not noticed.
	apply(t, r, vxlanState(5))
	must(t, host, "ip route del 10.1.2.0/24", "bridge fdb del 02:00:00:00:00:02 dev flannel.1")
	if d := apply(t, r, vxlanState(5)); len(d.Changes) > 0 {
		t.Errorf("changed: %v; the kernel is listed by each pass", d.Changes)
	}
	if d, err := r.Diff(t.Context()); err != nil || len(d.Changes) != 2 {
		t.Errorf("Diff() = %v, %v, want what is missing", d.Changes, err)
	}
}
