package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"labctl/backends/bgp"
	"labctl/backends/calico"
)

// mustPlan parses and plans a lab that is right.
func mustPlan(t testing.TB, file string, data []byte, m Machine) *Plan {
	t.Helper()
	s, err := Parse(file, data)
	if err != nil {
		t.Fatalf("Parse(%s): %v", file, err)
	}
	p, err := NewPlan(s, m)
	if err != nil {
		t.Fatalf("NewPlan(%s): %v", file, err)
	}
	return p
}

func TestNewPlanGolden(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/plans/*.yaml")
	builtIn, _ := filepath.Glob("../labs/*.yaml")
	if len(files) == 0 || len(builtIn) == 0 {
		t.Fatal("no labs to plan")
	}
	for _, file := range append(files, builtIn...) {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := mustPlan(t, file, data, Machine{GCThresh3: 1024})
			got, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/plans/"+name+".golden.json", string(got)+"\n")
			var back Plan
			if err := json.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			if lines := DiffPlans(p, &back); len(lines) > 0 {
				t.Errorf("the plan differs from itself after JSON: %v", lines)
			}
		})
	}
}

func TestNewPlanChecksASpecThatDidNotComeFromParse(t *testing.T) {
	t.Parallel()
	_, err := NewPlan(&Spec{Name: "x"}, Machine{})
	const want = "segments: missing; add segments: {lan: {subnet: 192.168.50.0/24}}\nnodes: missing; add nodes: 3"
	if err == nil || err.Error() != want {
		t.Errorf("NewPlan() = %v, want %s", err, want)
	}
}

func TestNewPlanSetsNeighboursBeforehandOnABusyMachine(t *testing.T) {
	t.Parallel()
	const text = "name: x\nnetwork: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}\nsegments: {lan: {subnet: 10.0.0.0/16}}\nnodes: %d\n"
	for _, c := range []struct {
		name      string
		nodes, gc int
		expected  int
		static    bool
	}{
		{"few", 3, 1024, 4*3 + 3*2, false},
		{"at half", 21, 1008, 22*21 + 21*2, false},
		{"above half", 22, 1024, 23*22 + 22*2, true},
		{"unknown limit", 100, 0, 101*100 + 100*2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := mustPlan(t, "x.yaml", fmt.Appendf(nil, text, c.nodes), Machine{GCThresh3: c.gc})
			want := NeighbourPlan{Expected: c.expected, Limit: c.gc, Static: c.static}
			if p.Neighbours != want {
				t.Errorf("Neighbours = %+v, want %+v", p.Neighbours, want)
			}
		})
	}
}

// TestPlanProperties plans labs drawn at random: whatever Parse accepts has
// addresses and MACs that are unique on their segment and inside it, and
// routes through neighbours.
func TestPlanProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := drawLab(t)
		s, err := Parse("lab.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		p, err := NewPlan(s, Machine{GCThresh3: 1024})
		if err != nil {
			t.Fatal(err)
		}
		if problem := checkPlan(p); problem != "" {
			t.Fatalf("%s\n%s", text, problem)
		}
		again, err := NewPlan(s, Machine{GCThresh3: 1024})
		if diff := cmp.Diff(p.Endpoints(), again.Endpoints()); err != nil || diff != "" || len(DiffPlans(p, again)) > 0 {
			t.Fatalf("planned again, the lab is another: %v %s", err, diff)
		}
	})
}

func drawLab(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("name: drawn\n")
	network := rapid.Bool().Draw(t, "network")
	if network {
		b.WriteString("network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}\n")
	}
	segments := rapid.IntRange(1, 5).Draw(t, "segments")
	b.WriteString("segments:\n")
	for i := range segments {
		fmt.Fprintf(&b, "  s%d: {subnet: 10.%d.0.0/%d}\n", i, i, rapid.IntRange(16, 25).Draw(t, "bits"))
	}
	managed := network && rapid.Bool().Draw(t, "management")
	if managed {
		b.WriteString("  mgmt: {subnet: 10.99.0.0/24, management: on}\n")
	}
	if segments > 1 { // a chain of routers, each of which may reach further
		b.WriteString("routers:\n")
		for i := range segments - 1 {
			fmt.Fprintf(&b, "  r%d: {segments: [s%d, s%d", i, i, i+1)
			if i+2 < segments && rapid.Bool().Draw(t, "wide") {
				fmt.Fprintf(&b, ", s%d", i+2)
			}
			b.WriteString("]}\n")
		}
	}
	if rapid.Bool().Draw(t, "internet") {
		b.WriteString("internet: {subnet: 203.0.113.0/24}\n")
	}
	b.WriteString("nodes:\n")
	for i := range rapid.IntRange(1, 20).Draw(t, "nodes") {
		segment := rapid.IntRange(0, segments-1).Draw(t, "segment")
		fmt.Fprintf(&b, "  n%d: {segment: s%d, containers: %d", i, segment, rapid.IntRange(0, 4).Draw(t, "containers"))
		if !network {
			b.WriteString(", subnet: 172.17.0.0/16")
		} else if rapid.Bool().Draw(t, "pinned subnet") {
			fmt.Fprintf(&b, ", subnet: 10.244.%d.0/24", i+1)
		}
		if rapid.Bool().Draw(t, "pinned address") {
			fmt.Fprintf(&b, ", address: 10.%d.0.%d", segment, i+1)
		}
		if managed && rapid.Bool().Draw(t, "pinned management") {
			fmt.Fprintf(&b, ", management: 10.99.0.%d", i+1)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// checkPlan is what must hold for every plan; it returns what does not.
func checkPlan(p *Plan) string {
	subnets, management := map[string]netip.Prefix{}, ""
	for _, s := range p.Segments {
		subnets[s.Name] = s.Subnet
		if s.Management {
			management = s.Name
		}
	}
	owner, macs, netns := map[string]string{}, map[string]string{}, map[string]bool{}
	addrs := map[string]map[netip.Addr]bool{}
	take := func(endpoint string, nic NICPlan) string {
		key := nic.Segment + " " + nic.Addr.Addr().String()
		switch subnet := subnets[nic.Segment]; {
		case owner[key] != "":
			return fmt.Sprintf("%s and %s both have %s", endpoint, owner[key], key)
		case macs[nic.MAC] != "":
			return fmt.Sprintf("%s and %s both have %s", endpoint, macs[nic.MAC], nic.MAC)
		case nic.Addr.Bits() != subnet.Bits() || !subnet.Contains(nic.Addr.Addr()):
			return fmt.Sprintf("%s: %s is outside %s", endpoint, nic.Addr, subnet)
		case hostNumber(subnet, nic.Addr.Addr()) < 1 || hostNumber(subnet, nic.Addr.Addr()) > hosts(subnet):
			return fmt.Sprintf("%s: %s is no host's in %s", endpoint, nic.Addr, subnet)
		case len(nic.Port) > 15 || len(nic.Name) > 15:
			return endpoint + ": device name too long"
		}
		owner[key], macs[nic.MAC] = endpoint, endpoint
		if addrs[nic.Segment] == nil {
			addrs[nic.Segment] = map[netip.Addr]bool{}
		}
		addrs[nic.Segment][nic.Addr.Addr()] = true
		return ""
	}
	type routed struct {
		endpoint string
		nics     []NICPlan
		routes   []RoutePlan
	}
	var all []routed
	for _, n := range p.Nodes {
		all = append(all, routed{n.Name, n.NICs(), n.Routes})
		for _, c := range n.Containers {
			netns[c.Netns] = true
		}
	}
	for _, r := range p.Routers {
		all = append(all, routed{r.Name, r.NICs, r.Routes})
	}
	if p.Etcd != nil {
		all = append(all, routed{"etcd", []NICPlan{p.Etcd.NIC}, p.Etcd.Routes})
	}
	for _, e := range all {
		for _, nic := range e.nics {
			if problem := take(e.endpoint, nic); problem != "" {
				return problem
			}
		}
	}
	for _, e := range all {
		for _, r := range e.routes {
			if r.Dev == "internet" || r.Dev == "lo" && r.Dst == netip.PrefixFrom(calico.Gateway(), 32) {
				continue // lo: for the host to answer for it, see AnswersGateway
			}
			found := false
			for _, nic := range e.nics {
				found = found || nic.Name == r.Dev && addrs[nic.Segment][r.Via]
			}
			if !found {
				return fmt.Sprintf("%s: route %v leads to nobody", e.endpoint, r)
			}
		}
		if management != "" {
			want := e.endpoint == "etcd" || p.Node(e.endpoint) != nil
			if has := slices.ContainsFunc(e.nics, func(n NICPlan) bool { return n.Segment == management }); has != want {
				return fmt.Sprintf("%s: on the segment for management: %v, want %v", e.endpoint, has, want)
			}
		}
		away := slices.ContainsFunc(p.Segments, func(s SegmentPlan) bool {
			return s.Name != management && !slices.ContainsFunc(e.nics, func(n NICPlan) bool { return n.Segment == s.Name })
		})
		if away && len(e.routes) == 0 && (e.endpoint != "etcd" || management == "") {
			return e.endpoint + " has no way to the other segments"
		}
	}
	return ""
}

// The times of BGP that the file leaves out are those of its timers; graceful
// restart can be told to be none.
func TestBGPTimers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, bgp string
		want      bgp.Timers
	}{
		{"none", "{}", bgp.LabTimers},
		{"Calico's", "{timers: calico}", bgp.CalicoTimers},
		{"a hold time", "{holdTime: 30s}", bgp.Timers{Hold: 30 * time.Second, KeepAlive: 10 * time.Second, ConnectRetry: bgp.LabTimers.ConnectRetry, GracefulRestart: bgp.LabTimers.GracefulRestart}},
		{"a shorter graceful restart", "{gracefulRestart: 5s}", bgp.Timers{Hold: bgp.LabTimers.Hold, KeepAlive: bgp.LabTimers.KeepAlive, ConnectRetry: bgp.LabTimers.ConnectRetry, GracefulRestart: 5 * time.Second}},
		{"no graceful restart", "{timers: calico, gracefulRestart: 0s}", bgp.Timers{Hold: bgp.CalicoTimers.Hold, KeepAlive: bgp.CalicoTimers.KeepAlive, ConnectRetry: bgp.CalicoTimers.ConnectRetry}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := mustPlan(t, "x.yaml", []byte("name: x\ncalico: {pool: 10.244.0.0/16, routes: bgp, bgp: "+c.bgp+"}\nsegments: {lan: {subnet: 192.168.50.0/24}}\nnodes: 2\n"), Machine{})
			if p.BGP == nil || *p.BGP != c.want {
				t.Errorf("bgp: %s: timers %+v, want %+v", c.bgp, p.BGP, c.want)
			}
		})
	}
}
