package lab_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
)

func TestParseFault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, words string
		want        lab.Fault
		again       string // what String says, if not words
	}{
		{name: "link down", words: "link down node1:eth0", want: lab.Fault{Kind: lab.LinkFault, On: "node1:eth0"}},
		{name: "link up", words: "link up lan:node1", want: lab.Fault{Kind: lab.LinkFault, On: "lan:node1", Up: true}},
		{name: "eth0 is understood", words: "drop node1 10", want: lab.Fault{Kind: lab.DropFault, On: "node1:eth0", Percent: 10}, again: "drop node1:eth0 10%"},
		{name: "little", words: "loss node1.c1:eth0 0.01%", want: lab.Fault{Kind: lab.LossFault, On: "node1.c1:eth0", Percent: 0.01}},
		{name: "rate", words: "rate node1:flannel.1 1.5Mbit", want: lab.Fault{Kind: lab.RateFault, On: "node1:flannel.1", Rate: 1_500_000}, again: "rate node1:flannel.1 1500kbit"},
		{name: "delay", words: "delay node1:eth0 20ms 5ms", want: lab.Fault{Kind: lab.DelayFault, On: "node1:eth0", Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}},
		{name: "reorder", words: "reorder node1:eth0 25%", want: lab.Fault{Kind: lab.ReorderFault, On: "node1:eth0", Percent: 25}},
		{name: "groups", words: "partition node1,etcd node2", want: lab.Fault{Kind: lab.PartitionFault, Groups: [][]string{{"node1", "etcd"}, {"node2"}}}},
		{name: "kill", words: "kill etcd", want: lab.Fault{Kind: lab.KillFault, On: "etcd"}},
		{name: "hold all", words: "hold", want: lab.Fault{Kind: lab.HoldFault, Nodes: []string{}}},
		{name: "heal some", words: "heal 1 3", want: lab.Fault{Kind: lab.HealFault, IDs: []int{1, 3}}},
		{name: "compact", words: "compact", want: lab.Fault{Kind: lab.CompactFault}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := lab.ParseFault(strings.Fields(c.words))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ParseFault(%q) (-want +got):\n%s", c.words, diff)
			}
			again := c.again
			if again == "" {
				again = c.words
			}
			if got.String() != again {
				t.Errorf("String() = %q, want %q", got.String(), again)
			}
		})
	}
}

func TestParseFaultRefuses(t *testing.T) {
	t.Parallel()
	for _, words := range []string{
		"", "nosuch", "link", "link sideways node1", "link down", "drop node1", "drop node1 0%", "drop node1 101%", "drop node1 NaN", "drop :eth0 1%", "drop node1: 1%",
		"drop node1:a/b 1%", "rate node1 1", "rate node1 -5Mbit", "rate node1 900Gbit", "delay node1 20", "delay node1 -1ms", "delay node1 1ms 2ms", "delay node1 2m",
		"partition", "partition node1,", "partition node1 node1", "kill", "kill a b", "compact now", "heal 0", "heal x", "pause",
	} {
		if f, err := lab.ParseFault(strings.Fields(words)); err == nil || lab.ExitCode(err) != 2 {
			t.Errorf("ParseFault(%q) = %+v, %v, want a usage error", words, f, err)
		}
	}
}

// What was read reads the same again.
func FuzzParseFault(f *testing.F) {
	for _, s := range []string{"link down node1:eth0", "drop node1 10%", "rate n 1.5Mbit", "delay a:b 20ms 5ms", "partition a,b c", "hold a", "heal 1", "kill etcd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, err := lab.ParseFault(strings.Fields(s))
		if err != nil {
			return
		}
		second, err := lab.ParseFault(strings.Fields(first.String()))
		if err != nil {
			t.Fatalf("%q reads as %q, which does not read: %v", s, first, err)
		}
		if second.String() != first.String() {
			t.Errorf("%q reads as %q, and that as %q", s, first, second)
		}
	})
}
