package fault

import (
	"strings"
	"testing"

	"labctl/lab"
)

// FuzzTimeline plays the timeline of any lab file that is accepted, but for the
// waiting: its events come in order, and whatever lasts a given time ends.
func FuzzTimeline(f *testing.F) {
	const head = "name: x\nnetwork: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}\nsegments: {lan: {subnet: 192.168.50.0/24}}\nnodes: 2\nfaults:\n"
	f.Add("- {do: kill node1}\n- {at: 200ms, for: 400ms, do: link down node1:eth0}\n- {at: 700ms, do: restart node2}\n")
	f.Add("- {at: 1s, for: 1s, do: drop node1 20%}\n- {at: 0s, for: 2s, do: partition node1 node2}\n- {at: 1s, for: 1ms, do: pause etcd}\n- {at: 1h, do: heal}\n")
	f.Add("- {at: 1ns, for: 1h, do: hold}\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := lab.Parse("fuzz.yaml", []byte(head+text))
		if err != nil {
			return
		}
		all, err := events(s.Faults)
		if err != nil {
			t.Fatalf("accepted, and then: %v", err)
		}
		open := map[string]int{}
		for i, e := range all {
			if i > 0 && e.at < all[i-1].at {
				t.Errorf("%v at %v comes after one at %v", e.Fault, e.at, all[i-1].at)
			}
			if again, err := lab.ParseFault(strings.Fields(e.Fault.String())); err != nil || again.String() != e.Fault.String() {
				t.Errorf("%v reads again as %v, %v", e.Fault, again, err)
			}
			if e.heal {
				open[e.Fault.String()]--
			} else if i := e.Fault; i.Lasts() {
				open[i.String()]++
			}
		}
		for words, n := range open {
			if n < 0 {
				t.Errorf("%s ends %d times more than it begins", words, -n)
			}
		}
	})
}
