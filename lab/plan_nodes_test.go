package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A node that is added to a lab and removed again leaves the plan as it was,
// and the file is one from which the same lab can be made.
func TestAddNodeThenRemove(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("../labs/*.yaml")
	if len(files) == 0 {
		t.Fatal("no labs")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := mustPlan(t, file, data, Machine{GCThresh3: 1024})
		n := NodeSpec{Name: "more", Segment: p.Segments[0].Name, Containers: Containers{{Name: "c1"}, {Name: "c2"}}}
		if p.Etcd == nil {
			n.Subnet = netip.MustParsePrefix("172.17.0.0/16")
		}
		e, err := AddNode(p, data, n)
		if err != nil {
			t.Fatalf("%s: AddNode() = %v", file, err)
		}
		if got := e.Plan.Node("more"); got == nil || len(got.Containers) != 2 || got.NIC.Segment != n.Segment {
			t.Errorf("%s: the new node is %+v", file, got)
		}
		if diff := DiffPlans(p, e.Plan); len(diff) != 1 || diff[0] != "more: new" {
			t.Errorf("%s: AddNode() changes %q", file, diff)
		}
		if again := mustPlan(t, file, e.File, Machine{GCThresh3: 1024}); len(DiffPlans(e.Plan, again)) > 0 {
			t.Errorf("%s: the file makes another lab: %q", file, DiffPlans(e.Plan, again))
		}
		e, err = RemoveNode(e.Plan, e.File, "more")
		if err != nil {
			t.Fatalf("%s: RemoveNode() = %v", file, err)
		}
		if diff := DiffPlans(p, e.Plan); len(diff) != 0 {
			t.Errorf("%s: after AddNode and RemoveNode: %q", file, diff)
		}
	}
}

func TestAddNode(t *testing.T) {
	t.Parallel()
	const file = `# A comment.
name: x
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments:
  lan: {subnet: 10.0.0.0/29} # room for 6
  far: {subnet: 10.1.0.0/24}
routers: {r1: {segments: [far, lan]}}
nodes:
  a: &a {segment: lan}
  b: *a
  c:
    segment: far
    address: 10.1.0.1
`
	p := mustPlan(t, "x.yaml", []byte(file), Machine{})
	for _, c := range []struct {
		name string
		node NodeSpec
		want string // the address, or part of the error
	}{
		{"the next free address", NodeSpec{Name: "d", Segment: "lan"}, "10.0.0.3/29"},
		{"not a pinned one", NodeSpec{Name: "d", Segment: "far"}, "10.1.0.2/24"},
		{"as it says", NodeSpec{Name: "d", Segment: "lan", Address: netip.MustParseAddr("10.0.0.4")}, "10.0.0.4/29"},
		{"one that a node has by its place", NodeSpec{Name: "d", Segment: "lan", Address: netip.MustParseAddr("10.0.0.2")}, "d: address 10.0.0.2 is b's"},
		{"etcd's", NodeSpec{Name: "d", Segment: "lan", Address: netip.MustParseAddr("10.0.0.6")}, "d: address 10.0.0.6 is etcd's"},
		{"outside", NodeSpec{Name: "d", Segment: "lan", Address: netip.MustParseAddr("10.9.0.1")}, "d: address 10.9.0.1 is outside"},
		{"there already", NodeSpec{Name: "b", Segment: "lan"}, "b: is in lab x already"},
		{"a segment's name", NodeSpec{Name: "far", Segment: "lan"}, "far"},
		{"no name", NodeSpec{Name: "A B", Segment: "lan"}, "A B"},
		{"a key of YAML's", NodeSpec{Name: "<<", Segment: "lan"}, "<<"},
		{"text that looks like something else", NodeSpec{Name: "null", Segment: "lan"}, "10.0.0.3/29"},
		{"which segment?", NodeSpec{Name: "d"}, "d: segment missing"},
	} {
		e, err := AddNode(p, []byte(file), c.node)
		got := ""
		if err != nil {
			got = err.Error()
			if ExitCode(err) != 2 {
				t.Errorf("%s: exit status %d, want 2", c.name, ExitCode(err))
			}
		} else {
			got = e.Plan.Node(c.node.Name).NIC.Addr.String()
			if !strings.HasPrefix(string(e.File), "# A comment.") {
				t.Errorf("%s: the file lost its comments:\n%s", c.name, e.File)
			}
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// Who stands behind another keeps the address, and an alias stays what it was.
	e, err := RemoveNode(p, []byte(file), "a")
	if err == nil {
		t.Logf("\n%s", e.File)
	}
	if err != nil || e.Plan.Node("b").NIC.Addr.Addr() != p.Node("b").NIC.Addr.Addr() || e.Plan.Node("a") != nil {
		t.Errorf("RemoveNode(a) = %v, %v", e, err)
	}
}

// What leaves the file with a node, or is not kept of it, may be what others
// have aliases of.
func TestRemoveNodeWithAnchors(t *testing.T) {
	t.Parallel()
	const file = `name: x
checks: [{ping: all, name: &ttl 30s}]
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
leaseTTL: *ttl
segments: {lan: {subnet: 10.0.0.0/24}}
nodes:
  a: {containers: &two [c1, c2]}
  b: {containers: *two}
  c: {containers: *two}
`
	p := mustPlan(t, "x.yaml", []byte(file), Machine{})
	e, err := RemoveNode(p, []byte(file), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"b", "c"} {
		if got := e.Plan.Node(n); len(got.Containers) != 2 || got.NIC.Addr != p.Node(n).NIC.Addr {
			t.Errorf("%s is %+v, want it as before", n, got)
		}
	}
	if again := mustPlan(t, "x.yaml", e.File, Machine{}); len(DiffPlans(e.Plan, again)) > 0 {
		t.Errorf("the file makes another lab: %q\n%s", DiffPlans(e.Plan, again), e.File)
	}
}

// Nodes behind one that goes keep their addresses on the segment for
// management, too.
func TestRemoveNodeWithManagement(t *testing.T) {
	t.Parallel()
	const file = `name: x
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 10.0.0.0/24}, mgmt: {subnet: 10.1.0.0/24, management: on}}
nodes: 3
`
	p := mustPlan(t, "x.yaml", []byte(file), Machine{})
	if got := p.Node("node3").NICs(); len(got) != 2 || got[1].Addr.String() != "10.1.0.3/24" || got[1].Name != "mgmt0" {
		t.Fatalf("node3: interfaces %+v, want mgmt0 with 10.1.0.3/24 for the second", got)
	}
	if got := p.Etcd; got.NIC.Segment != "mgmt" || len(got.Routes) > 0 {
		t.Fatalf("etcd: %+v, want it on mgmt, without routes", got)
	}
	e, err := RemoveNode(p, []byte(file), "node1")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"node2", "node3"} {
		if diff := cmp.Diff(describeNICs(p.Node(n).NICs()), describeNICs(e.Plan.Node(n).NICs())); diff != "" {
			t.Errorf("%s: interfaces (-before +after):\n%s", n, diff)
		}
	}
	if again := mustPlan(t, "x.yaml", e.File, Machine{}); len(DiffPlans(e.Plan, again)) > 0 {
		t.Errorf("the file makes another lab: %q\n%s", DiffPlans(e.Plan, again), e.File)
	}
	if _, err := AddNode(p, []byte(file), NodeSpec{Name: "d", Segment: "mgmt"}); err == nil {
		t.Error("AddNode() on the segment for management: no error")
	}
}

// TestNodesComeAndGo does so at random in labs drawn at random: whatever is
// accepted changes nobody else.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		file := []byte(drawLab(t))
		s, err := Parse("lab.yaml", file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPlan(s, Machine{GCThresh3: 1024})
		if err != nil {
			t.Fatal(err)
		}
		for i := range rapid.IntRange(1, 6).Draw(t, "commands") {
			var e *Extended
			name := fmt.Sprintf("new%d", i)
			if rapid.Bool().Draw(t, "add") {
				fabric := slices.DeleteFunc(slices.Clone(p.Segments), func(s SegmentPlan) bool { return s.Management })
				n := NodeSpec{Name: name, Segment: rapid.SampledFrom(fabric).Draw(t, "segment").Name}
				if p.Etcd == nil {
					n.Subnet = netip.MustParsePrefix("172.17.0.0/16")
				}
				if e, err = AddNode(p, file, n); err != nil {
					t.Fatalf("%s\nadd %s: %v", file, name, err)
				}
			} else {
				name = rapid.SampledFrom(p.Nodes).Draw(t, "node").Name
				e, err = RemoveNode(p, file, name)
				if len(p.Nodes) == 1 {
					if ExitCode(err) != 2 {
						t.Fatalf("rm of the last node: %v", err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s\nrm %s: %v", file, name, err)
				}
			}
			if diff := DiffPlans(p.without(name), e.Plan.without(name)); len(diff) > 0 {
				t.Fatalf("%s\n%s: others changed: %q", file, name, diff)
			}
			if problem := checkPlan(e.Plan); problem != "" {
				t.Fatalf("%s\n%s", e.File, problem)
			}
			p, file = e.Plan, e.File
		}
	})
}

// A lab that was built with another backend than its file's keeps it.
func TestAddNodeWithAnotherBackend(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../labs/flannel-vxlan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse("flannel-vxlan.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.UseBackend("host-gw"); err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(s, Machine{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := AddNode(p, data, NodeSpec{Name: "more"})
	if err != nil {
		t.Fatal(err)
	}
	if e.Plan.Backend != "host-gw" || e.Plan.Node("more").MTU != p.Nodes[0].MTU {
		t.Errorf("AddNode() = %+v", e.Plan)
	}
	if again := mustPlan(t, "flannel-vxlan.yaml", e.File, Machine{}); len(DiffPlans(e.Plan, again)) > 0 {
		t.Errorf("the file makes another lab: %q\n%s", DiffPlans(e.Plan, again), e.File)
	}
}

func TestFindNode(t *testing.T) {
	t.Parallel()
	p := &Plan{Name: "x", Nodes: []NodePlan{{Name: "node1"}, {Name: "edge"}}}
	if n, err := p.FindNode("edge"); err != nil || n.Name != "edge" {
		t.Errorf("FindNode(edge) = %v, %v", n, err)
	}
	_, err := p.FindNode("nod1")
	f, ok := err.(*Failure)
	if !ok || f.Kind != Usage || f.Cure != "did you mean node1? there are node1, edge" {
		t.Errorf("FindNode(nod1) = %+v", err)
	}
}
