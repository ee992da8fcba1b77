package lab

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file, or rewrites it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); go test ./lab -update rewrites it:\n%s", file, diff)
	}
}

// TestParseTellsEveryMistake reads the lab files in testdata/bad, each wrong
// in several ways, and compares what a user is told.
func TestParseTellsEveryMistake(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/bad: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(filepath.Base(file), data)
			e, ok := errors.AsType[*FileError](err)
			if !ok || s != nil {
				t.Fatalf("Parse() = %v, %v, want a *FileError", s, err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden", e.Excerpt()+"\n")
			checkPositions(t, data, e)
		})
	}
}

// checkPositions checks that each problem stands within the file, in order.
func checkPositions(t interface {
	Helper()
	Errorf(string, ...any)
}, data []byte, e *FileError) {
	t.Helper()
	lines := sourceLines(data)
	last := position{}
	for _, p := range e.Problems {
		if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len([]rune(lines[p.Line-1]))+1 {
			t.Errorf("%d:%d is outside the file: %s", p.Line, p.Column, p)
		}
		if p.Line < last.line || p.Line == last.line && p.Column < last.column {
			t.Errorf("%d:%d is out of order: %s", p.Line, p.Column, p)
		}
		last = position{p.Line, p.Column}
		if p.Message == "" || strings.ContainsAny(p.String(), "\n\r") {
			t.Errorf("%d:%d: message %q is empty or more than one line", p.Line, p.Column, p.String())
		}
	}
}

// TestParseForms compares the short and the long ways to write one lab.
func TestParseForms(t *testing.T) {
	t.Parallel()
	const head = "name: x\nnetwork: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}\nsegments: {lan: {subnet: 10.0.0.0/24}}\n"
	for _, c := range []struct{ name, short, long string }{
		{"nodes as a number", "nodes: 2", "nodes: {node1: {containers: 1}, node2: {containers: [c1]}}"},
		{"a node with nothing said", "nodes: {node1: }", "nodes: {node1: {segment: lan, containers: 1}}"},
		{"containers as a number", "nodes: {node1: {containers: 2}}", "nodes: {node1: {containers: [{name: c1}, c2]}}"},
		{"containers none", "nodes: {node1: {containers: 0}}", "nodes: {node1: {containers: []}}"},
		{"defaults", "nodes: 1", "nodes: 1\nleaseTTL: 30s\netcd: {segment: lan}\nfaults: []"},
		{"bridge wiring", "nodes: {node1: {}}", "nodes: {node1: {wiring: bridge, bridge: cni0, agent: }}"},
		{"an alias", "nodes: {node1: &n {containers: 3}, node2: *n}", "nodes: {node1: {containers: 3}, node2: {containers: 3}}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			short := mustPlan(t, "x.yaml", []byte(head+c.short), Machine{})
			long := mustPlan(t, "x.yaml", []byte(head+c.long), Machine{})
			if diff := DiffPlans(short, long); len(diff) > 0 {
				t.Error(strings.Join(diff, "\n"))
			}
		})
	}
}

func TestParseTakesTheFilesNameWhenItFits(t *testing.T) {
	t.Parallel()
	const text = "segments: {lan: {subnet: 10.0.0.0/24}}\nnodes: {node1: {subnet: 172.17.0.0/16}}\n"
	for file, want := range map[string]string{
		"/tmp/two-racks.yaml": "two-racks", "racks.yml": "racks", "plain": "plain",
		"My Lab.yaml": "", "-": "", "a.b.yaml": "", strings.Repeat("a", 32) + ".yaml": "",
	} {
		s, err := Parse(file, []byte(text))
		switch {
		case want == "" && (err == nil || !strings.Contains(err.Error(), "name: missing")):
			t.Errorf("Parse(%s) = %v, want that the name is missing", file, err)
		case want != "" && (err != nil || s.Name != want):
			t.Errorf("Parse(%s) = %v, %v, want name %s", file, s, err, want)
		}
	}
}

func TestParseKeepsTheNetworksTextAndOrder(t *testing.T) {
	t.Parallel()
	s, err := Parse("x.yaml", []byte(`
segments: {lan: {subnet: 10.0.0.0/24}}
nodes: 1
network:
  zzz: [1, 2.5, "3", true, null, text]
  Network: 10.244.0.0/16
  Backend: {VNI: 0x10, Type: vxlan}
`))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"zzz":[1,2.5,"3",true,null,"text"],"Network":"10.244.0.0/16","Backend":{"VNI":16,"Type":"vxlan"}}`
	if string(s.Network) != want {
		t.Errorf("Network = %s, want %s", s.Network, want)
	}
}

// TestParseEndsOnHostileFiles gives Parse files that are made to be slow.
func TestParseEndsOnHostileFiles(t *testing.T) {
	t.Parallel()
	laughs := "a: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		n := string(rune('0' + i))
		laughs += string(rune('b'+i)) + ": &a" + string(rune('1'+i)) + " [" + strings.Repeat("*a"+n+", ", 9) + "]\n"
	}
	for _, c := range []struct{ name, text string }{
		{"too big", strings.Repeat("#", maxFile+1)},
		{"billion laughs", laughs + "network: *a9\n"},
		{"alias inside its anchor", "network: &n {x: *n}\n"},
		{"deep", "network: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)},
		{"a key of dots", "nodes: {" + strings.Repeat(".[", maxFile/4) + ": {segment: x, y: z}}"},
		{"a name of dots", "segments: {" + strings.Repeat(".", maxFile/2) + ": }"},
		{"many nodes", "nodes: 1000000000"},
		{"many containers", "nodes: {a: &a {containers: 1000}, " + strings.Repeat("b: *a, ", 3) + "}"},
		{"many problems", "checks:\n" + strings.Repeat(" - {}\n", 10000)},
		{"many segments", "segments: {" + strings.Repeat("a, b, c,", 3000) + "}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("x.yaml", []byte(c.text))
			e, ok := errors.AsType[*FileError](err)
			if !ok || len(e.Problems) == 0 || len(e.Problems) > maxProblems+1 {
				t.Fatalf("Parse() = %v, want 1 to %d problems", err, maxProblems+1)
			}
			checkPositions(t, []byte(c.text), e)
		})
	}
}
