package supervisor

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"labctl/lab"
	"labctl/nodes"
)

// What faults are in the kernel: several on a device are one impairment of it,
// and a partition is blocked on both sides.
func TestImpairments(t *testing.T) {
	t.Parallel()
	nic := func(mac, addr string) []lab.NICPlan {
		return []lab.NICPlan{{Name: "eth0", MAC: mac, Addr: netip.MustParsePrefix(addr)}}
	}
	all := map[string][]lab.NICPlan{
		"node1": nic("02:00:00:00:00:01", "192.0.2.1/24"), "node2": nic("02:00:00:00:00:02", "192.0.2.2/24"),
		"etcd": nic("02:00:00:00:00:fe", "192.0.2.254/24"),
	}
	subnets := map[string][]netip.Prefix{"node1": {netip.MustParsePrefix("10.0.1.0/24")}}
	blocks := func(mac string, prefixes ...string) []nodes.Source {
		m, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		s := []nodes.Source{{MAC: m}}
		for _, p := range prefixes {
			s = append(s, nodes.Source{Net: netip.MustParsePrefix(p)})
		}
		return s
	}
	one, two, store := blocks("02:00:00:00:00:01", "192.0.2.1/32", "10.0.1.0/24"), blocks("02:00:00:00:00:02", "192.0.2.2/32"), blocks("02:00:00:00:00:fe", "192.0.2.254/32")
	for _, c := range []struct {
		name   string
		faults []string
		want   map[string][]nodes.Impairment
	}{
		{"none", nil, map[string][]nodes.Impairment{}},
		{"several on one device", []string{"drop node1 10%", "rate node1 1Mbit", "link down node1", "drop node1:cni0 5%"}, map[string][]nodes.Impairment{
			"node1": {{Dev: "eth0", Down: true, Drop: 10, Rate: 1_000_000}, {Dev: "cni0", Drop: 5}}}},
		{"two groups", []string{"partition node1 node2", "drop node1 10%"}, map[string][]nodes.Impairment{
			"node1": {{Dev: "eth0", Drop: 10, Block: two}}, "node2": {{Dev: "eth0", Block: one}}}},
		{"one group reaches nobody", []string{"partition node1"}, map[string][]nodes.Impairment{
			"node1": {{Dev: "eth0", Block: append(append([]nodes.Source{}, store...), two...)}}, "node2": {{Dev: "eth0", Block: one}}, "etcd": {{Dev: "eth0", Block: one}}}},
		{"processes are no devices", []string{"pause etcd", "hold node1"}, map[string][]nodes.Impairment{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var list []fault
			for _, words := range c.faults {
				f, err := lab.ParseFault(strings.Fields(words))
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, fault{Fault: f})
			}
			got := impairments(list, all, subnets)
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("impairments (-want +got):\n%s", diff)
			}
		})
	}
}

// A fault that could not be done is undone alone: what others ended meanwhile
// stays ended.
func TestRestoreLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s := &Supervisor{}
	s.remember(lab.Fault{Kind: lab.PauseFault, On: "node1"})
	s.remember(lab.Fault{Kind: lab.RateFault, On: "node2:eth0", Rate: 1})
	faster := lab.Fault{Kind: lab.RateFault, On: "node2:eth0", Rate: 2}
	before := s.remember(faster)
	more := lab.Fault{Kind: lab.LinkFault, On: "node3:eth0"}
	none := s.remember(more)
	s.resumed("node1")
	s.restore(more, none)
	s.restore(faster, before)
	if got := s.faultList(); len(got) != 1 || got[0].Kind != lab.RateFault || got[0].Rate != 1 {
		t.Errorf("left: %+v, want node2's rate of 1 alone", got)
	}
}
