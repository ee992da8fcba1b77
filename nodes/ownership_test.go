package nodes_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Tool("ip"), nodestest.Tool("bridge"))
	host := newHost(t)
	r := newReconciler(t, host)
	apply(t, r, vxlanState(2))
	must(t, host,
		"ip neigh add 10.99.0.0 lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent",
		"ip neigh add 10.98.0.0 lladdr 02:00:00:00:98:98 dev flannel.1 nud stale",
		"bridge fdb append 02:00:00:00:99:99 dev flannel.1 dst 192.168.0.99",
		"ip addr add 10.99.1.0/32 dev flannel.1",
		"ip route add 10.1.2.0/24 via 192.168.0.2 dev eth0 metric 50 onlink",
		"ip route add 10.99.0.0/16 dev eth0",
	)
	d, err := r.Apply(t.Context())
	if err != nil || len(d.Changes) > 0 {
		t.Fatalf("Apply() = %v, %v, want no change", d.Changes, err)
	}
	for _, want := range []string{
		"unexpected neighbour 10.99.0.0 dev flannel.1 lladdr 02:00:00:00:99:99 permanent",
		"unexpected fdb 02:00:00:00:99:99 dev flannel.1 dst 192.168.0.99",
		"unexpected address 10.99.1.0/32 dev flannel.1",
		"unexpected route 10.1.2.0/24 via 192.168.0.2 dev eth0 metric 50 onlink",
	} {
		if !hasChange(d.Foreign, want) {
			t.Errorf("no %q in %v", want, d.Foreign)
		}
	}
	if len(d.Foreign) != 4 {
		t.Errorf("foreign: %v", d.Foreign)
	}
	prints(t, host, "ip neigh", "10.99.0.0 dev flannel.1")
	prints(t, host, "ip route", "10.99.0.0/16 dev eth0")
	prints(t, host, "ip addr show dev flannel.1", "10.99.1.0/32")
}

// TestStale starts on what an owner of an earlier life left behind.
func TestStale(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Tool("ip"))
	host := newHost(t)
	old := newReconciler(t, host)
	apply(t, old, vxlanState(5))
	old.Close()
	must(t, host, "ip addr add 10.99.1.0/32 dev flannel.1", "ip route add 10.99.0.0/16 dev eth0")

	r := newReconciler(t, host, "flannel.1")
	d := apply(t, r, vxlanState(2))
	if !hasChange(d.Changes, "unexpected route 10.1.5.0/24") || !hasChange(d.Changes, "unexpected neighbour 10.1.6.0") ||
		!hasChange(d.Changes, "unexpected fdb 02:00:00:00:00:04") || !hasChange(d.Changes, "unexpected address 10.99.1.0/32") {
		t.Errorf("Apply() = %v, want the stale entries removed", d.Changes)
	}
	for _, c := range d.Changes {
		if c.Action != nodes.Remove {
			t.Errorf("%v: nothing else was to be done", c)
		}
	}
	clean(t, r)
	prints(t, host, "ip route", "10.99.0.0/16 dev eth0")
	// What is put there later is somebody's intention.
	must(t, host, "ip neigh add 10.99.0.0 lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent")
	if d, err := r.Apply(t.Context()); err != nil || len(d.Changes) > 0 || len(d.Foreign) != 1 {
		t.Errorf("Apply() = %v, %v, want one foreign neighbour", d, err)
	}
}

func TestPeerChanges(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Tool("ip"), nodestest.Tool("bridge"))
	host := newHost(t)
	r := newReconciler(t, host)
	s := vxlanState(2)
	apply(t, r, s)
	s = vxlanState(2)
	s.Neighbours[0].MAC, s.FDB[0].MAC, s.FDB[0].Dst = mac(99), mac(99), addr("192.168.0.99")
	apply(t, r, s)
	clean(t, r)
	gone(t, host, "bridge fdb show dev flannel.1", "02:00:00:00:00:02")
	prints(t, host, "bridge fdb show dev flannel.1", "02:00:00:00:00:63 dst 192.168.0.99")
	apply(t, r, vxlanState(1))
	clean(t, r)
	gone(t, host, "bridge fdb show dev flannel.1", "02:00:00:00:00:63")
	gone(t, host, "ip neigh", "10.1.3.0")
	gone(t, host, "ip route", "10.1.3.0")
	// The last one goes as well, device and all.
	apply(t, r, nodes.State{})
	gone(t, host, "ip link", "flannel.1")
}

func TestHold(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Tool("ip"))
	host := newHost(t)
	r := newReconciler(t, host)
	r.Set(vxlanState(2))
	run(t, r)
	nodestest.Eventually(t, 5*time.Second, func() error {
		if rep := r.Report(); rep.Generation != 1 {
			return fmt.Errorf("Report() = %+v, want generation 1", rep)
		}
		return nil
	})
	if h := r.Report().Healed; len(h) > 0 {
		t.Errorf("healed before anything was broken: %v", h)
	}
	r.Hold(true)
	must(t, host, "ip route del 10.1.2.0/24", "ip neigh del 10.1.3.0 dev flannel.1", "ip link set flannel.1 mtu 1400")
	drift := []string{
		"missing route 10.1.2.0/24 via 10.1.2.0 dev flannel.1 onlink",
		"missing neighbour 10.1.3.0 dev flannel.1 lladdr 02:00:00:00:00:03 permanent",
		"link flannel.1: mtu 1400, want 1450",
	}
	nodestest.Eventually(t, time.Second, func() error {
		rep := r.Report()
		for _, want := range drift {
			if !rep.Held || !hasChange(rep.Drift, want) {
				return fmt.Errorf("Report() = %+v, want %q", rep, want)
			}
		}
		return nil
	})
	if out := must(t, host, "ip route"); strings.Contains(out, "10.1.2.0/24") {
		t.Errorf("healed while held:\n%s", out)
	}
	for len(r.Changed()) > 0 {
		<-r.Changed()
	}
	r.Hold(false)
	prints(t, host, "ip route", "10.1.2.0/24 via 10.1.2.0")
	nodestest.Eventually(t, time.Second, func() error {
		rep := r.Report()
		if rep.Held || len(rep.Drift) > 0 || len(rep.Healed) != 3 {
			return fmt.Errorf("Report() = %+v, want three things healed", rep)
		}
		return nil
	})
	select {
	case <-r.Changed():
	case <-time.After(time.Second):
		t.Error("Changed() is silent")
	}
}

// TestErrors has one object fail and expects the rest to be done, and the
// failure to be mended when its cause is gone.
func TestErrors(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN, nodestest.Tool("ip"))
	host := newHost(t)
	r := newReconciler(t, host)
	s := vxlanState(1)
	s.Links = append(s.Links, nodes.Port{LinkAttrs: attrs("tun0")})
	s.Routes = append(s.Routes, nodes.Route{Dst: prefix("10.50.0.0/16"), Dev: "tun0"}, nodes.Route{Dst: prefix("10.51.0.0/16"), Dev: "tun0"},
		nodes.Route{Dst: prefix("192.168.0.0/16"), Via: addr("192.168.0.2"), Dev: "eth0"},
		nodes.Route{Dst: prefix("10.60.0.0/16"), Via: addr("172.16.0.1"), Dev: "eth0"})
	s.Sysctls = []nodes.Sysctl{{Key: "net/ipv4/no_such_thing", Value: "1"}}
	r.Set(s)
	d, err := r.Apply(t.Context())
	want := []string{
		"host: sysctl net/ipv4/no_such_thing: read: no such file or directory",
		"host: tun0: no such device",
		"host: route 192.168.0.0/16: replace route: the kernel's own route dev eth0 is in its place: file exists",
		"host: route 10.60.0.0/16: add route: network is unreachable",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("Apply() = %v\nwant\n%s", err, strings.Join(want, "\n"))
	}
	if !hasChange(d.Changes, "missing route 10.1.2.0/24") {
		t.Errorf("Apply() did %v only", d.Changes)
	}
	rep := r.Report()
	if !hasChange(rep.Drift, "missing link tun0") || !hasChange(rep.Drift, "missing route 10.50.0.0/16 dev tun0") || rep.Generation != 0 || rep.Err == "" {
		t.Errorf("Report() = %+v", rep)
	}
	run(t, r)
	must(t, host, "ip link add tun0 type bridge")
	prints(t, host, "ip route", "10.50.0.0/16 dev tun0", "10.51.0.0/16 dev tun0")
	if h := r.Report().Healed; len(h) > 0 {
		t.Errorf("a new State's changes are told as healed: %v", h)
	}
}

// TestExternLearned makes more permanent neighbours than the machine's table holds of
// the others.
func TestExternLearned(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("ip"))
	host := newHost(t)
	r := newReconciler(t, host)
	var s nodes.State
	// More than gc_thresh3 (1024 on stock machines): neither kind counts, or
	// the kernel would refuse some.
	for i := range 1500 {
		s.Neighbours = append(s.Neighbours, nodes.Neighbour{Dev: "eth0", Addr: addr(fmt.Sprintf("192.168.%d.%d", 100+i/250, i%250+1)), MAC: mac(i + 1), ExternLearned: i%2 == 0})
	}
	apply(t, r, s)
	clean(t, r)
	prints(t, host, "ip neigh show 192.168.100.1", "extern_learn PERMANENT")
	// A carrier that comes and goes flushes what is not permanent.
	must(t, host, "ip link set eth0 down", "ip link set eth0 up")
	apply(t, r, s)
	clean(t, r)
	s.Neighbours[0].ExternLearned = false
	if d := apply(t, r, s); len(d.Changes) != 1 || d.Changes[0].Action != nodes.Modify {
		t.Errorf("Apply() = %v, want one change", d.Changes)
	}
	clean(t, r)
}

func TestUnsound(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.VXLAN)
	host := newHost(t)
	r := newReconciler(t, host)
	s := vxlanState(2)
	s.Routes = append(s.Routes, nodes.Route{Dst: prefix("10.1.2.0/24"), Dev: "eth0"})
	r.Set(s)
	d, err := r.Apply(t.Context())
	if err == nil || !strings.Contains(err.Error(), "route 10.1.2.0/24: stands there twice") {
		t.Errorf("Apply() = %v", err)
	}
	if !hasChange(d.Changes, "missing route 10.1.2.0/24 via 10.1.2.0") {
		t.Errorf("Apply() did %v", d.Changes)
	}
}

func TestSetBeforeAnything(t *testing.T) {
	t.Parallel()
	host := newHost(t)
	r := newReconciler(t, host)
	must(t, host, fmt.Sprintf("ip route add 10.99.0.0/16 dev eth0 proto %d", protocol))
	if d, err := r.Apply(t.Context()); err != nil || len(d.Changes) > 0 {
		t.Errorf("Apply() before Set = %v, %v, want nothing done", d, err)
	}
	if d := apply(t, r, nodes.State{}); !hasChange(d.Changes, "unexpected route 10.99.0.0/16") {
		t.Errorf("Apply() = %v, want the stale route removed", d.Changes)
	}
}
